"""An `Array` in JSON Schema: nested arrays with sizes and bounds, and beside them what JSON Schema has no word for.

The extra keywords are ``dtype``, ``shape`` and, where the declaration says so, ``columns``, ``finite``, ``allow_nan``,
``monotonic``, ``unique``, ``max_bytes`` and ``strict``; validators of JSON Schema pass over them, `mlguard schema
diff` reads them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mlguard import clock
from mlguard.validation.columns import of_each
from mlguard.validation.declared import per_column

if TYPE_CHECKING:
    from mlguard.validation.array_check import ArrayCheck

__all__ = ["array_schema", "nested", "shape_words"]

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_TYPES = {"b": "boolean", "i": "integer", "u": "integer", "f": "number", "c": "number", "U": "string"}
"""What the values of a kind of dtype are in JSON; bytes and times have no way there."""
_SIZE = {"b": 1, "i": 8, "u": 8, "f": 8, "c": 16, "U": 1}


def array_schema(check: ArrayCheck, dtype: str) -> dict[str, Any]:
    """What JSON may hold for an array.

    Args:
        check: The array, and the dtype its annotation says.
        dtype: The dtype as text.
    """
    array, shape = check.array, check.shape or (...,)
    values = _values(check)
    if ... in shape:
        described: dict[str, Any] = {"type": "array", "values": values[0] if len(values) == 1 else values}
    else:
        described = nested(shape, values)
    described |= {"dtype": dtype, "shape": shape_words(shape)}
    described |= {name: True for name in ("finite", "allow_nan", "strict", "unique") if getattr(array, name)}
    if array.unique and len(shape) == 1 and ... not in shape:
        described["uniqueItems"] = True
    if array.columns is not None:
        described["columns"] = list(array.columns)
    if array.monotonic is not None:
        described["monotonic"] = array.monotonic
    if array.max_bytes is not None:
        described["max_bytes"] = clock.bytes_of(array.max_bytes)
    return described


def shape_words(shape: tuple[Any, ...]) -> list[Any]:
    """The dimensions as JSON: a size, a name, "...", or a range such as ``[1, 512]`` or ``["tokens", 1, null]``."""
    words: list[Any] = []
    for entry in shape:
        if isinstance(entry, tuple):
            name, low, high = entry
            words.append([*([name] if name else []), low, None if high == math.inf else high])
        else:
            words.append("..." if entry is ... else entry)
    return words


def nested(shape: tuple[Any, ...], values: list[dict[str, Any]]) -> dict[str, Any]:
    """Arrays in arrays, one level a dimension.

    Args:
        shape: The dimensions, as the declaration has them or as `shape_words` writes them.
        values: What one value must be; several where each column, an entry along the last dimension, has its own.
    """
    inner = values[0]
    for depth, entry in enumerate(reversed(shape)):
        made: dict[str, Any] = {"type": "array", "items": inner}
        if depth == 0 and len(values) > 1:
            made = {"type": "array", "prefixItems": values, "minItems": len(values), "maxItems": len(values)}
        elif isinstance(entry, int):
            made |= {"minItems": entry, "maxItems": entry}
        elif isinstance(entry, tuple | list):
            low, high = entry[-2], entry[-1]
            made |= {"minItems": low} if low else {}
            made |= {"maxItems": high} if high not in (None, math.inf) else {}
        inner = made
    return inner


def _values(check: ArrayCheck) -> list[dict[str, Any]]:
    array = check.array
    given = {word: getattr(array, name) for name, word in _BOUNDS.items()}
    if not per_column(array):
        return [_value(check, given)]
    count = (
        len(array.columns)
        if array.columns is not None
        else next(len(bound) for bound in given.values() if isinstance(bound, tuple))
    )
    columns = {word: of_each(bound, count, array.columns) for word, bound in given.items()}
    return [_value(check, {word: bounds[number] for word, bounds in columns.items()}) for number in range(count)]


def _value(check: ArrayCheck, bounds: dict[str, Any]) -> dict[str, Any]:
    if check.dtype is not None:
        types = [_TYPES[check.dtype.kind]] if check.dtype.kind in _TYPES else []
    else:  # an abstract type covers whole kinds
        types = list(
            dict.fromkeys(name for kind, name in _TYPES.items() if check.fits(np.dtype(f"{kind}{_SIZE[kind]}")))
        )
        types = [name for name in types if name != "integer" or "number" not in types]
    value: dict[str, Any] = {"type": types[0] if len(types) == 1 else types} if types else {"not": {}}
    whole = None
    if types == ["integer"]:
        whole = check.dtype or next(each for each in map(np.dtype, (np.int64, np.uint64)) if check.fits(each))
    if check.dtype is not None and check.dtype.kind == "U":
        value["maxLength"] = check.dtype.itemsize // 4
    if check.array.categories is not None:
        return {"enum": list(check.array.categories)}
    return value | _bounded(bounds, whole)


def _bounded(bounds: dict[str, Any], whole: np.dtype[Any] | None) -> dict[str, Any]:
    given = {word: bound for word, bound in bounds.items() if bound is not None}
    if whole is not None:  # a number beyond what the integers hold is refused
        least, most = int(np.iinfo(whole).min), int(np.iinfo(whole).max)
        low = given.get("minimum", given.get("exclusiveMinimum"))
        high = given.get("maximum", given.get("exclusiveMaximum"))
        if low is None or low < least:
            given = {"minimum": least} | {word: bound for word, bound in given.items() if "inimum" not in word}
        if high is None or high > most:
            given = {word: bound for word, bound in given.items() if "aximum" not in word} | {"maximum": most}
    return given
