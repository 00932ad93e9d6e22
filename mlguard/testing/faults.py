"""What can go wrong with an attempt, and how a result looks when it is not what it should be."""

from __future__ import annotations

import copy
import dataclasses
import random
import sys
from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from mlguard import clock
from mlguard.errors import PolicyError

__all__ = ["Change", "Fault", "changes", "delays", "fails", "hangs", "nan", "wrong_shape"]

Change = Callable[[Any, random.Random], Any]
"""Makes the wrong result out of the right one. The random numbers given to it follow from the seed."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, and when. Made by `fails`, `delays`, `hangs`, `nan`, `wrong_shape` and `changes`.

    Raises:
        PolicyError: It could never happen as it is given.
    """

    name: str
    """How counts and events call it."""
    rate: float | None = None
    """The share of attempts that meet it. None: every attempt that `calls` and `during` let it meet."""
    calls: Container[int] | None = None
    """The attempts of a function, counted from 1, that may meet it. None: all."""
    during: tuple[float | str, float | str] | None = None
    """From when to when after the chaos began, on `mlguard.clock`. None: always."""
    after: int = 0
    """Streams: how many items come before it."""
    error: BaseException | type[BaseException] | Callable[[], BaseException] | None = None
    wait: float = 0.0
    change: Change | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 <= self.rate <= 1:
            raise PolicyError(f"{self.name}: rate = {self.rate!r} is no share. Fix: a number from 0 to 1.")
        if self.after < 0:
            raise PolicyError(f"{self.name}: after = {self.after!r} items. Fix: 0 or more.")
        if self.during is not None:
            try:
                start, end = map(clock.seconds, self.during)
            except (TypeError, ValueError):
                start = end = 0.0
            if not start < end:
                raise PolicyError(f"{self.name}: during = {self.during!r} is no time. Fix: such as (0, '30s').")
            object.__setattr__(self, "during", (start, end))

    def possible(self, number: int, elapsed: float) -> bool:
        """Whether an attempt of this number, so long after the start, may meet it."""
        if self.calls is not None and number not in self.calls:
            return False
        return self.during is None or self.during[0] <= elapsed < self.during[1]  # type: ignore[operator]


def fails(error: Any = ConnectionError, **when: Any) -> Fault:
    """The function fails before it ran: with an exception, one of a class, or what a callable makes.

    Args:
        error: What it raises. A class or callable is called without arguments for each failure.
        **when: ``rate=``, ``calls=``, ``during=``, ``after=``, see `Fault`. None of them: always.
    """
    made = error if isinstance(error, BaseException | type) else None
    if not (isinstance(made, BaseException) or callable(error)) or (
        isinstance(error, type) and not issubclass(error, BaseException)
    ):
        raise PolicyError(f"fails() takes an exception, its class, or what makes one, not {error!r}. Fix: give one.")
    name = error.__name__ if isinstance(error, type) else type(made).__name__ if made is not None else "error"
    return Fault(**{"name": f"fails: {name}", **when, "error": error})


def delays(duration: float | str, **when: Any) -> Fault:
    """The function starts that much later; the pause is one that `instant` skips and `FakeClock` takes."""
    return Fault(**{"name": f"delays: {duration}", **when, "wait": clock.seconds(duration)})


def hangs(duration: float | str = "1h", **when: Any) -> Fault:
    """The function does nothing for an hour. What hangs when the chaos is left goes on at once."""
    return Fault(**{"name": "hangs", **when, "wait": clock.seconds(duration)})


def nan(**when: Any) -> Fault:
    """Some numbers of the result are NaN: a tenth of an array, one of a list, a dict, a model or a frame."""
    return Fault(**{"name": "nan", **when, "change": with_nan})


def wrong_shape(**when: Any) -> Fault:
    """The result lacks something: a row or column of an array, an item of a list, a key, a column, a field."""
    return Fault(**{"name": "wrong_shape", **when, "change": misshapen})


def changes(change: Change, **when: Any) -> Fault:
    """The result is what a function makes of it: ``change(result, chance)``, `chance` being a `random.Random`."""
    if not callable(change):
        raise PolicyError(
            f"changes() takes a function of the result and a random.Random, not {change!r}. Fix: give one."
        )
    return Fault(**{"name": getattr(change, "__name__", "changes"), **when, "change": change})


def with_nan(value: Any, chance: random.Random) -> Any:
    """The same with NaN among its numbers; NaN itself where it has none."""
    changed = _part_changed(value, chance, with_nan, _has_numbers)
    if changed is not _UNKNOWN:
        return changed
    if isinstance(value, np.ndarray):
        kept = value.dtype.kind in "fcO"
        array = value.copy() if kept else value.astype(np.float64) if value.dtype.kind in "iub" else None
        if array is None:
            return float("nan")
        places = chance.sample(range(array.size), -(-array.size // 10))
        array.flat[places] = np.nan
        return array
    frame = _frame_of(value)
    if frame == "pandas":
        value = value.copy()
        column = _number_column(value.dtypes, chance)
        if len(value) and column is not None:
            numbers = value.iloc[:, column].to_numpy(dtype=float, copy=True)
            numbers[chance.randrange(len(numbers))] = np.nan
            value[value.columns[column]] = numbers
        return value
    if frame == "polars":
        column = _number_column(value.dtypes, chance)
        if len(value) and column is not None:
            numbers = value.to_series(column).to_numpy().astype(float)
            numbers[chance.randrange(len(numbers))] = np.nan
            return value.with_columns(sys.modules["polars"].Series(value.columns[column], numbers))
        return value
    return float("nan")


def misshapen(value: Any, chance: random.Random) -> Any:
    """The same without a part of it; what has no parts comes in a list."""
    if isinstance(value, np.ndarray) and value.size:
        if value.ndim == 0:
            return value[None]
        axis = chance.randrange(value.ndim)
        return np.delete(value, chance.randrange(value.shape[axis]), axis)
    if isinstance(value, dict) and value:
        gone = chance.choice(list(value))
        return {key: item for key, item in value.items() if key != gone}
    if isinstance(value, list | tuple) and value:
        index = chance.randrange(len(value))
        return (list if isinstance(value, list) else tuple)([*value[:index], *value[index + 1 :]])
    kind = _frame_of(value)
    if kind is not None:
        frame: Any = value
        gone = chance.choice(list(frame.columns)) if len(frame.columns) else None
        return [frame] if gone is None else frame.drop(columns=gone) if kind == "pandas" else frame.drop(gone)
    fields = _fields_of(value)
    if fields:
        return misshapen(fields, chance)
    return [value]


_UNKNOWN: Any = object()


def _part_changed(value: Any, chance: random.Random, change: Change, fits: Callable[[Any], bool]) -> Any:
    """A container with one of its fitting parts changed."""
    if isinstance(value, list | tuple):
        places: Sequence[Any] = [index for index, item in enumerate(value) if fits(item)]
        if not places:
            return _UNKNOWN
        place = chance.choice(places)
        items = [change(item, chance) if index == place else item for index, item in enumerate(value)]
        if isinstance(value, list):
            return items
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    fields: dict[Any, Any] = value if isinstance(value, dict) else _fields_of(value) or {}
    places = [name for name, item in fields.items() if fits(item)]
    if not places:
        return _UNKNOWN
    place = chance.choice(places)
    new = change(fields[place], chance)
    if isinstance(value, dict):
        return {**value, place: new}
    if isinstance(value, BaseModel):
        return value.model_copy(update={place: new})
    changed = copy.copy(value)
    object.__setattr__(changed, place, new)
    return changed


def _fields_of(value: Any) -> dict[str, Any] | None:
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    return None


def _has_numbers(value: Any) -> bool:
    if isinstance(value, bool | str | bytes):
        return False
    if isinstance(value, int | float | np.number):
        return True
    if isinstance(value, np.ndarray):
        return value.size > 0 and value.dtype.kind in "fciu"
    if isinstance(value, dict):
        return any(map(_has_numbers, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_numbers, value))
    fields = _fields_of(value)
    return bool(fields) and _has_numbers(fields) if fields else _frame_of(value) is not None


def _frame_of(value: Any) -> str | None:
    for module in ("pandas", "polars"):
        frame = getattr(sys.modules.get(module), "DataFrame", None)
        if frame is not None and isinstance(value, frame):
            return module
    return None


def _number_column(dtypes: Any, chance: random.Random) -> int | None:
    numeric = [index for index, dtype in enumerate(dtypes) if str(dtype).lower().startswith(("float", "int", "uint"))]
    return chance.choice(numeric) if numeric else None
