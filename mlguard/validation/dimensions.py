"""Dimension names: the same size wherever a name appears in the arguments, model fields and result of one call.

Names are bound in a dict made for the call, which travels as pydantic's context. Outside of a guarded call there is no
such dict (a context is then the user's own), and a name is bound within its one array.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import EllipsisType
from typing import Any, cast

import numpy as np
from pydantic import BaseModel, ValidationInfo
from pydantic_core import PydanticCustomError

__all__ = ["CALL", "Dims", "bind_instance", "dims_of", "fit", "opened", "shape_text"]

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
    """Binds the names of a declared shape to the sizes of a real one.

    Raises:
        PydanticCustomError: ``array_shape`` or, where a name is bound to another size already, ``array_dimension``.
    """
    if len(declared) != len(shape) or ... in declared:
        declared = _spelt_out(declared, shape)
    for entry, size in zip(declared, shape, strict=True):
        if entry == size:
            continue
        if not isinstance(entry, str):
            raise _wrong_shape(declared, shape)
        bound = dims.get(entry)
        if bound is None:
            dims[entry] = size
        elif bound != size:
            raise PydanticCustomError(
                "array_dimension",
                "must have the same size '{name}' as elsewhere in this call, which is {bound}; got {received}",
                {"name": entry, "bound": bound, "received": size, "expected": shape_text(declared)},
            )


def bind_instance(value: Any, info: ValidationInfo) -> Any:
    """Binds the names in the arrays of a model that was built before the call: pydantic does not look at it again."""
    _bind_model(value, dims_of(info), "")
    return value


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


def _bind_model(value: Any, dims: Dims, path: str) -> None:
    from mlguard.validation.array import Array

    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            item = value.__dict__.get(name)
            inside = f"{path}.{name}" if path else name
            if isinstance(item, np.ndarray):
                for mark in field.metadata:
                    if isinstance(mark, Array):
                        _bind_field(mark, item, dims, inside)
            elif isinstance(item, BaseModel | list | tuple | dict):
                _bind_model(item, dims, inside)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            if not isinstance(item, BaseModel | list | tuple | dict):
                break  # a list of numbers is no list of models
            _bind_model(item, dims, f"{path}.{number}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _bind_model(item, dims, f"{path}.{key}")


def _bind_field(array: Any, value: np.ndarray[Any, Any], dims: Dims, path: str) -> None:
    try:
        fit(array.shape, value.shape, dims)
    except PydanticCustomError as error:
        kind, words = cast(Any, error.type), cast(Any, error.message_template)
        raise PydanticCustomError(kind, words, {**(error.context or {}), "at": path}) from None
