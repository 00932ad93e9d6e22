"""Calls as a monitor would hand them over, and what a folder holds of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def event(number: int = 0, **fields: Any) -> dict[str, Any]:
    """The event of one call; keys are spelt with ``__`` for the dot."""
    made: dict[str, Any] = {
        "event": "mlguard.call",
        "mlguard.schema_version": 1,
        "code.function.name": "service.predict",
        "mlguard.policy": "realtime",
        "mlguard.call_id": f"id{number:06d}",
        "event.outcome": "success",
        "mlguard.disposition": "executed",
        "mlguard.duration": 0.001 * (number % 100),
        "mlguard.attempts": 1,
        "mlguard.sample_rate": 1.0,
    }
    return made | {key.replace("__", "."): value for key, value in fields.items()}


def failure(number: int = 0, field: str = "patient.features", **fields: Any) -> dict[str, Any]:
    """The event of a call whose input broke its schema."""
    return event(
        number,
        event__outcome="failure",
        mlguard__disposition="rejected_validation",
        error__type="mlguard.errors.InvalidInputError",
        exception__message=f"{field}: must be >= 0",
        mlguard__violations=[{"loc": field, "type": "array_range", "msg": "must be >= 0"}],
        mlguard__violation_count=1,
        **fields,
    )


def stored(folder: Path) -> list[dict[str, Any]]:
    """Everything that can be read in a folder's segments, in the order of their names."""
    lines: list[bytes] = []
    for path in sorted(folder.glob("calls-*")):
        lines += (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).splitlines()
    return [json.loads(line) for line in lines]


def write(path: Path, *events: Mapping[str, Any]) -> Path:
    """A file of events, each at a second of its own unless it says when it was."""
    with path.open("w", encoding="utf-8") as file:
        for number, one in enumerate(events):
            stamped = {"timestamp": f"2026-11-30T10:{number // 60:02d}:{number % 60:02d}.000000Z", **one}
            file.write(json.dumps(stamped, separators=(",", ":"), ensure_ascii=False) + "\n")
    return path
