"""Profiles of seeded data, detectors without a guard around them, and the drift events they write."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import numpy as np
import pytest
import structlog

from mlguard.drift import Drift, Profile, profile
from mlguard.drift.detector import Detector
from mlguard.drift.event import json_schema
from mlguard.target import Target

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


@pytest.fixture
def random() -> np.random.Generator:
    """Seeded, so that a test that passes keeps passing."""
    return np.random.default_rng(20_261_122)


@pytest.fixture
def reference(random: np.random.Generator) -> Profile:
    """Two numbers, a category and a prediction; 5,000 independent rows."""
    return profile(
        {
            "age": random.integers(18, 91, 5_000),
            "income": random.lognormal(10, 1, 5_000),
            "city": random.choice(["Bern", "Kiel", "Lyon"], 5_000).tolist(),
        },
        random.random(5_000),
    )


@pytest.fixture
def rows(random: np.random.Generator) -> Callable[..., list[tuple[int, float, str]]]:
    """``rows(100, scale=2.0)``: arguments as the reference has them, with incomes scaled."""

    def make(number: int, scale: float = 1.0) -> list[tuple[int, float, str]]:
        return [
            (int(age), float(income) * scale, str(city))
            for age, income, city in zip(
                random.integers(18, 91, number),
                random.lognormal(10, 1, number),
                random.choice(["Bern", "Kiel", "Lyon"], number),
                strict=True,
            )
        ]

    return make


def predict(age: int, income: float, city: str) -> float:
    raise NotImplementedError


@pytest.fixture
def watch() -> Callable[..., Detector]:
    """``watch(profile, function, persistence=1)``: a detector of the function with these settings."""

    def make(reference: Profile, function: Callable[..., Any] = predict, **settings: Any) -> Detector:
        return Detector(Target(function), Drift(profile="profile.json", **settings), reference)

    return make


class Lines:
    """What was written, every drift event held against its schema."""

    def __init__(self) -> None:
        self.out = io.StringIO()

    @property
    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line, parse_constant=_refuse) for line in self.out.getvalue().splitlines()]

    @property
    def drift(self) -> list[dict[str, Any]]:
        found = [event for event in self.all if event["event"] == "mlguard.drift"]
        for event in found:
            VALIDATOR.validate(event)
            unknown = [key for key in event if key.startswith("mlguard.") and key not in VALIDATOR.schema["properties"]]
            assert not unknown, f"not declared: {unknown}"
        return found


def _refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is not JSON")


@pytest.fixture
def lines() -> Iterator[Lines]:
    """structlog as services configure it: JSON lines."""
    written = Lines()
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer(allow_nan=False)],
        logger_factory=structlog.WriteLoggerFactory(file=written.out),
    )
    yield written
    structlog.reset_defaults()
