"""The cache of one function: what `call.py` asks of it, and what became of the calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum
from types import MethodType
from typing import Any, Final, NamedTuple

from mlguard import clock
from mlguard.cache.annotations import never_copied
from mlguard.cache.copies import Kept, TooLarge, Uncopyable, keep
from mlguard.cache.flights import TaskFlights, ThreadFlights
from mlguard.cache.function_key import key_function, keyed_names
from mlguard.cache.keys import Unkeyable, offers_identity
from mlguard.cache.section import Cache
from mlguard.cache.store import Ledger, MemoryStore, store_of
from mlguard.context import Call
from mlguard.errors import DeadlineExceededError, PolicyError
from mlguard.outcome import Disposition
from mlguard.target import Target

__all__ = ["MISS", "CacheInfo", "ResultCache"]


class _Missing(Enum):
    MISS = "miss"


MISS: Final = _Missing.MISS
"""What `lookup` answers where nothing is cached: a cached None is a hit."""


class CacheInfo(NamedTuple):
    """The figures of a cache at one moment, as `f.guard.cache_info()` gives them."""

    hits: int
    """Calls answered from the store."""
    misses: int
    """Calls that computed, and led the others with the same key."""
    coalesced: int
    """Calls that waited for one of those and share its answer."""
    bypassed: int
    """Calls that had no key, or whose result could not be shared, and computed alone."""
    entries: int
    """Results kept now."""
    bytes: int
    """Their estimated size; with that of the others where the store is shared."""


class ResultCache:
    """Keeps the results of one function.

    Args:
        target: The function.
        section: The settings.
        key: Computes the key from the validated arguments, called as the function is; it must return something keyable.
        model_version: Part of the key, or a callable without arguments that is asked for it at every call: when it
            changes, the results of the previous version are not served any more.
        store: Another cache's store, to share its bounds; entries are never shared.

    Raises:
        PolicyError: The function is a stream, a parameter can never be keyed, or the result can never be copied.
        NameError: An annotation names something that is not defined yet.
    """

    MISS: Final = MISS

    def __init__(
        self,
        target: Target,
        section: Cache,
        *,
        key: Callable[..., Any] | None = None,
        model_version: str | Callable[[], Any] | None = None,
        store: MemoryStore | None = None,
    ) -> None:
        _refuse_what_cant_be_cached(target)
        self.target = target
        self.section = section
        self.ttl = None if section.ttl is None else clock.seconds(section.ttl)
        self.jitter = section.jitter
        self.writable = section.on_hit == "copy"
        self._options: dict[str, Any] = {"key": key, "model_version": model_version, "store": store}
        self._store = store or store_of(target, section)
        self._find = self._store.entries.get
        self._keyed_by_self = key is None and "self" in keyed_names(target)[0] and "." in target.qualname
        # A version that is a text never changes, and no two caches share an entry: only one that is asked at every call
        # has to be in the key.
        versions = (model_version,) if callable(model_version) else ()
        prefix = None if store is None else object()
        self.key_of = MethodType(key_function(target, key=key, versions=versions, prefix=prefix), self)
        self.threads = ThreadFlights(self)
        self.tasks = TaskFlights(self)
        self._forget_counts()

    # What `call.py` asks

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        share = self.tasks.share if asynchronous else self.threads.share
        return {"key_of": self.key_of, "lookup": self.lookup, "share": share, "MISS": MISS}

    def lookup(self, key: Any) -> Any:
        """What is cached for a key, safe to hand out; MISS where nothing is, or where the key is None."""
        entry = self._find(key)
        if entry is None or entry.expires <= clock.now():
            return MISS
        entry.hits += 1
        make = entry.make
        return entry.value if make is None else make()

    def unkeyed(self, error: Exception, args: Any) -> None:
        """Why a call has no key: it computes alone, and the reason is counted."""
        if isinstance(error, Unkeyable | RecursionError):
            if self._keyed_by_self and args and not offers_identity(type(args[0])):
                raise _no_identity(self.target, type(args[0])) from None
            self.bypassed["unkeyable"] += 1
        else:
            # The function itself refuses wrong arguments; a key= or model_version= that fails costs the hit.
            self.bypassed["key_failed"] += 1

    # What the flights ask

    def bypassing(self, this: Call | None, reason: str | None = None) -> None:
        if reason is not None:
            self.bypassed[reason] += 1
        if this is not None:
            this.tell(mlguard__cache="bypass")

    def missed(self, this: Call | None) -> None:
        self.misses += 1
        if this is not None:
            this.tell(mlguard__cache="miss")

    def hit_late(self, this: Call | None) -> None:
        """A hit that `lookup` found only after this call had got its turn."""
        if this is not None:
            this.disposition = Disposition.CACHE_HIT

    def followed(self, this: Call | None, kept: Kept) -> Any:
        self.coalesced += 1
        if this is not None:
            this.disposition = Disposition.COALESCED
            this.tell(mlguard__cache="coalesced")
        return kept.fresh()

    def kept(self, this: Call | None, result: Any) -> Kept | None:
        """A copy of a result to share; None where that must not or can't be."""
        if this is not None and this.violations:
            reason = "violates_schema"  # report mode lets it pass; it is nobody else's
        else:
            try:
                return keep(result, self._store.max_bytes, writable=self.writable)
            except TooLarge:
                reason = "too_large"
            except Exception as error:  # a cache that can't keep a result never fails the prediction
                reason = f"uncopyable {error}" if isinstance(error, Uncopyable) else "copy_failed"
        self.not_stored[reason] += 1
        return None

    def store(self, key: Any, kept: Kept, cost: float) -> None:
        if not self._store.put(key, kept, ttl=self.ttl, jitter=self.jitter, cost=cost, ledger=self._ledger):
            self.not_stored["too_large"] += 1

    def too_late(self, since: float | None) -> DeadlineExceededError:
        """What a follower's caller is told when its deadline passes first."""
        waited = (
            ""
            if since is None
            else f", which had been running for {clock.duration_text(round(clock.now() - since, 3))},"
        )
        return DeadlineExceededError(
            f"{self.target.name}: the deadline passed while this call waited for an equal one in progress{waited} and "
            f"no result was there to share. Fix: allow more time (timeout.total), or make the function faster."
        )

    # What a user asks

    def info(self) -> CacheInfo:
        entries = self._entries()
        hits = self._ledger.hits + sum(entry.hits for entry in entries)
        bypassed = sum(self.bypassed.values())
        return CacheInfo(hits, self.misses, self.coalesced, bypassed, len(entries), self._store.bytes)

    def stats(self) -> dict[str, Any]:
        ledger = self._ledger
        saved = ledger.saved + sum(entry.hits * entry.cost for entry in self._entries())
        return {
            **self.info()._asdict(),
            "bypassed": dict(self.bypassed),
            "not_stored": dict(self.not_stored),
            "evictions": ledger.evictions,
            "expired": ledger.expired,
            "seconds_saved": saved,
        }

    def explain(self) -> list[str]:
        section = self.section
        if self.ttl is None:
            lifetime = "until it is evicted"
        else:
            lifetime = f"for {clock.duration_text(self.ttl)} at most, up to {self.jitter:.0%} less at random"
        store = self._store
        arrays = "as writable copies" if self.writable else "as read-only views"
        scope = f", shared with scope '{section.scope}'" if section.scope else ""
        return [
            f"A result is cached {lifetime}; equal calls in progress share one run.",
            f"The cache holds {store.max_entries:,} results and {clock.size_text(store.max_bytes)} at most{scope}; "
            f"the ones not asked for lately go first.",
            f"The key is {self._key_text()}. Arrays come back {arrays}.",
        ]

    def clear(self) -> None:
        """Drops every result of this function; runs in progress are neither joined nor stored."""
        self.threads.clear()
        self.tasks.clear()
        self._store.discard(self._ledger)

    def reset(self) -> None:
        self.clear()
        self._forget_counts()

    def __reduce__(self) -> tuple[Any, ...]:
        return _revived, (self.target, self.section, self._options)

    def _forget_counts(self) -> None:
        self._ledger = Ledger()
        self.misses = 0
        self.coalesced = 0
        self.bypassed: Counter[str] = Counter()
        self.not_stored: Counter[str] = Counter()

    def _entries(self) -> list[Any]:
        return self._store.of(self._ledger)

    def _key_text(self) -> str:
        if self._options["key"] is not None:
            parts = ["what key= makes of the arguments"]
        else:
            keyed, left_out = keyed_names(self.target)
            parts = [f"type and content of {', '.join(keyed)}" if keyed else "the same for every call"]
            if left_out:
                parts.append(f"without {', '.join(left_out)}")
        if self._options["model_version"] is not None:
            parts.append("with model_version")
        return ", ".join(parts)


def _revived(target: Target, section: Cache, options: dict[str, Any]) -> ResultCache:
    return ResultCache(target, section, **options)


def _refuse_what_cant_be_cached(target: Target) -> None:
    if target.kind.stream:
        raise PolicyError(
            f"{target.name}: cache is set, but a stream can't be cached: its items are consumed as they are made. "
            f"Fix: cache=False, or return a list."
        )
    reason = never_copied(target.hints.get("return", Any))
    if reason is not None:
        raise PolicyError(
            f"{target.name}: cache is set, but its result can't be kept: no safe copy can be made of {reason}. "
            f"Fix: return numpy arrays, plain values, or models or dataclasses of them, or set cache=False."
        )


def _no_identity(target: Target, cls: type) -> PolicyError:
    name = cls.__qualname__
    return PolicyError(
        f"{target.name}: cache is set, but {name} objects have no identity for a cache key, so two of them could be "
        f"given each other's results. Fix: give {name} a method __mlguard_key__() that returns what tells two of them "
        f"apart (such as its model version), mark self: Annotated[Any, NotKeyed] if all answer alike, or give key=."
    )
