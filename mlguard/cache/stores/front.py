"""A small front in this process before a shared store: what was read or written a moment ago needs no journey.

What others change or discard is seen once the front's own time is up, so that time is short.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from mlguard import clock
from mlguard.cache.stores.protocol import AsyncStore, Item, Label, Store, Stored, StoreInfo
from mlguard.cache.stores.threads import InThreads
from mlguard.forks import renew_in_children

__all__ = ["Front"]

_ENTRY: Final = 400  # bytes that an entry takes beside key and payload


class Front:
    """A store before a store.

    Args:
        store: The store behind it.
        ttl: Seconds for which an entry is answered from here at most. This is how long a discard on another machine may
            go unnoticed here.
        max_bytes: Bytes kept here at most.
    """

    def __init__(self, store: Store, ttl: float, max_bytes: int = 16 << 20) -> None:
        self.store = store
        self.ttl = ttl
        self.max_bytes = max_bytes
        self.largest = store.largest
        self.hits = 0
        """Entries answered from here."""
        self._twin: _AsyncFront | None = None
        self._entries: OrderedDict[bytes, tuple[Stored, float, int]]
        self.after_fork()
        renew_in_children(self)

    def get_many(self, keys: Sequence[bytes]) -> list[Stored | None]:
        found, missing = self.recall(keys)
        if missing:
            self.keep(keys, found, missing, self.store.get_many([keys[place] for place in missing]))
        return found

    def put_many(self, items: Sequence[Item], label: Label) -> None:
        self.store.put_many(items, label)
        self.kept_new(items)

    def lease(self, key: bytes, seconds: float) -> bytes | None:
        return self.store.lease(key, seconds)

    def release(self, key: bytes, token: bytes) -> None:
        self.store.release(key, token)

    def discard(
        self,
        *,
        key: bytes | None = None,
        function: str | None = None,
        model_version: str | None = None,
        tenant: str | None = None,
    ) -> int:
        self.forget(key)
        try:
            return self.store.discard(key=key, function=function, model_version=model_version, tenant=tenant)
        finally:
            self.forget(key)  # what was read meanwhile

    def info(self) -> StoreInfo:
        return self.store.info()

    def close(self) -> None:
        self.forget(None)
        self.store.close()

    def asynchronous(self) -> AsyncStore:
        """The same front before the store's twin."""
        if self._twin is None:
            made = getattr(self.store, "asynchronous", None)
            self._twin = _AsyncFront(self, InThreads(self.store) if made is None else made())
        return self._twin

    def recall(self, keys: Sequence[bytes]) -> tuple[list[Stored | None], list[int]]:
        """What is here, in the order of the keys, and the places of those that are not."""
        found: list[Stored | None] = []
        missing: list[int] = []
        now = clock.now()
        for place, key in enumerate(keys):
            kept = self._entries.get(key)
            if kept is None:
                found.append(None)
                missing.append(place)
                continue
            stored, since, _ = kept
            passed = now - since
            if passed < 0 or passed >= self.ttl or (stored.left is not None and passed >= stored.left):
                found.append(None)
                missing.append(place)
                continue
            left = None if stored.left is None else stored.left - passed
            found.append(Stored(stored.payload, stored.age + passed, left))
        self.hits += len(keys) - len(missing)
        return found, missing

    def keep(
        self, keys: Sequence[bytes], found: list[Stored | None], missing: list[int], read: list[Stored | None]
    ) -> None:
        """Puts what was read behind into `found`, and keeps it."""
        now = clock.now()
        with self._lock:
            for place, stored in zip(missing, read, strict=True):
                found[place] = stored
                if stored is None:
                    self._drop(keys[place])
                else:
                    self._insert(keys[place], stored, now)

    def kept_new(self, items: Sequence[Item]) -> None:
        """Keeps what was written behind."""
        now = clock.now()
        with self._lock:
            for item in items:
                self._insert(item.key, Stored(item.payload, 0.0, item.ttl), now)

    def forget(self, key: bytes | None) -> None:
        """Drops one entry; None: all of them, because what was only read has no label here."""
        with self._lock:
            if key is not None:
                return self._drop(key)
            self._entries = OrderedDict()
            self._bytes = 0
        return None

    def after_fork(self) -> None:
        """In the child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()
        self._entries = OrderedDict()
        self._bytes = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return Front, (self.store, self.ttl, self.max_bytes)

    def _insert(self, key: bytes, stored: Stored, now: float) -> None:
        size = len(key) + len(stored.payload) + _ENTRY
        self._drop(key)
        if size > self.max_bytes:
            return
        self._entries[key] = stored, now, size
        self._bytes += size
        while self._bytes > self.max_bytes:  # oldest first: within a time this short, that is as good as least used
            _, (_, _, gone) = self._entries.popitem(last=False)
            self._bytes -= gone

    def _drop(self, key: bytes) -> None:
        kept = self._entries.pop(key, None)
        if kept is not None:
            self._bytes -= kept[2]


class _AsyncFront:
    """The twin of a `Front`: the same entries here, the other way to those behind."""

    def __init__(self, front: Front, behind: AsyncStore) -> None:
        self._front = front
        self._behind = behind

    async def get_many(self, keys: Sequence[bytes]) -> list[Stored | None]:
        found, missing = self._front.recall(keys)
        if missing:
            read = await self._behind.get_many([keys[place] for place in missing])
            self._front.keep(keys, found, missing, read)
        return found

    async def put_many(self, items: Sequence[Item], label: Label) -> None:
        await self._behind.put_many(items, label)
        self._front.kept_new(items)

    async def lease(self, key: bytes, seconds: float) -> bytes | None:
        return await self._behind.lease(key, seconds)

    async def release(self, key: bytes, token: bytes) -> None:
        await self._behind.release(key, token)

    async def discard(
        self,
        *,
        key: bytes | None = None,
        function: str | None = None,
        model_version: str | None = None,
        tenant: str | None = None,
    ) -> int:
        self._front.forget(key)
        try:
            return await self._behind.discard(key=key, function=function, model_version=model_version, tenant=tenant)
        finally:
            self._front.forget(key)
