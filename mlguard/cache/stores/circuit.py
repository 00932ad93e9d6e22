"""A pause after a store's failure, so that not every call waits for a server that is down.

While it lasts, calls are refused at once; then one of them tries, and the others go on being refused until it is back.
"""

from __future__ import annotations

from typing import Final

from mlguard import clock
from mlguard.cache.stores.protocol import StoreError

__all__ = ["Circuit"]

_FIRST: Final = 0.5
_LONGEST: Final = 15.0


class Circuit:
    """Counts nothing but the failures in a row. Races between threads cost an attempt more or less, no lock.

    Args:
        where: The store, for the message.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._pause = 0.0
        self._until = 0.0
        self._reason = ""
        self._round = 0

    def enter(self) -> int:
        """Passes where the store may be asked, with what `failed` wants to hear.

        Raises:
            StoreError: It failed a moment ago.
        """
        if not self._pause:
            return self._round
        now = clock.now()
        if now < self._until:
            raise StoreError(
                f"{self.where} is not asked for another {self._until - now:.1f}s, because it failed: {self._reason}",
                "backing_off",
            )
        self._until = now + self._pause  # this call tries; the others wait for what it finds
        return self._round

    def failed(self, reason: str, entered: int) -> None:
        """After a failure that took time: nobody asks for a while, at first half a second, in the end 15.

        Calls that were under way together and fail together have found out one thing, not many.
        """
        if entered != self._round:
            return
        self._round += 1
        self._reason = reason
        self._pause = min(max(2 * self._pause, _FIRST), _LONGEST)
        self._until = clock.now() + self._pause

    def worked(self) -> None:
        """After a success, or a failure that came at once."""
        if self._pause:
            self._pause = self._until = 0.0
            self._reason = ""

    @property
    def state(self) -> str | None:
        """Why the store is not asked at the moment; None: it is."""
        return self._reason if self._pause else None
