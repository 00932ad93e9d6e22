"""What each concern did: how often, and how much time it took or spared."""

# ruff: noqa: S608 - the SQL is put together from this package's own names; values are bound or quoted

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlguard.report.figures.facts import RAN, Facts
from mlguard.report.figures.frame import Frame

__all__ = [
    "BreakerFigures",
    "CacheFigures",
    "ConcernFigures",
    "ConcurrencyFigures",
    "DeadlineFigures",
    "FallbackFigures",
    "MemoryFigures",
    "RetryFigures",
    "ValidationFigures",
    "concerns_of",
]


@dataclass(frozen=True)
class ValidationFigures:
    """Schemas that were broken. Numbers of calls are weighed, here as everywhere."""

    refused: float
    """Calls whose input was refused."""
    bad_results: float
    """Calls that failed because the result breaks its schema."""
    let_pass: float
    """Calls with violations that report mode let pass."""
    rows_taken_out: float
    """Rows of tables that were answered by the fallback."""
    shallow: float
    """Calls of which not every value was looked at."""
    anomalies: float
    """Calls with something that training never saw."""
    steps: tuple[float, ...]
    """Refused, bad or let pass, by step."""


@dataclass(frozen=True)
class RetryFigures:
    """Attempts beyond the first."""

    retried: float
    """Calls that were tried more than once."""
    retries: float
    """Further attempts."""
    saved: float
    """Retried calls that succeeded in the end."""
    gave_up: float
    """Retried calls that failed, met an open circuit, or were answered by the fallback."""
    waited: float
    """Seconds between attempts, of all calls together."""
    stopped: dict[str, float]
    """Why no further attempt was made, by reason."""
    steps: tuple[float, ...]
    """Further attempts, by step."""


@dataclass(frozen=True)
class CacheFigures:
    """Calls that the cache answered, and what that spared."""

    hits: float
    """Calls answered from the cache."""
    coalesced: float
    """Calls that shared the run of an equal one."""
    asked: float
    """Calls that had a key: hits, shared runs and misses."""
    by_result: dict[str, float]
    """Calls by what their record says of the cache, such as `miss`, `bypass`, `stale`."""
    errors: dict[str, float]
    """Calls for which a shared store was no help, by reason."""
    rows_hit: float
    rows_computed: float
    spared: float
    """Seconds, estimated: what the answered calls would have taken at the mean of their function's calls at work."""
    steps: tuple[float, ...]
    """Answered from the cache or shared, by step."""


@dataclass(frozen=True)
class BreakerFigures:
    """Calls that were kept from a callee in trouble."""

    refused: float
    functions: int
    """Functions of which calls were refused."""
    open_seen: float
    """Other calls whose record says that the circuit was not closed."""
    steps: tuple[float, ...]
    """Refused, by step."""


@dataclass(frozen=True)
class ConcurrencyFigures:
    """Calls that wanted a slot where all were taken."""

    refused: float
    waited: float
    """Calls that waited for a slot."""
    seconds: float
    """How long, all together."""
    most: int
    """Slots in use at once, at most."""
    steps: tuple[float, ...]
    """Refused or waiting, by step."""


@dataclass(frozen=True)
class MemoryFigures:
    """Calls that wanted memory where it was short, and how much was in use."""

    refused: float
    waited: float
    """Calls that waited for memory."""
    seconds: float
    """How long, all together."""
    used: float
    """Bytes in use, at most."""
    limit: float
    """The limit at that moment."""
    steps: tuple[float | None, ...]
    """The greatest share of the limit in use, by step; None where no record says."""
    refused_steps: tuple[float, ...]
    """Refused, by step."""


@dataclass(frozen=True)
class FallbackFigures:
    """Calls that got a degraded answer."""

    answered: float
    causes: dict[str, float]
    """What it stood in for, by class of the exception."""
    steps: tuple[float, ...]
    """Answered, by step."""


@dataclass(frozen=True)
class DeadlineFigures:
    """Calls that took too long."""

    expired: float
    """Calls that ended with DeadlineExceededError."""
    late: float
    """Calls whose result came after the deadline and was used."""
    slow: float
    """Calls that their policy calls slow."""
    steps: tuple[float, ...]
    """Expired or late, by step."""


@dataclass(frozen=True)
class ConcernFigures:
    """All of them, None for one that left no trace."""

    validation: ValidationFigures | None
    cache: CacheFigures | None
    retry: RetryFigures | None
    breaker: BreakerFigures | None
    concurrency: ConcurrencyFigures | None
    memory: MemoryFigures | None
    deadline: DeadlineFigures | None
    fallback: FallbackFigures | None


_BAD = "error_type LIKE '%InvalidOutputError'"
_PASSED = "violation_count > 0 AND outcome = 'success'"
_EXPIRED = "error_type LIKE '%DeadlineExceededError' AND disposition = 'failed'"
_RETRIED = "retries > 0 OR attempts > 1"
_RETRIES = "coalesce(retries, attempts - 1)"

# Which calls each number is the sum of.
_SUMS = {
    "refused_input": "disposition = 'rejected_validation'",
    "bad_results": f"disposition = 'failed' AND {_BAD}",
    "let_pass": _PASSED,
    "shallow": "shallow IS NOT NULL",
    "anomalies": "anomaly_count > 0",
    "checked": f"disposition = 'rejected_validation' OR (disposition = 'failed' AND {_BAD}) OR ({_PASSED})",
    "retried": _RETRIED,
    "saved": f"({_RETRIED}) AND disposition = 'executed'",
    "gave_up": f"({_RETRIED}) AND disposition <> 'executed'",
    "hits": "disposition = 'cache_hit'",
    "coalesced": "disposition = 'coalesced'",
    "asked": "disposition IN ('cache_hit', 'coalesced') OR cache IN ('miss', 'partial')",
    "stored": "disposition IN ('cache_hit', 'coalesced')",
    "refused_breaker": "disposition = 'rejected_breaker'",
    "breaker_open": "breaker IS NOT NULL AND breaker <> 'closed' AND disposition <> 'rejected_breaker'",
    "breaker": "breaker IS NOT NULL",
    "refused_slots": "disposition = 'rejected_concurrency'",
    "slot_waited": "slot_waited > 0",
    "slots": "slots IS NOT NULL",
    "crowded": "disposition = 'rejected_concurrency' OR slot_waited > 0",
    "refused_memory": "disposition = 'rejected_memory'",
    "memory_waited": "memory_waited > 0",
    "memory": "memory_used IS NOT NULL",
    "fallback": "disposition = 'fallback'",
    "expired": _EXPIRED,
    "late": "late",
    "slow": "slow",
    "overdue": f"({_EXPIRED}) OR late",
}

# Others, by their SQL.
_OTHERS = {
    "rows_taken_out": "sum(weight * rejected_rows)",
    "retries": f"sum(weight * {_RETRIES}) FILTER ({_RETRIED})",
    "retry_seconds": "sum(weight * retry_waited)",
    "rows_hit": "sum(weight * rows_hit)",
    "rows_computed": "sum(weight * rows_computed)",
    "slot_seconds": "sum(weight * slot_waited)",
    "slots_most": "max(slots)",
    "memory_seconds": "sum(weight * memory_waited)",
    "memory_used": "max(memory_used)",
    "memory_limit": "arg_max(memory_limit, memory_used)",
    "memory_share": "max(memory_used / nullif(memory_limit, 0))",
    "breaker_functions": "count(DISTINCT function) FILTER (disposition = 'rejected_breaker')",
}

_BY_STEP = ("checked", "stored", "refused_breaker", "crowded", "refused_memory", "fallback", "overdue")
_BY_STEP_OTHERS = ("retries", "memory_share")


def concerns_of(facts: Facts, frame: Frame) -> ConcernFigures:
    """Counted in the table `facts`."""
    sums = {name: f"coalesce(sum(calls) FILTER ({which}), 0)" for name, which in _SUMS.items()} | _OTHERS
    (row,) = facts.ask(f"SELECT {', '.join(f'{sql} AS {name}' for name, sql in sums.items())} FROM facts")
    total: dict[str, Any] = {name: value or 0 for name, value in zip(sums, row, strict=True)}
    steps = _by_step(facts, frame, {name: sums[name] for name in (*_BY_STEP, *_BY_STEP_OTHERS)})

    def counted(name: str) -> tuple[float, ...]:
        return tuple(value or 0.0 for value in steps[name])

    def by(column: str, where: str = "TRUE") -> dict[str, float]:
        return _by(facts, column, where)

    results, errors = by("cache"), by("cache_error")
    validated = total["checked"] or total["shallow"] or total["anomalies"] or total["rows_taken_out"]
    return ConcernFigures(
        validation=ValidationFigures(
            refused=total["refused_input"],
            bad_results=total["bad_results"],
            let_pass=total["let_pass"],
            rows_taken_out=total["rows_taken_out"],
            shallow=total["shallow"],
            anomalies=total["anomalies"],
            steps=counted("checked"),
        )
        if validated
        else None,
        cache=CacheFigures(
            hits=total["hits"],
            coalesced=total["coalesced"],
            asked=total["asked"],
            by_result=results,
            errors=errors,
            rows_hit=total["rows_hit"],
            rows_computed=total["rows_computed"],
            spared=_spared(facts),
            steps=counted("stored"),
        )
        if total["stored"] or results or errors
        else None,
        retry=RetryFigures(
            retried=total["retried"],
            retries=total["retries"],
            saved=total["saved"],
            gave_up=total["gave_up"],
            waited=total["retry_seconds"],
            stopped=by("retry_stopped"),
            steps=counted("retries"),
        )
        if total["retried"]
        else None,
        breaker=BreakerFigures(
            refused=total["refused_breaker"],
            functions=total["breaker_functions"],
            open_seen=total["breaker_open"],
            steps=counted("refused_breaker"),
        )
        if total["breaker"] or total["refused_breaker"]
        else None,
        concurrency=ConcurrencyFigures(
            refused=total["refused_slots"],
            waited=total["slot_waited"],
            seconds=total["slot_seconds"],
            most=int(total["slots_most"]),
            steps=counted("crowded"),
        )
        if total["slots"] or total["crowded"]
        else None,
        memory=MemoryFigures(
            refused=total["refused_memory"],
            waited=total["memory_waited"],
            seconds=total["memory_seconds"],
            used=total["memory_used"],
            limit=total["memory_limit"],
            steps=steps["memory_share"],
            refused_steps=counted("refused_memory"),
        )
        if total["memory"] or total["refused_memory"]
        else None,
        deadline=DeadlineFigures(
            expired=total["expired"], late=total["late"], slow=total["slow"], steps=counted("overdue")
        )
        if total["overdue"] or total["slow"]
        else None,
        fallback=FallbackFigures(
            answered=total["fallback"],
            causes=by("coalesce(error_type, 'not told')", "disposition = 'fallback'"),
            steps=counted("fallback"),
        )
        if total["fallback"]
        else None,
    )


def _by_step(facts: Facts, frame: Frame, sums: dict[str, str]) -> dict[str, tuple[float | None, ...]]:
    found: dict[str, list[float | None]] = {name: [None] * frame.steps for name in sums}
    shown = ", ".join(f"{sql} AS {name}" for name, sql in sums.items())
    for step, *values in facts.ask(f"SELECT {frame.sql} AS step, {shown} FROM facts GROUP BY step"):
        if step is not None and 0 <= step < frame.steps:
            for name, value in zip(sums, values, strict=True):
                found[name][step] = value
    return {name: tuple(values) for name, values in found.items()}


_REASONS = 12  # of one kind that are told


def _by(facts: Facts, column: str, where: str) -> dict[str, float]:
    rows = facts.ask(
        f"SELECT {column} AS reason, sum(calls) AS calls FROM facts WHERE ({where}) AND {column} IS NOT NULL "
        f"GROUP BY reason ORDER BY calls DESC, reason LIMIT {_REASONS}"
    )
    return dict(rows)


def _spared(facts: Facts) -> float:
    """Seconds that the cache spared, at the mean of each function; a function that never ran tells nothing."""
    ((spared,),) = facts.ask(
        "SELECT sum(greatest(hits * work / ran - served, 0)) FROM (SELECT "
        "sum(weight) FILTER (disposition IN ('cache_hit', 'coalesced')) AS hits, "
        "sum(weight * duration) FILTER (disposition IN ('cache_hit', 'coalesced')) AS served, "
        f"sum(weight) FILTER (disposition IN {RAN}) AS ran, "
        f"sum(weight * duration) FILTER (disposition IN {RAN}) AS work FROM facts GROUP BY function)"
    )
    return float(spared or 0.0)
