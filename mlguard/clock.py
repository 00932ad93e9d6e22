"""Time and sizes: the one clock everything reads, and the words for durations ("30s") and sizes ("256MiB").

Everything in mlguard that reads the time or sleeps goes through this module's `now`, `sleep` and `sleep_async`, as
`clock.now()`. `mlguard.testing` replaces those three names to make time stand still, and for waits that somebody else
may end the three in `mlguard.resilience.alarms`.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, WithJsonSchema

__all__ = ["Duration", "Size", "bytes_of", "duration_text", "now", "seconds", "size_text", "sleep", "sleep_async"]

now: Callable[[], float] = time.monotonic
"""Seconds on a clock that never goes back, unrelated to the time of day."""

sleep: Callable[[float], object] = time.sleep
"""Waits that many seconds, blocking the thread."""

sleep_async: Callable[[float], Awaitable[object]] = asyncio.sleep
"""Waits that many seconds, letting the event loop run."""

_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "B": 1} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for unit, base in (("B", 1000), ("iB", 1024))
}
_AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")

# Units as people misspell them, in small letters, and what was most likely meant.
_SECONDS_MEANT = {
    "msec": "ms", "msecs": "ms", "millis": "ms", "millisecond": "ms", "milliseconds": "ms",
    "sec": "s", "secs": "s", "second": "s", "seconds": "s",
    "min": "m", "mins": "m", "minute": "m", "minutes": "m",
    "hr": "h", "hrs": "h", "hour": "h", "hours": "h",
    "day": "d", "days": "d",
}  # fmt: skip
_BYTES_MEANT = {
    "byte": "B", "bytes": "B",
    "k": "KiB", "ki": "KiB", "m": "MiB", "mi": "MiB", "g": "GiB", "gi": "GiB", "t": "TiB", "ti": "TiB",
}  # fmt: skip


def seconds(value: float | str) -> float:
    """Seconds from a number of seconds or from "500ms", "30s", "5m", "2h", "1d".

    Raises:
        ValueError: It is neither, or negative, or not finite.
    """
    expected = 'a duration: seconds, or text such as "500ms", "30s", "5m", "2h", "1d"'
    return float(_amount(value, _SECONDS, _SECONDS_MEANT, expected))


def bytes_of(value: int | str) -> int:
    """Bytes from a number of bytes or from "256MiB", "1.5GB".

    Raises:
        ValueError: It is neither, or negative, or not a whole number of bytes.
    """
    expected = 'a size: whole bytes, or text such as "64KiB", "256MiB", "2GB"'
    if isinstance(value, float) and value % 1 != 0:
        raise ValueError(f"must be {expected}")
    return int(_amount(value, _BYTES, _BYTES_MEANT, expected))


def duration_text(value: float) -> str:
    """The shortest words for a duration in seconds, rounded for reading: 0.5 is "500ms", 90 is "90s", 7200 is "2h"."""
    for unit in ("d", "h", "m"):
        if value >= _SECONDS[unit] and value % _SECONDS[unit] == 0:
            return f"{value / _SECONDS[unit]:.0f}{unit}"
    if 0 < value < 0.9995:
        return f"{value * 1000:.3g}ms"
    return f"{value:g}s" if value < 1e5 else f"{value:.0f}s"


def size_text(value: int) -> str:
    """A size in bytes in the largest binary unit that keeps it readable: 268435456 is "256MiB"."""
    for power, prefix in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
        if value >= 1024**power:
            amount = value / 1024**power
            return f"{amount:.4g}{prefix}iB" if amount < 1000 else f"{amount:.0f}{prefix}iB"
    return f"{value}B"


def _amount(value: float | str, units: Mapping[str, float], meant: dict[str, str], expected: str) -> float:
    if isinstance(value, str):
        match = _AMOUNT.fullmatch(value)
        if match is None or match[2] not in units:
            raise ValueError(f"must be {expected}{_hint(match, units, meant)}")
        unit = units[match[2]]
        amount = (
            float(match[1]) * unit if unit >= 1 else float(match[1]) / round(1 / unit)
        )  # 0.7, not 0.7000000000000001
    elif isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise ValueError(f"must be {expected}, not negative")
    else:
        amount = value
    if isinstance(amount, float) and not math.isfinite(amount):
        raise ValueError(f"must be {expected}, and finite")
    return amount


def _hint(match: re.Match[str] | None, units: Mapping[str, float], meant: dict[str, str]) -> str:
    """What a misspelt unit should have been, where that can be said."""
    if match is None:
        return ""
    unit = match[2].lower()
    unit = meant.get(unit) or next((known for known in units if known.lower() == unit), "")
    return f'. For "{match[0].strip()}" write "{match[1]}{unit}"' if unit else ""


Duration: TypeAlias = Annotated[
    float | str,
    BeforeValidator(seconds),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0},
                {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d)?\s*$"},
            ],
            "description": 'Seconds, or text such as "500ms", "30s", "5m", "2h", "1d".',
        }
    ),
]
"""A policy field that holds a duration. Whatever way it is written, it is kept as seconds."""

Size: TypeAlias = Annotated[
    int | str,
    BeforeValidator(bytes_of),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(([KMGT]i?)?B)?\s*$"},
            ],
            "description": 'Bytes, or text such as "64KiB", "256MiB", "2GB".',
        }
    ),
]
"""A policy field that holds a size. Whatever way it is written, it is kept as bytes."""
