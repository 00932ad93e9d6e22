"""Numbers, times and names as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from mlguard import clock
from mlguard.report.figures.frame import Frame

__all__ = [
    "ENDINGS",
    "NOTHING",
    "clip",
    "count",
    "duration",
    "many",
    "moment",
    "quoted",
    "share",
    "short_names",
    "size",
    "span",
    "tick",
]

THIN: Final = "\N{NARROW NO-BREAK SPACE}"
"""Between a number and its unit."""

NOTHING: Final = "\N{EN DASH}"
"""Where there is no number."""

ENDINGS: Final = {
    "executed": "function ran",
    "cache_hit": "from the cache",
    "coalesced": "shared a run",
    "fallback": "fallback",
    "rejected_validation": "input refused",
    "rejected_breaker": "circuit open",
    "rejected_memory": "memory short",
    "rejected_concurrency": "no free slot",
    "failed": "failed",
    "cancelled": "cancelled",
}
"""What a disposition is called."""


def count(number: float) -> str:
    """A number of calls: 1,204,332. Estimates from samples are rounded."""
    return f"{round(number):,}"


def many(number: float, one: str, more: str | None = None) -> str:
    """1 call, 2 calls."""
    return f"{count(number)} {one if round(number) == 1 else more or one + 's'}"


def share(part: float, whole: float) -> str:
    """98.7 %. It is 100 % only where it is all of them, and 0 % only where it is none."""
    if whole <= 0:
        return NOTHING
    percent = 100 * part / whole
    if part <= 0 or part >= whole or 10 <= percent < 90:
        return f"{min(max(percent, 0), 100):.0f}{THIN}%"
    for digits in (1, 2, 3, 4) if percent > 50 else (1, 2):
        text = f"{percent:.{digits}f}"
        if 0 < float(text) < 100:
            return f"{text}{THIN}%"
    text = "> 99.9999" if percent > 50 else "< 0.01"
    return f"{text}{THIN}%"


_UNITS: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def duration(seconds: float) -> str:
    """Two or three digits: 18 µs, 23.1 ms, 1.24 s, 2 h 13 min."""
    if seconds < 0.5e-6:
        return f"<{THIN}1{THIN}µs"
    if seconds > 1e8:
        return f">{THIN}3{THIN}years"
    if seconds < 59.95:
        value, unit = next(
            ((seconds / size, unit) for size, unit in _UNITS if seconds >= size * 0.9995), (seconds / 1e-6, "µs")
        )
        digits = max(0, 2 - math.floor(math.log10(value) + 1e-9)) if value >= 1 else 2
        return f"{value:.{digits if unit != 'µs' else min(digits, 1)}f}{THIN}{unit}"
    for size, unit, less, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size * 0.9995:
            whole = round(seconds / less) * less
            rest = round(whole % size / less)
            days = f"{int(whole // size):,}{THIN}{unit}"
            return f"{days} {rest}{THIN}{smaller}" if rest else days
    return f"{seconds:.0f}{THIN}s"


def tick(seconds: float) -> str:
    """A duration that is 1, 2 or 5 of something: 1 ms."""
    value, unit = next(
        ((seconds / size, unit) for size, unit in _UNITS if seconds >= size * 0.9995), (seconds / 1e-6, "µs")
    )
    if unit == "s" and value >= 59.95:
        return duration(seconds)
    return f"{value:g}{THIN}{unit}" if value >= 0.1 else f"0{THIN}µs"


def size(number: float) -> str:
    """Bytes: 1.4GiB, with a space."""
    text = clock.size_text(round(number))
    digits = len(text) - len(text.lstrip("0123456789.,"))
    return f"{text[:digits]}{THIN}{text[digits:].strip()}"


def moment(when: datetime | None, frame: Frame, *, finest: float = math.inf) -> str:
    """A time in UTC, as fine as the steps of the frame need it; the day only where the record has several.

    Args:
        when: The time; None is a dash.
        frame: What the charts are drawn over.
        finest: Seconds of a step that needs it finer than the frame does.
    """
    if when is None:
        return NOTHING
    step = min(frame.step, finest)
    if step >= 86400:
        return f"{when:%-d %b %Y}"
    time = f"{when:%H:%M}" if step >= 60 else f"{when:%H:%M:%S}"
    if step < 1:
        time += f".{when.microsecond // 1000:03d}" if step < 0.1 else f".{when.microsecond // 100_000}"
    inside = frame.start is not None and frame.end is not None and frame.start <= when <= frame.end
    if inside and frame.first and frame.last and frame.first.date() == frame.last.date():
        return time
    return f"{when:%-d %b} {time}" if inside else f"{when:%-d %b %Y} {time}"


def span(first: datetime, last: datetime) -> str:
    """From when to when, without saying a day twice."""
    seconds = (last - first).total_seconds()
    if first.date() == last.date():
        clock_time = "%H:%M:%S" if seconds < 600 else "%H:%M"
        if f"{first:{clock_time}}" == f"{last:{clock_time}}":
            return f"{first:%-d %B %Y} at {first:{clock_time}} UTC"
        return f"{first:%-d %B %Y}, {first:{clock_time}} to {last:{clock_time}} UTC"
    if seconds < 7 * 86400:
        return f"{first:%-d %B %Y %H:%M} to {last:%-d %B %Y %H:%M} UTC"
    return f"{first:%-d %B %Y} to {last:%-d %B %Y}"


def quoted(text: str) -> str:
    """A name within a sentence."""
    return f"\N{LEFT DOUBLE QUOTATION MARK}{text}\N{RIGHT DOUBLE QUOTATION MARK}"


def clip(text: str, most: int) -> str:
    """The beginning of a text, and how much more there was."""
    return text if len(text) <= most else f"{text[:most].rstrip()} … ({len(text) - most:,} more characters)"


def short_names(names: Iterable[str]) -> dict[str, str]:
    """The shortest ends of dotted names by which they differ: `pricing.rent` where there is another `rent`."""
    todo = dict.fromkeys(names, 1)
    while True:
        shown = {name: ".".join(name.split(".")[-parts:]) for name, parts in todo.items()}
        seen: dict[str, int] = {}
        for short in shown.values():
            seen[short] = seen.get(short, 0) + 1
        again = [name for name, short in shown.items() if (seen[short] > 1 or short == "") and short != name]
        if not again:
            return {name: short or "(no name)" for name, short in shown.items()}
        for name in again:
            todo[name] += 1
