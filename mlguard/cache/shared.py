"""The cache of a function whose results other processes share.

Its memory is a small front: what `lookup` finds there was in the shared store a moment ago. A call that finds nothing
leads or follows within its process as ever; the one that leads asks the store, takes a lease, computes and stores. An
entry outlives its time in the front, so that an outage of the store does not empty the cache.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any, ClassVar, Final

from mlguard import clock
from mlguard.cache.copies import Kept, keep
from mlguard.cache.flights import Fetched
from mlguard.cache.flow import Flow, drive, drive_async
from mlguard.cache.function_key import KeyParts, key_function
from mlguard.cache.identity import identity_of
from mlguard.cache.keys import SHARED, Dialect, as_text, plain_or_slot
from mlguard.cache.refusals import refuse_unknown_owner, require_version
from mlguard.cache.remote import Found, Remote
from mlguard.cache.result import CacheInfo, ResultCache
from mlguard.cache.section import Cache
from mlguard.cache.stale import Refresh
from mlguard.cache.store import Entry, expiry
from mlguard.cache.stores import Label
from mlguard.context import Call
from mlguard.monitor import metrics
from mlguard.target import Target

__all__ = ["SharedCache"]

_WORTH: Final = 0.005  # seconds a result must take to be worth the two journeys of a lease
_LEASES: Final = (1.0, 60.0)  # seconds, at least and at most, for which a lease is taken
_UNKNOWN: Final = 0.25  # seconds that a result is expected to take before any was computed here
_WAIT: Final = 30.0  # seconds for which another process is waited for at most
_length: Final = struct.Struct("<Q").pack


class SharedCache(ResultCache):
    """Keeps the results of one function in a shared store.

    Raises:
        PolicyError: No model version says to which model a stored result belongs; or as for `ResultCache`.
    """

    dialect: ClassVar[Dialect] = SHARED

    def __init__(self, target: Target, section: Cache, **options: Any) -> None:
        require_version(target, section, options.get("model_version"))
        refuse_unknown_owner(target)
        self.remote = Remote(section, target.hints.get("return", Any))
        self.front = self.remote.front
        self.cost: float | None = None
        """Seconds a result takes, averaged over the last ones."""
        super().__init__(target, section, **options)
        batch = None if self.batch is None else sorted(self.batch.axes.items())
        self._how = options.get("key") is not None, options.get("checked", True), section.tenant, batch

    @cached_property
    def _identity(self) -> list[bytes]:
        # At the first call, when everything that the function closes over is there.
        key = self._options["key"]
        return identity_of(self.target, self.remote.codec, self._how, encode=SHARED.encode, key=key)

    def key_parts(self, prefix: Any) -> KeyParts:
        version = self.model_version if callable(self.model_version) else None
        return key_function(
            self.target, key=self._options["key"], version=version, prefix=prefix, tenant=self.section.tenant,
            dialect=SHARED,
        )  # fmt: skip

    def through(self, key: Any, produce: Any, *, asynchronous: bool) -> Any:
        """`produce`, with the shared store before it: what a flight leads."""
        return partial(self._lead_async if asynchronous else self._lead, key, produce)

    def address(self, key: Any) -> tuple[bytes, Label]:
        """Where a key lies in the store, and what it can be invalidated by there."""
        parts = self.parts_of(key)
        label = Label(self.target.name, self.version_of(key), "" if (own := self.label_of(key)) is None else own.tenant)
        content = [*self._identity, label.model_version.encode("utf-8", "surrogatepass")]
        content += [part if type(part) is bytes else SHARED.slot(part) for part in parts]
        return self.remote.codec.secret.key_digest(b"".join([_length(len(part)) + part for part in content])), label

    def parts_of(self, key: Any) -> list[Any]:
        """What of a key means the same in every process, without the version, which stands apart."""
        prefixed = self._options["store"] is not None
        return [part for place, part in enumerate(key) if place != self._places[0] and not (prefixed and place == 0)]

    def version_of(self, key: Any) -> str:
        place = self._places[0]
        return as_text(plain_or_slot(self.model_version, SHARED) if place is None else key[place])

    def missed(self, this: Call | None) -> None:
        """Nothing yet: whether it is one, the store will say."""

    def info(self) -> CacheInfo:
        info = super().info()
        return info._replace(hits=info.hits + self.fetched)

    def stats(self) -> dict[str, Any]:
        stats = super().stats()
        stats["not_stored"] = dict(self.not_stored + self.remote.not_encoded)
        stats["seconds_saved"] += self.saved
        return {**stats, "store_hits": self.fetched, "lease_waits": self.lease_waits, **self.remote.stats()}

    def metrics(self) -> Iterator[metrics.Figure]:
        yield from super().metrics()
        yield metrics.CACHE_SAVED, (), self.saved
        for reason, number in dict(self.remote.errors).items():
            yield metrics.CACHE_STORE_ERRORS, (reason,), number
        yield metrics.CACHE_STORE_ERRORS, ("undecodable",), sum(dict(self.remote.undecodable).values())

    def forget_counts(self) -> None:
        super().forget_counts()
        self.remote.forget_counts()
        self.fetched = 0
        self.saved = 0.0
        self.lease_waits = 0

    def drop(self, version: str | None, tenant: str | None) -> int:
        here = super().drop(version, tenant)
        there: int = self.remote.store.discard(function=self.target.name, model_version=version, tenant=tenant)
        return max(here, there)

    def reset(self) -> None:
        """Forgets counts and what is in this process; what lies in the store is everybody's."""
        self.threads.clear()
        self.tasks.clear()
        self.memory.discard(self.ledger)
        self.forget_counts()

    def invalidate(self, key: Any) -> bool:
        here = super().invalidate(key)
        return (key is not None and self.remote.store.discard(key=self.address(key)[0]) > 0) or here

    def _lead(
        self, key: Any, produce: Any, this: Call | None, args: Any, kwargs: Any, deadline: float | None, dims: Any
    ) -> Any:
        arguments = this, args, kwargs, deadline, dims
        flow = self._flow(
            key, partial(produce, *arguments), clock.sleep, this, args, kwargs, deadline, asynchronous=False
        )
        return drive(flow)

    async def _lead_async(
        self, key: Any, produce: Any, this: Call | None, args: Any, kwargs: Any, deadline: float | None, dims: Any
    ) -> Any:
        arguments = this, args, kwargs, deadline, dims
        flow = self._flow(
            key, partial(produce, *arguments), clock.sleep_async, this, args, kwargs, deadline, asynchronous=True
        )
        return await drive_async(flow)

    def _flow(
        self, key: Any, produce: Any, sleep: Any, this: Call | None, args: Any, kwargs: Any, deadline: float | None,
        *, asynchronous: bool,
    ) -> Flow:  # fmt: skip
        remote = self.remote
        digest, label = self.address(key)
        found = yield from remote.get_many(this, (digest,), asynchronous=asynchronous)
        if found is None:  # an outage: what was read before is as good as it was then
            entry = self.entry(key)
            if entry is not None and not entry.failure and clock.now() < entry.until - self.extra:
                self._arrived(this, 0.0)
                return Fetched(Kept(entry.value, entry.make, entry.size), entry.until - self.extra, entry.cost)
        elif (here := self._usable(key, this, found[0])) is not None:
            return here
        token: bytes | None = b""
        if found is not None and (self.cost is None or self.cost >= _WORTH):
            token, here = yield from self._turn(key, digest, sleep, this, deadline, asynchronous)
            if here is not None:
                return here
        super().missed(this)
        started = clock.now()
        try:
            result = yield produce, ()
            cost = clock.now() - started
            self.cost = cost if self.cost is None else 0.8 * self.cost + 0.2 * cost
            changed = self.key_of(args, kwargs) != key if asynchronous else self.version_changed(key)
            if not changed and (this is None or (not this.violations and this.shareable)):
                lasting = None if self.ttl is None else expiry(self.ttl, self.jitter) - clock.now()
                yield from remote.put_many(
                    this, [(digest, result)], label, ttl=None if lasting is None else lasting + self.extra,
                    fresh=lasting, cost=cost, asynchronous=asynchronous,
                )  # fmt: skip
        except GeneratorExit:
            raise  # nobody is there any more who could give the lease back; it ends by itself
        except BaseException:
            if token:
                yield from remote.release(this, digest, token, asynchronous=asynchronous)
            raise
        if token:
            yield from remote.release(this, digest, token, asynchronous=asynchronous)
        return result

    def _turn(
        self, key: Any, digest: bytes, sleep: Any, this: Call | None, deadline: float | None, asynchronous: bool
    ) -> Flow:
        """A token for this call to compute, or what another process computed while it waited."""
        remote, expected = self.remote, _UNKNOWN if self.cost is None else self.cost
        lease = min(max(4 * expected, _LEASES[0]), _LEASES[1])
        until = clock.now() + min(lease, _WAIT)
        if deadline is not None:
            until = min(until, deadline - 1.5 * expected)  # so that time is left to compute after all
        token = yield from remote.lease(this, digest, lease, asynchronous=asynchronous)
        if token is not None:
            return token, None
        pause = 0.01
        self.lease_waits += 1
        while token is None and clock.now() < until:
            yield sleep, (min(pause, max(0.001, until - clock.now())),)
            pause = min(1.5 * pause, 0.25)
            found = yield from remote.get_many(this, (digest,), asynchronous=asynchronous)
            if found is None:
                return b"", None
            here = self._usable(key, this, found[0])
            if here is not None:
                return token, here
            token = yield from remote.lease(this, digest, lease, asynchronous=asynchronous)
        if token:  # it may have been stored between the last look and the lease
            found = yield from remote.get_many(this, (digest,), asynchronous=asynchronous)
            here = None if found is None else self._usable(key, this, found[0])
            if here is not None:
                yield from remote.release(this, digest, token, asynchronous=asynchronous)
                return token, here
        return token, None

    def _usable(self, key: Any, this: Call | None, found: Found | None) -> Fetched | None:
        """What the store gave, where it may be served; a stale one is kept for bad times."""
        if found is None:
            return None
        try:
            kept = keep(found.value, self.memory.max_bytes, writable=self.writable)
        except Exception:
            return None
        if clock.now() >= found.fresh:
            if self.extra and clock.now() < found.fresh + self.extra:
                entry = Entry(kept, 0.0, self.ledger, cost=found.cost, until=found.fresh + self.extra)
                entry.label = self.label_of(key)
                self.memory.put(key, entry)
            return None
        self._arrived(this, found.cost)
        return Fetched(kept, found.fresh, found.cost)

    def _arrived(self, this: Call | None, saved: float) -> None:
        if type(this) is Refresh:
            return
        self.fetched += 1
        self.saved += saved
        self.hit_late(this)
        if this is not None:
            this.tell(mlguard__cache="shared")
