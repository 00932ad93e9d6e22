"""Whether looking rows up pays: what it costs against what it saves, both measured.

A model that takes a microsecond a row is faster than any lookup, and a stream of rows that never come back only pays
for keys. Where the cache loses, it rests: most calls go past it, and every hundredth asks whether that is still so.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["Worth"]

_BATCHES: Final = 20  # batches and rows before anything is decided: a cold cache has no hits yet
_ROWS: Final = 5_000
_REST: Final = 100
_NEW: Final = 0.1  # how much the latest batch counts in the averages


class Worth:
    """Averages of one cache's batches."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._batches = 0
        self._rows = 0
        self._share = 0.0
        self._overhead = 0.0
        self._cost: float | None = None
        self._rest = 0

    def resting(self) -> bool:
        """Whether this call should go past the cache."""
        if self._rest:
            self._rest -= 1
            return True
        return False

    def rest(self) -> None:
        """Lets the next calls go past the cache."""
        self._rest = _REST - 1

    def saw(self, rows: int, hits: int, overhead: float, cost: float | None = None) -> None:
        """One batch.

        Args:
            rows: How many it had.
            hits: How many of them nobody had to compute for it.
            overhead: Seconds that the cache took of it.
            cost: Seconds that computing one row took; None: none was computed.
        """
        self._batches += 1
        self._rows += rows
        new = max(_NEW, 1 / self._batches)
        self._share += new * (hits / rows - self._share)
        self._overhead += new * (overhead / rows - self._overhead)
        if cost is not None:
            self._cost = cost if self._cost is None else self._cost + new * (cost - self._cost)
            if self._batches >= _BATCHES and self._rows >= _ROWS and self._share * self._cost < self._overhead:
                self.rest()

    def stats(self) -> dict[str, Any]:
        return {"seconds_per_row": self._cost, "lookup_seconds_per_row": self._overhead, "resting": self._rest > 0}
