"""The section of the slowest calls."""

from __future__ import annotations

from mlguard.report.drawing.markup import Content, Html, tag
from mlguard.report.drawing.section import section, table
from mlguard.report.drawing.svg import meter
from mlguard.report.drawing.words import ENDINGS, NOTHING, clip, duration, moment, share, short_names
from mlguard.report.figures import Figures
from mlguard.report.figures.frame import Frame
from mlguard.report.figures.slowest import SlowCall

__all__ = ["slowest"]


def slowest(figures: Figures) -> Html | None:
    """The slowest calls, each with the id to look for."""
    found = figures.slowest
    if not found:
        return None
    names = short_names({one.function for one in found})
    first = found[0]
    finding = f"The slowest call took {duration(first.duration)}, in {clip(names[first.function], 60)}"
    if first.waited > 0.05 * first.duration:
        finding += f"; {share(first.waited, first.duration)} of it was waiting"
    return section(
        "slowest",
        "Slowest calls",
        finding,
        table(
            ("function", "took", "ended", "attempts", "waited", "when", "call"),
            [_row(one, names, first.duration, figures.frame) for one in found],
            numbers=(1, 3, 4),
            kind="stack",
        ),
    )


def _row(one: SlowCall, names: dict[str, str], top: float, frame: Frame) -> list[Content]:
    ending = ENDINGS.get(one.disposition, one.disposition)
    return [
        tag("b", clip(names[one.function], 80)),
        (tag("b", duration(one.duration)), meter(one.duration / top if top else 0)),
        (ending, tag("span", clip(one.error_type.rpartition(".")[2], 60), class_="sub") if one.error_type else None),
        str(one.attempts),
        duration(one.waited) if one.waited else NOTHING,
        moment(one.at, frame, finest=1),
        tag("code", clip(one.call_id, 40)),
    ]
