"""The words of schema violations: what was expected, what came, and the fix. Never a value of the caller's.

Shown are types, shapes, dtypes, counts, the least and greatest value of an array, and a number that a declared range
refused. Everything is bounded: an error must not be larger than the request that caused it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pydantic_core import ValidationError

__all__ = ["JSON", "MOST", "PYTHON", "render", "violations_of"]

PYTHON, JSON = "(python)", "(json)"
"""Where in pydantic's path it stands whether a model came as objects or as JSON text."""
MOST = 20
"""So many violations are listed; the rest is counted."""
_LONGEST = 300
_FEW = 5
_DEEPEST = 8
_LONGEST_PART = 40
_RANGES = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of", "finite_number")
_BRANCH = re.compile(r"(json-or-python|function-\w+)\[.*\b(apart|accept_json|accept_json_named|look|look_named)\(\)")
"""How pydantic calls one branch of a union where it is an `Array`; its message says which it is."""
_SIZED = ("string_too_short", "string_too_long", "bytes_too_short", "bytes_too_long", "too_short", "too_long")


def violations_of(
    error: ValidationError,
    place: Callable[[tuple[Any, ...]], tuple[Any, ...]],
    known: list[str] | None = None,
    short: ValidationError | None = None,
) -> list[dict[str, Any]]:
    """The violations in an error of pydantic's, bounded, by field.

    Args:
        error: What pydantic found.
        place: From pydantic's path to the one of names.
        known: The names of the parameters, for a hint where an unknown one was passed.
        short: Some violations of the same value, where pydantic found too many to list them all.
    """
    found: list[dict[str, Any]] = []
    more = 0
    listed = (short or error).errors(include_url=False)
    no_text = {details["loc"][:-1] for details in listed if details["type"] == "json_type"}
    for details in listed:
        loc = _of_one_form(details["loc"], no_text)
        if loc is None:
            continue
        loc = place(loc)
        if len(found) == MOST:
            more += 1
            continue
        context = dict(details.get("ctx") or {})
        at = context.pop("at", None)
        if at:  # an array inside of a model that was built before the call
            loc = (*loc, *(int(part) if part.isdecimal() else part for part in str(at).split(".")))
        found.append(_violation(details, loc, context, known or []))
    if short is not None and short is not error:
        more += error.error_count() - len(listed)
    if more > 0:
        found.append(
            {"type": "more_violations", "loc": (), "msg": f"{more} more are not listed", "ctx": {"count": more}}
        )
    return found


def render(error: ValidationError) -> str:
    """The text people read: what happened, then one line a violation, with the fix below where there is one."""
    from mlguard.errors import InvalidInputError

    details = error.errors()
    count = sum(entry.get("ctx", {})["count"] if entry["type"] == "more_violations" else 1 for entry in details)
    number = f"{count} violation{'s' if count != 1 else ''}"
    if isinstance(error, InvalidInputError):
        lines = [f"{error.title} was not called, its input is invalid ({number}):"]
    else:
        lines = [f"{error.title} returned an invalid output, which was not handed on ({number}):"]
    for entry in details:
        path = _path(entry["loc"])
        lines.append(f"  {path}: {entry['msg']}" if path else f"  {entry['msg']}")
        fix = (entry.get("ctx") or {}).get("fix")
        if fix:
            lines.append(f"    fix: {fix}")
    return "\n".join(lines)


def _of_one_form(loc: tuple[Any, ...], no_text: set[tuple[Any, ...]]) -> tuple[Any, ...] | None:
    """A model may come as objects or as JSON text, and pydantic tells both failures: None for the one nobody meant."""
    for depth, part in enumerate(loc[:3]):
        if part in (PYTHON, JSON):
            meant = PYTHON if loc[:depth] in no_text else JSON
            if part != meant:
                return None
            loc = (*loc[:depth], *loc[depth + 1 :])
            break
    return tuple(part for part in loc if not (isinstance(part, str) and _BRANCH.match(part)))


def _violation(details: Any, loc: tuple[Any, ...], context: dict[str, Any], known: list[str]) -> dict[str, Any]:
    kind, value = details["type"], details["input"]
    fix = context.get("fix")
    if context.pop("table", False):  # the words are those of `tables/report.py`
        text = str(context.pop("words"))
    elif kind in ("missing", "missing_argument", "missing_positional_only_argument", "missing_keyword_only_argument"):
        text = "is required"
    elif kind in ("unexpected_keyword_argument", "extra_forbidden"):
        from difflib import get_close_matches  # only for this mistake

        close = get_close_matches(str(loc[-1]), known, n=1) if kind == "unexpected_keyword_argument" else []
        text = "is not known"
        fix = f"did you mean '{close[0]}'?" if close else fix
    elif kind == "unexpected_positional_argument":
        text = "is one positional argument too many"
    elif kind == "multiple_argument_values":
        text = "was passed twice, by position and by name"
    elif kind == "union_tag_invalid":
        text = f"must have a {context.get('discriminator')} of {context.get('expected_tags')}"
        context.pop("tag", None)
    elif kind.startswith(("array_", "table_")) or kind == "too_large":
        text = str(details["msg"])
    elif kind == "uuid_parsing":  # pydantic shows the letter it stumbled at
        text = f"must be a valid UUID{_came(kind, value)}"
    else:
        text = str(details["msg"]).replace("Input should be", "must be", 1).replace("Input should", "must", 1)
        text = text.removeprefix("Value error, ").removeprefix("Assertion failed, ")
        text += _came(kind, value)
    text = _cut(text, _LONGEST)
    if fix:
        context["fix"] = fix
    kept = {key: _bounded(item) for key, item in context.items() if key not in ("error", "message")}
    violation = {"type": kind, "loc": _short(loc), "msg": text}
    return violation | ({"ctx": kept} if kept else {})


def _came(kind: str, value: Any) -> str:
    if kind in _RANGES and isinstance(value, int | float | np.number) and not isinstance(value, bool):
        return f", got {_number(value)}"
    if kind in _SIZED and isinstance(value, Sized):
        return f", got {len(value)}"
    if kind in ("value_error", "assertion_error"):
        return ""  # the words are those of the user's own validator
    return f", got {type(value).__qualname__}"


def _number(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 200:
        return "a very large number"
    return str(value)


def _bounded(item: Any) -> Any:
    if item is None or isinstance(item, bool):
        return item
    if isinstance(item, int):
        return item if item.bit_length() <= 63 else _number(item)
    if isinstance(item, float):
        return item if math.isfinite(item) else str(item)
    if isinstance(item, list) and len(item) <= _FEW:
        return [_bounded(part) for part in item if not isinstance(part, list)]
    if isinstance(item, list | tuple | dict):
        item = str(item)
    return _cut(item if isinstance(item, str) else type(item).__qualname__, _LONGEST)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _short(loc: tuple[Any, ...]) -> tuple[Any, ...]:
    """At most eight parts of at most 40 letters: keys of a container come from the caller."""
    parts = [part if isinstance(part, int) else _cut(part, _LONGEST_PART) for part in loc]
    return tuple(parts if len(parts) <= _DEEPEST else [*parts[: _DEEPEST - 2], "...", parts[-1]])


def _path(loc: tuple[Any, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
