"""Dimension names: the same size wherever a name appears in the arguments, model fields and result of one call.

Names are bound in a dict made for the call, which travels as pydantic's context. Outside of a guarded call there is no
such dict (a context is then the user's own), and a name is bound within its one array.
"""

from __future__ import annotations

import math
from types import EllipsisType
from typing import Any, NamedTuple, TypeAlias

from pydantic import ValidationInfo, ValidatorFunctionWrapHandler
from pydantic_core import PydanticCustomError

__all__ = [
    "CALL", "LATER", "Dimension", "Dims", "Span", "apart", "dims_of", "fit", "names_of", "opened", "restore",
    "shape_text",
]  # fmt: skip

Dims = dict[str, int]
CALL = "mlguard.call"
"""The key that tells the dict of a guarded call from a context of the user's own."""


class Span(NamedTuple):
    """A dimension of so many entries at least and at most, with a name or without."""

    name: str | None
    low: int
    high: float
    """math.inf: as many as come."""

    def __str__(self) -> str:
        if self.high == math.inf:
            sizes = f">={self.low}"
        else:
            sizes = f"<={self.high}" if self.low == 0 else f"{self.low}..{self.high}"
        return f"{self.name}: {sizes}" if self.name else sizes


Dimension: TypeAlias = int | str | EllipsisType | Span


def names_of(shape: tuple[Dimension, ...]) -> tuple[str, ...]:
    """The names in a declared shape, each once."""
    names = [entry.name if isinstance(entry, Span) else entry for entry in shape]
    return tuple(dict.fromkeys(name for name in names if isinstance(name, str)))


LATER = 1
"""The value of that key while what is checked binds no names, because what comes of it is looked at afterwards."""


def opened(values: Any, info: ValidationInfo) -> Any:
    """Marks the dict that `call.py` made as one of a guarded call, before anything is checked."""
    if info.context is not None:
        info.context[CALL] = 0
    return values


def dims_of(info: ValidationInfo) -> Dims:
    """The names bound so far in this call."""
    context = info.context
    return context if type(context) is dict and context.get(CALL) == 0 else {}


def fit(declared: tuple[Dimension, ...], shape: tuple[int, ...], dims: Dims) -> None:
    """Binds the names of a declared shape to the sizes of a real one: all of them, or none where it does not fit.

    Raises:
        PydanticCustomError: ``array_shape`` or, where a name is bound to another size already, ``array_dimension``.
    """
    if len(declared) != len(shape) or ... in declared:
        declared = _spelt_out(declared, shape)
    found: Dims = {}
    for entry, size in zip(declared, shape, strict=True):
        if entry == size:
            continue
        if isinstance(entry, Span):
            if not entry.low <= size <= entry.high:
                raise _wrong_shape(declared, shape)
            if entry.name is None:
                continue
            entry = entry.name
        if not isinstance(entry, str):
            raise _wrong_shape(declared, shape)
        bound = dims.get(entry, found.get(entry))
        if bound is None:
            found[entry] = size
        elif bound != size:
            raise PydanticCustomError(
                "array_dimension",
                "must have the same size '{name}' as elsewhere in this call, which is {bound}; got {received}",
                {"name": entry, "bound": bound, "received": size, "expected": shape_text(declared)},
            )
    dims.update(found)


def apart(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """One branch of a union: the names it binds are forgotten where it fails."""
    dims = dims_of(info)
    kept = dict(dims)
    try:
        return handler(value)
    except BaseException:
        restore(dims, kept)
        raise


def restore(dims: Dims, kept: Dims) -> None:
    """Forgets every name bound since `kept` was copied."""
    dims.clear()
    dims.update(kept)


def shape_text(shape: tuple[Any, ...]) -> str:
    """A shape as Python writes it, names without quotes: ``(batch, 30)``."""
    entries = ["..." if entry is ... else str(entry) for entry in shape]
    return f"({', '.join(entries)}{',' if len(entries) == 1 else ''})"


def _spelt_out(declared: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The ellipsis replaced by the sizes it stands for."""
    if ... not in declared or len(shape) < len(declared) - 1:
        raise _wrong_shape(declared, shape)
    at = declared.index(...)
    after = len(declared) - at - 1
    return (*declared[:at], *shape[at : len(shape) - after], *declared[at + 1 :])


def _wrong_shape(declared: tuple[Any, ...], shape: tuple[int, ...]) -> PydanticCustomError:
    return PydanticCustomError(
        "array_shape",
        "must have shape {expected}, got {received}",
        {"expected": shape_text(declared), "received": shape_text(shape)},
    )
