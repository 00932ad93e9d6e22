"""pydantic's own constraints beside an `Array`: ``Field(ge=0)`` and annotated_types mean what `Array(ge=0)` means.

pydantic puts a constraint around the schema it stands beside, and would compare it with the array as a whole. Only of a
schema that may be None it puts the constraint inside instead, by writing into the same dict. `Foldable` is a schema
that says so of itself while pydantic's Python code looks at it, and takes what is written into the declaration;
pydantic-core reads the dict's real entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic_core import core_schema

from mlguard.errors import PolicyError
from mlguard.section import shown
from mlguard.validation.declared import BOUNDS
from mlguard.validation.dimensions import Span

if TYPE_CHECKING:
    from mlguard.validation.array import Array

__all__ = ["Foldable"]

_FORBIDS_NAN = "forbid_inf_nan_check"
"""The function pydantic puts around a schema for ``Field(allow_inf_nan=False)``."""


class Foldable(dict[str, Any]):
    """The core schema of an array, which takes in the constraints that stand beside the declaration."""

    def __init__(self, array: Array, make: Callable[[Array], Any]) -> None:
        super().__init__(make(array))
        self._array, self._make = array, make

    def __getitem__(self, key: str) -> Any:
        if key == "type":
            return "nullable"
        return self.get(key) if key == "schema" else super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        # A schema that takes no constraint but strict itself, so that all others are put around it, to be read there.
        return core_schema.bool_schema() if key == "schema" else super().get(key, default)

    def __setitem__(self, key: str, value: Any) -> None:
        if key != "schema":
            super().__setitem__(key, value)
            return
        for name, bound in _constraints(self._array, value):
            self._array = _with(self._array, name, bound)
        self.update(self._make(self._array))

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _constraints(array: Array, schema: Any) -> list[tuple[str, Any]]:
    """What pydantic put around a schema of no interest."""
    found = [("strict", True)] if schema.get("strict") else []
    while "schema" in schema:
        function = schema.get("function", {}).get("function")
        keywords = getattr(function, "keywords", None)
        if keywords:
            found += keywords.items()
        elif getattr(function, "__name__", "") == _FORBIDS_NAN:
            found.append(("finite", True))
        else:
            raise _unknown(array, "what stands beside it (a predicate)")
        schema = schema["schema"]
    if schema["type"] != "bool":
        raise _unknown(array, "what stands beside it")
    return found


def _with(array: Array, name: str, value: Any) -> Array:
    if name in ("min_length", "max_length"):
        rest = array.shape[1:] if array.shape else (...,)
        return array.but(shape=(_of_length(array, name, value), *rest))
    if name not in (*BOUNDS, "strict", "finite"):
        raise _unknown(array, f"{name} = {shown(value)}")
    given = getattr(array, name)
    if name in BOUNDS and given is not None and given != value:
        beside = f"{name} = {shown(value)}"
        raise PolicyError(f"{array!r}: {name} = {shown(given)}, but beside it stands {beside}. Fix: drop one.")
    return array.but(**{name: value})


def _of_length(array: Array, name: str, length: int) -> Any:
    """The first dimension, which is what len() counts, held to a length as well."""
    first = array.dimensions[0] if array.shape else Span(None, 0, math.inf)
    if first is ...:
        raise PolicyError(f"{array!r}: {name} needs a first dimension. Fix: name it, such as Array('n', ...).")
    if isinstance(first, int):
        span = Span(None, first, first)
    else:
        span = first if isinstance(first, Span) else Span(str(first), 0, math.inf)
    low = max(span.low, length) if name == "min_length" else span.low
    high = min(span.high, length) if name == "max_length" else span.high
    if low > high:
        raise PolicyError(f"{array!r}: {name} = {length} beside it leaves no size. Fix: drop one of the two.")
    sizes = (low, None if high == math.inf else high)
    return first if isinstance(first, int) else (span.name, *sizes) if span.name else sizes


def _unknown(array: Array, what: str) -> PolicyError:
    return PolicyError(
        f"{array!r}: {what} can't be read as a constraint of arrays. "
        "Fix: what Array itself knows, or pydantic's AfterValidator with a function of yours."
    )
