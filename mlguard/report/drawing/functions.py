"""The section of functions: a line for each."""

from __future__ import annotations

from math import log10

from mlguard.report.drawing.markup import Content, Html, tag
from mlguard.report.drawing.section import section, table
from mlguard.report.drawing.svg import meter
from mlguard.report.drawing.words import NOTHING, clip, count, duration, many, share, short_names
from mlguard.report.figures import Figures
from mlguard.report.figures.functions import Function

__all__ = ["functions"]

_SHOWN = 25
_STANDS_OUT = 1.1  # times as many calls as the next one, from which the busiest is worth its name
_NAME = 90


def functions(figures: Figures) -> Html | None:
    """The busiest in sight, the others folded away."""
    found = figures.functions
    if not found:
        return None
    names = short_names({one.name for one in found})
    top = max(one.calls for one in found)
    ran = [value for one in found if one.percentiles for value in one.percentiles if value > 0]
    low, high = (log10(min(ran)), log10(max(ran))) if ran else (0.0, 1.0)
    rows = [_row(one, names, top, low, high) for one in found]
    heads = ("function", "calls", "answered", "cached", "refused", "failed", "p50 to p99", "p50", "p99")
    numbers = (1, 2, 3, 4, 5, 7, 8)
    rest = None
    if rows[_SHOWN:]:
        folded = table(heads, rows[_SHOWN:], numbers=numbers, kind="stack wide")
        summary = tag("summary", f"The other {many(len(rows) - _SHOWN, 'line')}")
        rest = tag("details", summary, folded, class_="behind")
    return section(
        "functions",
        "Functions",
        _finding(found, names, figures),
        table(heads, rows[:_SHOWN], numbers=numbers, kind="stack wide"),
        rest,
    )


def _finding(found: tuple[Function, ...], names: dict[str, str], figures: Figures) -> str:
    total = figures.traffic.calls()
    first = found[0]
    name = clip(names[first.name], 60)
    if len(found) == 1:
        return f"One function: {name}"
    slow = max(
        (one for one in found if one.percentiles),
        key=lambda one: one.percentiles[2] if one.percentiles else 0,
        default=None,
    )
    if first.calls < _STANDS_OUT * found[1].calls and len(found) > 3:
        said = f"{many(figures.source.functions, 'function')}, the busiest with {many(first.calls, 'call')}"
    else:
        said = f"{name} was called most, {share(first.calls, total)} of {many(total, 'call')}"
    if slow is not None and slow.percentiles:
        said += (
            f"; {clip(names[slow.name], 60)} is slowest at the far end, with a p99 of {duration(slow.percentiles[2])}"
        )
    return said


def _row(one: Function, names: dict[str, str], top: float, low: float, high: float) -> list[Content]:
    if one.others:
        name: Content = tag("b", f"{many(one.others, 'further function')}")
    else:
        about = [
            part for part in (one.name if names[one.name] != one.name else "", *one.policies, *one.versions) if part
        ]
        name = (tag("b", clip(names[one.name], _NAME)), tag("span", clip(" · ".join(about), 2 * _NAME), class_="sub"))
    p50, _, p99 = one.percentiles or (0.0, 0.0, 0.0)
    return [
        name,
        (tag("span", count(one.calls)), meter(one.calls / top if top else 0)),
        share(one.answered, one.calls),
        share(one.cached, one.calls) if one.cached else NOTHING,
        count(one.refused) if one.refused else NOTHING,
        count(one.failed) if one.failed else NOTHING,
        _range(p50, p99, low, high) if one.percentiles else None,
        duration(p50) if one.percentiles else NOTHING,
        duration(p99) if one.percentiles else NOTHING,
    ]


def _range(p50: float, p99: float, low: float, high: float) -> Html:
    """From the median to the 99th percentile, on one logarithmic scale for all functions."""
    reach = (high - low) or 1.0
    first, last = (6 + 88 * (log10(max(value, 1e-9)) - low) / reach for value in (p50, p99))
    first, last = max(first, 3.0), max(last, 3.0)
    return tag(
        "svg",
        tag("line", x1="0", x2="100%", y1=7, y2=7, class_="grid"),
        tag("line", x1=f"{first:.2f}%", x2=f"{last:.2f}%", y1=7, y2=7, class_="span"),
        tag("circle", cx=f"{first:.2f}%", cy=7, r=3.5, class_="p50"),
        tag("line", x1=f"{last:.2f}%", x2=f"{last:.2f}%", y1=2, y2=12, class_="p99"),
        class_="range",
        role="img",
        aria_label=f"from {duration(p50)} to {duration(p99)}",
    )
