"""What the tests of this room share: the real call path with this room's concerns alone, and a clock that obeys."""

from __future__ import annotations

import asyncio
from types import FunctionType, SimpleNamespace
from typing import Any

import pytest

from mlguard import clock
from mlguard.context import Call
from mlguard.resilience import (
    Breaker,
    CircuitBreaker,
    Concurrency,
    Deadlines,
    Fallback,
    Retry,
    Retrying,
    SafeDefault,
    Slots,
    Timeout,
)
from mlguard.specialise import specialise
from mlguard.target import Target
from mlguard.wiring import core_names

_RUNTIMES: dict[type, tuple[str, type]] = {
    Retry: ("RETRY", Retrying),
    Breaker: ("BREAKER", CircuitBreaker),
    Concurrency: ("CONCURRENCY", Slots),
    Timeout: ("TIMEOUT", Deadlines),
    Fallback: ("FALLBACK", SafeDefault),
}


def call_path(function: Any, *sections: Any, record: bool = True, **of_fallback: Any) -> Any:
    """The wrapper that `call.py` becomes for these sections; its attribute `rooms` holds their runtime objects.

    Its attribute `state.last` is the `Call` of the latest call.
    """
    target = Target(function)
    state = SimpleNamespace(last=None)

    def begin() -> Call:
        state.last = Call()
        return state.last

    names = {**core_names(target, function), "begin": begin}
    flags = {"STREAM": target.kind.stream, "RECORD": record}
    rooms = {}
    for section in sections:
        flag, runtime = _RUNTIMES[type(section)]
        options = {"check": None, **of_fallback} if flag == "FALLBACK" else {}
        room = rooms[flag.lower()] = runtime(target, section, **options)
        flags[flag] = True
        names |= room.names(asynchronous=target.kind.asynchronous)
    code = specialise(target.kind, flags)
    wrapper: Any = FunctionType(code["call"], names)
    wrapper.rooms = SimpleNamespace(**rooms)
    wrapper.state = state
    return wrapper


class Clock:
    """Stands still until told, or until somebody sleeps."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.sleeps: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.time += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)
        await asyncio.sleep(0)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    for name in ("now", "sleep", "sleep_async"):
        monkeypatch.setattr(clock, name, getattr(fake, name))
    return fake


@pytest.fixture
def guard() -> Any:
    return call_path


@pytest.fixture
def target() -> Target:
    return Target(predict)


def predict(x: float) -> float:
    """The function most tests guard."""
    return x
