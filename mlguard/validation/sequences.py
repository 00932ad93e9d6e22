"""`Array` on a sequence: ``Annotated[list[str], Array("n")]`` gives a list the dimensions of arrays; it stays a list.

What is in the sequence is pydantic's to check. Here are lengths and their names, and what pydantic has no word for.
"""

from __future__ import annotations

import collections
import collections.abc
from collections.abc import Collection
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from pydantic import ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from mlguard import clock
from mlguard.errors import PolicyError
from mlguard.target import spelt_out
from mlguard.validation.dimensions import Dims, dims_of, fit, names_of
from mlguard.validation.limits import Limit

if TYPE_CHECKING:
    from mlguard.validation.array import Array

__all__ = ["SequenceCheck", "is_sequence"]

_NESTS = (
    list, tuple, collections.deque, set, frozenset,
    collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Collection, collections.abc.Set,
)  # fmt: skip
_TEXT = (str, bytes, bytearray)
_OF_ELEMENTS = {
    "ge": "Field(ge=...)", "gt": "Field(gt=...)", "le": "Field(le=...)", "lt": "Field(lt=...)",
    "categories": "Literal[...]", "finite": "Field(allow_inf_nan=False)", "dtype": "the elements' type",
}  # fmt: skip


def is_sequence(source: Any) -> bool:
    """An annotation whose values have a length and stay what they are: lists, tuples, sets, text."""
    source = spelt_out(source)
    return (get_origin(source) or source) in (*_NESTS, *_TEXT)


class SequenceCheck:
    """The dimensions of one sequence, nested or not.

    Raises:
        PolicyError: The declaration asks for what only arrays have, or for more dimensions than the annotation nests.
    """

    def __init__(self, array: Array, source: Any) -> None:
        self.array = array
        self.shape = array.dimensions
        self.names = names_of(self.shape)
        self._classes = _class_of(source)
        self._depth = _depth_of(source)
        most = None if array.max_bytes is None else clock.bytes_of(array.max_bytes)
        self._limit = None if most is None else Limit(most, "Array(max_bytes=...)")
        for name, instead in _OF_ELEMENTS.items():
            if _given(array, name):
                raise PolicyError(
                    f"{array!r}: {name} is for NumPy arrays, but it annotates {source!r}. "
                    f"Fix: say it of the elements, with {instead}."
                )
        for name in ("columns", "monotonic", "check", "strict", "allow_nan"):
            if _given(array, name):
                raise PolicyError(f"{array!r}: {name} is for NumPy arrays, but it annotates {source!r}. Fix: drop it.")
        if ... not in self.shape and self._depth is not None and len(self.shape) > self._depth:
            raise PolicyError(
                f"{array!r}: {len(self.shape)} dimensions, but {source!r} nests {self._depth}. Fix: one a level."
            )
        if ... in self.shape and self._depth is None:
            raise PolicyError(f"{array!r}: ... needs to know the depth of {source!r}. Fix: such as list[list[float]].")
        if array.unique and (len(self.shape) > 1 or ... in self.shape):
            raise PolicyError(f"{array!r}: unique is for one dimension where values are no NumPy array. Fix: drop it.")

    def schema(self, inner: CoreSchema) -> CoreSchema:
        """The sequence's own schema, and the look at its dimensions after it."""
        if self._limit is not None:
            inner = core_schema.no_info_before_validator_function(self._limit.check, inner)
        if self.names:
            return core_schema.with_info_after_validator_function(self.look_named, inner)
        return core_schema.no_info_after_validator_function(self.look, inner)

    def look_named(self, value: Any, info: ValidationInfo) -> Any:
        return self._look(value, dims_of(info))

    def look(self, value: Any) -> Any:
        """The value itself."""
        return self._look(value, {})

    def bind(self, value: Any, dims: Dims) -> bool:
        """Binds the names to the sizes of a sequence; False where the value is none of this class."""
        if not isinstance(value, self._classes) or (isinstance(value, _TEXT) and self._classes not in _TEXT):
            return False
        if self.shape:
            sizes = self._sizes(value)
            known = ... in self.shape or len(sizes) == len(self.shape)
            fit(self.shape if known else self.shape[: len(sizes)], sizes, dims)  # no rows have no columns to count
        return True

    def _look(self, value: Any, dims: Dims) -> Any:
        self.bind(value, dims)
        if self.array.unique:
            _refuse_twice(value)
        return value

    def _sizes(self, value: Any) -> tuple[int, ...]:
        """The sizes, as deep as declared."""
        sizes = [len(value)]
        level = value
        for depth in range(1, (self._depth or 1) if ... in self.shape else len(self.shape)):
            level = list(level) if depth == 1 else list(chain.from_iterable(level))
            if not level:
                break
            sizes.append(_common(level, depth))
        return tuple(sizes)


def _given(array: Array, name: str) -> bool:
    value = getattr(array, name)
    return value is not None and value is not False  # a bound of 0 is one


def _common(level: list[Any], depth: int) -> int:
    first = level[0]
    for number, item in enumerate(level):
        sized = isinstance(item, Collection) and not isinstance(item, _TEXT)
        if not sized or len(item) != len(first):
            raise PydanticCustomError(
                "array_ragged",
                "must be nested lists of equal length: list {number} at depth {depth} should have {expected} "
                "values, got {received}",
                {
                    "number": number,
                    "depth": depth,
                    "expected": len(first) if isinstance(first, Collection) else 0,
                    "received": f"{len(item)} values" if sized else type(item).__qualname__,
                },
            )
    return len(first)


def _refuse_twice(value: Any) -> None:
    try:
        count = len(value) - len(set(value))
    except TypeError:
        raise PydanticCustomError(
            "array_value", "must hold values that can be told apart by their hash", {"fix": "drop unique=True"}
        ) from None
    if count:
        seen: set[Any] = set()
        first = next(number for number, item in enumerate(value) if item in seen or seen.add(item))  # type: ignore[func-returns-value]
        raise PydanticCustomError(
            "array_duplicate",
            "must hold no value twice: {count} of {size} values were there before, the first at {first}",
            {"count": count, "size": len(value), "first": f"[{first}]"},
        )


def _class_of(source: Any) -> Any:
    source = spelt_out(source)
    return get_origin(source) or source


def _depth_of(source: Any) -> int | None:
    """How deep an annotation nests sequences; None: it does not say."""
    source = spelt_out(source)
    if get_origin(source) is Annotated:
        return _depth_of(get_args(source)[0])
    kind, parts = get_origin(source) or source, get_args(source)
    if kind in _TEXT:
        return 1
    if kind not in _NESTS:
        return 0
    if not parts:
        return None
    inner = 0 if (get_origin(parts[0]) or parts[0]) in _TEXT else _depth_of(parts[0])
    return None if inner is None else inner + 1
