"""Ranges, lengths, patterns and formats of one schema against those of another."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mlguard.contracts.values import accepts

if TYPE_CHECKING:
    from mlguard.contracts.inclusion import Inclusion

__all__ = ["judge_numbers", "judge_sizes", "judge_texts", "whole_range"]


def judge_numbers(judge: Inclusion, w: dict[str, Any], r: dict[str, Any], path: str) -> None:
    """Adds what a number of the writer's meets at the reader's."""
    whole = w["type"] == "integer"
    for low, name in ((True, "least"), (False, "greatest")):
        mine, other = (_end(each, low=low, whole=whole) for each in (w, r))
        if other is not None and (mine is None or (mine < other if low else mine > other)):
            writer, reader = (_bound_text(each, low=low) for each in (w, r))
            text = f"the {name} value is {reader} in the {judge.names[1]} schema, {writer} in the {judge.names[0]} one"
            judge.find(path, "incompatible", "bounds", text)
    step, own = r.get("multipleOf"), w.get("multipleOf", 1 if whole else None)
    if step is not None and (own is None or own % step != 0):
        sure = own is None or (isinstance(own, int) and isinstance(step, int))
        text = f"the {judge.names[1]} schema takes multiples of {step} only"
        judge.find(path, "incompatible" if sure else "unknown", "bounds", text)


def judge_texts(judge: Inclusion, w: dict[str, Any], r: dict[str, Any], path: str) -> None:
    """Adds what a text of the writer's meets at the reader's."""
    judge_sizes(judge, w, r, path, "Length", "letters")
    if "pattern" in r and r["pattern"] != w.get("pattern"):
        _pattern(judge, w, r, path)
    if "format" in r and r["format"] != w.get("format"):
        own = w.get("format")
        text = f"the {judge.names[1]} schema wants the format {r['format']}, the {judge.names[0]} one {own or 'none'}"
        judge.find(path, "unknown" if own else "incompatible", "format", text)


def _pattern(judge: Inclusion, w: dict[str, Any], r: dict[str, Any], path: str) -> None:
    """Text that the one takes and the other refuses is looked for among simple ones."""
    writer, reader = judge.names
    what = f"the {reader} schema wants the pattern {r['pattern']}"
    had = f"the {writer} one {w['pattern']}" if "pattern" in w else f"the {writer} one none"
    for text in _simple_texts(w):
        try:
            refused = accepts(w, text) is True and re.search(r["pattern"], text) is None
        except re.error:
            break
        if refused:
            judge.find(path, "incompatible", "pattern", f"{what}, {had}: {text!r} is refused")
            return
    judge.find(path, "unknown", "pattern", f"{what}, {had}; whether the one takes all of the other can't be told")


def judge_sizes(judge: Inclusion, w: dict[str, Any], r: dict[str, Any], path: str, what: str, unit: str) -> None:
    """How many there may be: minItems and maxItems, and their kin."""
    writer, reader = judge.names
    least, own = r.get(f"min{what}", 0), w.get(f"min{what}", 0)
    if own < least:
        text = f"at least {least} {unit} in the {reader} schema, {own} in the {writer} one"
        judge.find(path, "incompatible", "size", text)
    most, own = r.get(f"max{what}"), w.get(f"max{what}")
    if most is not None and (own is None or own > most):
        had = "any number" if own is None else own
        text = f"at most {most} {unit} in the {reader} schema, {had} in the {writer} one"
        judge.find(path, "incompatible", "size", text)


def whole_range(schema: dict[str, Any]) -> tuple[int | None, int | None]:
    """The least and the greatest whole number."""
    low, high = _end(schema, low=True, whole=True), _end(schema, low=False, whole=True)
    return (None if low is None else int(low[0])), (None if high is None else int(high[0]))


def _end(schema: dict[str, Any], *, low: bool, whole: bool) -> tuple[float, int] | None:
    """The end of a range so that ends compare: the bound, and one more where the bound itself is out."""
    closed, opened = ("minimum", "exclusiveMinimum") if low else ("maximum", "exclusiveMaximum")
    ends = []
    if closed in schema:
        bound = schema[closed]
        ends.append(((-(-bound // 1) if low else bound // 1) if whole else bound, 0))
    if opened in schema:
        bound = schema[opened]
        if whole:
            ends.append(((bound // 1 + 1) if low else (-(-bound // 1) - 1), 0))
        else:
            ends.append((bound, 1 if low else -1))
    return (max(ends) if low else min(ends)) if ends else None


def _bound_text(schema: dict[str, Any], *, low: bool) -> str:
    closed, opened = ("minimum", "exclusiveMinimum") if low else ("maximum", "exclusiveMaximum")
    if opened in schema:
        return f"{'above' if low else 'below'} {schema[opened]}"
    return str(schema[closed]) if closed in schema else "free"


def _simple_texts(schema: dict[str, Any]) -> list[str]:
    least = schema.get("minLength", 0)
    seeds = ["", "a", "A", "0", " ", "é", "a-b", "abc", "ABC", "123", "a b", "_"]
    texts = [*seeds, *(seed * -(-least // len(seed)) for seed in seeds if seed)]
    texts += ["".join(choice) for choice in re.findall(r"[A-Za-z0-9_-]+", schema.get("pattern", ""))]
    return list(dict.fromkeys(texts))
