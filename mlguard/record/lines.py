"""An event as one line of JSON, whatever it holds."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["LONGEST", "line_of"]

LONGEST: Final = 64 * 1024
"""Bytes of one line. Of an event that makes more, the largest fields are left out, and named."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, check_circular=False).encode
_SHORT = 1_000  # bytes of a field that is kept in any case
_DEEPEST = 50


def line_of(event: dict[str, Any], when: float) -> bytes:
    """The event with its `timestamp` first, as UTF-8 with the newline.

    Args:
        event: Plain JSON data; what JSON can't hold after all is replaced by what it is, never raised over.
        when: Seconds since the epoch, for an event without a `timestamp` of its own.
    """
    if "timestamp" not in event:
        event = {"timestamp": _text_of(when), **event}
    try:
        text = _encode(event)
    except Exception:  # NaN, another object, a circle
        text = _encode(_plain(event, 0))
    line = text.encode("utf-8", "replace")
    return (line if len(line) < LONGEST else _shortened(event)) + b"\n"


def _text_of(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, bool | int | str):
        return value
    if depth < _DEEPEST:
        if isinstance(value, dict):
            return {str(key): _plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [_plain(item, depth + 1) for item in value]
    return type(value).__qualname__


def _shortened(event: dict[str, Any]) -> bytes:
    kept: dict[str, Any] = {}
    left_out: list[str] = []
    room = LONGEST // 2
    for key, value in event.items():
        size = len(_encode(_plain({key: value}, 0)).encode("utf-8", "replace"))
        if size <= _SHORT and size <= room:
            kept[key], room = value, room - size
        elif len(left_out) < 100:
            left_out.append(key[:200])
    kept["mlguard.record.left_out"] = left_out
    return _encode(_plain(kept, 0)).encode("utf-8", "replace")
