"""The rows of a batch cached one by one: a call computes the rows nobody has seen, and puts them in their places.

What a row is called is decided in `row_keys.py`, what becomes of a result in `row_results.py`, who waits for whom in
`row_flights.py`. Here lives the order of things: look up, claim what is missing, compute it in one call, store it, wait
for what others compute, put together.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np

from mlguard import clock
from mlguard.batch import Batch
from mlguard.cache.copies import Kept, Uncopyable
from mlguard.cache.flow import Flow, drive, drive_async
from mlguard.cache.function_key import KeyParts, key_function
from mlguard.cache.keys import Unkeyable
from mlguard.cache.result import MISS, ResultCache
from mlguard.cache.row_flights import TaskRows, ThreadRows
from mlguard.cache.row_keys import row_keys
from mlguard.cache.row_plan import Plan, keyed_part, renumbered, tables_of
from mlguard.cache.row_results import Form, WrongRowsError, form_of
from mlguard.cache.section import Cache
from mlguard.cache.store import Entry, expiry
from mlguard.cache.stores import Label
from mlguard.cache.worth import Worth
from mlguard.context import Call, ambient_deadline
from mlguard.errors import DeadlineExceededError, InvalidOutputError, PolicyError
from mlguard.outcome import Disposition
from mlguard.target import Target

__all__ = ["RowCache"]

_numbers: Final = itertools.count(1)


class RowCache(ResultCache):
    """Keeps the rows of one function's results.

    Args:
        target: The function.
        section: The settings.
        batch: Its arguments with rows.
        options: As for `ResultCache`.

    Raises:
        PolicyError: `key=` is set, or the batch lies too deep in a model; or as for `ResultCache`.
    """

    def __init__(self, target: Target, section: Cache, *, batch: Batch, **options: Any) -> None:
        if options.get("key") is not None:
            raise PolicyError(
                f"{target.name}: key= is set, but with Cache.rows = True every row has a key of its own. "
                "Fix: drop key=, and mark what must not count as NotKeyed."
            )
        self.batch = batch
        self._keyed = keyed_part(batch)
        if section.tenant is not None and section.tenant in batch.axes:
            raise PolicyError(
                f"{target.name}: Cache.tenant = '{section.tenant}' is part of the batch, and a result has one tenant. "
                "Fix: name an argument that is the same for every row, or drop tenant."
            )
        self.worth = Worth()
        super().__init__(target, section, batch=batch, **options)
        self._call_key = self.key_of
        self.key_of = self._plan  # type: ignore[assignment]
        self._thread_rows = ThreadRows(self)
        self._task_rows = TaskRows(self)

    def key_parts(self, prefix: Any) -> KeyParts:
        deep = [path for paths in self.batch.fields.values() for path in paths if len(path) > 1]
        if deep:
            raise PolicyError(
                f"{self.target.name}: with Cache.rows = True a batch can be a field of an argument, but "
                f"'{'.'.join(deep[0])}' lies deeper. Fix: pass it as an argument, or as a field of one."
            )
        return key_function(
            self.target, key=None, version=self.model_version if callable(self.model_version) else None,
            prefix=None if prefix is None else b"%d" % next(_numbers), tenant=self.section.tenant,
            dialect=self.dialect,
            left_out={name: frozenset(path[0] for path in paths) for name, paths in self.batch.fields.items()},
        )  # fmt: skip

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        share = self.share_async if asynchronous else self.share
        return {"key_of": self.key_of, "lookup": self.lookup, "share": share, "MISS": MISS}

    def lookup(self, key: Plan | None) -> Any:
        """The whole result, where every row of it is there; MISS otherwise."""
        if key is None:
            return MISS
        find, now = self._find, clock.now()
        found = key.found = [find(row) for row in key.keys]
        first = found[0]
        form = None if first is None else first.make
        for entry in found:
            if entry is None or entry.expires <= now or entry.make is not form:
                return MISS
        rows = []
        for entry in found:
            entry.hits += 1  # type: ignore[union-attr]
            rows.append(entry.value)  # type: ignore[union-attr]
        result = form.build(rows)  # type: ignore[union-attr]
        self.worth.saw(len(rows), len(rows), clock.now() - key.started)
        return result

    def share(
        self,
        key: Plan | None,
        produce: Any,
        this: Call | None,
        args: Any,
        kwargs: Any,
        deadline: float | None,
        dims: Any,
    ) -> Any:
        """Answers a call of which not every row is there."""
        if key is None:
            self.bypassing(this)
            return produce(this, args, kwargs, deadline, dims)
        return drive(self._row_flow(key, produce, this, args, kwargs, deadline, dims, asynchronous=False))

    async def share_async(
        self,
        key: Plan | None,
        produce: Any,
        this: Call | None,
        args: Any,
        kwargs: Any,
        deadline: float | None,
        dims: Any,
    ) -> Any:
        """`share` for a coroutine function."""
        if key is None:
            self.bypassing(this)
            return await produce(this, args, kwargs, deadline, dims)
        return await drive_async(self._row_flow(key, produce, this, args, kwargs, deadline, dims, asynchronous=True))

    def label_of(self, key: Any) -> Label | None:
        return key.label if isinstance(key, Plan) else super().label_of(key)

    def stats(self) -> dict[str, Any]:
        return {**super().stats(), **self.worth.stats()}

    def forget_counts(self) -> None:
        super().forget_counts()
        self.worth.forget()

    def clear(self, *, tenant: Any = None, model_version: str | None = None) -> int:
        self._thread_rows.clear()
        self._task_rows.clear()
        return super().clear(tenant=tenant, model_version=model_version)

    def invalidate(self, key: Plan | None) -> bool:
        """Drops the rows of a batch; whether there were any."""
        if key is None:
            return False
        self._thread_rows.forget(key.keys)
        self._task_rows.forget(key.keys)
        return sum([self.memory.remove(row) for row in key.keys]) > 0

    # Keys

    def _plan(self, args: Any, kwargs: Any) -> Plan | None:
        """The keys of a call's rows; None where it is computed as a whole.

        Raises:
            ValueError: The arguments with rows have different numbers of them.
            TypeError: One of them has none.
        """
        if self.worth.resting():
            self.bypassed["not_worth_it"] += 1
            return None
        started = clock.now()
        size = self.batch.size(args, kwargs) if self.batch.tables(args, kwargs) else 0
        call_key = self._call_key(args, kwargs)
        if call_key is None:
            return None
        if not size:
            self.bypassed["no_rows"] += 1
            return None
        label = super().label_of(call_key)
        try:
            keys = self._rows_of(args, kwargs, call_key)
        except Exception as error:
            self.unkeyed(error if isinstance(error, Unkeyable) else Unkeyable(str(error)), args)
            return None
        return Plan(keys, call_key, label, started)

    def _rows_of(self, args: Any, kwargs: Any, call_key: Any) -> list[bytes]:
        there, tables = tables_of(self._keyed, args, kwargs)
        if not tables:
            raise Unkeyable("no table that is part of the key")
        common = [*self.common(call_key), there] if there else self.common(call_key)
        return row_keys(common, tables, self._keyed.size(args, kwargs), self.dialect, self.digest)

    def _changed(self, plan: Plan, args: Any, kwargs: Any, *, asynchronous: bool) -> str | None:
        """Why what was computed just now is not the result of the rows a plan names; None: it is."""
        if self.version_changed(plan.call_key):
            return "model_version_changed"
        if asynchronous:  # other tasks ran meanwhile, and may have filled the arrays anew
            try:
                same = self._call_key(args, kwargs) == plan.call_key
                same = same and self._rows_of(args, kwargs, plan.call_key) == plan.keys
            except Exception:  # not even a batch any more
                same = False
            if not same:
                return "arguments_changed"
        return None

    digest: Any = None
    """What makes a key of fixed length; None: nothing needs that."""

    def common(self, call_key: Any) -> list[bytes]:
        """What tells the rows of one call from those of another beside their content."""
        return [part if type(part) is bytes else self.dialect.slot(part) for part in call_key]

    # What a shared store adds

    def fetched_rows(self, this: Call | None, keys: list[bytes], plan: Plan, *, asynchronous: bool) -> Flow:
        """Those of the rows that a shared store has."""
        yield from ()
        return dict[bytes, tuple[Form, Any]]()

    def send_rows(
        self, this: Call | None, rows: dict[bytes, tuple[Form, Any]], plan: Plan, took: float, *, asynchronous: bool
    ) -> Flow:
        """Puts new rows into a shared store."""
        yield from ()

    # The order of things

    def _row_flow(
        self, plan: Plan, produce: Any, this: Call | None, args: Any, kwargs: Any, deadline: float | None, dims: Any,
        *, asynchronous: bool,
    ) -> Flow:  # fmt: skip
        flights: Any = self._task_rows if asynchronous else self._thread_rows
        until = ambient_deadline() if deadline is None else deadline
        total, now = len(plan.keys), clock.now()
        first: dict[bytes, int] = {}
        for place, key in enumerate(plan.keys):
            first.setdefault(key, place)
        have: dict[bytes, tuple[Form, Any]] = {}
        for key, entry in zip(plan.keys, plan.found, strict=True):
            if entry is not None and entry.expires > now:
                entry.hits += 1
                have[key] = entry.make, entry.value  # type: ignore[assignment]
        hits = sum([key in have for key in plan.keys])
        arrived = 0
        missing = [key for key in first if key not in have]
        spent = computing = 0.0
        computed = 0
        while missing:
            flight, mine, others = flights.claim(missing)
            try:
                for key in mine:
                    entry = self._find(key)
                    if entry is not None and entry.expires > clock.now():  # stored since this call looked
                        have[key] = entry.make, entry.value  # type: ignore[assignment]
                wanted = [key for key in mine if key not in have]
                if wanted and self.remote is not None:
                    fetched = yield from self.fetched_rows(this, wanted, plan, asynchronous=asynchronous)
                    arrived += len(fetched)
                    have |= fetched
                    wanted = [key for key in wanted if key not in have]
                result = None
                if wanted:
                    whole = len(wanted) == total
                    part = self._part(args, kwargs, dims, [first[key] for key in wanted], whole)
                    began = clock.now()
                    with flights.leading(flight):
                        result = yield produce, (this, part[0], part[1], deadline, part[2])
                    took = clock.now() - began
                    computing += took
                    computed += len(wanted)
                    form, rows = self._cut(result, len(wanted))
                    if form is None:  # nobody can keep such a result: its callers have it, and nobody else
                        self.worth.rest()
                        if whole:
                            self._told(this, 0, total, 0)
                            return result
                        return (yield produce, (this, args, kwargs, deadline, dims))
                    new = dict(zip(wanted, ((form, row) for row in rows), strict=True))
                    have |= new
                    changed = self._changed(plan, args, kwargs, asynchronous=asynchronous)
                    if changed is not None:
                        self.not_stored[changed] += 1
                    if changed is None and (this is None or (not this.violations and this.shareable)):
                        lasting = {key: new[key] for key in flights.leads(flight, wanted)}
                        self._store(lasting, plan, took / len(wanted))
                        if lasting and self.remote is not None:
                            yield from self.send_rows(this, lasting, plan, took, asynchronous=asynchronous)
                        flight.found = {key: have[key] for key in mine}
                    elif whole:
                        self._told(this, 0, total, 0)
                        return result
                    if whole:
                        self._told(this, 0, total, 0)
                        self.worth.saw(total, 0, clock.now() - plan.started - computing, took / total)
                        return result
                else:
                    flight.found = {key: have[key] for key in mine}
            except Exception as error:
                hurried = isinstance(error, DeadlineExceededError) and until is not None and clock.now() >= until - 0.05
                flight.failed = not hurried  # its own time was up, which says nothing about the others
                raise
            finally:
                flights.release(flight, mine)
                result = None
            for other, keys in others.items():
                before = clock.now()
                circular = not (yield flights.wait, (other, until))
                spent += clock.now() - before
                if circular or other.failed:  # nothing to wait for: this call computes those rows without a claim
                    part = self._part(args, kwargs, dims, [first[key] for key in keys], False)
                    result = yield produce, (this, part[0], part[1], deadline, part[2])
                    form, rows = self._cut(result, len(keys))
                    self.bypassed["reentrant" if circular else "leader_failed"] += len(keys)
                    if form is None:
                        return (yield produce, (this, args, kwargs, deadline, dims))
                    have |= dict(zip(keys, ((form, row) for row in rows), strict=True))
                elif other.found is not None:
                    have |= {key: other.found[key] for key in keys if key in other.found}
            missing = [key for key in missing if key not in have]
        self._told(this, hits + arrived, computed, total - hits - arrived - computed)
        overhead = clock.now() - plan.started - computing - spent
        self.worth.saw(total, total - computed, overhead, computing / computed if computed else None)
        form = have[plan.keys[0]][0]
        if any(each is not form for each, _ in have.values()):
            self.worth.rest()
            self.bypassed["forms_differ"] += 1  # such as another dtype than before: one call decides what it is
            result = yield produce, (this, args, kwargs, deadline, dims)
            form, rows = self._cut(result, total)
            changed = self._changed(plan, args, kwargs, asynchronous=asynchronous)
            if form is not None and changed is None and (this is None or (not this.violations and this.shareable)):
                self._store(dict(zip(plan.keys, ((form, row) for row in rows), strict=True)), plan, 0.0)
            return result
        return form.build([have[key][1] for key in plan.keys])

    def _part(self, args: Any, kwargs: Any, dims: Any, places: list[int], whole: bool) -> tuple[Any, Any, Any]:
        if whole:
            return args, kwargs, dims
        part, named = self.batch.take(args, kwargs, np.array(places, dtype=np.intp))
        renumbered(self.batch.tables(args, kwargs), self.batch.tables(part, named))
        return part, named, self.batch.dims(dims, len(places))

    def _cut(self, result: Any, size: int) -> tuple[Any, list[Any]]:
        """The form and the rows of a result; no form where it can't be kept."""
        try:
            form = form_of(result, size, writable=self.writable)
            rows = form.cut(result)
            if len(rows) != size:
                raise Uncopyable("a table without columns")
            return form, rows
        except WrongRowsError as error:
            raise InvalidOutputError.of(
                f"{self.target.label}()",
                [
                    {
                        "type": "row_count",
                        "loc": (),
                        "msg": f"Result should have one row for each of the batch, not be {error}. Fix: return as many "
                        "rows as came in, in their order, or don't cache rows",
                    }
                ],
            ) from None
        except Uncopyable as error:
            self.not_stored[f"uncopyable {error}"] += 1
        except Exception:  # whatever a value of the user's does when it is copied
            self.not_stored["copy_failed"] += 1
        return None, []

    def _store(self, rows: dict[bytes, tuple[Form, Any]], plan: Plan, cost: float, fresh: float | None = None) -> None:
        """Keeps rows; the form stands where other entries have what makes a fresh result."""
        entries = []
        for key, (form, row) in rows.items():
            until = expiry(self.ttl, self.jitter) if fresh is None else fresh
            expires = until if self.front is None else min(until, clock.now() + self.front)
            kept = Kept(row, form, form.size(row))  # type: ignore[arg-type]
            entries.append((key, Entry(kept, expires, self.ledger, cost=cost, until=until, label=plan.label)))
        left_out = len(entries) - self.memory.put_many(entries)
        if left_out:
            self.not_stored["too_large"] += left_out

    def _told(self, this: Call | None, hits: int, computed: int, coalesced: int) -> None:
        self.misses += computed
        self.coalesced += coalesced
        if this is None:
            return
        if computed:
            this.tell(mlguard__cache="miss" if not hits + coalesced else "partial")
        else:
            this.disposition = Disposition.COALESCED if coalesced else Disposition.CACHE_HIT
            this.tell(mlguard__cache="coalesced" if coalesced else "shared")
        this.tell(mlguard__cache__rows_hit=hits, mlguard__cache__rows_computed=computed)
