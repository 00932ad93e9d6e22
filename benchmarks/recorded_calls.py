"""Calls as a monitor records them, made up: for the claims about the record."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

__all__ = ["events"]

_DISPOSITIONS = ("executed", "executed", "cache_hit")
_POLICIES = ("realtime", "batch", "remote")


def events(count: int, *, seed: int = 5) -> Iterator[dict[str, Any]]:
    """So many events of a dozen functions, about 830 bytes a line, one in a hundred with a missing value refused."""
    chance = random.Random(seed)  # noqa: S311 - made-up calls
    when = 1_796_000_000.0
    for number in range(count):
        when += chance.expovariate(20)
        refused = chance.random() < 0.01
        event: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "event": "mlguard.call",
            "mlguard.schema_version": 1,
            "code.function.name": f"service.models.predict_{chance.randrange(12)}",
            "mlguard.policy": chance.choice(_POLICIES),
            "mlguard.policy.fingerprint": "ab7b8ca8a31d",
            "mlguard.model_version": "2026-11",
            "mlguard.call_id": f"1b8c50b88e83{10**9 + number}",
            "event.outcome": "failure" if refused else "success",
            "mlguard.disposition": "rejected_validation" if refused else chance.choice(_DISPOSITIONS),
            "mlguard.duration": round(chance.lognormvariate(-4, 1), 6),
            "mlguard.attempts": 0 if refused else 1,
            "mlguard.sample_rate": 1.0,
        }
        event |= _refusal() if refused else _figures(chance)
        yield event


def _refusal() -> dict[str, Any]:
    said = "must be >= 0: 1 of 6 values are NaN, the first at [1, 1]"
    return {
        "error.type": "mlguard.errors.InvalidInputError",
        "exception.message": f"patient.features: {said}",
        "mlguard.violations": [{"loc": "patient.features", "type": "array_nan", "msg": said}],
        "mlguard.violation_count": 1,
    }


def _figures(chance: random.Random) -> dict[str, Any]:
    features = "mlguard.input.patient.features"
    return {
        f"{features}.shape": [32, 30],
        f"{features}.dtype": "float64",
        f"{features}.bytes": 7_680,
        f"{features}.nulls": 0.0,
        f"{features}.min": round(chance.random(), 6),
        f"{features}.mean": chance.random(),
        f"{features}.max": chance.random() * 9,
        "mlguard.output.shape": [32],
        "mlguard.output.mean": chance.random(),
    }
