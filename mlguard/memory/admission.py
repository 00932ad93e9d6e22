"""Which needs are in flight: memory that calls were promised and may not have allocated yet.

A check alone is not enough: sixteen threads that all see 100 MiB free all start. So a call that needs much is admitted
against what is used and what is promised, and its promise is held until it ends.
"""

from __future__ import annotations

import threading

from mlguard.forks import in_children
from mlguard.memory.gauge import Gauge
from mlguard.memory.probe import Reading

__all__ = ["Ledger", "of_this_process"]


class Ledger:
    """The bytes promised to calls in flight.

    `base` is what would be used without them: what was read while nothing was in flight, and never less than any later
    reading minus the promises. A promise therefore does not count twice once its call has allocated.
    """

    _reserved: int
    _ended: int
    _base: dict[str, int]

    def __init__(self) -> None:
        self._renew()

    @property
    def reserved(self) -> int:
        """Bytes promised now."""
        return self._reserved

    def reserve(self, need: int, gauge: Gauge, share: float) -> tuple[Reading, bool]:
        """The current reading, and whether `need` bytes fit below that share of its limit and are now promised.

        Raises:
            OSError: The gauge can't be read.
        """
        while True:
            ended = self._ended
            reading = gauge.read(share)  # outside the lock, so that no other lock is ever taken inside it
            with self._lock:
                if ended != self._ended:
                    continue  # a call ended since, and may have left memory behind that this reading missed
                base = max(self._base.get(reading.source, 0), reading.used - self._reserved)
                fits = max(reading.used, base + self._reserved) + need <= int(share * reading.limit)
                if fits:
                    self._reserved += need
                if self._reserved:
                    self._base[reading.source] = base
                return reading, fits

    def promise(self, need: int) -> None:
        """Promises without asking whether it fits, for a call that goes on all the same."""
        with self._lock:
            self._reserved += need

    def release(self, need: int) -> None:
        """Takes a promise back, once its call has ended."""
        with self._lock:
            # Never below 0: a child forked inside a guarded call ends a call that its own ledger does not know.
            self._reserved = max(0, self._reserved - need)
            self._ended += 1
            if not self._reserved:
                self._base.clear()

    def _renew(self) -> None:
        self._lock = threading.RLock()  # reentrant, as a destructor may run a guarded function while it is held
        self._reserved = 0
        self._ended = 0
        self._base = {}


of_this_process = Ledger()
"""Shared by every guard of the process."""

in_children(of_this_process._renew)
