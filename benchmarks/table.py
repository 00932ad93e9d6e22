"""The results as plain aligned text."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.verdicts import Comparison, Result

__all__ = ["duration", "summary", "table"]

_WIDTHS = (38, 10, 10, 23)


def table(result: Result) -> str:
    """One case: a line per contestant, ours against it, its budget, and MISS where it is not kept."""
    lines = [
        f"{result.case.name}: {result.case.claim}",
        _row("  contestant", "median", "min", "quartiles") + "   ours / it   budget",
    ]
    plain = {c.peer: c for c in result.comparisons if c.minus is None and c.of == "mlguard"}
    for name, seconds in result.seconds.items():
        quartiles = f"{duration(seconds.lower_quartile)} - {duration(seconds.upper_quartile)}"
        line = _row(f"  {name}", duration(seconds.median), duration(seconds.minimum), quartiles)
        lines.append((line + (_verdict(plain[name]) if name in plain else "")).rstrip())
    for comparison in result.comparisons:
        if comparison not in plain.values():
            what = comparison.of if comparison.minus is None else f"({comparison.of} - {comparison.minus})"
            lines.append(_row(f"  {what} / {comparison.peer}").rstrip().ljust(sum(_WIDTHS) + 3) + _verdict(comparison))
    return "\n".join(lines)


def summary(results: Iterable[Result], not_built: Iterable[str]) -> str:
    """How many budgets are kept, and which are not."""
    comparisons = [(result, c) for result in results for c in result.comparisons if c.at_most is not None]
    missed = [(result, c) for result, c in comparisons if c.missed]
    lines = [f"{len(comparisons) - len(missed)} of {len(comparisons)} budgets kept."]
    lines += [f"  MISS {r.case.name}: {c.ratio.median:.3g} x {c.peer}, budget {c.at_most:.3g}" for r, c in missed]
    if not_built := list(not_built):
        lines.append("Not built yet, so not measured: " + "; ".join(not_built) + ".")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """A duration in the unit that keeps three digits readable."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:#.3g} {unit}".replace(". ", " ")
    return f"{seconds / 1e-9:#.3g} ns".replace(". ", " ")


def _row(name: str, *cells: str) -> str:
    return name.ljust(_WIDTHS[0]) + "".join(
        f" {cell:>{width}}" for cell, width in zip(cells, _WIDTHS[1:], strict=False)
    )


def _verdict(comparison: Comparison) -> str:
    ratio = f"{comparison.ratio.median:12.3g}"
    if comparison.at_most is None:
        return ratio
    return f"{ratio}   <= {comparison.at_most:<6.3g} {'MISS' if comparison.missed else 'ok'}"
