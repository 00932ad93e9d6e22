"""Counts of several workers, added up: one process sees a part of the traffic, the sum is all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from mlguard.drift.errors import ProfileError

__all__ = ["SavedCounts", "merge", "subtract"]


class SavedCounts(TypedDict):
    """What a detector counted since it started, as JSON holds it; it only ever grows."""

    profile: str
    """The fingerprint of the profile it counts by."""
    rows: int
    """Rows that were looked at."""
    fields: dict[str, list[int]]
    """By field, by cell."""


def merge(counts: Iterable[Mapping[str, Any]]) -> SavedCounts:
    """The sum of what several detectors counted: ``f.guard.stats()["drift"]["counts"]`` of each worker.

    Compare it with `compare_counts`. Since counts grow for ever, take them twice and `subtract` the earlier sum for
    what came between.

    Raises:
        ProfileError: There are none, one is damaged, or they were counted by different profiles.
    """
    total: SavedCounts | None = None
    for number, each in enumerate(counts):
        found = _checked(each, f"counts {number + 1}")
        if total is None:
            total = found
            continue
        if found["profile"] != total["profile"]:
            raise ProfileError(
                f"counts {number + 1} are by the profile {found['profile']}, the others by {total['profile']}. "
                "Fix: merge the counts of workers that serve the same model."
            )
        total = _combined(total, found, 1)
    if total is None:
        raise ProfileError("there are no counts to merge. Fix: give those of at least one worker.")
    return total


def subtract(later: Mapping[str, Any], earlier: Mapping[str, Any]) -> SavedCounts:
    """What was counted between two moments.

    Raises:
        ProfileError: The earlier counts are larger: a worker was started anew in between; or the profiles differ.
    """
    now, before = _checked(later, "the later counts"), _checked(earlier, "the earlier counts")
    if now["profile"] != before["profile"]:
        raise ProfileError("the two were counted by different profiles. Fix: take both from the same deployment.")
    found = _combined(now, before, -1)
    if found["rows"] < 0 or any(count < 0 for counts in found["fields"].values() for count in counts):
        raise ProfileError(
            "the earlier counts are larger than the later ones: a worker was started anew in between. "
            "Fix: subtract worker by worker, and take the later counts as they are where a worker is new."
        )
    return found


def _combined(left: SavedCounts, right: SavedCounts, sign: int) -> SavedCounts:
    fields = {name: list(counts) for name, counts in left["fields"].items()}
    for name, counts in right["fields"].items():
        mine = fields.setdefault(name, [0] * len(counts))
        if len(mine) != len(counts):
            raise ProfileError(f"the counts of {name!r} have different lengths. Fix: take them from one version.")
        fields[name] = [a + sign * b for a, b in zip(mine, counts, strict=True)]
    return {"profile": left["profile"], "rows": left["rows"] + sign * right["rows"], "fields": fields}


def _checked(counts: Any, what: str) -> SavedCounts:
    good = (
        isinstance(counts, Mapping)
        and isinstance(counts.get("profile"), str)
        and type(counts.get("rows")) is int
        and isinstance(counts.get("fields"), Mapping)
        and all(
            isinstance(name, str) and isinstance(cells, list) and all(type(cell) is int and cell >= 0 for cell in cells)
            for name, cells in counts["fields"].items()
        )
    )
    if not good:
        raise ProfileError(f"{what} are no counts of a detector. Fix: give f.guard.stats()['drift']['counts'].")
    return {"profile": counts["profile"], "rows": counts["rows"], "fields": dict(counts["fields"])}
