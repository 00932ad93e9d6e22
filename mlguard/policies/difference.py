"""Two policies side by side: what differs in force, and where each value was written."""

from __future__ import annotations

from typing import NamedTuple

from mlguard.policies.explained import origins, words_of
from mlguard.policies.lineage import Resolved

__all__ = ["Difference", "difference"]


class Difference(NamedTuple):
    """One setting that is not the same."""

    setting: str
    """Dotted, such as ``"retry.max_retries"``."""
    first: str | None
    """As one would write it in a file; None: the first policy has no such section."""
    second: str | None
    first_origin: str
    second_origin: str


def difference(first: Resolved, second: Resolved) -> list[Difference]:
    """The settings in force that differ, in the order of the sections; of an abstract policy, what it says."""
    ours, theirs = words_of(first), words_of(second)
    our_places, their_places = origins(first), origins(second)
    return [
        Difference(
            name,
            ours.get(name),
            theirs.get(name),
            _place(name, name in ours, our_places),
            _place(name, name in theirs, their_places),
        )
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]


def _place(name: str, there: bool, places: dict[str, str]) -> str:
    if not there:
        removed = places.get(name.partition(".")[0], "")
        return removed if removed.startswith("removed") else "without"
    return places.get(name, "default")
