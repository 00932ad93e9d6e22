"""The cache of one function: what `call.py` asks of it, and what became of the calls."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from types import MethodType
from typing import Any, ClassVar, Final, NamedTuple

from mlguard import clock
from mlguard.cache.copies import Kept, TooLarge, Uncopyable, keep
from mlguard.cache.explained import explained
from mlguard.cache.flights import TaskFlights, ThreadFlights
from mlguard.cache.function_key import KeyParts, key_function, keyed_names
from mlguard.cache.keys import LOCAL, Dialect, Unkeyable, as_text, offers_identity, plain_or_slot
from mlguard.cache.refusals import no_identity, refuse_what_cant_be_cached
from mlguard.cache.section import Cache
from mlguard.cache.stale import Lenient, Refresh
from mlguard.cache.store import Entry, Ledger, MemoryStore, expiry, store_of
from mlguard.cache.stores.protocol import Label
from mlguard.context import Call
from mlguard.errors import DeadlineExceededError, PolicyError
from mlguard.monitor import metrics
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

    @property
    def hit_rate(self) -> float | None:
        """The share of all calls (rows, with rows=True) that did not compute; None: there was none."""
        answered = self.hits + self.coalesced
        asked = answered + self.misses + self.bypassed
        return answered / asked if asked else None


class ResultCache:
    """Keeps the results of one function.

    Args:
        target: The function.
        section: The settings.
        key: Computes the key from the validated arguments, called as the function is; it must return something keyable.
        model_version: Part of the key, or a callable without arguments that is asked for it at every call: when it
            changes, the results of the previous version are not served any more.
        store: Another cache's store, to share its bounds; entries are never shared.
        deadlines: What gives a refresh in the background its deadline; None: it has none.

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
        deadlines: Any = None,
        **more: Any,
    ) -> None:
        refuse_what_cant_be_cached(target)
        self.target = target
        self.section = section
        self.ttl = None if section.ttl is None else clock.seconds(section.ttl)
        self.stale_for = clock.seconds(section.stale_while_revalidate)
        self.stale_if_error = clock.seconds(section.stale_if_error)
        self.extra = max(self.stale_for, self.stale_if_error)
        """Seconds that an entry is kept beyond its time."""
        self.jitter = section.jitter
        self.writable = section.on_hit == "copy"
        self.deadlines = deadlines
        self._options: dict[str, Any] = {
            "key": key, "model_version": model_version, "store": store, "deadlines": deadlines, **more,
        }  # fmt: skip
        self.memory = store or store_of(target, section)
        self._find = self.memory.entries.get
        self._keyed_by_self = key is None and "self" in keyed_names(target)[0] and "." in target.qualname
        parts = self.key_parts(None if store is None else object())
        self._places = parts.version, parts.tenant
        self.key_of = MethodType(parts.function, self)
        self.threads = ThreadFlights(self)
        self.tasks = TaskFlights(self)
        self.lenient = Lenient(self) if self.extra or section.negative_ttl else None
        self.forget_counts()

    @property
    def model_version(self) -> Any:
        return self._options["model_version"]

    def key_parts(self, prefix: Any) -> KeyParts:
        # A version that is a text never changes, and no two caches share an entry: only one that is asked at every call
        # has to be in the key.
        version = self.model_version if callable(self.model_version) else None
        return key_function(
            self.target, key=self._options["key"], version=version, prefix=prefix, tenant=self.section.tenant
        )

    # What `call.py` asks

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        share: Any = self.tasks.share if asynchronous else self.threads.share
        if self.lenient is not None:
            share = self.lenient.share_async if asynchronous else self.lenient.share
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
                raise no_identity(self.target, type(args[0])) from None
            self.bypassed["unkeyable"] += 1
        else:
            # The function itself refuses wrong arguments; a key= or model_version= that fails costs the hit.
            self.bypassed["key_failed"] += 1

    # What the flights ask

    def through(self, key: Any, produce: Any, *, asynchronous: bool) -> Any:
        """`produce`, with the shared store before it, where there is one."""
        return produce

    def entry(self, key: Any) -> Entry | None:
        """What is kept for a key, be it expired or a failure."""
        entry = self._find(key)
        return None if entry is None or entry.until <= clock.now() else entry

    def bypassing(self, this: Call | None, reason: str | None = None) -> None:
        if reason is not None:
            self.bypassed[reason] += 1
        if this is not None:
            this.tell(mlguard__cache="bypass")

    def missed(self, this: Call | None) -> None:
        if type(this) is Refresh:
            self.refreshes += 1
            return
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

    def kept(self, key: Any, this: Call | None, result: Any) -> Kept | None:
        """A copy of a result to share; None where that must not or can't be."""
        if this is not None and this.violations:
            reason = "violates_schema"  # report mode lets it pass; it is nobody else's
        elif this is not None and not this.shareable:
            reason = "unwanted"  # what retry gave up on
        elif self.version_changed(key):
            reason = "model_version_changed"  # nobody knows which of the two models computed it
        else:
            try:
                return keep(result, self.memory.max_bytes, writable=self.writable)
            except TooLarge:
                reason = "too_large"
            except Exception as error:  # a cache that can't keep a result never fails the prediction
                reason = f"uncopyable {error}" if isinstance(error, Uncopyable) else "copy_failed"
        self.not_stored[reason] += 1
        return None

    def version_changed(self, key: Any) -> bool:
        """Whether the model was swapped since a key was made."""
        place = self._places[0]
        if place is None:
            return False
        try:
            return bool(plain_or_slot(self.model_version(), self.dialect) != key[place])
        except Exception:
            return True

    def store(self, key: Any, kept: Kept, cost: float, fresh: float | None = None) -> None:
        """Keeps a result; `fresh`, until when on `clock.now`, where that is not up to the section."""
        fresh = expiry(self.ttl, self.jitter) if fresh is None else fresh
        expires = fresh if self.front is None else min(fresh, clock.now() + self.front)
        label = self.label_of(key)
        entry = Entry(kept, expires, self.ledger, cost=cost, until=fresh + self.extra, label=label)
        entry.size += 0 if label is None else sys.getsizeof(label)
        if not self.memory.put(key, entry):
            self.not_stored["too_large"] += 1

    def store_failure(self, key: Any, kept: Kept) -> None:
        until = clock.now() + clock.seconds(self.section.negative_ttl)
        self.memory.put(key, Entry(kept, 0.0, self.ledger, until=until, label=self.label_of(key), failure=True))

    def label_of(self, key: Any) -> Label | None:
        """What the entry of a key can be invalidated by."""
        version, tenant = self._places
        if version is None and tenant is None:
            return None
        return Label(
            "", "" if version is None else as_text(key[version]), "" if tenant is None else as_text(key[tenant])
        )

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
        entries = self.memory.of(self.ledger)
        hits = self.ledger.hits + sum(entry.hits for entry in entries)
        bypassed = sum(self.bypassed.values())
        return CacheInfo(hits, self.misses, self.coalesced, bypassed, len(entries), self.memory.bytes)

    def stats(self) -> dict[str, Any]:
        ledger, info = self.ledger, self.info()
        saved = ledger.saved + sum(entry.hits * entry.cost for entry in self.memory.of(ledger))
        return {
            **info._asdict(),
            "hit_rate": info.hit_rate,
            "bypassed": dict(self.bypassed),
            "not_stored": dict(self.not_stored),
            "evictions": ledger.evictions,
            "expired": ledger.expired,
            "seconds_saved": saved,
            **({} if self.lenient is None else self.lenient.stats()),
        }

    def metrics(self) -> Iterator[metrics.Figure]:
        info, ledger = self.info(), self.ledger
        entries = self.memory.of(ledger)
        stale = 0 if self.lenient is None else self.lenient.stale
        answers = {"hit": info.hits, "miss": info.misses, "coalesced": info.coalesced, "stale": stale}
        answers["bypass"] = sum(self.bypassed.values())
        for result, number in answers.items():
            yield metrics.CACHE_REQUESTS, (result,), number
        yield metrics.CACHE_ENTRIES, (), len(entries)
        yield metrics.CACHE_BYTES, (), sum(entry.size for entry in entries)
        yield metrics.CACHE_EVICTIONS, (), ledger.evictions
        yield metrics.CACHE_SAVED, (), ledger.saved + sum(entry.hits * entry.cost for entry in entries)

    def explain(self) -> list[str]:
        return explained(self)

    def clear(self, *, tenant: Any = None, model_version: str | None = None) -> int:
        """Drops the results of this function, or those of a tenant or a model version, and says how many.

        Runs in progress are neither joined nor stored.

        Raises:
            PolicyError: A tenant is given, but the policy says of no argument that it names one.
        """
        if tenant is not None and self.section.tenant is None:
            raise PolicyError(
                f"{self.target.name}: cache_clear(tenant=...), but its cache does not know whose a result is. "
                "Fix: Cache(tenant='the_argument')."
            )
        self.forgotten += 1
        self.threads.clear()
        self.tasks.clear()
        version = None if model_version is None else as_text(plain_or_slot(model_version, self.dialect))
        owner = None if tenant is None else as_text(plain_or_slot(tenant, self.dialect))
        return self.drop(version, owner)

    def drop(self, version: str | None, tenant: str | None) -> int:
        """Drops what meets every condition that is not None."""
        known = self.model_version
        if version is not None and known is not None and not callable(known):
            if as_text(plain_or_slot(known, self.dialect)) != version:
                return 0
            version = None
        if version is None and tenant is None:
            return self.memory.discard(self.ledger)

        def match(_: Any, entry: Entry) -> bool:
            label = entry.label or Label("")
            return version in (None, label.model_version) and tenant in (None, label.tenant)

        return self.memory.discard(self.ledger, match)

    def invalidate(self, key: Any) -> bool:
        """Drops the result of one key, as `key_of` made it; whether there was one."""
        self.forgotten += 1
        self.threads.forget(key)
        self.tasks.forget(key)
        return key is not None and self.memory.remove(key)

    def reset(self) -> None:
        self.clear()
        self.forget_counts()

    def __reduce__(self) -> tuple[Any, ...]:
        return _revived, (type(self), self.target, self.section, {**self._options, "deadlines": self.deadlines})

    dialect: ClassVar[Dialect] = LOCAL
    batch: Any = None
    """The arguments with rows; None: results are kept whole."""
    forgotten: int = 0
    """How often something was cleared or invalidated: a failure that began before is not remembered."""
    remote: Any = None
    """The shared store; None: there is only memory."""
    front: float | None = None
    """Seconds for which memory answers without asking the shared store."""

    def forget_counts(self) -> None:
        self.ledger = Ledger()
        self.misses = 0
        self.coalesced = 0
        self.refreshes = 0
        self.bypassed: Counter[str] = Counter()
        self.not_stored: Counter[str] = Counter()
        if self.lenient is not None:
            self.lenient.forget_counts()

    def key_text(self) -> str:
        if self._options["key"] is not None:
            parts = ["what key= makes of the arguments"]
        else:
            keyed, left_out = keyed_names(self.target)
            parts = [f"type and content of {', '.join(keyed)}" if keyed else "the same for every call"]
            if left_out:
                parts.append(f"without {', '.join(left_out)}")
        if self.section.tenant is not None:
            parts.append(f"with tenant {self.section.tenant}")
        if self.model_version is not None:
            parts.append("with model_version")
        return ", ".join(parts)


def _revived(cls: type[ResultCache], target: Target, section: Cache, options: dict[str, Any]) -> ResultCache:
    return cls(target, section, **options)
