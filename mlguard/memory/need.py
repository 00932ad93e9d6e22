"""How many bytes a call will need: a number, a factor of its input, what a function of its arguments says, or learned.

How needs are learned is in `measuring.py` and `learned.py`.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from itertools import chain, islice
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, WithJsonSchema

from mlguard import clock
from mlguard.errors import PolicyError
from mlguard.target import Target

__all__ = ["LEARNED", "Factor", "Function", "InputBytes", "Need", "bytes_in", "estimator", "valid_need"]

LEARNED = "learned"

_FACTOR = re.compile(r"\s*(\d+(?:\.\d+)?)\s*x\s*")
_MOST = 1 << 62
"""More bytes than any machine has; a number above is a mistake."""
_PLAIN = frozenset({int, float, bool, str, bytes, type(None)})
_ITEMS_LOOKED_AT = 1000
_LEVELS_LOOKED_AT = 6


def valid_need(value: Any) -> int | str | None:
    """Bytes, a factor spelt ``"3x"``, or ``"learned"``, from what a policy says.

    Raises:
        ValueError: It is neither bytes, nor a size such as "256MiB", nor a factor above 0, nor "learned", or so much
            that it can only be a mistake.
    """
    if value is None:
        return None
    if isinstance(value, str) and value.strip() == LEARNED:
        return LEARNED
    factor = _FACTOR.fullmatch(value) if isinstance(value, str) else None
    if factor is not None and 0 < float(factor[1]) <= _MOST:
        return f"{Decimal(factor[1]).normalize():f}x"
    try:
        size = clock.bytes_of(value)
        if size > _MOST:
            raise ValueError
        return size
    except ValueError:
        raise ValueError(
            'must be bytes, a size such as "256MiB", a factor of the input\'s bytes such as "3x", or "learned"'
        ) from None


Need: TypeAlias = Annotated[
    int | str | None,
    BeforeValidator(valid_need),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^(\d+(\.\d+)?\s*(x|([KMGT]i?)?B)|learned)$"},
                {"type": "null"},
            ],
            "description": (
                'Bytes, a size such as "256MiB", a factor of the input\'s bytes such as "3x", or "learned".'
            ),
        }
    ),
]
"""A policy field that says what a call needs. It is kept as bytes or as ``"3x"``."""


class InputBytes:
    """The bytes that come in."""

    def __init__(self, target: Target) -> None:
        first = next(iter(target.signature.parameters), None)
        self._skipped = 1 if first in ("self", "cls") and "." in target.qualname else 0  # the model is not its input

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
        total = 0
        for value in args[self._skipped :] if self._skipped else args:
            total += sys.getsizeof(value) if type(value) in _PLAIN else bytes_in(value)
        for value in kwargs.values():
            total += bytes_in(value)
        return total


class Factor:
    """A multiple of the bytes that come in."""

    def __init__(self, factor: float, target: Target) -> None:
        self._factor = factor
        self._bytes = InputBytes(target)

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
        return self._factor * self._bytes(args, kwargs)

    def __str__(self) -> str:
        return f"{self._factor:g} x the bytes of its input"


class Function:
    """What the user's own function of the arguments says.

    Raises:
        PolicyError: It is asynchronous, or does not take the parameters of the guarded function.
    """

    def __init__(self, function: Callable[..., Any], target: Target) -> None:
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
            raise PolicyError(f"need = {_name(function)}: must be a plain function, not async. Fix: drop the async.")
        self._function = function
        self._signature = target.signature
        kinds = [parameter.kind for parameter in target.parameters]
        self._positional = sum(
            kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds
        )
        self._simple = self._positional == len(kinds)
        names = [parameter.name for parameter in target.parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
        try:
            inspect.signature(function).bind(*[None] * self._positional, **dict.fromkeys(names))
        except TypeError:
            raise PolicyError(
                f"need = {_name(function)}{inspect.signature(function)}: is called with the arguments of "
                f"{target.qualname}{target.signature}, which it does not take. Fix: give it the same parameters."
            ) from None
        except ValueError:
            pass  # written in C, without a signature: the first call will tell

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
        if not self._simple or kwargs or len(args) != self._positional:
            # As the guarded function will see them: defaults filled in, keywords in their places.
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            args, kwargs = bound.args, bound.kwargs
        return self._function(*args, **kwargs)  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return f"what {_name(self._function)}() says"


def estimator(need: int | str | Callable[..., Any] | None, target: Target) -> int | Factor | Function | InputBytes:
    """What a call needs: a number of bytes where that is known now, else what tells it from the arguments.

    For ``"learned"`` it tells the bytes of the input only; the rest is up to `measuring.py`.

    Raises:
        PolicyError: It can't be understood, or can't be called with the arguments of the function.
    """
    if callable(need):
        return Function(need, target)
    try:
        valid = valid_need(need)
    except ValueError as error:
        raise PolicyError(f"need = {need!r}: {error}, or a function of the arguments") from None
    if valid == LEARNED:
        return InputBytes(target)
    if isinstance(valid, str):
        return Factor(float(valid.removesuffix("x")), target)
    return valid or 0


def checked(estimate: Any) -> int:
    """An estimate as bytes.

    Raises:
        ValueError: It is negative or not finite.
        TypeError: It is no number.
    """
    if not 0 <= estimate < math.inf:
        raise ValueError("no number of bytes")
    return min(int(estimate), _MOST)


def bytes_in(value: Any, levels: int = _LEVELS_LOOKED_AT) -> int:
    """The bytes of the data in one argument, without importing any library that it may come from.

    Arrays and tensors say theirs as `nbytes`, data frames by `estimated_size` or `memory_usage`; models, dataclasses,
    sparse matrices, lists, tuples, sets and mappings are looked into, long ones by their first 1,000 items. Anything
    else counts what Python says it takes itself.
    """
    if value is None or isinstance(value, int | float | str | bytes | type):
        return sys.getsizeof(value)
    size = getattr(value, "nbytes", None)
    if isinstance(size, int) or hasattr(size, "__index__"):
        return int(size)  # type: ignore[arg-type]
    if hasattr(value, "estimated_size"):  # polars
        return int(value.estimated_size())
    if hasattr(value, "memory_usage"):  # pandas
        return int(value.memory_usage().sum())
    if levels:
        if dataclasses.is_dataclass(value):
            fields: Iterable[Any] = (getattr(value, field.name, None) for field in dataclasses.fields(value))
            return sum(bytes_in(field, levels - 1) for field in fields)
        if isinstance(value, BaseModel):
            fields = chain(vars(value).values(), (value.__pydantic_extra__ or {}).values())
            return sum(bytes_in(field, levels - 1) for field in fields)
        if hasattr(value, "nnz"):
            return sum(bytes_in(field, levels - 1) for field in vars(value).values())
        if isinstance(value, Mapping):
            return sys.getsizeof(value) + _bytes_of_items(value.values(), len(value), levels)
        if isinstance(value, list | tuple | set | frozenset):
            return sys.getsizeof(value) + _bytes_of_items(value, len(value), levels)
    return sys.getsizeof(value)


def _bytes_of_items(items: Any, count: int, levels: int) -> int:
    looked_at = sum(bytes_in(item, levels - 1) for item in islice(items, _ITEMS_LOOKED_AT))
    return looked_at if count <= _ITEMS_LOOKED_AT else looked_at * count // _ITEMS_LOOKED_AT


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)
