"""The section of failures by field and by cause, each with what one record says of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mlguard.report.drawing.markup import Content, Html, tag
from mlguard.report.drawing.section import section, table
from mlguard.report.drawing.svg import meter
from mlguard.report.drawing.words import ENDINGS, clip, count, many, moment, quoted, share, short_names
from mlguard.report.figures import Figures
from mlguard.report.figures.failures import CauseFigures, FieldFigures
from mlguard.report.figures.frame import Frame

__all__ = ["failures"]

_NAME, _MESSAGE, _TRACEBACK = 80, 300, 4_000

_PLACES = {"input": "input refused", "result": "result refused", "let pass": "let pass"}


def failures(figures: Figures) -> Html | None:
    """Two tables: schemas that were broken, by field; and everything else, by cause."""
    if not figures.traffic.calls():
        return None
    found, frame = figures.failures, figures.frame
    names = short_names({*(one.function for one in found.fields), *(one.function for one in found.causes)})
    parts: list[Content] = []
    if found.fields:
        top = max(one.calls for one in found.fields)
        rows = [_field(one, names, top, frame) for one in found.fields]
        parts += _listed("By field, where a schema was broken", "field", "what was wrong, by an example", rows)
        parts.append(_more(len(rows), found.fields_in_all, "field"))
    if found.causes:
        top = max(one.calls for one in found.causes)
        rows = [_cause(one, names, top, frame) for one in found.causes]
        parts += _listed("By cause", "cause", "what one record says", rows)
        parts.append(_more(len(rows), found.causes_in_all, "cause"))
    if not parts:
        return section("failures", "Failures", "Nothing failed and nothing was refused")
    parts.append(
        tag("p", "Examples are quoted from the record, which holds no hidden value; report adds none.", class_="note")
    )
    return section("failures", "Failures", _finding(figures), *parts)


def _finding(figures: Figures) -> str:
    found = figures.failures
    said = []
    if found.fields:
        worst = found.fields[0]
        said.append(
            f"{quoted(clip(worst.field, 60)) if worst.field else 'The whole input'} broke its schema most often, "
            f"in {many(worst.calls, 'call')}"
        )
    if found.causes:
        worst_cause = found.causes[0]
        cause = clip(worst_cause.cause.rpartition(".")[2], 60)
        said.append(
            f"the most frequent cause otherwise was {cause}, in {count(worst_cause.calls)}"
            if said
            else f"{cause} was the most frequent cause, in {many(worst_cause.calls, 'call')}"
        )
    return "; ".join(said)


def _more(shown: int, of: int, what: str) -> Content:
    return tag("p", f"The {shown} most frequent of {count(of)} {what}s.", class_="note") if of > shown else None


def _calls(calls: float, top: float) -> Content:
    return tag("b", count(calls)), meter(calls / top if top else 0)


def _when(one: FieldFigures | CauseFigures, frame: Frame) -> Content:
    seconds = replace(frame, step=max(frame.step, 1.0))
    first, last = moment(one.first, seconds), moment(one.last, seconds)
    return tag("span", first if first == last else f"{first} \N{EN DASH} {last}")


def _listed(title: str, what: str, example: str, rows: list[Any]) -> list[Content]:
    return [
        tag("h3", title),
        table((what, "calls", example, "first and last"), rows, numbers=(1,), kind="stack why"),
    ]


def _field(one: FieldFigures, names: dict[str, str], top: float, frame: Frame) -> list[Content]:
    about = f"{names[one.function]} · {_PLACES.get(one.where, one.where)}"
    message = tag("q", clip(one.message, _MESSAGE)) if one.message else None
    return [
        (tag("b", clip(one.field, _NAME) or "(whole)"), tag("span", clip(about, _NAME), class_="sub")),
        _calls(one.calls, top),
        (
            message,
            tag(
                "span",
                tag("code", clip(one.kind, _NAME)),
                f" in call {clip(one.call_id, 40)}" if one.call_id else "",
                class_="sub",
            ),
        ),
        _when(one, frame),
    ]


def _cause(one: CauseFigures, names: dict[str, str], top: float, frame: Frame) -> list[Content]:
    kind = one.cause.rpartition(".")[2]
    ending = ENDINGS.get(one.disposition, one.disposition)
    said: list[Content] = [tag("q", clip(one.message, _MESSAGE))] if one.message else []
    if one.traceback:
        trace = tag("pre", clip(one.traceback, _TRACEBACK), tabindex=0)
        said.append(tag("details", tag("summary", "Traceback"), trace))
    if one.passed_on:
        said.append(tag("span", f"{share(one.passed_on, one.calls)} met on its way out of an inner call", class_="sub"))
    if one.call_id:
        said.append(tag("span", f"in call {clip(one.call_id, 40)}", class_="sub"))
    return [
        (tag("b", clip(kind, _NAME)), tag("span", clip(f"{names[one.function]} · {ending}", _NAME), class_="sub")),
        _calls(one.calls, top),
        said,
        _when(one, frame),
    ]
