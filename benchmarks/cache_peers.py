"""Caches for the duties that few peers have: coroutine functions, arrays, rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import async_lru
import joblib
import numpy as np
import numpy.typing as npt
from cashews import Cache as Cashews

__all__ = ["ASYNCHRONOUS", "by_hand", "on_disk"]

_cashews = Cashews()
_cashews.setup("mem://?size=10000")
_folder = tempfile.TemporaryDirectory(prefix="mlguard-benchmark-")

ASYNCHRONOUS: dict[str, Callable[..., Any]] = {
    "cashews, memory": _cashews(ttl="1h", key="score:{amount}:{count}"),
    "async-lru": async_lru.alru_cache(maxsize=10_000, ttl=3600),
}
"""A result kept for an hour; cashews tells 1 from 1.0 by their text, async-lru not at all."""

on_disk: Callable[..., Any] = joblib.Memory(_folder.name, verbose=0).cache
"""joblib.Memory: the one peer whose key of an array is right; it lies on disk."""


def by_hand(function: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Callable[..., Any]:
    """What a careful user writes: a dict by the bytes of each row, no bounds, no expiry, no threads."""
    seen: dict[bytes, Any] = {}

    def wrapper(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        keys = [row.tobytes() for row in x]
        missing = [place for place, key in enumerate(keys) if key not in seen]
        if missing:
            for place, result in zip(missing, function(x[missing]), strict=True):
                seen[keys[place]] = result
        return np.array([seen[key] for key in keys])

    return wrapper
