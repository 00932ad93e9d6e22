"""Failures that come out of other guarded functions, alone or in groups."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mlguard import Breaker, Concurrency, InvalidInputError, Monitor, Retry, Timeout, guarded, testing

AT_ONCE: dict[str, Any] = {"max_retries": 2, "initial_delay": 0, "max_delay": 0, "budget": None}


@guarded
def strict(x: int) -> int:
    return x


class TestInvalidInputFurtherIn:
    @pytest.mark.parametrize(
        "sections", [{}, {"monitor": Monitor()}, {"breaker": Breaker()}, {"timeout": Timeout(total=9)}]
    )
    def test_the_fallback_answers(self, sections: dict[str, Any]) -> None:
        """What a function hands to another and that refuses is its own failure, so its fallback answers for it."""

        @guarded(fallback=-1, **sections)
        def outer(x: str) -> int:
            return strict(x)  # type: ignore[arg-type]

        assert outer("one") == -1
        with pytest.raises(InvalidInputError):
            outer(1)  # type: ignore[arg-type]

    async def test_async(self) -> None:
        """So it is in a coroutine function, and through a guard in between."""

        @guarded(retry=Retry(**AT_ONCE))
        async def between(x: Any) -> int:
            return strict(x)

        @guarded(fallback=-1)
        async def outer(x: str) -> int:
            return await between(x)

        assert await outer("one") == -1

    def test_event(self) -> None:
        """The event names the class of the failure the same way, whether a fallback answered for it or not."""

        def outer(x: str) -> int:
            return strict(x)  # type: ignore[arg-type]

        with testing.capture_events() as events:
            assert guarded(fallback=-1, monitor=Monitor())(outer)("one") == -1
            with pytest.raises(InvalidInputError):
                guarded(monitor=Monitor())(outer)("one")
        told = [(event["mlguard.disposition"], event["error.type"]) for event in events]
        assert told == [
            ("fallback", "mlguard.errors.InvalidInputError"),
            ("failed", "mlguard.errors.InvalidInputError"),
        ]

    def test_breaker(self) -> None:
        """It does not open the circuit: the callee was not asked."""

        @guarded(breaker=Breaker(minimum_calls=1), fallback=-1)
        def outer(x: str) -> int:
            return strict(x)  # type: ignore[arg-type]

        assert [outer("one") for _ in range(3)] == [-1] * 3
        assert outer.guard.stats()["breaker"]["state"] == "closed"


class TestGroups:
    async def test_retried_together(self) -> None:
        """A group of failures that may pass is retried, as late as the one that asks for the longest pause."""

        class Busy(ConnectionError):
            def __init__(self, retry_after: float) -> None:
                self.retry_after = retry_after

        calls = []

        @guarded(retry=Retry(jitter=False))
        async def both() -> int:
            calls.append(1)
            if len(calls) < 2:
                raise ExceptionGroup("two", [Busy(2), Busy(5)])
            return 7

        with testing.FakeClock() as time:
            assert await both() == 7
        assert time.sleeps == [5.1]

    @pytest.mark.parametrize("on", ["transient", ExceptionGroup, KeyError])
    def test_named(self, on: Any) -> None:
        """Classes in `on` match a group by its own class, or by that of each member."""
        calls = []

        @guarded(retry=Retry(**AT_ONCE, on=on))
        def work(*errors: Exception) -> None:
            calls.append(1)
            raise ExceptionGroup("group", errors)

        for errors, transient, group, key in (
            ((KeyError(),), 1, 3, 3),
            ((KeyError(), ConnectionError()), 1, 3, 1),
            ((ConnectionError(),), 3, 3, 1),
        ):
            calls.clear()
            with pytest.raises(ExceptionGroup):
                work(*errors)
            assert len(calls) == {"transient": transient, ExceptionGroup: group, KeyError: key}[on]

    @pytest.mark.parametrize("on", ["transient", ExceptionGroup])
    async def test_not_multiplied(self, on: Any) -> None:
        """What a task of a group has retried already is not retried around the group: three stay three."""
        calls = []

        @guarded(retry=Retry(**AT_ONCE))
        async def inner() -> None:
            calls.append(1)
            raise ConnectionError

        @guarded(retry=Retry(**AT_ONCE, on=on), monitor=Monitor())
        async def outer() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(inner())

        with pytest.raises(ExceptionGroup):
            await outer()
        assert len(calls) == 3


class TestHostileExceptions:
    def test_the_functions_own_error(self) -> None:
        """Whatever an exception's own class and attributes do, the caller gets it as the function raised it."""

        class Hostile(Exception):
            @property
            def __class__(self) -> Any:
                raise RuntimeError("no class")

            @__class__.setter
            def __class__(self, cls: Any) -> None: ...

            @property
            def __dict__(self) -> Any:  # type: ignore[override]
                raise RuntimeError("no attributes")

        calls = []

        @guarded(
            retry=Retry(**AT_ONCE, on=Hostile),
            breaker=Breaker(),
            concurrency=Concurrency(max_concurrent=1),
            timeout=Timeout(total=9),
        )
        def work() -> None:
            calls.append(1)
            raise Hostile

        caught: Any = None
        try:
            work()
        except BaseException as error:
            caught = type(error)
        assert caught is Hostile
        assert len(calls) == 3
        assert work.guard.stats()["concurrency"]["in_use"] == 0
