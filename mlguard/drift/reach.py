"""Which names a function's arguments can hold, as far as their annotations say."""

from __future__ import annotations

import datetime
import decimal
import enum
import types
import typing
from typing import Any, Final

from mlguard.monitor.redaction import fields_of
from mlguard.target import Target, spelt_out

__all__ = ["names_within"]

_SINGLE: Final = (
    bool, int, float, complex, str, bytes, decimal.Decimal, datetime.date, datetime.time, datetime.timedelta,
    enum.Enum, type(None),
)  # fmt: skip
_DEPTH: Final = 8


def names_within(target: Target) -> set[str] | None:
    """Dotted and last names of the arguments and the fields in them; None: one may hold anything, such as a frame."""
    found: set[str] = set()
    for parameter in target.parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            return None
        if parameter.name in ("self", "cls") and "." in target.qualname:
            continue
        if not _add(parameter.name, target.hints.get(parameter.name, Any), found, 0):
            return None
    return found


def _add(path: str, annotation: Any, found: set[str], depth: int) -> bool:
    """False where the annotation leaves open what there will be."""
    annotation = spelt_out(annotation)
    found |= {path, path.rpartition(".")[2]}
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _add(path, typing.get_args(annotation)[0], found, depth)
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, types.UnionType):
        return all(_add(path, part, found, depth) for part in typing.get_args(annotation))
    if not isinstance(annotation, type) or depth > _DEPTH:
        return False
    if issubclass(annotation, _SINGLE):
        return True
    fields = fields_of(annotation)
    if not fields:
        return False
    hints = typing.get_type_hints(annotation, include_extras=True)
    return all(_add(f"{path}.{name}", hints.get(name, Any), found, depth + 1) for name, _ in fields)
