"""What sections share: a heading that says what was found, a chart, and the table behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from mlguard.report.drawing.markup import Content, Html, tag
from mlguard.report.drawing.svg import chart, label, rule
from mlguard.report.drawing.words import moment
from mlguard.report.figures.frame import Frame

__all__ = ["figure", "key", "section", "strip", "table", "table_behind", "time_axis", "time_ticks"]


def section(anchor: str, kicker: str, finding: str, *content: Content) -> Html:
    """A section.

    Args:
        anchor: Its place in links.
        kicker: What it is about, in a word or two.
        finding: What there was to see, as a sentence.
        content: The rest.
    """
    head = tag("header", tag("p", kicker, class_="kicker"), tag("h2", finding, id=f"{anchor}-title"))
    return tag("section", head, *content, id=anchor, aria_labelledby=f"{anchor}-title")


def strip(about: Content, plot: Content, kind: str = "") -> Html:
    """One row of a figure: what it is, and its plot."""
    return tag(
        "div", tag("div", about, class_="about"), tag("div", plot, class_="place"), class_=f"strip {kind}".strip()
    )


def figure(*rows: Content, name: str, data: str | None = None, steps: int = 0) -> Html:
    """Rows over one axis. With `data`, the number of a table whose rows the script reads out at the pointer."""
    reader = data is not None and steps > 1
    return tag(
        "figure",
        *rows,
        tag("output", class_="readout", aria_live="polite", hidden=True) if reader else None,
        data_table=data if reader else None,
        data_steps=steps if reader else None,
        tabindex=0 if reader else None,
        role="group",
        aria_label=f"{name}. Left and right arrow keys read out the values." if reader else name,
    )


def key(kind: str, name: str, number: str, note: str = "") -> Html:
    """One line of a figure's key: a swatch, the name, the number."""
    swatch = tag("svg", tag("rect", width="100%", height="100%", class_=kind), class_="swatch", aria_hidden="true")
    return tag("li", swatch, tag("span", name, class_="name"), tag("b", number), tag("i", note) if note else None)


def table(
    heads: Sequence[str], rows: Iterable[Sequence[Content]], *, numbers: Sequence[int] = (), kind: str = "", **more: str
) -> Html:
    """A table; on a phone each row becomes a block, with the heads beside its cells.

    Args:
        heads: The names of the columns. The first column names the row.
        rows: The cells.
        numbers: Which columns are numbers.
        kind: A class.
        more: Attributes.
    """
    head = [
        tag("th", name, scope="col", class_="number" if place in numbers else None) for place, name in enumerate(heads)
    ]
    made = []
    for row in rows:
        cells = []
        for place, cell in enumerate(row):
            style = "number" if place in numbers else None
            if place == 0:
                cells.append(tag("th", cell, scope="row", class_=style))
            else:
                cells.append(tag("td", cell, class_=style, data_head=heads[place]))
        made.append(tag("tr", *cells))
    whole = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *made), class_=kind or None, **more)
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=f"Table: {', '.join(heads)}")


def table_behind(
    heads: Sequence[str], rows: Iterable[Sequence[Content]], *, name: str, numbers: Sequence[int] = (), **more: str
) -> Html:
    """The numbers of a chart, folded away."""
    return tag(
        "details", tag("summary", name), table(heads, rows, numbers=numbers, kind="plain", **more), class_="behind"
    )


def time_axis(frame: Frame) -> Html:
    """The axis below the rows of a figure."""
    marks: list[Content] = []
    ticks = time_ticks(frame)
    for number, (x, text) in enumerate(ticks):
        anchor = "start" if x < 2 else "end" if x > 98 else "middle"
        hidden = "" if number % 2 == 0 else " some"  # every other one goes on a phone
        marks.append(rule(x, 0, 5, f"base{hidden}"))
        marks.append(label(x, 18, text, f"tick{hidden}", anchor))
    return strip(None, chart(24, *marks, title="Time, UTC", kind="plot axis"), "axis")


_ROUND = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400),
    *(86400.0 * days for days in (2, 7, 14, 28, 91, 182, 364, 728, 3640, 7280, 36400, 91000)),
)


def time_ticks(frame: Frame, wanted: int = 8) -> list[tuple[float, str]]:
    """Round times within the frame: their place in percent, and what to call them."""
    if frame.start is None or frame.end is None:
        return []
    whole = frame.step * frame.steps
    room = wanted if whole > 40 * 60 else wanted - 3  # seconds take more of it
    every = next((step for step in _ROUND if whole / step <= room), _ROUND[-1])
    origin = (
        datetime(frame.start.year, 1, 1)
        if every >= 2 * 86400
        else frame.start.replace(hour=0, minute=0, second=0, microsecond=0)
    )
    number = -(-((frame.start - origin).total_seconds()) // every)
    found: list[tuple[float, str]] = []
    last_day = None
    while (when := origin + timedelta(seconds=every * number)) <= frame.end and len(found) < 3 * wanted:
        x = 100 * (when - frame.start).total_seconds() / whole
        found.append((x, _tick(when, every, first=when.date() != last_day)))
        last_day = when.date()
        number += 1
    if not found:
        found.append((0.0, moment(frame.start, frame)))
    return found


def _tick(when: datetime, every: float, *, first: bool) -> str:
    if every >= 28 * 86400:
        return f"{when:%b %Y}"
    if every >= 86400:
        return f"{when:%-d %b}"
    if every >= 60:
        return f"{when:%-d %b}" if first and not (when.hour or when.minute) else f"{when:%H:%M}"
    return f"{when:%H:%M:%S}" if every >= 1 else f"{when:%H:%M:%S}.{when.microsecond // 100_000}"
