"""How many checks failed, by field. Only a failure counts, so that a good call costs nothing."""

from __future__ import annotations

import threading
from typing import Any

from mlguard.forks import in_children

__all__ = ["Tally"]

_MOST_FIELDS = 50


class Tally:
    """Refused and reported calls, and how often each field was at fault; at most 50 fields are told apart."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._counts = {"refused_inputs": 0, "refused_outputs": 0, "reported_inputs": 0, "reported_outputs": 0}
        self._fields: dict[str, int] = {}

    def count(self, what: str, violations: list[dict[str, Any]]) -> None:
        with _lock:
            self._counts[what] += 1
            for field in {_field(violation["loc"]) for violation in violations}:
                known = field in self._fields or len(self._fields) < _MOST_FIELDS
                field = field if known else "(others)"
                self._fields[field] = self._fields.get(field, 0) + 1

    def stats(self) -> dict[str, Any]:
        with _lock:
            return {**self._counts, "by_field": dict(self._fields)}


def _field(loc: tuple[Any, ...]) -> str:
    """The parameter and the field in it: deeper parts may be keys and numbers of the caller's own."""
    return ".".join(str(part) for part in loc[:2] if isinstance(part, str)) or "(call)"


def _renew() -> None:
    global _lock
    _lock = threading.Lock()


_lock = threading.Lock()  # held for a few additions only
in_children(_renew)  # another thread may have held it while the process forked
