"""A prediction as a record may hold it: JSON, bounded, and honest about what was left out.

What is longer than its bound becomes ``{"first": ..., "of": n}``: the beginning, and how much there was; of an array
``of`` is its shape. What can't be shown as values, such as a tensor on a device, becomes ``{"type": ...}``, with shape
and dtype where there are any. Hidden fields of models are ``"[redacted]"``; whether all is hidden, the caller knows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from enum import Enum
from itertools import islice
from typing import Any, Final

from pydantic import Secret, SecretBytes, SecretStr

from mlguard.monitor.redaction import HIDDEN, fields_of, held_by

__all__ = ["DEPTH", "TEXT", "VALUES", "outputs"]

VALUES: Final = 256
"""Numbers, texts and the like that one prediction may hold: a batch of 256 scores, or 25 rows of ten probabilities."""

TEXT: Final = 1_000
"""Characters of one text."""

DEPTH: Final = 6
"""How deep lists and models may lie in each other."""

_KEY = 100  # characters of a key
_CHARACTERS = 8_000  # of all texts and keys of one prediction


def outputs(result: Any) -> Any:
    """What `record_outputs` adds to an event: the prediction as JSON, never more than about 16 KB of it.

    Numbers, booleans and None stand for themselves (`"nan"`, `"inf"` and `"-inf"` as text, integers beyond 64 bits as
    text); text up to `TEXT` characters; arrays, lists, dicts, tables, models and dataclasses up to `VALUES` values in
    all. It keeps no reference to the result, and never raises.
    """
    try:
        return _Writer().of(result, 0)
    except Exception:  # a container of the user's that fails when it is looked through
        return {"type": _class_name(type(result))}


class _Writer:
    """One prediction on its way to JSON, with what is left of its bounds."""

    def __init__(self) -> None:
        self._values = VALUES
        self._characters = _CHARACTERS

    def of(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            self._values -= 1
            return None if value is None else bool(value)
        if isinstance(value, Enum):
            return self.of(value.value, depth)
        if isinstance(value, int):
            self._values -= 1
            return int(value) if -(2**63) <= value < 2**64 else self._text(_digits(value))
        if isinstance(value, float):
            self._values -= 1
            return float(value) if math.isfinite(value) else str(float(value))
        if isinstance(value, str):
            self._values -= 1
            return self._text(value)
        if isinstance(value, SecretStr | SecretBytes | Secret):
            return HIDDEN
        if isinstance(value, bytes | bytearray | memoryview):
            return {"type": _class_name(type(value)), "length": len(value)}
        if depth >= DEPTH:
            return {"type": _class_name(type(value))}
        return self._container(value, depth)

    def _container(self, value: Any, depth: int) -> Any:
        if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
            return self._array(value, depth)
        if hasattr(value, "detach") and str(getattr(value, "device", "")) == "cpu":
            return self._array(value.detach().numpy(), depth)
        if isinstance(value, Mapping):
            return self._pairs(((self._key(key), item) for key, item in value.items()), len(value), depth)
        if isinstance(value, list | tuple | Set):
            return self._items(value, depth)
        fields = fields_of(type(value))
        if fields:
            pairs = ((name, HIDDEN if hidden else held_by(value, name)) for name, hidden in fields)
            return self._pairs(pairs, len(fields), depth)
        if hasattr(value, "columns") and hasattr(value, "shape"):
            return self._table(value, depth)
        if hasattr(value, "to_list") and hasattr(value, "head"):  # a column of pandas or polars
            shown = self._items(value.head(max(1, self._values)).to_list(), depth)
            return shown if isinstance(shown, dict) or len(shown) == len(value) else {"first": shown, "of": len(value)}
        return _described(value)

    def _items(self, value: Any, depth: int) -> Any:
        shown: list[Any] = []
        for item in value:
            if self._values <= 0 or self._characters <= 0:
                return {"first": shown, "of": len(value)}
            shown.append(self.of(item, depth + 1))
        return shown

    def _pairs(self, pairs: Any, count: int, depth: int) -> Any:
        shown: dict[str, Any] = {}
        for key, item in pairs:
            if self._values <= 0 or self._characters <= 0:
                return {"first": shown, "of": count}
            shown[key] = self.of(item, depth + 1)
        return shown

    def _array(self, value: Any, depth: int) -> Any:
        """Only what is shown is turned into Python objects, whatever the size of the rest."""
        if value.dtype.kind not in "biufUSMmO" or value.dtype.kind == "O":
            return _described(value)
        if not value.shape:
            return self.of(value.item() if value.dtype.kind not in "Mm" else str(value), depth)
        if value.size <= self._values:
            return self._numbers(value)
        row = math.prod(value.shape[1:])
        rows = max(1, self._values // row) if row else 0
        cut = value[:rows]
        if row > self._values:  # one row alone is too much
            cut = cut.reshape(-1)[: self._values]
        return {"first": self._numbers(cut), "of": list(value.shape)}

    def _numbers(self, value: Any) -> Any:
        self._values -= value.size
        kind = value.dtype.kind
        if kind in "USMm":
            return _each(value.astype(str).tolist(), self._text)
        if value.dtype.itemsize > 8:  # tolist() leaves wider floats as numpy's own
            value = value.astype("float64")
        return value.tolist() if kind != "f" else _each(value.tolist(), lambda x: x if math.isfinite(x) else str(x))

    def _table(self, value: Any, depth: int) -> Any:
        rows, columns = (int(length) for length in value.shape)
        shown = max(1, self._values // max(1, columns))
        head = value.head(shown) if hasattr(value, "head") else value.slice(0, shown)
        names = getattr(value, "column_names", None) or list(value.columns)
        by_name = ((self._key(name), _column(head, name)) for name in islice(names, self._values))
        table = self._pairs(by_name, columns, depth)
        return table if rows <= shown else {"first": table, "of": [rows, columns]}

    def _text(self, text: str) -> Any:
        most = min(TEXT, max(0, self._characters))
        self._characters -= min(len(text), most)
        return str(text[:most]) if len(text) <= most else {"first": str(text[:most]), "of": len(text)}

    def _key(self, key: Any) -> str:
        text = str(key[:_KEY]) if isinstance(key, str) else str(key)[:_KEY] if isinstance(key, int) else "*"
        self._characters -= len(text)
        return text


def _column(head: Any, name: Any) -> list[Any]:
    column = head[name]
    return list(column.to_pylist() if hasattr(column, "to_pylist") else column.to_list())


def _each(nested: Any, change: Any) -> Any:
    return [_each(item, change) for item in nested] if isinstance(nested, list) else change(nested)


def _digits(number: int) -> str:
    return str(number) if number.bit_length() <= 1_024 else f"an integer of {number.bit_length()} bits"


def _described(value: Any) -> dict[str, Any]:
    said: dict[str, Any] = {"type": _class_name(type(value))}
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple):
        said["shape"] = [int(length) for length in shape]
        said["dtype"] = str(dtype)[:_KEY]
    return said


def _class_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
