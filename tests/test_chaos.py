"""Chaos: what goes wrong is what was asked for, reproducibly, and nothing of it stays."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, NamedTuple

import cloudpickle
import numpy as np
import pandas as pd
import polars as pl
import pytest
from pydantic import BaseModel

from mlguard import (
    Array,
    Breaker,
    CircuitOpenError,
    DeadlineExceededError,
    InvalidOutputError,
    Monitor,
    PolicyError,
    Retry,
    Timeout,
    guarded,
    testing,
)
from mlguard.batch import Batch
from mlguard.memory.parts import Parts
from mlguard.target import Target
from mlguard.testing import changes, chaos, delays, fails, hangs, nan, wrong_shape
from mlguard.testing.faults import misshapen, with_nan


def identity(**sections: Any) -> Any:
    @guarded(**sections)
    def same(x: int) -> int:
        return x

    return same


class TestWhere:
    def test_inside_the_guards(self) -> None:
        """Retry, breaker and validation meet the faults; the event says which."""

        @guarded(retry=Retry(max_retries=2, on_invalid_output=True), monitor=Monitor())
        def row(x: int) -> Annotated[np.ndarray, Array(3, finite=True)]:
            return np.ones(3)

        with (
            testing.instant(),
            testing.capture_events() as events,
            chaos(nan(calls={1}), wrong_shape(calls={2}), on=row) as met,
        ):
            assert row(1).tolist() == [1, 1, 1]
            assert row(1).shape == (3,)
        assert met.met == {"nan": 1, "wrong_shape": 1}
        assert met.attempts.total() == 4
        assert [event.get("mlguard.chaos") for event in events] == ["wrong_shape", None]
        assert events[0]["mlguard.attempts"] == 3

    def test_by_function_or_all(self) -> None:
        """Only the functions named meet it; without names all do, also those decorated meanwhile."""
        one, other = identity(), identity()
        with chaos(fails(KeyError), on=[one]):
            with pytest.raises(KeyError):
                one(1)
            assert other(1) == 1
        with chaos(fails(KeyError)):
            for function in (one, other, identity()):
                with pytest.raises(KeyError):
                    function(1)
        assert one(1) == other(1) == 1

    def test_nested(self) -> None:
        """Two at once add up, and each leaves by itself."""
        one = identity()
        with chaos(changes(lambda x, chance: x + 1), on=one):
            with chaos(changes(lambda x, chance: x * 10), on=one):
                assert one(1) == 20
            assert one(1) == 2
        assert one(1) == 1

    def test_everything_that_calls_it(self) -> None:
        """`f.guard.call`, methods, functions not bound yet and those whose guards are off meet it as well."""

        class Model:
            @guarded
            def predict(self, x: int) -> int:
                return x

        one = identity()
        assert one.guard.call(1).value == 1
        with chaos(fails(KeyError)), pytest.raises(KeyError):
            one.guard.call(1)
        with chaos(fails(KeyError), on=Model.predict), pytest.raises(KeyError):
            Model().predict(1)
        with testing.disabled(), chaos(fails(KeyError), on=one), pytest.raises(KeyError):
            one(1)

        @guarded
        def later(x: Later) -> int:  # noqa: F821
            return x  # type: ignore[return-value]

        globals()["Later"] = int
        with chaos(changes(lambda x, chance: x + 1), on=later):
            assert later(1) == 2
        assert later(1) == 1

    async def test_coroutines_and_streams(self) -> None:
        """All four kinds of function; on streams after as many items as told."""

        @guarded(retry=Retry(max_retries=1))
        async def work(x: int) -> int:
            return x

        @guarded
        def items() -> Iterator[int]:
            got = yield 1
            yield got or 2
            return 9

        @guarded
        async def async_items() -> AsyncIterator[int]:
            yield 1
            yield 2

        with testing.instant(), chaos(fails(calls={1}), on=work):
            assert await work(1) == 1
        with chaos(changes(lambda item, chance: -item, after=1)):
            assert list(items()) == [1, -2]
            assert [item async for item in async_items()] == [1, -2]
            assert await work(3) == -3
        with chaos(fails(TimeoutError, after=1), on=[items, async_items]):
            stream, async_stream = items(), async_items()
            assert next(stream) == await anext(async_stream) == 1
            with pytest.raises(TimeoutError):
                next(stream)
            with pytest.raises(TimeoutError):
                await anext(async_stream)
        with chaos(delays(0, calls={99}), on=items):
            stream = items()
            assert next(stream) == 1
            assert stream.send(7) == 7


class TestWhen:
    def test_by_rate_under_a_seed(self) -> None:
        """About the share asked for, the same for the same seed, another for another."""

        def run(seed: int) -> list[bool]:
            one, came = identity(), []
            with chaos(fails(rate=0.3), nan(rate=0.1), on=one, seed=seed):
                for x in range(400):
                    try:
                        came.append(one(x) == x)
                    except (ConnectionError, InvalidOutputError):
                        came.append(False)
            return came

        assert run(1) == run(1) != run(2)
        assert 0.52 < sum(run(1)) / 400 < 0.68

    def test_by_schedule(self) -> None:
        """Attempts by number, and times since the start."""
        one = identity()

        def outcomes(count: int) -> list[bool]:
            came = []
            for _ in range(count):
                try:
                    one(1)
                    came.append(True)
                except ConnectionError:
                    came.append(False)
            return came

        with chaos(fails(calls=range(2, 4)), on=one):
            assert outcomes(5) == [True, False, False, True, True]
        with testing.FakeClock() as time, chaos(fails(during=("10s", "20s")), on=one):
            assert outcomes(1) == [True]
            time.advance(10)
            assert outcomes(1) == [False]
            time.advance(10)
            assert outcomes(1) == [True]

    def test_threads_meet_the_same(self) -> None:
        """With threads the same attempts fail in all; with a key, each call meets its own fault whatever the order."""
        one = identity()

        def run(key: Any, workers: int) -> tuple[set[int], int]:
            def call(x: int) -> int | None:
                try:
                    return one(x)
                except ConnectionError:
                    return None

            with chaos(fails(rate=0.2), on=one, seed=5, key=key) as met, ThreadPoolExecutor(workers) as pool:
                came = set(pool.map(call, range(300)))
            return came, met.met.total()

        by_key, met = run(lambda x: x, 8)
        assert (by_key, met) == run(lambda x: x, 1)
        assert run(None, 8)[1] == run(None, 1)[1]

    def test_the_plan_can_be_asked(self) -> None:
        """What an attempt will meet follows from seed, key and number alone."""
        one = identity()
        with chaos(fails(rate=0.5), on=one, seed=3, key=lambda x: f"call {x}") as met:
            for x in range(20):
                planned = met.drawn(f"call {x}", 1)
                try:
                    one(x)
                    assert planned is None
                except ConnectionError:
                    assert planned == "fails: ConnectionError"


class TestWaits:
    def test_delays_are_pauses(self) -> None:
        """`FakeClock` takes them, `instant` skips them, and otherwise they take their time."""
        one = identity()
        with testing.FakeClock() as fake, chaos(delays("3s"), on=one):
            one(1)
            assert fake.sleeps == [3]
        with testing.instant(), chaos(hangs(), on=one):
            assert one(1) == 1
        started = time.monotonic()
        with chaos(delays("20ms"), on=one):
            one(1)
        assert time.monotonic() - started >= 0.02

    async def test_hangs(self) -> None:
        """A coroutine that hangs is cancelled; what still hangs at the end of the chaos goes on."""

        @guarded(timeout=Timeout(attempt="20ms"))
        async def limited(x: int) -> int:
            return x

        @guarded
        async def unlimited(x: int) -> int:
            return x

        blocking = identity()
        came: list[int] = []
        with chaos(hangs()):
            with pytest.raises(DeadlineExceededError):
                await limited(1)
            task = asyncio.create_task(unlimited(2))
            thread = threading.Thread(target=lambda: came.append(blocking(3)))
            thread.start()
            await asyncio.sleep(0.02)
            assert not task.done()
            assert thread.is_alive()
        assert await asyncio.wait_for(task, 1) == 2
        await asyncio.to_thread(thread.join, 1)
        assert came == [3]

    def test_a_dependency_that_dies_and_comes_back(self) -> None:
        """The breaker opens while it is dead and closes when it is back, on a clock that nobody waits for."""
        one = identity(breaker=Breaker(minimum_calls=5, open_for="10s"))
        with testing.FakeClock() as time, chaos(fails(during=("10s", "30s")), on=one) as met:
            states = []
            for _ in range(60):
                with contextlib.suppress(ConnectionError, CircuitOpenError):
                    one(1)
                states.append(one.guard.stats()["breaker"]["state"])
                time.advance(1)
        assert states[9] == "closed"
        assert "open" in states
        assert states[41] == "closed"
        assert met.met.total() < 20


class Point(NamedTuple):
    x: float
    name: str


@dataclasses.dataclass(frozen=True)
class Score:
    name: str
    value: float


class Answer(BaseModel):
    name: str
    scores: list[float]


class TestResults:
    @pytest.mark.parametrize(
        "value",
        [
            1.5, 3, np.float32(1), [1.0, 2.0], (1, 2), {"a": 1.0, "b": "x"}, Point(1.0, "a"), Score("a", 1.0),
            Answer(name="a", scores=[1.0]), np.ones(30), np.ones((4, 5), np.float32), np.ones(3, int), np.array(1.0),
            pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), pl.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
            [{"deep": (1.0, "x")}],
        ],
        ids=lambda value: type(value).__name__,
    )  # fmt: skip
    def test_nan_of_everything(self, value: Any) -> None:
        """Something becomes NaN, the rest and the original stay as they were, the type where it can."""
        before = repr(value)
        changed = with_nan(value, random.Random(1))
        assert repr(value) == before
        assert "nan" in repr(changed).lower()
        if not isinstance(value, int | np.generic):
            assert type(changed) is type(value)

    def test_nan_in_a_tenth_of_an_array(self) -> None:
        """A tenth of the elements, at least one; what has no numbers becomes NaN itself."""
        assert np.isnan(with_nan(np.ones(95), random.Random(1))).sum() == 10
        assert with_nan(np.ones((2, 2), np.float32), random.Random(1)).dtype == np.float32
        assert with_nan(np.ones(0), random.Random(1)).size == 0
        assert math.isnan(with_nan("text", random.Random(1)))
        assert math.isnan(with_nan(np.array(["a"]), random.Random(1)))
        assert math.isnan(with_nan([], random.Random(1)))
        assert with_nan(pd.DataFrame({"b": ["x"]}), random.Random(1)).shape == (1, 1)
        assert with_nan(pl.DataFrame({"b": ["x"]}), random.Random(1)).shape == (1, 1)

    @pytest.mark.parametrize(
        ("value", "shape"),
        [
            (np.ones((3, 4)), [(2, 4), (3, 3)]), (np.array(1.0), [(1,)]), (np.ones(0), [(1, 0)]),
            ([1, 2], [(1,)]), ((1, 2, 3), [(2,)]), ([], [(1, 0)]), (1.0, [(1,)]),
            (pd.DataFrame({"a": [1], "b": [2]}), [(1, 1)]), (pl.DataFrame({"a": [1], "b": [2]}), [(1, 1)]),
        ],
    )  # fmt: skip
    def test_wrong_shapes(self, value: Any, shape: list[tuple[int, ...]]) -> None:
        """One row, column or item is missing; what has none comes in a list."""
        assert np.shape(misshapen(value, random.Random(1))) in shape

    def test_missing_fields(self) -> None:
        """A dict, a model and a dataclass lack a field."""
        for value in ({"a": 1, "b": 2}, Answer(name="a", scores=[1.0]), Score("a", 1.0)):
            assert len(misshapen(value, random.Random(1))) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: chaos(), "has no faults"),
        (lambda: chaos(ConnectionError), "takes faults, not"),
        (lambda: chaos(fails(rate=0.7), nan(rate=0.7)), "add up to 1.4"),
        (lambda: chaos(fails(), on=len), "about guarded functions"),
        (lambda: fails(rate=2), "is no share"),
        (lambda: fails(during=("3s", "1s")), "is no time"),
        (lambda: fails(during=1), "is no time"),
        (lambda: fails(after=-1), "after = -1"),
        (lambda: fails("text"), "takes an exception"),
        (lambda: fails(int), "takes an exception"),
        (lambda: changes(None), "takes a function"),
    ],
)
def test_refused(make: Any, message: str) -> None:
    """What could never happen is refused with the fix."""
    with pytest.raises(PolicyError, match=f"{message}.*Fix"):
        make()


def test_errors_as_given() -> None:
    """An instance is raised as it is, a callable is asked for each."""
    one, kept = identity(), KeyError("kept")
    with chaos(fails(kept, calls={1}), fails(lambda: ValueError("made")), on=one):
        with pytest.raises(KeyError) as caught:
            one(1)
        assert caught.value is kept
        with pytest.raises(ValueError, match="made"):
            one(1)


class TestOnStreams:
    def test_what_is_thrown_in_arrives(self) -> None:
        """A struck generator is still the user's: what its consumer throws reaches it."""

        @guarded
        def items() -> Iterator[str]:
            try:
                yield "one"
            except KeyError:
                yield "caught"

        with chaos(changes(lambda item, chance: item.upper()), on=items):
            stream: Any = items()
            assert [next(stream), stream.throw(KeyError())] == ["ONE", "caught"]

    async def test_what_is_thrown_in_arrives_async(self) -> None:
        """So is a struck async generator."""

        @guarded
        async def items() -> AsyncIterator[str]:
            try:
                yield "one"
            except KeyError:
                yield "caught"

        with chaos(changes(lambda item, chance: item.upper()), on=items):
            stream: Any = items()
            assert [await anext(stream), await stream.athrow(KeyError())] == ["ONE", "caught"]
            await stream.aclose()

    async def test_a_clients_stream_is_closed(self) -> None:
        """What a coroutine function returned is closed after its chaos as without it, and struck at its end as well."""
        closed = []

        class Client:
            async def items(self) -> AsyncIterator[int]:
                try:
                    yield 1
                    yield 2
                finally:
                    closed.append(1)

        @guarded
        async def chat() -> AsyncIterator[int]:
            return Client().items()

        with chaos(changes(lambda item, chance: -item, after=1), on=chat):
            stream: Any = await chat()
            assert [await anext(stream), await anext(stream)] == [1, -2]
            await stream.aclose()
        assert closed == [1]
        with chaos(fails(KeyError, after=2), on=chat), pytest.raises(KeyError):
            _ = [item async for item in await chat()]
        assert closed == [1, 1]

    async def test_after_where_nothing_streams(self) -> None:
        """A coroutine function without items meets such a fault when it has run: what is counted has happened."""
        with chaos(fails(KeyError, after=3)) as met:

            @guarded
            async def one() -> int:
                return 1

            with pytest.raises(KeyError):
                await one()
        assert met.met.total() == 1


class TestAgain:
    def test_entered_again(self) -> None:
        """A chaos that is entered again strikes as it did the first time, and never twice at once."""
        one = identity()
        faults = chaos(fails(KeyError, calls={2}), on=one)
        for _ in range(2):
            with faults:
                assert one(1) == 1
                with pytest.raises(KeyError):
                    one(1)
                with pytest.raises(PolicyError, match="at work already"), faults:
                    raise AssertionError
            assert (faults.met.total(), faults.attempts.total()) == (1, 2)

    def test_pickled_meanwhile(self) -> None:
        """A function that is pickled by value while chaos is at work is whole where it arrives."""
        one = identity()
        with chaos(fails(KeyError), on=one):
            there = cloudpickle.loads(cloudpickle.dumps(one))
            assert there(3) == 3
        assert there(4) == 4

    def test_parts_of_a_batch(self) -> None:
        """A call that the memory guard runs in parts meets its faults in each of them."""
        target = Target(lambda x: x)
        parts = Parts(target, Batch(target, "x"), lambda args, kwargs: 1)
        target.inside = lambda x: -x
        assert parts.call((2,), {}) == -2
        assert parts.in_parts(None)(2) == -2
