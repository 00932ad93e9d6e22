"""The section of how long calls took."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from math import log10

from mlguard.report.drawing.markup import Content, Html, tag
from mlguard.report.drawing.section import figure, key, section, strip, table_behind, time_axis
from mlguard.report.drawing.svg import chart, grid, label, line, log_ticks, rule, stretched
from mlguard.report.drawing.words import NOTHING, count, duration, many, moment, share, tick
from mlguard.report.figures import Figures
from mlguard.report.figures.frame import Frame
from mlguard.report.figures.latency import BARS, Latency, Population, Spent

__all__ = ["latency"]

_HIGH, _BARS, _HEAD = 170, 64, 46
_LEAST = -6 * BARS  # bars: shorter than a microsecond is told as a microsecond

_NAMES = {"ran": "At work", "cache": "From the cache", "refused": "Refused"}
_ABOUT = {
    "ran": "from the call to its result or failure, waits and retries included",
    "cache": "hits and shared runs",
    "refused": "without the function being run",
}
_PERCENTS = ("p50", "p90", "p99")


def latency(figures: Figures) -> Html | None:
    """Durations as distributions that share an axis, and their percentiles over time."""
    found, frame = figures.latency, figures.frame
    if not found.populations:
        return None
    return section(
        "latency",
        "Latency",
        _finding(found),
        _over_time(found, frame),
        _distributions(found),
        _spent(found.spent),
        table_behind(
            ("calls", "number", "half are below (p50)", "p90", "p99", "longest", "mean", "all together"),
            [_numbers(one) for one in found.populations],
            name="The numbers of the distributions",
            numbers=range(1, 8),
        ),
        tag(
            "p",
            "Percentiles weigh each record with the inverse of its sample rate, and are right to 0.5 %.",
            class_="note",
        ),
    )


def _finding(found: Latency) -> str:
    ran = found.of("ran")
    if ran is None:
        cached = found.of("cache")
        if cached is None:
            return "No call came as far as the function"
        return f"No function ran: the cache answered, half of the time within {duration(cached.percentiles[0])}"
    if ran.calls < 2:
        return f"The call took {duration(ran.longest)}"
    p50, _, p99 = ran.percentiles
    said = f"Half of the calls at work took less than {duration(p50)}, one in a hundred more than {duration(p99)}"
    steps = [step for step in found.over_time if step is not None]
    worst = max((step[2] for step in steps), default=0.0)
    return said + (f", and {duration(worst)} at the worst of times" if len(steps) > 4 and worst > 2 * p99 else "")


def _numbers(one: Population) -> list[Content]:
    return [
        _NAMES[one.name],
        count(one.calls),
        *map(duration, one.percentiles),
        duration(one.longest),
        duration(one.total / one.calls),
        duration(one.total),
    ]


def _over_time(found: Latency, frame: Frame) -> Content:
    there = [value for value in chain.from_iterable(step for step in found.over_time if step) if value > 0]
    if not there or frame.steps < 2:
        return None
    ticks = log_ticks(min(there), max(there))
    low, high = log10(ticks[0]), log10(ticks[-1])
    lines: list[Content] = []
    keys: list[Content] = []
    ends: list[tuple[float, str]] = []
    whole = found.of("ran")
    for place, name in enumerate(_PERCENTS):
        points = [None if step is None else log10(max(step[place], ticks[0])) for step in found.over_time]
        lines.append(line(points, low, high, _HIGH, name))
        last = next(value for value in reversed(points) if value is not None)
        ends.append((8 + _HIGH * (1 - (last - low) / (high - low)), name))
        swatch = tag(
            "svg",
            tag("line", x1=0, x2="100%", y1="50%", y2="50%", class_=f"line {name}"),
            class_="swatch wide",
            aria_hidden="true",
        )
        keys.insert(
            0,
            tag(
                "li",
                swatch,
                tag("span", name, class_="name"),
                tag("b", duration(whole.percentiles[place]) if whole else ""),
            ),
        )
    plot = chart(
        _HIGH + 16,
        grid([((log10(value) - low) / (high - low), tick(value)) for value in ticks], _HIGH, 8),
        stretched(frame.steps, _HIGH, *lines, y=8),
        [label(100, y, name, f"tick end {name}", dx=6) for y, name in _apart(ends)],
        title="Percentiles of the duration over time",
        text="Half, 90 % and 99 % of the calls at work stay below the three lines. The scale is logarithmic.",
    )
    rows = [
        [
            moment(frame.at(step), frame),
            *((duration(value) for value in found.over_time[step] or ()) if found.over_time[step] else (NOTHING,) * 3),
        ]
        for step in range(frame.steps)
    ]
    return (
        figure(
            strip((tag("h3", "At work, over time"), tag("ul", *keys, class_="keys")), plot, "tall"),
            time_axis(frame),
            name="Percentiles of the duration over time",
            data="latency-table",
            steps=frame.steps,
        ),
        table_behind(("from", *_PERCENTS), rows, name="The numbers over time", numbers=(1, 2, 3), id="latency-table"),
    )


def _apart(ends: list[tuple[float, str]], least: float = 12) -> Iterator[tuple[float, str]]:
    """Labels moved so far that none covers another."""
    below = float("inf")
    for y, name in sorted(ends, reverse=True):
        below = min(y + 4, below - least)
        yield below, name


def _distributions(found: Latency) -> Html:
    bars = [max(bar, _LEAST) for one in found.populations for bar in one.bars]
    first = min(bars) // BARS * BARS
    last = -(-(max(bars) + 1) // BARS) * BARS
    rows = [_distribution(one, first, last) for one in found.populations]
    marks: list[Content] = []
    for power in range(first, last + 1, BARS):
        x = 100 * (power - first) / (last - first)
        some = "" if (last - power) % (2 * BARS) == 0 else " some"  # every other one goes on a phone
        marks.append(rule(x, 0, 5, f"base{some}"))
        marks.append(
            label(x, 18, tick(10 ** (power / BARS)), f"tick{some}", "start" if x < 2 else "end" if x > 98 else "middle")
        )
    axis = strip(None, chart(24, *marks, title="Duration, on a logarithmic scale", kind="plot axis"), "axis")
    return figure(*rows, axis, name="How durations are distributed")


def _distribution(one: Population, first: int, last: int) -> Html:
    shown: dict[int, float] = {}
    for bar, calls in one.bars.items():
        shown[max(bar, _LEAST)] = shown.get(max(bar, _LEAST), 0.0) + calls
    top = max(shown.values())
    width = last - first
    path = "".join(
        f"M{bar - first + 0.08:.4g} {_BARS}V{min(_BARS * (1 - calls / top), _BARS - 1):.4g}h.84V{_BARS}z"
        for bar, calls in sorted(shown.items())
    )
    marks: list[Content] = []
    names: list[Content] = []
    for place, (name, value) in enumerate(zip(_PERCENTS, one.percentiles, strict=True)):
        x = 100 * (max(log10(max(value, 1e-9)) * BARS, _LEAST) - first) / width
        y = _HEAD - 6 - 14 * place
        right = x > 70
        marks.append(rule(x, y - 9, _HEAD + _BARS, f"mark {name}"))
        names.append(
            label(x, y, f"{name} {duration(value)}", f"tick {name}", "end" if right else "start", -4 if right else 4)
        )
    said = ", ".join(f"{name} {duration(value)}" for name, value in zip(_PERCENTS, one.percentiles, strict=True))
    plot = chart(
        _BARS + _HEAD + 2,
        stretched(width, _BARS, tag("path", d=path, class_=f"fill {one.name}"), y=_HEAD),
        grid([(0, "")], _BARS, _HEAD),
        *marks,
        *names,
        title=f"{_NAMES[one.name]}: how durations are distributed",
        text=f"{many(one.calls, 'call')}: {said}, the longest {duration(one.longest)}.",
    )
    about = (tag("h3", _NAMES[one.name]), tag("p", f"{many(one.calls, 'call')}, {_ABOUT[one.name]}", class_="note"))
    return strip(about, plot)


_WHERE = {
    "inside": ("executed", "function"),
    "waiting": ("rejected_concurrency", "waits"),
    "around": ("retry", "guards"),
}


def _spent(one: Spent | None) -> Content:
    """One bar: the function, waits, and what the guards themselves took."""
    whole = one.inside + one.waiting + one.around if one is not None else 0.0
    if one is None or not whole:
        return None
    marks: list[Content] = []
    keys: list[Content] = []
    start = 0.0
    for name, (kind, what) in _WHERE.items():
        seconds = getattr(one, name)
        x, width = f"{100 * start / whole:.3f}%", f"{100 * seconds / whole:.3f}%"
        marks.append(tag("rect", x=x, y=0, width=width, height=22, class_=f"fill {kind}"))
        keys.append(key(f"fill {kind}", what, duration(seconds) if seconds else NOTHING, share(seconds, whole)))
        start += seconds
    each = duration(one.around / one.calls)
    plot = chart(
        24,
        *marks,
        title="Where the time of calls at work went",
        text=f"In the function {duration(one.inside)}, waiting {duration(one.waiting)}, "
        f"in the guards {duration(one.around)}.",
    )
    about = (tag("h3", "Where the time went"), tag("ul", *keys, class_="keys"))
    note = tag("p", f"In the guards: validation, cache and the rest, {each} a call.", class_="note")
    return figure(strip(about, (plot, note), "tall"), name="Where the time of calls at work went")
