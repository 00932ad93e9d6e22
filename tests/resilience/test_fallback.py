"""Fallback: a safe value, held to the schema, and never for what it must not hide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import cloudpickle
import numpy as np
import pytest

from mlguard.context import Call
from mlguard.errors import CircuitOpenError, InvalidInputError, InvalidOutputError, PolicyError
from mlguard.resilience import Fallback, SafeDefault
from mlguard.streams import opened_fallback, opened_fallback_async
from mlguard.target import Target

INPUT = InvalidInputError.of("f", [{"type": "missing", "loc": ("x",), "msg": "Field required"}])


def predict(x: float, *, y: float = 0.0) -> float:
    raise ConnectionError("no")


async def predict_async(x: float) -> float:
    raise ConnectionError("no")


def positive(this: Call | None, value: Any, dims: Any) -> None:
    """An output check: a number that is not negative."""
    if not isinstance(value, int | float) or value < 0:
        raise InvalidOutputError.of("predict", [{"type": "ge", "loc": ("return",), "msg": "must not be negative"}])


class Unpicky:
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("no copies")


class AsyncMaker:
    async def __call__(self, x: float) -> float:
        return x


class TestValue:
    @pytest.mark.parametrize("value", [None, 0.5, "text", (1, 2)])
    def test_given_as_it_is(self, guard: Any, value: Any) -> None:
        """The caller gets the value, None included, and the record says that it is degraded."""
        call = guard(predict, Fallback(value=value))
        assert call(1.0) == value
        this = call.state.last
        assert this.degraded
        assert this.disposition == "fallback"
        assert this.facts == {"error.type": "ConnectionError"}
        assert call.rooms.fallback.stats() == {"answered": 1}
        call.rooms.fallback.reset()
        assert call.rooms.fallback.stats() == {"answered": 0}

    def test_callers_cannot_poison_it(self, guard: Any) -> None:
        """Each call gets its own copy of what can be changed, and so does the policy."""
        given = {"scores": np.zeros(2)}
        call = guard(predict, Fallback(value=given))
        call(1.0)["scores"] += 1
        given["scores"] += 1
        assert call(1.0)["scores"].tolist() == [0.0, 0.0]

    def test_success_needs_none(self, guard: Any) -> None:
        """A call that succeeds is not degraded."""
        call = guard(lambda x: x, Fallback(value=0.5))
        assert call(1.0) == 1.0
        assert not call.state.last.degraded

    async def test_async(self, guard: Any) -> None:
        """An async function falls back in the same way."""
        assert await guard(predict_async, Fallback(value=0.5))(1.0) == 0.5


class TestFunction:
    def test_gets_the_arguments(self, guard: Any) -> None:
        """A function is called as the guarded one was, by position where its parameters have other names."""
        call = guard(predict, Fallback(value=lambda a, *, y=0.0: (a, y)))
        assert call(1.0) == (1.0, 0.0)
        assert call(x=2.0, y=3.0) == (2.0, 3.0)

    def test_gets_the_error_where_it_wants_it(self, guard: Any) -> None:
        """A parameter called error receives the exception, unless the guarded function has one of that name."""
        assert str(guard(predict, Fallback(value=lambda x, y=0.0, *, error: error))(1.0)) == "no"

        def with_error(x: float, error: str) -> str:
            raise ConnectionError

        assert guard(with_error, Fallback(value=lambda x, error: error))(1.0, "mine") == "mine"

    def test_arguments_that_do_not_fit_the_function(self, guard: Any) -> None:
        """Invalid input reaches the fallback as it came."""
        call = guard(lambda x: x, Fallback(value=lambda *args, **kwargs: (args, kwargs)))
        assert call(1, z=2) == ((1,), {"z": 2})

    async def test_async_fallback(self, guard: Any) -> None:
        """In an async function the fallback may be asynchronous, plain, or give something to await."""

        async def slower(x: float) -> float:
            await asyncio.sleep(0)
            return -x

        for function in (
            slower,
            lambda x: -x,
            lambda x: slower(x),
            AsyncMaker().__class__.__call__.__get__(AsyncMaker()),
        ):
            assert abs(await guard(predict_async, Fallback(value=function))(1.0)) == 1.0

    def test_another_guarded_function(self, guard: Any) -> None:
        """A fallback may be guarded itself, with its own fallback."""
        inner = guard(predict, Fallback(value=0.25))
        assert guard(predict, Fallback(value=inner))(1.0) == 0.25

    def test_its_own_failure(self, guard: Any) -> None:
        """Where the fallback fails as well, its exception comes out, with the first one as its context."""

        def fails(x: float, y: float = 0.0) -> float:
            raise KeyError("fallback")

        call = guard(predict, Fallback(value=fails))
        with pytest.raises(KeyError) as caught:
            call(1.0)
        assert isinstance(caught.value.__context__, ConnectionError)
        assert not call.state.last.degraded

    def test_written_in_c(self, guard: Any) -> None:
        """A callable without a signature is called all the same."""
        call = guard(lambda x: 1 / 0, Fallback(value=dict))
        assert call([("a", 1)]) == {"a": 1}

    @pytest.mark.parametrize(
        ("function", "fallback", "message"),
        [
            (predict, lambda: 0.0, r"can't be called with the arguments of predict.*Fix: give it the same parameters"),
            (predict, predict_async, "is asynchronous, but a function can't await it. Fix"),
            (predict, AsyncMaker(), "is asynchronous"),
            (predict, lambda x, y: (yield x), "is a generator, but a function gives one value. Fix"),
            (predict, Unpicky(), "can't be copied for each call.*Fix: give a function"),
        ],
        ids=["parameters", "async", "async object", "generator", "no copies"],
    )
    def test_refused(self, function: Any, fallback: Any, message: str) -> None:
        """A fallback that could not stand in is refused at decoration, not when it is needed."""
        with pytest.raises(PolicyError, match=message):
            SafeDefault(Target(function), Fallback(value=fallback), check=None)

    def test_a_coroutine_out_of_a_plain_function(self, guard: Any) -> None:
        """A plain function whose fallback gives a coroutine says so."""
        with pytest.raises(PolicyError, match="gave a coroutine, but nothing here can await it"):
            guard(predict, Fallback(value=lambda x, y=0.0: predict_async(x)))(1.0)


class TestWhen:
    @pytest.mark.parametrize(
        ("error", "answered"),
        [
            (ConnectionError(), True),
            (ValueError(), True),
            (CircuitOpenError("open"), True),
            (INPUT, False),
            (PolicyError("wrong"), False),
            (asyncio.CancelledError(), False),
            (KeyboardInterrupt(), False),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_by_default(self, error: BaseException, answered: bool) -> None:
        """Every failure is answered for but wrong input, cancellation, exits and mistakes in the policy."""
        assert SafeDefault(Target(predict), Fallback(value=0), check=None).covered(error) is answered

    def test_invalid_input_on_request(self) -> None:
        """Validation.on_invalid = "fallback" includes wrong input, also where `on` is narrower."""
        for section in (Fallback(value=0), Fallback(value=0, on="transient")):
            assert SafeDefault(Target(predict), section, check=None, include_invalid_input=True).covered(INPUT)

    def test_only_what_is_named(self) -> None:
        """`on` narrows it to the classes it names."""
        default = SafeDefault(Target(predict), Fallback(value=0, on=("transient", "rejected")), check=None)
        assert default.covered(ConnectionError())
        assert default.covered(CircuitOpenError("open"))
        assert not default.covered(ValueError())
        assert default.explain() == ["Answers with its safe value (of type int) after: rejected, transient."]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "Fallback.value: is required"),
            ({"value": 1, "on": "cancelled"}, "must not hold 'cancelled'"),
            ({"value": 1, "on": ["transiant"]}, "transiant"),
            ({"value": 1, "on": []}, "Fallback.on"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], message: str) -> None:
        """What can't be answered for is refused with the field's name."""
        with pytest.raises(PolicyError, match=message):
            Fallback(**settings)

    async def test_cancellation_passes(self, guard: Any) -> None:
        """A cancelled call gets no value."""

        async def hang(x: float) -> float:
            await asyncio.sleep(10)
            return x

        task = asyncio.ensure_future(guard(hang, Fallback(value=0))(1.0))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


class TestSchema:
    def test_a_fixed_value_that_breaks_it(self) -> None:
        """A fixed value that breaks the output schema is refused at decoration."""
        with pytest.raises(PolicyError, match=r"Fallback.value breaks the function's own output schema"):
            SafeDefault(Target(predict), Fallback(value=-1.0), check=positive)

    def test_a_made_value_that_breaks_it(self, guard: Any) -> None:
        """A function's value is checked with each call, and a wrong one is an InvalidOutputError."""
        call = guard(predict, Fallback(value=lambda x, y=0.0: x), check=positive)
        assert call(1.0) == 1.0
        with pytest.raises(InvalidOutputError):
            call(-1.0)
        assert not call.state.last.degraded


class TestStreams:
    def test_items(self, guard: Any) -> None:
        """A generator that fails before its first item gives the fallback's items, or its one value."""

        def items(x: float) -> Iterator[float]:
            raise ConnectionError
            yield x

        def others(x: float) -> Iterator[float]:
            yield -x
            yield -2 * x

        assert list(guard(items, Fallback(value=others), wrap=opened_fallback)(1.0)) == [-1.0, -2.0]
        assert list(guard(items, Fallback(value=0.5), wrap=opened_fallback)(1.0)) == [0.5]

    async def test_async_items(self, guard: Any) -> None:
        """The same for an async generator."""

        async def items(x: float) -> AsyncIterator[float]:
            raise ConnectionError
            yield x

        async def others(x: float) -> AsyncIterator[float]:
            yield -x

        call = guard(items, Fallback(value=others), wrap=opened_fallback_async)
        assert [item async for item in call(1.0)] == [-1.0]

        def plain(x: float) -> Iterator[float]:
            yield x

        with pytest.raises(PolicyError, match="Fix: make the fallback an async generator"):
            guard(items, Fallback(value=plain), wrap=opened_fallback_async)


class TestRuntime:
    def test_explains_itself(self) -> None:
        """The text names the function, and the failures it answers for."""
        said = SafeDefault(Target(predict), Fallback(value=positive_or_zero), check=None).explain()[0]
        assert said.startswith("Answers with what positive_or_zero() gives after: invalid_output, permanent, rejected,")

    def test_travels(self, guard: Any) -> None:
        """A pickled fallback answers there as it did here."""
        default = SafeDefault(Target(predict), Fallback(value={"a": [1]}), check=None)
        there = cloudpickle.loads(cloudpickle.dumps(default.names(asynchronous=False)))
        assert there["fallback"](None, ConnectionError(), (1.0,), {}, None) == {"a": [1]}


def positive_or_zero(x: float, *, y: float = 0.0) -> float:
    return max(x, 0.0)
