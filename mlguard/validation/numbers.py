"""NumPy scalars in results: each counts as the Python number it equals, alone and in containers of Python's."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["with_python_numbers"]

_DEEPEST = 20


def with_python_numbers(value: Any, _depth: int = 0) -> Any:
    """A copy with Python's numbers in place of NumPy's; the very same object where it holds none.

    Lists, tuples, sets and dicts are looked through, 20 deep; instances of other classes are not.
    """
    if isinstance(value, np.generic):
        return value.item()
    if _depth == _DEEPEST:
        return value
    if isinstance(value, dict):
        entries = [
            (with_python_numbers(key, _depth + 1), with_python_numbers(item, _depth + 1)) for key, item in value.items()
        ]
        pairs = zip(entries, value.items(), strict=True)
        same = all(one is key and other is item for (one, other), (key, item) in pairs)
        return value if same else dict(entries)
    if isinstance(value, list | tuple | set | frozenset):
        items = [with_python_numbers(item, _depth + 1) for item in value]
        if all(one is other for one, other in zip(items, value, strict=True)):
            return value
        kind = type(value)
        return kind(*items) if hasattr(kind, "_fields") else kind(items)
    return value
