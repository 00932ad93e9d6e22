"""Where the figures come from, and what they leave out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlguard.report.figures.facts import Facts

__all__ = ["Source", "totals_of"]


@dataclass(frozen=True)
class Source:
    """The record that was read."""

    names: tuple[str, ...]
    """Files and folders, as they were given."""
    files: int
    size: int
    """Bytes, as they lie on the disk."""
    records: int
    """Records of calls that the filters let through."""
    sampled: int
    """Of these, how many stand for more than one call."""
    estimated: float
    """Calls that were not written, because of sampling."""
    suppressed: float
    """Calls that were not written, because they were rejected in an overload."""
    functions: int
    nested: int
    """Records of calls that ran inside another one."""
    distinct: int
    """How many ids of calls there are, to a few per cent; far fewer than records where calls were read twice."""
    damaged: int
    """Lines that could not be read."""
    damaged_at: tuple[str, ...] = ()
    """The first of them, as file and line."""
    filters: dict[str, str] = field(default_factory=dict)
    """What was asked for, by name."""


def totals_of(facts: Facts) -> dict[str, Any]:
    """What the table `facts` says of the fields of `Source`."""
    names = ("records", "sampled", "estimated", "suppressed", "functions", "nested", "distinct")
    (row,) = facts.ask(
        "SELECT count(*), count(*) FILTER (weight > 1), coalesce(sum(weight - 1), 0), "
        "coalesce(sum(calls - weight), 0), count(DISTINCT function), count(*) FILTER (nested), "
        "approx_count_distinct(call_id) FROM facts"
    )
    return dict(zip(names, row, strict=True))
