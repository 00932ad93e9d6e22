"""What calls of one function need, learned from what some of them took: a line over the bytes that come in.

The line lies above every measured peak, slowly forgetting old ones, and a tenth higher. It jumps up at once and comes
down slowly, because a need that is guessed too low gets the process killed, and one too high makes a call wait.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, NamedTuple

from mlguard import clock

__all__ = ["Learned"]

MARGIN = 1.1
"""What a call is promised, as a multiple of what the line says."""

ENOUGH = 3
"""Measurements until calls may overlap."""

REACH = 2.0
"""How far beyond the biggest measured input the line is trusted, as a multiple of it."""

KEPT = 64
"""Measurements remembered."""

FADES = 0.998
"""What is left of a measured peak after each later measurement: after 64 of them seven eighths."""

BLUR = 64 * 1024
"""Bytes of input that count as none: that a number or a short text comes in says nothing of what a call takes."""


class _Sample(NamedTuple):
    size: int
    peak: float


class _Line(NamedTuple):
    constant: float
    factor: float

    def at(self, size: int) -> float:
        return self.constant + self.factor * size


class Learned:
    """What is known of one function."""

    _samples: deque[_Sample]
    _line: _Line | None
    _trusted_up_to: int

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.reset()

    def need(self, size: int) -> int | None:
        """The bytes a call with so many bytes of input will need; None where too little was measured to say."""
        line = self._line
        if line is None or size > self._trusted_up_to:
            return None
        return int(MARGIN * line.at(size if size > BLUR else 0))

    def expected(self, size: int) -> int:
        """The same without an opinion on how far it can be trusted; 0 where nothing is known."""
        line = self._line
        return 0 if line is None else int(MARGIN * line.at(size if size > BLUR else 0))

    @property
    def ready(self) -> bool:
        """True once enough was measured."""
        return self._line is not None

    def learn(self, size: int, peak: int, reusable: int = 0) -> None:
        """Adds a measurement.

        Args:
            size: Bytes of input.
            peak: Bytes taken on top of what was in use.
            reusable: Bytes that may have been taken from what the allocator kept, and so are missing in the peak.
        """
        size = size if size > BLUR else 0
        with self._lock:
            before = self._line
            if before is not None and reusable > (known := before.at(size)) / 16 and peak < known:
                return  # lower than it should be, perhaps: it may not lower the line
            self.samples += 1
            self._samples = deque((_Sample(old, was * FADES) for old, was in self._samples), maxlen=KEPT)
            self._samples.append(_Sample(size, float(peak)))
            largest = max(old for old, _ in self._samples)
            if self.samples >= ENOUGH:
                self._trusted_up_to = max(int(REACH * largest), BLUR)
                self._line = _fit(list(self._samples))

    @property
    def spread(self) -> float | None:
        """How far measured peaks lie below the line on average, as a share of it: near 1, the line says little."""
        with self._lock:
            line, samples = self._line, list(self._samples)
        if line is None:
            return None
        shares = [1 - sample.peak / above for sample in samples if (above := line.at(sample.size)) > 0]
        return sum(shares) / len(shares) if shares else 0.0

    def stats(self) -> dict[str, Any]:
        line, spread = self._line, self.spread
        return {
            "learned": line is not None,
            "samples": self.samples,
            "factor": None if line is None else round(MARGIN * line.factor, 4),
            "constant": None if line is None else int(MARGIN * line.constant),
            "spread": None if spread is None else round(spread, 4),
            "trusted_up_to": self._trusted_up_to if line is not None else None,
        }

    def facts(self) -> dict[str, Any]:
        """What of it belongs into the event of a call."""
        return {key: value for key, value in self.stats().items() if key in ("factor", "constant", "samples", "spread")}

    def __str__(self) -> str:
        line = self._line
        if line is None:
            return f"learned; {self.samples} of {ENOUGH} measurements so far, and until then each call runs alone"
        parts = []
        if line.factor:
            parts.append(f"{MARGIN * line.factor:.3g} x the bytes of its input")
        if line.constant or not parts:
            parts.append(clock.size_text(int(MARGIN * line.constant)))
        return (
            f"learned: {' + '.join(parts)} ({self.samples} measurements, spread {self.spread or 0:.0%}); with more "
            f"than {clock.size_text(self._trusted_up_to)} of input it runs alone"
        )

    def reset(self) -> None:
        """Forgets everything."""
        with self._lock:
            self.samples = 0
            """Measurements so far."""
            self._samples = deque(maxlen=KEPT)
            self._line = None
            self._trusted_up_to = 0


def _fit(samples: list[_Sample]) -> _Line:
    """The line above all samples that lies lowest over them: through the origin, level, or with a constant part.

    One with a constant part is taken only where it says clearly more than one through the origin, which is on the safe
    side for inputs bigger than those measured.
    """
    if all(sample.size == 0 for sample in samples):
        return _Line(max(sample.peak for sample in samples), 0.0)
    without_input = max((sample.peak for sample in samples if sample.size == 0), default=0.0)
    factor = max(max(0.0, sample.peak - without_input) / sample.size for sample in samples if sample.size)
    through_origin = _Line(without_input, factor)
    sloped = _with_constant(samples)
    if sloped is not None and _height(sloped, samples) < 0.8 * _height(through_origin, samples):
        return sloped
    return through_origin


def _with_constant(samples: list[_Sample]) -> _Line | None:
    """The least-squares line, raised until no sample is above it; None where sizes are too much alike to tell."""
    sizes = [sample.size for sample in samples]
    if len(set(sizes)) < ENOUGH or max(sizes) < 2 * min(sizes):
        return None
    mean_size = sum(sizes) / len(sizes)
    mean_peak = sum(sample.peak for sample in samples) / len(samples)
    slope = sum((size - mean_size) * (peak - mean_peak) for size, peak in samples) / sum(
        (size - mean_size) ** 2 for size in sizes
    )
    slope = max(0.0, slope)
    return _Line(max(0.0, max(peak - slope * size for size, peak in samples)), slope)


def _height(line: _Line, samples: list[_Sample]) -> float:
    return sum(line.at(sample.size) for sample in samples)
