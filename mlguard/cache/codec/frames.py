"""Tables as parts the codec can write: pandas column by column, polars and pyarrow by their own Arrow format.

None of the three is ever imported here: a value of theirs proves that they are there, and so does a reader who works
with them. Without them a table is a miss.
"""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import numpy as np

from mlguard.cache.codec.errors import Unencodable

__all__ = ["frame_of", "frame_parts"]

_Split = Callable[[Any], tuple[int, tuple[Any, ...]]]


def frame_parts(cls: type) -> _Split | None:
    """How to take tables of exactly this class apart; None: it is no table."""
    home = cls.__module__.partition(".")[0]
    kind = _KINDS.get((home, cls.__name__))
    if kind is None or getattr(sys.modules.get(home), cls.__name__, None) is not cls:
        return None
    return functools.partial(_split, kind)


def frame_of(kind: int, parts: list[Any]) -> Any:
    """The table that was taken apart.

    Raises:
        ValueError: These parts make none, or its package is not imported here.
    """
    home, _ = _NAMES[kind]
    package = sys.modules.get(home)
    if package is None:
        raise ValueError(f"{home} is not imported")
    try:
        return _JOIN[kind](package, *parts)
    except Exception:
        raise
    except BaseException as error:  # polars panics with an exception that is none
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("polars can't read it") from None


def _split(kind: int, value: Any) -> tuple[int, tuple[Any, ...]]:
    return kind, _SPLIT[kind](value)


# pandas. Layout in memory (blocks, strides) is not part of a frame's value; everything else that two frames can differ
# in is written, or refused.


def _pandas_frame(value: Any) -> tuple[Any, ...]:
    _refuse_attributes(value)
    columns = tuple(_column(value.iloc[:, place].array, str(name)) for place, name in enumerate(value.columns))
    return _index(value.index), _index(value.columns), columns


def _to_pandas_frame(pd: Any, index: Any, names: Any, columns: Any) -> Any:
    index, labels = _to_index(pd, *index), _to_index(pd, *names)
    arrays = [_to_column(pd, *column) for column in columns]
    if any(len(column) != len(index) for column in arrays) or len(arrays) != len(labels):
        raise ValueError("columns of different lengths")
    frame = pd.DataFrame({place: pd.Series(column, index=index, copy=True) for place, column in enumerate(arrays)},
                         index=index)  # fmt: skip
    frame.columns = labels
    return frame


def _pandas_series(value: Any) -> tuple[Any, ...]:
    _refuse_attributes(value)
    return _index(value.index), value.name, _column(value.array, str(value.name))


def _to_pandas_series(pd: Any, index: Any, name: Any, column: Any) -> Any:
    return pd.Series(_to_column(pd, *column), index=_to_index(pd, *index), name=name, copy=True)


def _refuse_attributes(value: Any) -> None:
    if value.attrs or not value.flags.allows_duplicate_labels:
        raise Unencodable(f"a {type(value).__name__} with attrs or flags of its own")


def _index(index: Any) -> tuple[Any, ...]:
    kind = type(index).__name__
    if kind == "RangeIndex":
        return "range", (index.start, index.stop, index.step), index.name
    if kind == "MultiIndex":
        codes = tuple(np.asarray(code) for code in index.codes)
        return "multi", (tuple(_index(level) for level in index.levels), codes), tuple(index.names)
    if kind in ("DatetimeIndex", "TimedeltaIndex") and index.freq is not None:
        return "freq", (_column(index.array, "the index"), index.freqstr), index.name
    if kind in ("Index", "DatetimeIndex", "TimedeltaIndex", "CategoricalIndex"):
        return "index", _column(index.array, "the index"), index.name
    raise Unencodable(f"a pandas {kind}")


def _to_index(pd: Any, kind: Any, content: Any, name: Any) -> Any:
    if kind == "range":
        return pd.RangeIndex(*content, name=name)
    if kind == "multi":
        levels, codes = content
        return pd.MultiIndex([_to_index(pd, *level) for level in levels], list(codes), names=list(name))
    if kind == "freq":
        column, freq = content
        made = pd.Index(_to_column(pd, *column), name=name)
        made.freq = freq
        return made
    if kind != "index":
        raise ValueError("no index")
    column = _to_column(pd, *content)
    return pd.Index(column, dtype=column.dtype, name=name)


def _column(column: Any, name: str) -> tuple[Any, ...]:
    pd: Any = sys.modules["pandas"]
    dtype = column.dtype
    if type(column).__name__ in _PLAIN and not isinstance(dtype, pd.DatetimeTZDtype):
        values = np.asarray(column)
        return ("objects", values.tolist(), None) if values.dtype.hasobject else ("array", values, None)
    if isinstance(dtype, pd.CategoricalDtype):
        return "category", (np.asarray(column.codes), _index(column.categories)), bool(column.ordered)
    if isinstance(dtype, pd.DatetimeTZDtype):
        # The codec knows how to write a time with its zone, and which zones it can't.
        return "zoned", np.asarray(column.tz_convert("UTC").tz_localize(None)), datetime(2000, 1, 1, tzinfo=dtype.tz)
    if isinstance(dtype, pd.StringDtype):
        strings = [item if isinstance(item, str) else None for item in column.tolist()]
        return "strings", strings, (dtype.storage, dtype.na_value is pd.NA)
    if type(dtype).__name__ in _MASKED:
        missing = np.asarray(column.isna())
        return "masked", (column.to_numpy(dtype.numpy_dtype, na_value=dtype.numpy_dtype.type(0)), missing), None
    raise Unencodable(f"a pandas column {name!r} of dtype {dtype}")


def _to_column(pd: Any, kind: Any, content: Any, more: Any) -> Any:
    if kind == "array":
        return content
    if kind == "objects":
        values = np.empty(len(content), object)
        for place, item in enumerate(content):  # one by one: NumPy would look into lists
            values[place] = item
        return values
    if kind == "category":
        codes, categories = content
        return pd.Categorical.from_codes(codes, _to_index(pd, *categories), ordered=more)
    if kind == "zoned":
        return pd.DatetimeIndex(content).tz_localize("UTC").tz_convert(more.tzinfo).array
    if kind == "strings":
        storage, modern = more
        return pd.array(content, dtype=pd.StringDtype(storage, na_value=pd.NA if modern else np.nan))
    if kind != "masked":
        raise ValueError("no column")
    values, missing = content
    if values.dtype == bool:
        return pd.arrays.BooleanArray(values, missing)
    return (pd.arrays.FloatingArray if values.dtype.kind == "f" else pd.arrays.IntegerArray)(values, missing)


_PLAIN: Final = ("NumpyExtensionArray", "DatetimeArray", "TimedeltaArray")
_MASKED: Final = {"BooleanDtype", "Float32Dtype", "Float64Dtype"} | {
    f"{sign}Int{bits}Dtype" for sign in ("", "U") for bits in (8, 16, 32, 64)
}

# polars and pyarrow


def _polars_frame(value: Any) -> tuple[Any, ...]:
    if any("Object" in str(dtype) for dtype in value.dtypes):
        raise Unencodable("a polars frame with a column of objects")
    buffer = io.BytesIO()
    value.write_ipc(buffer, compression="uncompressed")
    return (buffer.getvalue(),)


def _to_polars_frame(pl: Any, content: Any) -> Any:
    return pl.read_ipc(io.BytesIO(content), use_pyarrow=False)


def _polars_series(value: Any) -> tuple[Any, ...]:
    return value.name, *_polars_frame(value.to_frame())


def _to_polars_series(pl: Any, name: Any, content: Any) -> Any:
    return _to_polars_frame(pl, content).to_series(0).alias(name)


def _arrow_table(value: Any) -> tuple[Any, ...]:
    pa: Any = sys.modules["pyarrow"]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, value.schema) as writer:
        writer.write(value)
    return (sink.getvalue().to_pybytes(),)


def _to_arrow_table(pa: Any, content: Any) -> Any:
    with pa.ipc.open_stream(pa.py_buffer(content)) as stream:
        table = stream.read_all()
    table.validate(full=True)  # the bytes may be anybody's, and Arrow trusts what it is not told to check
    return table


_NAMES: Final = {
    1: ("pandas", "DataFrame"),
    2: ("pandas", "Series"),
    3: ("polars", "DataFrame"),
    4: ("polars", "Series"),
    5: ("pyarrow", "Table"),
}
_KINDS: Final = {name: kind for kind, name in _NAMES.items()}
_SPLIT: Final[dict[int, Callable[[Any], tuple[Any, ...]]]] = {
    1: _pandas_frame, 2: _pandas_series, 3: _polars_frame, 4: _polars_series, 5: _arrow_table,
}  # fmt: skip
_JOIN: Final[dict[int, Callable[..., Any]]] = {
    1: _to_pandas_frame, 2: _to_pandas_series, 3: _to_polars_frame, 4: _to_polars_series, 5: _to_arrow_table,
}  # fmt: skip
