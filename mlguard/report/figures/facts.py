"""The facts: one narrow row for each call, from which every figure is counted.

The view `calls` is read once, because reading JSON is what takes the time; all further questions go to this table. What
does not fit into memory lies on the disk. A field that a record does not have is NULL.
"""

# ruff: noqa: S608 - the SQL is put together from this package's own names; values are bound or quoted

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mlguard.record.reading import Calls

__all__ = ["ANSWERED", "CAUSE", "RAN", "REFUSED", "Facts"]

ANSWERED: Final = ("executed", "cache_hit", "coalesced", "fallback")
"""Dispositions of calls that gave a value."""

REFUSED: Final = ("rejected_validation", "rejected_breaker", "rejected_memory", "rejected_concurrency")
"""Dispositions of calls whose function was not run, on purpose."""

RAN: Final = ("executed", "fallback", "failed")
"""Dispositions of calls whose duration is that of work: neither the cache's nor a refusal's."""

CAUSE: Final = "coalesce(error_type, disposition)"
"""What a failure is called."""

# By name: the event's key, the type, and what becomes of a value. A traceback's end counts: the exception is there.
_FIELDS: Final[dict[str, tuple[str, str, str | None]]] = {
    "disposition": ("mlguard.disposition", "VARCHAR", "coalesce({0}, 'unknown')"),
    "outcome": ("event.outcome", "VARCHAR", None),
    "function": ("code.function.name", "VARCHAR", "coalesce({0}, '')"),
    "call_id": ("mlguard.call_id", "VARCHAR", None),
    "nested": ("mlguard.parent_call_id", "VARCHAR", "{0} IS NOT NULL"),
    "duration": ("mlguard.duration", "DOUBLE", "CASE WHEN {0} BETWEEN 0 AND 1e8 THEN {0} END"),
    "attempts": ("mlguard.attempts", "INTEGER", None),
    # One record of a sampled call stands for 1/rate calls, and one of an overload for those left out before it.
    "weight": ("mlguard.sample_rate", "DOUBLE", "CASE WHEN {0} > 0 AND {0} <= 1 THEN 1 / {0} ELSE 1 END"),
    "calls": ("mlguard.suppressed", "INTEGER", "weight + CASE WHEN {0} > 0 THEN {0} ELSE 0 END"),
    "policy": ("mlguard.policy", "VARCHAR", None),
    "model_version": ("mlguard.model_version", "VARCHAR", None),
    "error_type": ("error.type", "VARCHAR", None),
    "message": ("exception.message", "VARCHAR", "left({0}, 500)"),
    "traceback": ("exception", "VARCHAR", "right({0}, 6000)"),
    "passed_on": ("mlguard.recorded_by", "VARCHAR", "{0} IS NOT NULL"),
    "late": ("mlguard.late", "BOOLEAN", None),
    "slow": ("mlguard.slow", "BOOLEAN", None),
    "inside": ("mlguard.function_duration", "DOUBLE", "CASE WHEN {0} BETWEEN 0 AND 1e8 THEN {0} END"),
    "items": ("mlguard.items", "INTEGER", None),
    "waited": ("mlguard.waited", "DOUBLE", None),
    "cache": ("mlguard.cache", "VARCHAR", None),
    "cache_error": ("mlguard.cache.error", "VARCHAR", None),
    "rows_hit": ("mlguard.cache.rows_hit", "INTEGER", None),
    "rows_computed": ("mlguard.cache.rows_computed", "INTEGER", None),
    "retries": ("mlguard.retry.retries", "INTEGER", None),
    "retry_waited": ("mlguard.retry.waited", "DOUBLE", None),
    "retry_stopped": ("mlguard.retry.stopped", "VARCHAR", None),
    "slot_waited": ("mlguard.concurrency.waited", "DOUBLE", None),
    "slots": ("mlguard.concurrency.in_use", "INTEGER", None),
    "memory_waited": ("mlguard.memory.waited", "DOUBLE", None),
    "memory_used": ("mlguard.memory.used", "DOUBLE", None),
    "memory_limit": ("mlguard.memory.limit", "DOUBLE", None),
    "breaker": ("mlguard.breaker.state", "VARCHAR", None),
    "violation_count": ("mlguard.violation_count", "INTEGER", None),
    "shallow": ("mlguard.validation.check", "VARCHAR", None),
    "rejected_rows": ("mlguard.rejected_rows", "INTEGER", None),
    "anomaly_count": ("mlguard.anomaly_count", "INTEGER", None),
}


class Facts:
    """The calls of a record that filters let through, and what can be asked of them.

    Args:
        record: From `open_calls`.
        where: Which calls: SQL over the view `calls`, with question marks.
        parameters: Values for these.
    """

    def __init__(self, record: Calls, where: str = "TRUE", parameters: Sequence[Any] = ()) -> None:
        self._record = record
        keys = [*(key for key, _, _ in _FIELDS.values()), "mlguard.violations"]
        paths = ", ".join(f"'/{key}'" for key in keys)
        shown = [
            f"{(sql or '{0}').format(f'TRY_CAST(found[{place}] AS {kind})')} AS {name}"
            for place, (name, (_, kind, sql)) in enumerate(_FIELDS.items(), 1)
        ]
        shown += [f"TRY_CAST(found[{len(keys)}] AS JSON) AS violations", "moment"]
        # All keys of a line in one go: one by one, each would read the whole line again.
        record.keep(
            "facts",
            f"SELECT {', '.join(shown)} FROM (SELECT TRY(json_extract_string(json, [{paths}])) AS found, "
            f"time AS moment FROM calls WHERE {where}) WHERE found IS NOT NULL",
            parameters,
        )

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a SELECT over the table `facts`."""
        return [*self._record.sql(query).rows]
