"""Where cached results lie: in this process, bounded by entries and by bytes.

A hit takes no lock: it reads one dictionary and counts itself on its entry, which is also the mark by which an entry
in use gets a second chance when the oldest has to go. Only storing and evicting take the lock, for moments in which no
code of the user's can run: what is evicted is destroyed after the lock is released.
"""

from __future__ import annotations

import random
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from mlguard import clock
from mlguard.cache.copies import Kept, weight
from mlguard.cache.section import Cache
from mlguard.forks import in_children, renew_in_children
from mlguard.target import Target

__all__ = ["Entry", "Ledger", "MemoryStore", "expiry", "held", "shrink", "store_of"]

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
    """One kept result, or one kept failure."""

    __slots__ = ("cost", "expires", "failure", "hits", "label", "ledger", "make", "seen", "size", "until", "value")

    def __init__(
        self,
        kept: Kept,
        expires: float,
        ledger: Ledger,
        *,
        cost: float = 0.0,
        until: float | None = None,
        label: Any = None,
        failure: bool = False,
    ) -> None:
        self.value = kept.value
        self.make = kept.make
        self.size = kept.size
        self.expires = expires
        """On `clock.now`; infinity: never. What `lookup` compares with: a failure has expired from the start."""
        self.until = expires if until is None or until == expires else until
        """When it goes: later than it expires where something stale may still be served."""
        self.cost = cost
        """Seconds it took to compute, which each hit saves."""
        self.label = label
        """What it can be invalidated by: (model version, tenant); None: neither is known."""
        self.failure = failure
        """Whether `make` brings back an exception that is to be raised."""
        self.ledger = ledger
        self.hits = 0
        self.seen = 0
        """`hits` when eviction last passed by."""


# Bytes of an entry beside its key and its value: the object, its place in the order, and the numbers it owns.
_TABLE: Final = sys.getsizeof(OrderedDict({b"": None}))
_NUMBER: Final = sys.getsizeof(0.5)
ENTRY: Final = sys.getsizeof(Entry(Kept(None, None, 0), 0.0, Ledger())) + 2 * _NUMBER + sys.getsizeof(1 << 20)


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
        self._held = 0
        self._lock = threading.Lock()
        self._holder: int | None = None
        renew_in_children(self)
        _stores.add(self)

    @property
    def bytes(self) -> int:
        """Bytes of keys, results and the table that they are in."""
        return self._held + sys.getsizeof(self.entries) if self.entries else 0

    def put(self, key: Any, entry: Entry) -> bool:
        """Stores an entry; False where it is larger than the whole store."""
        return self.put_many([(key, entry)]) == 1

    def put_many(self, entries: Sequence[tuple[Any, Entry]]) -> int:
        """Stores entries and says how many; those that are larger than the whole store are left out."""
        for key, entry in entries:
            entry.size += _size_of(key) + ENTRY + (_NUMBER if entry.until is not entry.expires else 0)
        fitting = [(key, entry) for key, entry in entries if entry.size + _TABLE <= self.max_bytes]
        now = clock.now()
        self._changed(lambda: self._insert(fitting, now))
        return len(fitting)

    def discard(self, ledger: Ledger, match: Callable[[Any, Entry], bool] | None = None) -> int:
        """Drops the entries of one cache, or those of them that match, and says how many."""
        dropped: list[None] = []
        self._changed(lambda: self._drop(ledger, match, dropped))
        return len(dropped)

    def remove(self, key: Any) -> bool:
        """Drops one entry; whether there was one."""
        there = key in self.entries
        self._changed(lambda: self._remove_one(key))
        return there

    def shrink(self, size: int) -> int:
        """Drops the entries not asked for lately until that many bytes are free, and says how many are."""
        before = self.bytes
        self._changed(lambda: self._evict(clock.now(), self.max_entries, max(0, before - size)))
        return before - self.bytes

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
            if not self.entries:
                self.entries.clear()  # its table too
        gone.clear()  # without the lock: destructors run here

    def _insert(self, entries: Sequence[tuple[Any, Entry]], now: float) -> Iterator[Entry]:
        for key, entry in entries:
            if key in self.entries:
                yield self._remove(key, now)
            self.entries[key] = entry
            self._held += entry.size
            yield from self._sweep(now)
        if entries:
            yield from self._evict(now, self.max_entries, self.max_bytes, newest=entries[-1][1])

    def _evict(self, now: float, max_entries: int, max_bytes: int, newest: Entry | None = None) -> Iterator[Entry]:
        chances = len(self.entries)
        while len(self.entries) > max_entries or self.bytes > max_bytes:
            oldest = next(iter(self.entries))
            found = self.entries[oldest]
            if chances > 0 and (found is newest or (found.hits != found.seen and found.until > now)):
                chances -= 1
                found.seen = found.hits
                self.entries.move_to_end(oldest)
                continue
            found.ledger.evictions += found.until > now
            yield self._remove(oldest, now)

    def _sweep(self, now: float) -> Iterator[Entry]:
        for _ in range(min(_SWEPT, len(self.entries))):
            oldest = next(iter(self.entries))
            if self.entries[oldest].until > now:
                return
            yield self._remove(oldest, now)

    def _drop(self, ledger: Ledger, match: Callable[[Any, Entry], bool] | None, dropped: list[None]) -> Iterator[Entry]:
        now = clock.now()
        ours = [
            key for key, entry in self.entries.items() if entry.ledger is ledger and (not match or match(key, entry))
        ]
        for key in ours:
            dropped.append(None)
            yield self._remove(key, now)

    def _remove_one(self, key: Any) -> Iterator[Entry]:
        if key in self.entries:
            yield self._remove(key, clock.now())

    def _remove(self, key: Any, now: float) -> Entry:
        entry = self.entries.pop(key)
        self._held -= entry.size
        entry.ledger.hits += entry.hits
        entry.ledger.saved += entry.hits * entry.cost
        entry.ledger.expired += entry.until <= now
        return entry

    def after_fork(self) -> None:
        """In the child: nobody will release a lock that another thread of the parent held."""
        if self._lock.locked():
            self.entries.clear()  # that thread was in the middle of changing them
            self._held = 0
        self._lock = threading.Lock()
        self._holder = None


def expiry(ttl: float | None, jitter: float) -> float:
    """When something that is stored now expires, on `clock.now`, some of it early at random."""
    return float("inf") if ttl is None else clock.now() + ttl * (1.0 - jitter * _random.random())


def shrink(bytes_wanted: int) -> int:
    """Frees about that many bytes in the memory stores of this process, and says how many; 0: there was nothing left.

    Each store gives in proportion to what it holds, the entries not asked for lately first.
    """
    stores = [(store, store.bytes) for store in list(_stores)]
    total = sum(held for _, held in stores)
    wanted = min(bytes_wanted, total)
    return sum(store.shrink(-(-wanted * held // total)) for store, held in stores) if total > 0 and wanted > 0 else 0


def held() -> int:
    """Estimated bytes that the memory stores of this process hold."""
    return sum(store.bytes for store in list(_stores))


def store_of(_: Target, section: Cache) -> MemoryStore:
    """The store a section asks for. Hand one to several caches to let them share its bounds."""
    return MemoryStore(section.max_entries, clock.bytes_of(section.max_bytes))


def _size_of(key: Any) -> int:
    return sys.getsizeof(key) if type(key) is bytes else sys.getsizeof(key) + sum(map(weight, key))


_stores: weakref.WeakSet[MemoryStore] = weakref.WeakSet()


in_children(_random.seed)
