"""The section of reference against current distributions."""

from __future__ import annotations

from collections.abc import Collection

from mlguard.report.drawing.markup import Content, Html, tag
from mlguard.report.drawing.section import section, table_behind
from mlguard.report.drawing.svg import chart, label, round_ticks
from mlguard.report.drawing.words import clip, count, many, moment, quoted, share, short_names
from mlguard.report.figures import Figures
from mlguard.report.figures.frame import Frame
from mlguard.report.figures.reference import FieldShift

__all__ = ["reference"]

_ROW = 19


def reference(figures: Figures) -> Html | None:
    """A card for each field: the share of every bin, in training and now."""
    found = figures.reference
    if not found.shifts and not found.left_out:
        return None
    names = short_names({one.function for one in found.shifts})
    cards = [_card(one, names[one.function], figures.frame) for one in found.shifts]
    left_out = [tag("li", tag("b", clip(name, 80)), f": {clip(why, 200)}") for name, why in found.left_out.items()]
    more = others = None
    if found.in_all > len(cards):
        more = tag("p", f"The {len(cards)} fields that moved most, of {count(found.in_all)}.", class_="note")
    if left_out:
        summary = tag("summary", f"{many(len(left_out), 'field')} of the profile can't be compared")
        others = tag("details", summary, tag("ul", *left_out), class_="behind")
    return section(
        "reference",
        "Reference and current",
        _finding(figures),
        tag(
            "p",
            tag("span", _mark("reference"), " training data ", class_="mark-key"),
            tag("span", _mark("current"), " what came. ", class_="mark-key"),
            "A line joins the two shares of a bin; where it is long, values moved.",
            class_="note",
        )
        if cards
        else None,
        tag("div", *cards, class_="cards"),
        more,
        others,
    )


def _mark(kind: str) -> Html:
    return tag(
        "svg", tag("circle", cx=6, cy=6, r=4.5, class_=kind), class_="dot", width=12, height=12, aria_hidden="true"
    )


def _finding(figures: Figures) -> str:
    shifts = figures.reference.shifts
    drifting = dict.fromkeys(one.field for one in shifts if one.drifts)  # by an event and by the profile: told once
    if not shifts:
        return "No field of the profile can be compared with this record"
    over = dict.fromkeys(one.field for one in shifts if one.onsets and not one.drifts)
    if not drifting and over:
        return f"{_named([*over])} drifted from the training data for a while, and {_is(over)} as before again"
    if not drifting:
        alike = len({(one.function, one.field) for one in shifts})
        return "The field looks like the training data" if alike == 1 else f"{alike} fields look like the training data"
    return f"{_named([*drifting])} drifted from the training data"


def _named(fields: list[str]) -> str:
    """The first three, and how many more there are."""
    more = f" and {len(fields) - 3} more" if len(fields) > 3 else ""
    return ", ".join(quoted(clip(field, 40)) for field in fields[:3]) + more


def _is(fields: Collection[str]) -> str:
    return "is" if len(fields) == 1 else "are"


def _card(one: FieldShift, function: str, frame: Frame) -> Html:
    role = "input" if one.role == "input" else "prediction"
    about = f"{role} of {function}" if function != "(no name)" else role
    about += " · the window that showed it" if one.source == "event" else " · all calls of the record"
    flag = "drift" if one.drifts else "over" if one.onsets else "no drift"
    shares = zip(one.bins, one.reference, one.current, strict=True)
    return tag(
        "article",
        tag("h3", clip(one.field, 80), tag("span", flag, class_=f"flag {'on' if one.drifts else 'off'}")),
        tag("p", clip(about, 120), class_="sub"),
        tag("p", *_story(one, frame)),
        _plot(one),
        tag("p", clip(one.fix, 300), class_="note") if one.fix else None,
        table_behind(
            ("bin", "training", "current"),
            [[clip(name, 60), share(before, 1), share(now, 1)] for name, before, now in shares],
            name="The numbers",
            numbers=(1, 2),
        ),
        class_="card",
    )


def _story(one: FieldShift, frame: Frame) -> list[Content]:
    said = []
    if one.onsets:
        said.append(f"Began {', '.join(moment(when, frame) for when in one.onsets[:3])}")
        if len(one.onsets) > 3:
            said[-1] += f" and {len(one.onsets) - 3} more times"
        if one.recoveries:
            said.append(f"over {', '.join(moment(when, frame) for when in one.recoveries[:3])}")
        elif one.drifts:
            said.append("not over by the end of the record")
    figures = []
    if one.psi is not None:
        figures.append(f"stability index {one.psi:.3g}")
    if one.wasserstein is not None:
        figures.append(f"values moved by {one.wasserstein:.2g} standard deviations")
    what = "in the window of" if one.source == "event" else "over"
    text = f"{'; '.join(said)}. " if said else ""
    found = f"{', '.join(figures)} {what} {many(one.rows, 'row')}."
    return [text, found[0].upper() + found[1:]]


def _plot(one: FieldShift) -> Html:
    ticks = round_ticks(max(*one.reference, *one.current, 0.01), 4)
    top = ticks[-1]
    height = _ROW * len(one.bins)
    inner: list[Content] = []
    for value in ticks:
        x = 100 * value / top
        inner.append(tag("line", x1=f"{x:.2f}%", x2=f"{x:.2f}%", y1=0, y2=height, class_="grid" if value else "base"))
        anchor = "start" if x < 5 else "end" if x > 95 else "middle"
        inner.append(label(x, height + 14, f"{100 * value:g}%", "tick", anchor))
    names: list[Content] = []
    for row, (name, before, now) in enumerate(zip(one.bins, one.reference, one.current, strict=True)):
        y = _ROW * (row + 0.5)
        names.append(label(0, y + 4, name if len(name) <= 22 else f"{name[:21]}…", "tick bin"))
        x1, x2 = f"{100 * before / top:.2f}%", f"{100 * now / top:.2f}%"
        inner.append(tag("line", x1=x1, x2=x2, y1=y, y2=y, class_="moved"))
        inner.append(tag("circle", cx=x1, cy=y, r=4, class_="reference"))
        inner.append(tag("circle", cx=x2, cy=y, r=4, class_="current"))
    area = tag("svg", *inner, x="45%", y=4, width="52%", height=height + 20, class_="inner")
    moved = "; ".join(one.moved) or "see the numbers below"
    return chart(
        height + 24,
        tag("g", *names, transform="translate(0 4)"),
        area,
        title=f"Shares of {clip(one.field, 80)} by bin",
        text=f"Moved most: {clip(moved, 300)}.",
        kind="plot shares",
    )
