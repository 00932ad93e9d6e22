"""Data frames as a cache keeps them: copies that share nothing anybody could write to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, TypeAlias

__all__ = ["FRAMES", "Frame", "HoldsObjectsError"]

Frame: TypeAlias = tuple[Callable[[Any], int], Callable[[Any], Any], Callable[[Any], Any]]
"""How many bytes a frame has, what is kept of it, and a frame of what is kept."""


class HoldsObjectsError(Exception):
    """A frame holds values that a copy of it would share."""


def _pandas_bytes(frame: Any) -> int:
    columns = [frame] if frame.ndim == 1 else [frame.iloc[:, place] for place in range(frame.shape[1])]
    for column in (*columns, frame.index):
        if column.dtype == object and not set(map(type, column.tolist())) <= _CELLS:
            raise HoldsObjectsError("a frame that holds objects")
    if frame.attrs:
        raise HoldsObjectsError("a frame with attrs")
    usage = frame.memory_usage(deep=True)
    return int(usage if frame.ndim == 1 else usage.sum()) + 2_000


def _pandas_copy(frame: Any) -> Any:
    copied = frame.copy(deep=True)
    copied.index = frame.index.copy(deep=True)  # which that leaves shared
    if frame.ndim == 2:
        copied.columns = frame.columns.copy(deep=True)
    return copied


def _polars_bytes(frame: Any) -> int:
    columns = frame.get_columns() if hasattr(frame, "get_columns") else [frame]
    if any(str(column.dtype).startswith("Object") for column in columns):
        raise HoldsObjectsError("a frame that holds objects")
    return int(frame.estimated_size()) + 1_000


def _polars_apart(frame: Any) -> Any:
    """A copy of the content: columns may be views of arrays that somebody still writes to."""
    polars: Any = sys.modules["polars"]
    rows = polars.int_range(len(frame), eager=True)
    return frame.select(polars.all().gather(rows)) if isinstance(frame, polars.DataFrame) else frame.gather(rows)


def _polars_copy(frame: Any) -> Any:
    return frame.clone()  # shares the columns, which nobody can change; a list of columns of its own


def _arrow_bytes(table: Any) -> int:
    return int(table.nbytes)


def _arrow_packed(table: Any) -> Any:
    """All of a table as one buffer: its columns may be views of arrays that somebody still writes to."""
    arrow: Any = sys.modules["pyarrow"]
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def _arrow_table(packed: Any) -> Any:
    return sys.modules["pyarrow"].ipc.open_stream(packed).read_all()


_CELLS: Final = {str, int, float, bool, bytes, type(None)}

FRAMES: Final[dict[tuple[str, str], Frame]] = {
    ("pandas", "DataFrame"): (_pandas_bytes, _pandas_copy, _pandas_copy),
    ("pandas", "Series"): (_pandas_bytes, _pandas_copy, _pandas_copy),
    ("polars", "DataFrame"): (_polars_bytes, _polars_apart, _polars_copy),
    ("polars", "Series"): (_polars_bytes, _polars_apart, _polars_copy),
    ("pyarrow", "Table"): (_arrow_bytes, _arrow_packed, _arrow_table),
}
