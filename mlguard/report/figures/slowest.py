"""The calls that took longest."""

# ruff: noqa: S608 - the SQL is put together from this package's own names; values are bound or quoted

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from mlguard.report.figures.facts import Facts

__all__ = ["MOST", "SlowCall", "slowest_of"]

MOST: Final = 20


@dataclass(frozen=True)
class SlowCall:
    """One call."""

    function: str
    call_id: str
    at: datetime | None
    duration: float
    """Seconds."""
    waited: float
    """Of these, how many it waited: for a slot, for memory, or between attempts."""
    attempts: int
    disposition: str
    error_type: str | None


def slowest_of(facts: Facts) -> tuple[SlowCall, ...]:
    """The `MOST` slowest in the table `facts`."""
    rows = facts.ask(
        "SELECT function, coalesce(call_id, ''), moment, duration, coalesce(waited, 0), coalesce(attempts, 0), "
        f"disposition, error_type FROM facts WHERE duration IS NOT NULL ORDER BY duration DESC, call_id LIMIT {MOST}"
    )
    return tuple(SlowCall(*row) for row in rows)
