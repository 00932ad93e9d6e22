"""How many checks failed, by field. Only a failure counts, so that a good call costs nothing."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from typing import Any, Final

from mlguard.forks import in_children
from mlguard.monitor import metrics

__all__ = ["Tally"]

_MOST_FIELDS: Final = 50
_MOST_CAUSES: Final = 100


class Tally:
    """Refused and reported calls, and how often each field was at fault; at most 50 fields are told apart."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._counts = {"refused_inputs": 0, "refused_outputs": 0, "reported_inputs": 0, "reported_outputs": 0}
        self._fields: dict[str, int] = {}
        self._causes: dict[tuple[str, str, str], int] = {}

    def count(self, what: str, violations: list[dict[str, Any]], known: Collection[str]) -> None:
        """One call.

        Args:
            what: Which of the counts.
            violations: What is wrong with it.
            known: The names that the schemas of the function use; any other is a key of the caller's own.
        """
        stage = "input" if what.endswith("inputs") else "output"
        fields = {_field(found["loc"], known) for found in violations}
        causes = {(stage, _field(found["loc"], known), str(found.get("type", ""))[:100]) for found in violations}
        with _lock:
            self._counts[what] += 1
            for field in fields:
                named = field if field in self._fields or len(self._fields) < _MOST_FIELDS else "(others)"
                self._fields[named] = self._fields.get(named, 0) + 1
            for cause in causes:
                told = cause in self._causes or len(self._causes) < _MOST_CAUSES
                cause = cause if told else (stage, "other", "other")
                self._causes[cause] = self._causes.get(cause, 0) + 1

    def stats(self) -> dict[str, Any]:
        with _lock:
            return {**self._counts, "by_field": dict(self._fields)}

    def metrics(self) -> Iterator[metrics.Figure]:
        for cause, number in dict(self._causes).items():  # without the lock: a destructor may ask in the midst of it
            yield metrics.VALIDATION_FAILURES, cause, number


def _field(loc: tuple[Any, ...], known: Collection[str]) -> str:
    """The parameter and the field in it: deeper parts may be keys and numbers of the caller's own."""
    parts = [part if part in known else "*" for part in loc[:2] if isinstance(part, str)]
    return ".".join(parts) or "(call)"


def _renew() -> None:
    global _lock
    _lock = threading.Lock()


_lock = threading.Lock()  # held for a few additions only
in_children(_renew)  # another thread may have held it while the process forked
