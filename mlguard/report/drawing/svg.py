"""The few marks the charts are made of.

A chart is as wide as its place and as high as it is told: positions along x are percentages, heights are pixels, so
that text keeps its size on a phone and on paper. What is drawn as one path lies in an inner `svg` that stretches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from mlguard.report.drawing.markup import Content, Html, tag

__all__ = ["area", "bars", "chart", "grid", "label", "line", "log_ticks", "meter", "round_ticks", "rule", "stretched"]

GAP: Final = 0.16
"""The share of a bar's place that is left free."""


def chart(height: float, *marks: Content, title: str, text: str = "", kind: str = "plot") -> Html:
    """A chart with its name, and what it shows in words for who can't see it.

    Args:
        height: Pixels.
        marks: What is drawn, the hindmost first.
        title: Its name.
        text: What it shows.
        kind: Its class in the style sheet.
    """
    about = (tag("title", title), tag("desc", text) if text else None)
    return tag("svg", about, *marks, class_=kind, role="img", width="100%", height=height, aria_label=title)


def stretched(columns: float, height: float, *paths: Content, y: float = 0) -> Html:
    """Paths whose x runs from 0 to `columns`."""
    box = f"0 0 {max(columns, 1):g} {height:g}"
    return tag("svg", *paths, viewBox=box, preserveAspectRatio="none", x=0, y=y, width="100%", height=height)


def bars(values: Sequence[float], top: float, height: float, kind: str, floors: Sequence[float] | None = None) -> Html:
    """Bars one unit apart, standing on `floors` or on the ground. One that is not nothing is at least a pixel high."""
    made = []
    for place, value in enumerate(values):
        if value > 0 and top > 0:
            floor = floors[place] if floors else 0.0
            low, high = height * (1 - floor / top), height * (1 - min(floor + value, top) / top)
            high = min(high, low - 1)
            made.append(f"M{place + GAP / 2:.4g} {low:.4g}V{high:.5g}h{1 - GAP:.4g}V{low:.5g}z")
    return tag("path", d="".join(made), class_=kind)


def line(points: Sequence[float | None], low: float, high: float, height: float, kind: str) -> Html:
    """A line through the middle of each place, broken where there is nothing. Values are between `low` and `high`."""
    made, pen_up = [], True
    reach = (high - low) or 1.0
    for place, value in enumerate(points):
        if value is None:
            pen_up = True
            continue
        y = height * (1 - (value - low) / reach)
        made.append(f"{'M' if pen_up else 'L'}{place + 0.5:.5g} {y:.5g}")
        following = points[place + 1] if place + 1 < len(points) else None
        if pen_up and following is None:
            made.append("h.01")  # a point by itself, which a round end makes a dot
        pen_up = False
    return tag("path", d="".join(made), class_=f"line {kind}")


def area(points: Sequence[float | None], top: float, height: float, kind: str) -> Html:
    """Steps from the ground, one unit wide."""
    made = []
    for place, value in enumerate(points):
        if value:
            made.append(f"M{place} {height:.4g}V{height * (1 - min(value / top, 1)):.5g}h1V{height:.4g}z")
    return tag("path", d="".join(made), class_=kind)


def grid(ticks: Iterable[tuple[float, str]], height: float, y: float = 0) -> Html:
    """Lines across, each with its value left of the chart. A tick is its height as a share, and its text."""
    made = []
    for part, text in ticks:
        at = y + height * (1 - part)
        made.append(tag("line", x1=0, x2="100%", y1=at, y2=at, class_="grid" if part else "base"))
        made.append(tag("text", text, x=-8, y=at, dy="0.32em", text_anchor="end", class_="tick"))
    return tag("g", *made, aria_hidden="true")


def rule(x: float, top: float, bottom: float, kind: str = "mark") -> Html:
    """A line upwards at a percentage."""
    return tag("line", x1=f"{x:.3f}%", x2=f"{x:.3f}%", y1=top, y2=bottom, class_=kind)


def label(x: float, y: float, text: str, kind: str = "tick", anchor: str = "start", dx: float = 0) -> Html:
    """Text at a percentage."""
    return tag("text", text, x=f"{x:.3f}%", y=y, dx=dx or None, text_anchor=anchor, class_=kind)


def meter(part: float, kind: str = "fill") -> Html:
    """A bar in the cell of a table; the number stands beside it, so that it has no name of its own."""
    width = f"{100 * min(max(part, 0), 1):.2f}%"
    return tag("svg", tag("rect", width=width, height="100%", class_=kind), class_="meter", aria_hidden="true")


def round_ticks(most: float, wanted: int = 3) -> list[float]:
    """Round numbers from 0 to the first that is not below `most`."""
    if most <= 0:
        return [0.0, 1.0]
    raw = most / wanted
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    if most >= 1 and step < 1:
        step = 1.0
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 10, 100, or 1, 2, 5, 10 where that is less than two factors of ten, around what is to be shown."""
    fine = high / low < 100
    factors = (1, 2, 5) if fine else (1,)
    every = [factor * 10.0**power for power in range(-8, 8) for factor in factors]
    first = max((number for number, value in enumerate(every) if value <= low * 1.0001), default=0)
    last = min((number for number, value in enumerate(every) if value >= high * 0.9999), default=len(every) - 1)
    return every[first : max(last, first + 1) + 1]
