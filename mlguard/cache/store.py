"""Where cached results lie: in this process, bounded by entries and by bytes.

A hit takes no lock: it reads one dictionary and counts itself on its entry, which is also the mark by which an entry
in use gets a second chance when the oldest has to go. Only storing and evicting take the lock, for moments in which no
code of the user's can run: what is evicted is destroyed after the lock is released.
"""

from __future__ import annotations

import random
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final

from mlguard import clock
from mlguard.cache.copies import Kept
from mlguard.cache.section import Cache
from mlguard.forks import in_children, renew_in_children
from mlguard.target import Target

__all__ = ["Entry", "Ledger", "MemoryStore", "store_of"]

_ENTRY: Final = 400  # bytes that an entry, its key's tuple and its place in the store take beside key and value
_SWEPT: Final = 2  # old entries looked at for expiry whenever one is stored: cheap, and twice as fast as they come
_random = random.Random()  # noqa: S311 - spreads expiry; its own, so that the user's seeded one notices nothing


class Ledger:
    """What became of one cache's entries; kept by the store, read by the cache."""

    def __init__(self) -> None:
        self.hits = 0  # of entries that are gone
        self.saved = 0.0  # seconds, likewise
        self.evictions = 0
        self.expired = 0


class Entry:
    """One kept result."""

    __slots__ = ("cost", "expires", "hits", "ledger", "make", "seen", "size", "value")

    def __init__(self, kept: Kept, expires: float, cost: float, size: int, ledger: Ledger) -> None:
        self.value = kept.value
        self.make = kept.make
        self.expires = expires
        """On `clock.now`; infinity: never."""
        self.cost = cost
        """Seconds it took to compute, which each hit saves."""
        self.size = size
        self.ledger = ledger
        self.hits = 0
        self.seen = 0
        """`hits` when eviction last passed by."""


class MemoryStore:
    """Results by key.

    Args:
        max_entries: Results kept at most.
        max_bytes: Estimated bytes of keys and results kept at most.
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.entries: OrderedDict[Any, Entry] = OrderedDict()
        self.bytes = 0
        self._lock = threading.Lock()
        self._holder: int | None = None
        renew_in_children(self)

    def put(self, key: Any, kept: Kept, *, ttl: float | None, jitter: float, cost: float, ledger: Ledger) -> bool:
        """Stores a result; False where it is larger than the whole store."""
        size = kept.size + _size_of(key) + _ENTRY
        if size > self.max_bytes:
            return False
        now = clock.now()
        expires = float("inf") if ttl is None else now + ttl * (1.0 - jitter * _random.random())
        entry = Entry(kept, expires, cost, size, ledger)
        self._changed(lambda: self._insert(key, entry, now))
        return True

    def discard(self, ledger: Ledger) -> None:
        """Drops the entries of one cache."""
        self._changed(lambda: self._drop(ledger))

    def of(self, ledger: Ledger) -> list[Entry]:
        """The entries of one cache."""
        return [entry for entry in list(self.entries.values()) if entry.ledger is ledger]

    def __reduce__(self) -> tuple[Any, ...]:
        return MemoryStore, (self.max_entries, self.max_bytes)

    def _changed(self, change: Callable[[], Iterator[Entry]]) -> None:
        me = threading.get_ident()
        if self._holder == me:
            return  # a destructor that the garbage collector ran in the middle of the lines below: it may not wait here
        gone: list[Entry] = []
        with self._lock:
            self._holder = me
            try:
                gone.extend(change())
            finally:
                self._holder = None
        gone.clear()  # without the lock: destructors run here

    def _insert(self, key: Any, entry: Entry, now: float) -> Iterator[Entry]:
        if key in self.entries:
            yield self._remove(key, now)
        self.entries[key] = entry
        self.bytes += entry.size
        yield from self._sweep(now)
        chances = len(self.entries)
        while len(self.entries) > self.max_entries or self.bytes > self.max_bytes:
            oldest = next(iter(self.entries))
            found = self.entries[oldest]
            if chances > 0 and (found is entry or (found.hits != found.seen and found.expires > now)):
                chances -= 1
                found.seen = found.hits
                self.entries.move_to_end(oldest)
                continue
            found.ledger.evictions += found.expires > now
            yield self._remove(oldest, now)

    def _sweep(self, now: float) -> Iterator[Entry]:
        for _ in range(min(_SWEPT, len(self.entries))):
            oldest = next(iter(self.entries))
            if self.entries[oldest].expires > now:
                return
            yield self._remove(oldest, now)

    def _drop(self, ledger: Ledger) -> Iterator[Entry]:
        now = clock.now()
        for key in [key for key, entry in self.entries.items() if entry.ledger is ledger]:
            yield self._remove(key, now)

    def _remove(self, key: Any, now: float) -> Entry:
        entry = self.entries.pop(key)
        self.bytes -= entry.size
        entry.ledger.hits += entry.hits
        entry.ledger.saved += entry.hits * entry.cost
        entry.ledger.expired += entry.expires <= now
        return entry

    def after_fork(self) -> None:
        """In the child: nobody will release a lock that another thread of the parent held."""
        if self._lock.locked():
            self.entries.clear()  # that thread was in the middle of changing them
            self.bytes = 0
        self._lock = threading.Lock()
        self._holder = None


def store_of(_: Target, section: Cache) -> MemoryStore:
    """The store a section asks for. Hand one to several caches to let them share its bounds."""
    return MemoryStore(section.max_entries, clock.bytes_of(section.max_bytes))


def _size_of(key: Any) -> int:
    return sum(map(sys.getsizeof, key))


in_children(_random.seed)
