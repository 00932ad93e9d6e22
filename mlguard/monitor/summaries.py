"""Arguments and results in a few numbers: what an event may say of a value without showing it.

Numbers and booleans are shown by value, text never: only its length. Arrays give their shape, type and statistics over
at most `SAMPLE` values. Whatever is written is JSON-serialisable without NaN, and a value never adds more than `LEAVES`
fields' worth of keys.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Set
from enum import Enum
from numbers import Number
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

from mlguard.monitor.redaction import HIDDEN, fields_of, held_by

__all__ = ["LEAVES", "SAMPLE", "plain", "summarise"]

LEAVES: Final = 32
"""Fields of one argument that are summarised; how many more there were is said as ``omitted``."""

SAMPLE: Final = 4_096
"""Values of an array that statistics look at, evenly spread over it."""

_SMALL = 96  # elements up to which Python's own sum, min and max beat the fixed costs of numpy
_DEPTH = 8
_TEXT = 200

Event: TypeAlias = dict[str, Any]
Writer: TypeAlias = Callable[[Event, str, Any], None]


def summarise(event: Event, key: str, value: Any) -> None:
    """Adds what may be said of a value under this key, or under keys that begin with it and a dot."""
    kind = type(value)
    if kind is float:
        event[key] = value if math.isfinite(value) else str(value)
    elif kind is int:
        _integer(event, key, value)
    elif kind is bool or value is None:
        event[key] = value
    elif kind is str or kind is bytes:
        event[key + ".length"] = len(value)
    else:
        writer = _writers.get(kind)
        if writer is None:
            writer = _writers[kind] = _writer_for(kind)
        writer(event, key, value)


def plain(value: Any) -> Any:
    """A fact or a note as JSON can hold it: numbers and short text, flat lists of them, a class name for the rest."""
    if isinstance(value, (list, tuple)):
        return [_scalar(item) for item in value[:20]]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, str):
        return str(value[:_TEXT])
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else f"an integer of {value.bit_length()} bits"
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return _scalar(value.item()) if not hasattr(value.item(), "dtype") else _class_name(type(value))
    return _class_name(type(value))


def _integer(event: Event, key: str, value: Any) -> None:
    if -(2**63) <= value < 2**64:
        event[key] = int(value)
    else:
        event[key + ".bits"] = int(value).bit_length()


def _number(event: Event, key: str, value: Any) -> None:
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):  # complex, a Decimal beyond floats
        _opaque(event, key, value)
    else:
        event[key] = number if math.isfinite(number) else str(number)


def _length(event: Event, key: str, value: Any) -> None:
    event[key + ".length"] = len(value)


def _count(event: Event, key: str, value: Any) -> None:
    event[key + ".count"] = len(value)


def _sequence(event: Event, key: str, value: Any) -> None:
    """How many, and of numbers alone their statistics: of an embedding, or the features of one row."""
    event[key + ".count"] = len(value)
    if not value:
        return
    sample = value[:: -(-len(value) // _SMALL)]
    if not _NUMBERS.issuperset(map(type, sample)):
        return
    try:
        numbers = [float(number) for number in sample]
    except OverflowError:  # an integer beyond floats
        return
    if len(sample) < len(value):
        event[key + ".sampled"] = True
    _small_statistics(event, key, numbers)


def _hidden(event: Event, key: str, value: Any) -> None:
    event[key] = HIDDEN


def _opaque(event: Event, key: str, value: Any) -> None:
    event[key + ".type"] = _class_name(type(value))


def _member(event: Event, key: str, value: Any) -> None:
    summarise(event, key, value.value)


def _model(event: Event, key: str, value: Any) -> None:
    omitted = _leaves(event, key, value, LEAVES, 0)
    if omitted < 0:
        event[key + ".omitted"] = -omitted


def _leaves(event: Event, key: str, value: Any, left: int, depth: int) -> int:
    """Fields of a model, those of the models in it included; returns how many more would fit, or how many did not."""
    for name, hidden in fields_of(type(value)):
        field = held_by(value, name)
        path = f"{key}.{name}"
        if not hidden and type(field) not in _BUILTIN and fields_of(type(field)):
            if depth < _DEPTH:
                left = _leaves(event, path, field, left, depth + 1)
                continue
            field, path = len(fields_of(type(field))), path + ".count"
        left -= 1
        if left >= 0:
            summarise(event, path, field) if not hidden else _hidden(event, path, field)
    return left


def _tensor(event: Event, key: str, value: Any) -> None:
    """The cheap facts of anything with a shape and a type; the values may live on a device or on disk."""
    event[key + ".shape"] = [int(length) for length in value.shape]
    event[key + ".dtype"] = str(value.dtype)
    size = getattr(value, "nbytes", None)
    if isinstance(size, int):
        event[key + ".bytes"] = size


def _array(event: Event, key: str, value: Any) -> None:
    event[key + ".shape"] = list(value.shape)
    event[key + ".dtype"] = value.dtype.name
    event[key + ".bytes"] = value.nbytes
    if value.size and value.dtype.kind in "biuf":
        if value.size <= _SMALL and value.dtype.itemsize <= 8:  # tolist() leaves wider floats as numpy's own
            _small_statistics(event, key, value.ravel().tolist())
        else:
            _statistics(event, key, value)


def _small_statistics(event: Event, key: str, values: list[Any]) -> None:
    count = len(values)
    total = sum(values)
    if not math.isfinite(total):
        finite = [value for value in values if math.isfinite(value)]
        nulls = sum(value != value for value in values)
        if len(finite) < count:
            _shares(event, key, nulls / count, (count - len(finite) - nulls) / count)
            if not finite:
                return
            values, count, total = finite, len(finite), sum(finite)
        else:  # the sum alone overflowed
            total = math.fsum(value / count for value in values) * count
            event[key + ".nulls"] = 0.0
    else:
        event[key + ".nulls"] = 0.0
    mean = total / count
    _moments(event, key, +min(values), mean, +max(values), math.dist(values, [mean] * count) / math.sqrt(count))


def _statistics(event: Event, key: str, value: Any) -> None:
    import numpy as np

    sample = _spread(value)
    if sample.size < value.size:
        event[key + ".sampled"] = True
    sample = sample.astype(np.float64)
    with np.errstate(all="ignore"):
        total = float(sample.sum())
        if math.isfinite(total):
            event[key + ".nulls"] = 0.0
        else:
            nulls = int(np.isnan(sample).sum())
            finite = sample[np.isfinite(sample)]
            _shares(event, key, nulls / sample.size, (sample.size - finite.size - nulls) / sample.size)
            if not finite.size:
                return
            sample, total = finite, float(finite.sum())
        mean = total / sample.size
        centred = sample - mean
        deviation = math.sqrt(float(centred.dot(centred)) / sample.size)
        _moments(event, key, float(sample.min()), mean, float(sample.max()), deviation)


def _spread(value: Any) -> Any:
    """Every n-th value, n without a divisor in common with the row length: else one column could fill the sample."""
    if value.size <= SAMPLE:
        return value.ravel()
    flat = (
        value.reshape(-1)
        if value.flags.c_contiguous
        else value.T.reshape(-1)
        if value.flags.f_contiguous
        else value.flat
    )
    lengths = [length for length in value.shape if length > 1]
    step = -(-value.size // SAMPLE)
    while any(math.gcd(step, length) > 1 for length in lengths):
        step += 1
    return flat[::step]


def _shares(event: Event, key: str, nulls: float, infinite: float) -> None:
    event[key + ".nulls"] = nulls
    if infinite:
        event[key + ".infinite"] = infinite


def _moments(event: Event, key: str, low: float, mean: float, high: float, deviation: float) -> None:
    event[key + ".min"] = low
    if math.isfinite(mean):
        event[key + ".mean"] = mean
    event[key + ".max"] = high
    if math.isfinite(deviation):
        event[key + ".std"] = deviation


def _frame(event: Event, key: str, value: Any) -> None:
    """Frames of pandas and polars, recognised by what they can do."""
    rows, columns = (int(length) for length in value.shape)
    event[key + ".rows"], event[key + ".columns"] = rows, columns
    step = max(1, -(-rows * columns // SAMPLE))
    if not rows or not 0 < columns <= SAMPLE:
        return
    if hasattr(value, "iloc"):
        nulls = float(value.iloc[::step].isna().to_numpy().mean())
    elif hasattr(value, "gather_every"):
        nulls = sum(value.gather_every(step).null_count().row(0)) / (-(-rows // step) * columns)
    else:
        return
    event[key + ".nulls"] = nulls
    if step > 1:
        event[key + ".sampled"] = True


def _table(event: Event, key: str, value: Any) -> None:
    """Tables of pyarrow, which knows its nulls without looking."""
    event[key + ".rows"], event[key + ".columns"] = value.num_rows, value.num_columns
    cells = value.num_rows * value.num_columns
    if cells:
        event[key + ".nulls"] = sum(column.null_count for column in value.columns) / cells


def _numpy_scalar(event: Event, key: str, value: Any) -> None:
    held = value.item()
    _opaque(event, key, value) if hasattr(held, "dtype") else summarise(event, key, held)


_NUMBERS: Final = frozenset({float, int})
_BUILTIN: Final = frozenset({bool, type(None), float, int, str, bytes, list, tuple, dict, set})
_writers: WeakKeyDictionary[type, Writer] = WeakKeyDictionary()


def _writer_for(kind: type) -> Writer:
    if issubclass(kind, SecretStr | SecretBytes | Secret):
        return _hidden
    if issubclass(kind, Enum):
        return _member
    if issubclass(kind, int):
        return _integer
    if kind.__module__ == "numpy":
        return (
            _array
            if kind.__name__ == "ndarray"
            else _numpy_scalar
            if hasattr(kind, "item") and not hasattr(kind, "__array_finalize__")
            else _tensor
        )
    if issubclass(kind, Number):
        return _number
    if issubclass(kind, str | bytes | bytearray | memoryview):
        return _length
    if issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind):
        return _model
    if kind is list or kind is tuple:  # not a named tuple, whose fields have a schema, and may be hidden
        return _sequence
    if issubclass(kind, Mapping | Set | list | tuple):
        return _count
    if hasattr(kind, "columns") and hasattr(kind, "num_rows"):
        return _table
    if hasattr(kind, "columns") and hasattr(kind, "shape"):
        return _frame
    if hasattr(kind, "shape") and hasattr(kind, "dtype"):
        return _tensor
    return _opaque


def _class_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
