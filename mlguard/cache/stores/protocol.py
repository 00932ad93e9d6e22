"""What a shared store is: bytes by key, kept where several processes or machines can reach them.

A store of your own is one class with the methods of `Store`; hand it over as `Cache(ttl=..., store=MyStore(...))`. It
never sees a value, only sealed bytes, and it need not be right about what it gives back: the cache checks every
payload, and what fails the check is a miss. What it must do is answer soon, and fail with `StoreError` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

__all__ = ["AsyncStore", "Item", "Label", "Store", "StoreError", "StoreInfo", "Stored"]


class StoreError(Exception):
    """A store could not do what it was asked. The cache counts it and computes: no prediction fails by it.

    Attributes:
        reason: One word for counters: "unreachable", "timeout", "backing_off", "full", "busy", "corrupt", "refused",
            "closed", "failed".
    """

    def __init__(self, message: str, reason: str = "failed") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[StoreError], tuple[str, str]]:
        return type(self), (str(self), self.reason)


class Label(NamedTuple):
    """What entries are invalidated by. Entries written together share one."""

    function: str
    """The guarded function, and what its policy makes of it."""
    model_version: str = ""
    tenant: str = ""


class Item(NamedTuple):
    """One entry to store."""

    key: bytes
    """32 bytes."""
    payload: bytes
    ttl: float | None
    """Seconds after which the store must not give it back any more; None: as long as there is room. It is exact: the
    cache has taken the jitter off already."""


class Stored(NamedTuple):
    """One entry as it comes back."""

    payload: bytes
    age: float
    """Seconds since it was stored, on one clock for all who share the store; never negative, rather too old than too
    young."""
    left: float | None
    """Seconds until the store drops it; None: never."""


class StoreInfo(NamedTuple):
    """What a store can say about itself, without a password in it."""

    where: str
    """Such as ``"sqlite:///var/cache/predictions.db"``."""
    entries: int | None
    """None: counting them would cost too much."""
    bytes: int | None


@runtime_checkable
class Store(Protocol):
    """Bytes by key. Every method may be called by many threads at once, and after a fork in the child as well.

    An optional method ``asynchronous() -> AsyncStore`` gives the twin for async functions; a store without one is
    called in a few threads of its own, so that it never blocks an event loop.
    """

    largest: int
    """Bytes of the largest payload it keeps; the cache doesn't offer a larger one."""

    def get_many(self, keys: Sequence[bytes]) -> list[Stored | None]:
        """What is stored, in the order of the keys; None where nothing is, or where its time is up."""
        ...

    def put_many(self, items: Sequence[Item], label: Label) -> None:
        """Stores, or replaces, all of them. It may drop others, or even these, to keep within its bounds."""
        ...

    def lease(self, key: bytes, seconds: float) -> bytes | None:
        """A token for the one who may compute this key now; None: somebody else may, for at most the seconds given.

        A lease saves work. Nothing may rest on nobody else computing the same key.
        """
        ...

    def release(self, key: bytes, token: bytes) -> None:
        """Gives a lease back early. A token that is not the current one changes nothing."""
        ...

    def discard(
        self,
        *,
        key: bytes | None = None,
        function: str | None = None,
        model_version: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """Drops the entries that meet every condition given, and says how many; all of this store without any.

        Leases stay. An operator's action: it may take seconds.
        """
        ...

    def info(self) -> StoreInfo:
        """Asked by people and metrics, never during a call."""
        ...

    def close(self) -> None:
        """Gives connections and threads back. Used again, the store opens them again."""
        ...


class AsyncStore(Protocol):
    """The same entries for coroutines; each method is used by the event loop that is running."""

    async def get_many(self, keys: Sequence[bytes]) -> list[Stored | None]:
        """As `Store.get_many`."""
        ...

    async def put_many(self, items: Sequence[Item], label: Label) -> None:
        """As `Store.put_many`."""
        ...

    async def lease(self, key: bytes, seconds: float) -> bytes | None:
        """As `Store.lease`."""
        ...

    async def release(self, key: bytes, token: bytes) -> None:
        """As `Store.release`."""
        ...

    async def discard(
        self,
        *,
        key: bytes | None = None,
        function: str | None = None,
        model_version: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """As `Store.discard`."""
        ...
