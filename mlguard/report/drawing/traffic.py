"""The section of calls over time."""

from __future__ import annotations

from collections.abc import Iterator

from mlguard.report.drawing.markup import Content, Html, tag
from mlguard.report.drawing.section import figure, key, section, strip, table, table_behind, time_axis
from mlguard.report.drawing.svg import bars, chart, grid, label, round_ticks, stretched
from mlguard.report.drawing.words import ENDINGS, count, many, moment, share, span, tick
from mlguard.report.figures import Figures
from mlguard.report.figures.facts import ANSWERED
from mlguard.report.figures.frame import Frame
from mlguard.report.figures.traffic import Ending

__all__ = ["traffic"]

_HIGH, _LOW = 190, 34
_STEADY = 1.35  # times the usual step, below which the busiest is nothing to speak of


def traffic(figures: Figures) -> Html:
    """Calls over time: those that were answered together, every other ending on a strip of its own."""
    frame, endings = figures.frame, figures.traffic.endings
    total = figures.traffic.calls()
    answered = [one for one in endings if one.disposition in ANSWERED]
    others = [one for one in endings if one.disposition not in ANSWERED]
    if frame.start is None:
        rows = [(_name(one), count(one.calls), share(one.calls, total)) for one in endings]
        return section(
            "traffic",
            "Calls",
            "No record says when it was, so there is nothing to draw over time",
            tag(
                "p",
                "Fix: let the application's structlog stamp its events: TimeStamper(fmt='iso', utc=True).",
                class_="note",
            ),
            table_behind(("ended", "calls", "share"), rows, name="Calls by ending", numbers=(1, 2)),
        )
    if frame.steps < 2:
        rows = [(_name(one), count(one.calls), share(one.calls, total)) for one in endings]
        return section(
            "traffic",
            "Calls",
            _finding(figures),
            table(("ended", "calls", "share"), rows, numbers=(1, 2), kind="plain"),
        )
    return section(
        "traffic",
        "Calls over time",
        _finding(figures),
        figure(
            _answered(answered, frame, total)
            if answered
            else strip((tag("h3", "Answered"), tag("p", "none", class_="note")), None),
            *(_other(one, frame, total) for one in others),
            time_axis(frame),
            name="Calls over time, by how they ended",
            data="traffic-table",
            steps=frame.steps,
        ),
        tag(
            "p",
            f"Each step is {tick(frame.step)}; times are UTC. Every strip has a scale of its own.",
            class_="note",
        ),
        table_behind(
            ("from", *(_name(one) for one in endings)),
            _rows(endings, frame),
            name="The numbers behind this chart",
            numbers=range(1, len(endings) + 1),
            id="traffic-table",
        ),
    )


def _finding(figures: Figures) -> str:
    frame, endings = figures.frame, figures.traffic.endings
    together = [sum(one.steps[step] for one in endings) for step in range(frame.steps)]
    if frame.first is None or frame.last is None or frame.steps < 2:
        return (
            f"{many(figures.traffic.calls(), 'call')}, {span(frame.first, frame.last)}"
            if frame.first and frame.last
            else ""
        )
    busiest = max(range(frame.steps), key=together.__getitem__)
    quiet = sum(1 for calls in together if not calls)
    there = sorted(calls for calls in together if calls)
    usual = there[len(there) // 2]
    if together[busiest] < _STEADY * usual:
        said = f"Steady traffic: about {many(usual, 'call')} in {tick(frame.step)}"
    else:
        said = f"Busiest from {_from_to(busiest, frame)}, with {many(together[busiest], 'call')}"
    lost = [sum(one.steps[step] for one in endings if one.disposition not in ANSWERED) for step in range(frame.steps)]
    worst = max(range(frame.steps), key=lost.__getitem__)
    if lost[worst] > max(3.0, 3 * sum(lost) / frame.steps):
        said += (
            f"; worst from {_from_to(worst, frame)}, with {count(lost[worst])} of {count(together[worst])} unanswered"
        )
    elif quiet > frame.steps / 2:
        said += f"; {share(quiet, frame.steps)} of the steps had none"
    return said


def _from_to(step: int, frame: Frame) -> str:
    return f"{moment(frame.at(step), frame)} to {moment(frame.at(step + 1), frame)}"


def _answered(endings: list[Ending], frame: Frame, total: float) -> Html:
    together = [sum(one.steps[step] for one in endings) for step in range(frame.steps)]
    ticks = round_ticks(max(together, default=0))
    top = ticks[-1]
    floors = [0.0] * frame.steps
    stacked: list[Content] = []
    for one in endings:
        stacked.append(bars(one.steps, top, _HIGH, _kind(one), floors))
        floors = [floor + value for floor, value in zip(floors, one.steps, strict=True)]
    keys = [key(_kind(one), _name(one), count(one.calls), share(one.calls, total)) for one in reversed(endings)]
    calls = sum(one.calls for one in endings)
    about = tag("h3", "Answered"), tag("ul", *keys, class_="keys") if endings else tag("p", "none", class_="note")
    most = count(max(together, default=0))
    said = f"{count(calls)} of {count(total)} calls were answered, at most {most} in {tick(frame.step)}."
    plot = chart(
        _HIGH + 10,
        grid([(value / top, count(value)) for value in ticks], _HIGH, 6),
        stretched(frame.steps, _HIGH, *stacked, y=6),
        title="Answered calls over time",
        text=said,
    )
    return strip(about, plot, "tall")


def _other(one: Ending, frame: Frame, total: float) -> Html:
    most = max(one.steps, default=0)
    where = one.steps.index(most) if most else 0
    x = 100 * (where + 0.5) / max(frame.steps, 1)
    name = _name(one)
    plot = chart(
        _LOW + 14,
        grid([(0, "")], _LOW, 12),
        stretched(frame.steps, _LOW, bars(one.steps, most, _LOW, _kind(one)), y=12),
        label(x, 9, count(most), "tick peak", "start" if x < 4 else "end" if x > 96 else "middle") if most else None,
        title=f"{name} over time",
        text=f"{many(one.calls, 'call')}, at most {count(most)} in {tick(frame.step)}, "
        f"from {moment(frame.at(where), frame)}.",
    )
    return strip(tag("ul", key(_kind(one), name, count(one.calls), share(one.calls, total)), class_="keys"), plot)


def _kind(one: Ending) -> str:
    """Its class in the style sheet; an ending that this version does not know looks like a cancellation."""
    return f"fill {one.disposition if one.disposition in ENDINGS else 'cancelled'}"


def _name(one: Ending) -> str:
    return ENDINGS.get(one.disposition, one.disposition.replace("_", " "))


def _rows(endings: tuple[Ending, ...], frame: Frame) -> Iterator[list[Content]]:
    for step in range(frame.steps):
        yield [moment(frame.at(step), frame), *(count(one.steps[step]) for one in endings)]
