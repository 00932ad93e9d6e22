"""Dimension names: the same size wherever a name appears in the arguments, model fields and result of one call.

Names are bound in a dict made for the call, which travels as pydantic's context. Outside of a guarded call there is no
such dict (a context is then the user's own), and a name is bound within its one array.
"""

from __future__ import annotations

from types import EllipsisType
from typing import Any

from pydantic import ValidationInfo, ValidatorFunctionWrapHandler
from pydantic_core import PydanticCustomError

__all__ = ["CALL", "Dims", "apart", "dims_of", "fit", "opened", "restore", "shape_text"]

Dims = dict[str, int]
CALL = "mlguard.call"
"""The key that tells the dict of a guarded call from a context of the user's own."""


def opened(values: Any, info: ValidationInfo) -> Any:
    """Marks the dict that `call.py` made as one of a guarded call, before anything is checked."""
    if info.context is not None:
        info.context[CALL] = 0
    return values


def dims_of(info: ValidationInfo) -> Dims:
    """The names bound so far in this call."""
    context = info.context
    return context if type(context) is dict and CALL in context else {}


def fit(declared: tuple[int | str | EllipsisType, ...], shape: tuple[int, ...], dims: Dims) -> None:
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
