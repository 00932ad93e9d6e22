"""Guarded calls with a monitor and nothing else, made from the real text of call.py, and the lines they write."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import jsonschema
import pytest
import structlog

from mlguard.monitor import Monitor, Reporter
from mlguard.monitor.event import json_schema
from mlguard.specialise import specialise
from mlguard.target import Target
from mlguard.wiring import core_names

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


class Watched:
    """The wrapper of one function, its reporter beside it."""

    def __init__(self, function: Callable[..., Any], reporter: Reporter, **names: Any) -> None:
        target = Target(function)
        self.reporter = reporter
        self.names = {
            **core_names(target, function),
            **reporter.names(asynchronous=target.kind.asynchronous),
            **names,
        }
        flags = {"RECORD": True, "MONITOR": True, "BREAKER": "breaker_enter" in names, "FALLBACK": "covered" in names}
        self.call: Any = FunctionType(specialise(target.kind, flags)["call"], self.names)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)

    def stats(self) -> dict[str, Any]:
        return self.reporter.stats()


class Lines:
    """What was written: every line valid JSON without NaN, every event valid by the schema."""

    def __init__(self) -> None:
        self.out = io.StringIO()

    @property
    def text(self) -> str:
        return self.out.getvalue()

    @property
    def events(self) -> list[dict[str, Any]]:
        events = [json.loads(line, parse_constant=_refuse) for line in self.text.splitlines()]
        for event in events:
            VALIDATOR.validate(event)
            unknown = [key for key in event if key.startswith("mlguard.") and not _declared(key)]
            assert not unknown, f"not declared in event.py: {unknown}"
        return events

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]


def _refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is not JSON")


def _declared(key: str) -> bool:
    import re

    schema = VALIDATOR.schema
    return key in schema["properties"] or any(re.search(pattern, key) for pattern in schema["patternProperties"])


@pytest.fixture(autouse=True)
def _fresh_structlog() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def lines() -> Lines:
    """structlog as services configure it: JSON lines."""
    written = Lines()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(allow_nan=False),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=written.out),
    )
    return written


@pytest.fixture
def watch() -> Callable[..., Watched]:
    """``watch(function, sample_rate=0.1)``: the function under a monitor with these settings."""

    def make(
        function: Callable[..., Any], *, names: dict[str, Any] | None = None, about: Any = None, **settings: Any
    ) -> Watched:
        return Watched(function, Reporter(Target(function), Monitor(**settings), **(about or {})), **(names or {}))

    return make
