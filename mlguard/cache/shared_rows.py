"""The rows of a batch in a store that other processes share, each as a result of one row."""

from __future__ import annotations

from typing import Any

from mlguard import clock
from mlguard.cache.flow import Flow
from mlguard.cache.result import CacheInfo
from mlguard.cache.row_plan import Plan
from mlguard.cache.row_results import Form, form_of
from mlguard.cache.rows import RowCache
from mlguard.cache.shared import SharedCache
from mlguard.cache.store import expiry
from mlguard.cache.stores import Label
from mlguard.context import Call

__all__ = ["SharedRowCache"]


class SharedRowCache(RowCache, SharedCache):
    """Keeps the rows of one function's results in a shared store, each as a result of one row.

    There is no lease for rows: two processes that meet the same new row at the same moment both compute it.
    """

    @property
    def digest(self) -> Any:
        return self.remote.codec.secret.key_digest

    def common(self, call_key: Any) -> list[bytes]:
        version = self.version_of(call_key).encode("utf-8", "surrogatepass")
        return [*self._identity, b"rows", version, *super().common(self.parts_of(call_key))]

    def fetched_rows(self, this: Call | None, keys: list[bytes], plan: Plan, *, asynchronous: bool) -> Flow:
        """Those of the rows that the store has, also kept in the front."""
        found = yield from self.remote.get_many(this, keys, asynchronous=asynchronous)
        have: dict[bytes, tuple[Form, Any]] = {}
        for key, each in zip(keys, found or (), strict=False):
            if each is None or clock.now() >= each.fresh:
                continue
            try:
                form = form_of(each.value, 1, writable=self.writable)
                row = form, form.cut(each.value)[0]
            except Exception:  # a result of another form than a row's
                self.remote.undecodable["malformed"] += 1
                continue
            have[key] = row
            self.saved += each.cost
            self._store({key: row}, plan, each.cost, each.fresh)
        self.fetched += len(have)
        return have

    def send_rows(
        self, this: Call | None, rows: dict[bytes, tuple[Form, Any]], plan: Plan, took: float, *, asynchronous: bool
    ) -> Flow:
        """Stores new rows for everybody."""
        lasting = None if self.ttl is None else expiry(self.ttl, self.jitter) - clock.now()
        label = Label(self.target.name, self.version_of(plan.call_key), plan.label.tenant if plan.label else "")
        yield from self.remote.put_many(
            this, [(key, form.build([row])) for key, (form, row) in rows.items()], label,
            ttl=lasting, fresh=lasting, cost=took / len(rows), asynchronous=asynchronous,
        )  # fmt: skip

    def invalidate(self, key: Plan | None) -> bool:
        here = super().invalidate(key)
        if key is None:
            return False
        return sum([self.remote.store.discard(key=row) for row in dict.fromkeys(key.keys)]) > 0 or here

    def info(self) -> CacheInfo:
        return SharedCache.info(self)
