"""The decorator: every form, every kind of function, and what the wrapper keeps of the function it wraps."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import pickle
import subprocess
import sys
import textwrap
import threading
import typing
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Coroutine, Iterator
from typing import Annotated, Any

import cloudpickle
import numpy as np
import pytest
from pydantic import BaseModel, Field

from mlguard import (
    Breaker,
    Cache,
    Concurrency,
    GuardError,
    InvalidInputError,
    Memory,
    Monitor,
    Policy,
    PolicyError,
    Retry,
    Timeout,
    Validation,
    guarded,
    policies,
    testing,
)

EVERYTHING = Policy(
    name="everything",
    timeout=Timeout(total=30),
    cache=Cache(ttl=60),
    retry=Retry(initial_delay=0),
    breaker=Breaker(),
    concurrency=Concurrency(max_concurrent=8),
    memory=Memory(threshold=0.99),
    monitor=Monitor(),
)
STREAM = EVERYTHING.merged({"cache": False})


@guarded(EVERYTHING)
def double(x: int, *, by: float = 2.0) -> float:
    """Doubles."""
    return x * by


@guarded(EVERYTHING)
async def double_later(x: int) -> int:
    await asyncio.sleep(0)
    return x * 2


@guarded(STREAM)
def count(upto: int) -> Iterator[int]:
    yield from range(upto)


@guarded(STREAM)
async def count_later(upto: int) -> AsyncIterator[int]:
    for number in range(upto):
        yield number


class Model:
    @guarded
    def method(self, x: int) -> int:
        return x + 1

    @guarded
    @classmethod
    def outer_class(cls, x: int) -> str:
        return f"{cls.__name__}{x}"

    @classmethod
    @guarded
    def inner_class(cls, x: int) -> str:
        return f"{cls.__name__}{x}"

    @guarded(retry=Retry(max_retries=1))
    @staticmethod
    def outer_static(x: int) -> int:
        return x

    @staticmethod
    @guarded(retry=Retry(max_retries=1))
    def inner_static(x: int) -> int:
        return x

    @guarded
    async def later(self, x: int) -> int:
        return x + 1


def half_of(x: int) -> float:
    return x / 2


class TestForms:
    def test_bare(self) -> None:
        """`@guarded` alone enforces the annotations and nothing else."""

        @guarded
        def half(x: int) -> float:
            return x / 2

        assert half(3) == 1.5
        with pytest.raises(InvalidInputError):
            half("three")
        assert half.guard.policy == Policy()

    def test_policy_object(self) -> None:
        """A Policy given to the decorator is the policy in force."""
        assert double.guard.policy is EVERYTHING

    def test_sections(self) -> None:
        """Sections may be given without a policy, and annotations are still enforced."""
        calls = []

        @guarded(retry=Retry(max_retries=2, initial_delay=0, jitter=False))
        def flaky(x: int) -> int:
            calls.append(x)
            if len(calls) < 3:
                raise ConnectionError
            return x

        assert flaky("7") == 7
        assert calls == [7, 7, 7]

    def test_named_with_overrides(self) -> None:
        """A name stands for its policy, and a section given beside it merges only what it sets."""
        policies.define("guard_test", Policy(retry=Retry(max_retries=7, initial_delay=3), memory=Memory()))

        @guarded("guard_test", retry=Retry(max_retries=1), memory=False)
        def f(x: int) -> int:
            return x

        assert f.guard.policy.retry is not None
        assert (f.guard.policy.retry.max_retries, f.guard.policy.retry.initial_delay) == (1, 3)
        assert f.guard.policy.memory is None
        assert f.guard.policy.name == "guard_test"

    def test_unknown_name(self) -> None:
        """A name nobody defined is refused at the first call, with the nearest one that exists."""
        policies.define("realtime_test", Policy())
        guarded("realtime_tset")(half_of)
        with pytest.raises(PolicyError, match="realtime_test"):
            guarded("realtime_tset")(half_of)(1)

    def test_a_name_binds_at_the_first_call(self) -> None:
        """The policy may be defined after the function, and the function says what it is once it is bound."""
        late = guarded("late_test")(half_of)
        policies.define("late_test", Policy(retry=Retry(max_retries=7)))
        assert late(3) == 1.5
        assert late.guard.policy.retry is not None
        assert late.guard.policy.retry.max_retries == 7

    @pytest.mark.parametrize("name", ["Realtime", "real-time", "", "mlguard:", "other:realtime"])
    def test_what_can_be_no_name_is_refused_at_decoration(self, name: str) -> None:
        """A name that no policy could ever have is told at once."""
        with pytest.raises(PolicyError, match="can't be the name of a policy"):
            guarded(name)

    def test_validation_off(self) -> None:
        """`validation=False` lets everything through as it is."""

        @guarded(validation=False)
        def same(x: int) -> int:
            return x

        assert same("text") == "text"  # type: ignore[arg-type]

    def test_fallback_none_is_a_value(self) -> None:
        """`fallback=None` falls back to None; leaving it out lets the exception through."""

        @guarded(fallback=None)
        def broken(x: int) -> Any:
            raise ConnectionError

        assert broken(1) is None

    @pytest.mark.parametrize("policy", [3, object(), {"retry": {}}])
    def test_wrong_policy(self, policy: Any) -> None:
        """What is neither a policy nor the name of one is refused with the ways it can be written."""
        with pytest.raises(PolicyError, match="Policy or the name"):
            guarded(policy)


class TestKinds:
    def test_each_kind_stays_its_kind(self) -> None:
        """Frameworks that branch on inspect see the kind of function they saw before."""
        assert inspect.isfunction(double)
        assert not inspect.iscoroutinefunction(double)
        assert inspect.iscoroutinefunction(double_later)
        assert inspect.isgeneratorfunction(count)
        assert inspect.isasyncgenfunction(count_later)
        assert inspect.iscoroutinefunction(Model.later)

    def test_results(self) -> None:
        """With every concern on, each kind returns what the function returns."""

        async def items() -> list[int]:
            return [item async for item in count_later(3)]

        assert double(2) == 4
        assert asyncio.run(double_later(2)) == 4
        assert list(count(3)) == [0, 1, 2]
        assert asyncio.run(items()) == [0, 1, 2]

    def test_two_event_loops(self) -> None:
        """Nothing asynchronous belongs to the loop of an earlier asyncio.run."""
        assert [asyncio.run(double_later(number)) for number in (21, 22)] == [42, 44]

    def test_methods(self) -> None:
        """Methods, class methods and static methods work in either order of decorators, called on class or instance."""
        model = Model()
        assert model.method(1) == 2
        assert (Model.outer_class(1), model.inner_class(2)) == ("Model1", "Model2")
        assert (Model.outer_static(1), model.inner_static(2)) == (1, 2)
        assert asyncio.run(model.later(1)) == 2
        with pytest.raises(InvalidInputError):
            model.inner_class("x")

    def test_a_generator_keeps_send_throw_and_return(self) -> None:
        """What the consumer sends or throws reaches the generator, and its return value comes back."""

        @guarded(retry=Retry())
        def conversation() -> Any:
            heard = yield "first"
            try:
                yield heard
            except KeyError:
                yield "caught"
            return "end"

        talk = conversation()
        assert next(talk) == "first"
        assert talk.send("hello") == "hello"
        assert talk.throw(KeyError()) == "caught"
        with pytest.raises(StopIteration) as stop:
            next(talk)
        assert stop.value.value == "end"

    @pytest.mark.parametrize(
        ("thing", "fix"),
        [
            (int, "guard the method"),
            (functools.partial(print), "guard the function first"),
            (property(lambda self: 1), "below @property"),
            (double, "guarded already"),
        ],
    )
    def test_kinds_that_cant_work(self, thing: Any, fix: str) -> None:
        """What can't be guarded is refused at decoration with the fix."""
        with pytest.raises(PolicyError, match=fix):
            guarded(thing)

    def test_objects_with_call(self) -> None:
        """A callable object is refused, its bound method is welcome."""

        class Predictor:
            def __call__(self, x: int) -> int:
                return x

            def predict(self, x: int) -> int:
                return x

        with pytest.raises(PolicyError, match="guard a method of it"):
            guarded(Policy())(Predictor())
        assert guarded(Policy())(Predictor().predict)("3") == 3  # type: ignore[arg-type]

    def test_a_function_that_returns_an_iterator(self) -> None:
        """A slot that would be given back before the items are made is refused at decoration."""
        with pytest.raises(PolicyError, match="make it a generator"):

            @guarded(concurrency=Concurrency(max_concurrent=1))
            def tokens() -> Iterator[int]:
                return iter([1])

    @pytest.mark.parametrize(
        "returned",
        [Awaitable[int], Coroutine[Any, Any, int], Iterator[int] | None, AsyncIterable[int] | None],
    )
    def test_whatever_is_done_after_the_return(self, returned: Any) -> None:
        """Nothing that works after the function has returned escapes a limit: it is refused at decoration."""

        def lazily() -> Any: ...

        lazily.__annotations__["return"] = returned
        with pytest.raises(PolicyError, match="Fix: make it a"):
            guarded(timeout=Timeout(total=1))(lazily)

    def test_above_a_decorator_that_changes_the_kind(self) -> None:
        """The return annotation of what was wrapped says nothing about a wrapper of another kind."""

        @guarded
        @contextlib.contextmanager
        def opened(x: int) -> Iterator[int]:
            yield x

        with opened("3") as x:  # type: ignore[arg-type]
            assert x == 3

    def test_cached_streams(self) -> None:
        """A cache on a generator is refused at decoration."""
        with pytest.raises(PolicyError, match="stream can't be cached"):

            @guarded(cache=Cache(ttl=1))
            def items() -> Iterator[int]:
                yield 1


class TestWhatTheWrapperKeeps:
    def test_signature(self) -> None:
        """Name, docstring and signature are the function's, for inspect and for getfullargspec."""
        raw = double.__wrapped__
        assert (double.__name__, double.__doc__, double.__module__) == ("double", "Doubles.", __name__)
        assert inspect.signature(double) == inspect.signature(raw)
        assert inspect.getfullargspec(double) == inspect.getfullargspec(raw)
        assert typing.get_type_hints(double) == typing.get_type_hints(raw)

    def test_any_parameter_name(self) -> None:
        """Parameters may be called whatever mlguard calls its own."""

        @guarded(EVERYTHING)
        def f(
            this: int, args: int, kwargs: int, function: int, key: int, policy: int = 1, timeout: int = 2
        ) -> list[int]:
            return [this, args, kwargs, function, key, policy, timeout]

        assert f(1, args=2, kwargs=3, function=4, key=5) == [1, 2, 3, 4, 5, 1, 2]

    def test_pickle(self) -> None:
        """A guarded function pickles by name, as a plain one does."""
        assert pickle.loads(pickle.dumps(double)) is double

    def test_cloudpickle_by_value(self) -> None:
        """A function of __main__ with every concern on, an unpicklable global beside it, reaches another process."""
        script = textwrap.dedent(
            """
            from __future__ import annotations
            import sys, threading, cloudpickle
            from typing import Annotated
            import numpy as np, numpy.typing as npt
            from pydantic import BaseModel
            from mlguard import *
            lock = threading.Lock()
            class Patient(BaseModel):
                features: Annotated[npt.NDArray[np.float64], Array("batch", 2)]
            everything = dict(timeout=Timeout(total=30), cache=Cache(ttl=60), retry=Retry(), breaker=Breaker(),
                concurrency=Concurrency(max_concurrent=8), memory=Memory(threshold=0.99), monitor=Monitor(log=False))
            @guarded(**everything)
            def total(patient: Patient, scale: float = 1.0) -> float:
                return float(patient.features.sum()) * scale
            @guarded(**{**everything, "cache": False})
            def each(patient: Patient):
                yield from patient.features[0]
            @guarded(retry=Retry())
            def plain(x: int) -> int:
                return x
            total({"features": [[1, 2]]})
            sys.stdout.buffer.write(cloudpickle.dumps((total, each, plain)))
            """
        )
        dumped = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
        read = (
            "import sys, cloudpickle; total, each, plain = cloudpickle.load(sys.stdin.buffer);"
            "patient = {'features': [[1, 2]]};"
            "print(total(patient, '2'), total(patient, 2.0), *map(float, each(patient)));"
            "print(total.guard.cache_info().hits);"
            "print(plain.guard.call('3').value)"
        )
        result = subprocess.run([sys.executable, "-c", read], input=dumped, capture_output=True, check=True)
        assert result.stdout.decode().split() == ["6.0", "6.0", "1.0", "2.0", "1", "3"]

    def test_works_after_fork(self) -> None:
        """A child process may call what its parent guarded and used."""
        script = (
            "import os, tests_target as t\n"
            "assert t.f(1) == 2\n"
            "pid = os.fork()\n"
            "if pid == 0:\n"
            "    assert t.f(1) == 2 and t.f(5) == 6\n"
            "    os._exit(0)\n"
            "assert os.waitpid(pid, 0)[1] == 0\n"
        )
        module = (
            "from mlguard import *\n"
            "@guarded(cache=Cache(ttl=9), retry=Retry(), breaker=Breaker(), concurrency=Concurrency(max_concurrent=2),"
            " memory=Memory(threshold=0.99), monitor=Monitor(log=False), timeout=Timeout(total=9))\n"
            "def f(x: int) -> int:\n    return x + 1\n"
        )
        setup = "import sys, types; m = sys.modules['tests_target'] = types.ModuleType('tests_target')\n"
        setup += f"exec({module!r}, m.__dict__)\n"
        subprocess.run([sys.executable, "-c", setup + script], check=True, timeout=60)

    def test_no_thread_at_import(self) -> None:
        """Importing mlguard starts no thread."""
        check = "import mlguard, threading; mlguard.guarded; print(threading.active_count())"
        assert subprocess.run([sys.executable, "-c", check], capture_output=True, check=True).stdout.strip() == b"1"

    def test_two_functions_one_policy(self) -> None:
        """One policy on two functions shares configuration, never results."""
        shared = Policy(cache=Cache(ttl=60))

        @guarded(shared)
        def one(x: int) -> str:
            return f"one {x}"

        @guarded(shared)
        def two(x: int) -> str:
            return f"two {x}"

        assert [one(1), two(1), one(1), two(1)] == ["one 1", "two 1", "one 1", "two 1"]


class TestLateAnnotations:
    def test_a_model_defined_later(self) -> None:
        """A model may be defined after the function that names it; it is enforced from the first call."""
        module: dict[str, Any] = {"__name__": "late"}
        exec(
            "from __future__ import annotations\n"
            "from pydantic import BaseModel\n"
            "from mlguard import *\n"
            "@guarded(monitor=Monitor(log=False))\n"
            "def f(later: Later) -> int:\n    return later.x\n"
            "@guarded\n"
            "def g(later: Later):\n    yield later.x\n    yield 2\n"
            "@guarded\n"
            "async def h(later: Later) -> int:\n    return later.x\n"
            "class Later(BaseModel):\n    x: int\n",
            module,
        )
        assert inspect.isgeneratorfunction(module["g"])
        assert module["f"]({"x": "3"}) == 3
        assert list(module["g"]({"x": 1})) == [1, 2]
        assert asyncio.run(module["h"]({"x": 1})) == 1
        with pytest.raises(InvalidInputError, match=r"later\.x"):
            module["f"]({"x": "three"})

    def test_a_name_that_never_comes(self) -> None:
        """An annotation that stays undefined is a PolicyError at the first call, naming it."""
        module: dict[str, Any] = {"__name__": "never"}
        exec("from mlguard import guarded\n@guarded\ndef f(x: 'Missing'): return x\n", module)
        with pytest.raises(PolicyError, match="'Missing', which is not defined"):
            module["f"](1)

    def test_a_model_of_the_enclosing_function(self) -> None:
        """A model defined inside a function, as in this test, is found although annotations are text."""

        class Local(BaseModel):
            x: Annotated[int, Field(ge=0)]

        @guarded
        def f(local: Local) -> int:
            return local.x

        assert f({"x": 1}) == 1  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError):
            f({"x": -1})  # type: ignore[arg-type]


class Big:
    """Something weakly referable that stands for a batch of gigabytes."""


class TestFailedCallsFreeTheirArguments:
    """Once the caller has dropped the exception, the arguments of a failed call are gone, with gc switched off."""

    @pytest.fixture(autouse=True)
    def _no_garbage_collector(self) -> Iterator[None]:
        gc.collect()
        gc.disable()
        with testing.capture_events():
            yield
        gc.enable()

    @pytest.fixture(params=[0, 2], ids=["first attempt", "retried"])
    def policy(self, request: pytest.FixtureRequest) -> Policy:
        return EVERYTHING.merged({"retry": Retry(max_retries=request.param, initial_delay=0), "breaker": False})

    def test_plain(self, policy: Policy) -> None:
        """A function, with a cache and without."""
        for used in (policy, policy.merged({"cache": False})):

            @guarded(used, key=(lambda big: "same") if used.cache else None)
            def fail(big: Big) -> int:
                raise ConnectionError

            alive = []
            for _ in range(2):
                big = Big()
                alive.append(weakref.ref(big))
                with contextlib.suppress(ConnectionError):
                    fail(big)
                del big
            assert [ref() for ref in alive] == [None, None]

    async def test_coroutine(self, policy: Policy) -> None:
        """A coroutine function, with a cache and without."""
        for used in (policy, policy.merged({"cache": False})):

            @guarded(used, key=(lambda big: "same") if used.cache else None)
            async def fail(big: Big) -> int:
                await asyncio.sleep(0)
                raise ConnectionError

            big = Big()
            alive = weakref.ref(big)
            try:
                await fail(big)
            except ConnectionError:
                del big
            await asyncio.sleep(0)  # lets the loop forget the task that ended
            assert alive() is None

    def test_generator(self, policy: Policy) -> None:
        """A generator that fails before and after its first item."""

        @guarded(policy, cache=False)
        def fail(big: Big, late: bool) -> Iterator[int]:
            if late:
                yield 1
            raise ConnectionError

        for late in (False, True):
            big = Big()
            alive = weakref.ref(big)
            with contextlib.suppress(ConnectionError):
                list(fail(big, late))
            del big
            assert alive() is None

    async def test_async_generator(self, policy: Policy) -> None:
        """An async generator that fails before and after its first item."""

        @guarded(policy, cache=False)
        async def fail(big: Big, late: bool) -> AsyncIterator[int]:
            if late:
                yield 1
            raise ConnectionError

        for late in (False, True):
            big = Big()
            alive = weakref.ref(big)
            try:
                async for _ in fail(big, late):
                    pass
            except ConnectionError:
                del big
            await asyncio.sleep(0)
            assert alive() is None


class TestThrough:
    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
    def test_cancellation(self, error: type[BaseException]) -> None:
        """Cancellation is never retried, never answered by a fallback, never a breaker failure; the event says so."""
        calls = []

        @guarded(EVERYTHING.merged({"cache": False}), fallback=1)
        def stop(x: int) -> int:
            calls.append(x)
            raise error

        with testing.capture_events() as events, pytest.raises(error):
            stop(1)
        assert calls == [1]
        assert events[-1]["mlguard.disposition"] == "cancelled"
        assert stop.guard.stats()["concurrency"]["in_use"] == 0

    def test_the_users_exception(self) -> None:
        """The user's own exception comes back as the very object that was raised, with one frame of mlguard's."""
        mine = ValueError("mine")

        @guarded(EVERYTHING.merged({"cache": False}))
        def broken(x: int) -> int:
            raise mine

        with testing.capture_events(), pytest.raises(ValueError, match="mine") as caught:
            broken(1)
        assert caught.value is mine
        frames = [
            entry.path.name
            for entry in caught.traceback
            if "mlguard" in str(entry.path) and entry.path.parent.name == "mlguard"
        ]
        assert frames == ["call.py"]

    def test_frames_through_the_cache(self) -> None:
        """Through a cache miss a traceback has at most three frames of mlguard's."""

        @guarded(EVERYTHING)
        def broken(x: int) -> int:
            raise KeyError

        with testing.capture_events(), pytest.raises(KeyError) as caught:
            broken(1)
        ours = [
            entry
            for entry in caught.traceback
            if "/mlguard/" in str(entry.path).replace("\\", "/") and "tests" not in str(entry.path)
        ]
        assert len(ours) <= 3

    def test_the_traceback_names_the_function(self) -> None:
        """Profilers and tracebacks show the guarded function's name, not one name for all guards."""
        assert double.__code__.co_name == "double"
        assert Model.method.__code__.co_qualname == "Model.method"


def test_every_own_error_pickles() -> None:
    """Process pools hang on an error that does not pickle."""
    with pytest.raises(InvalidInputError) as caught:
        double("x")
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.errors() == caught.value.errors()
    assert isinstance(again, GuardError)


def test_arrays_through_everything() -> None:
    """Equal arrays hit the cache, and a hit can't be changed by its receiver."""

    @guarded(EVERYTHING, validation=Validation())
    def shift(x: np.ndarray) -> Any:
        return x + 1

    first = shift(np.zeros(3))
    first[0] = 99
    second = shift(np.zeros(3))
    assert second.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        second[0] = 5
    assert cloudpickle.loads(cloudpickle.dumps(second)).tolist() == [1, 1, 1]


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "fix"),
        [
            ({"cache": Cache(ttl=1), "deterministic": False}, "drop deterministic=False"),
            ({"validation": Validation(on_invalid="fallback")}, "fallback=VALUE"),
            ({"need": "1MiB"}, r"memory=Memory\(\)"),
            ({"key": lambda x: x}, r"cache=Cache\(ttl=\.\.\.\)"),
        ],
    )
    def test_what_cant_be_honoured(self, options: dict[str, Any], fix: str) -> None:
        """Options that contradict each other are refused at decoration, with the fix, never ignored."""
        with pytest.raises(PolicyError, match=fix):

            @guarded(**options)
            def f(x: int) -> int:
                return x

    def test_abstract_policies(self) -> None:
        """An abstract policy is there to be extended."""
        with pytest.raises(PolicyError, match="abstract"):

            @guarded(Policy(abstract=True))
            def f(x: int) -> int:
                return x

    def test_unkeyable_arguments(self) -> None:
        """A cache on a function whose argument can't be keyed is refused at decoration, naming the argument."""
        with pytest.raises(PolicyError, match="parameter 'ready' can't be part of a cache key"):

            @guarded(cache=Cache(ttl=1))
            def f(ready: threading.Event) -> int:
                return 1

    def test_a_schema_that_does_not_match(self) -> None:
        """A schema with a field that is no parameter is refused at decoration, naming the field."""

        class Schema(BaseModel):
            y: int

        with pytest.raises(PolicyError, match="'x'"):

            @guarded(schema=Schema)
            def f(x: int) -> int:
                return x

    def test_bind_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`policies.bind_all()` finds at start-up what would otherwise be found at the first call."""
        monkeypatch.setattr("mlguard.wrapper._wrappers", weakref.WeakSet())  # those of other tests are no matter here
        module: dict[str, Any] = {"__name__": "start_up"}
        exec("from mlguard import guarded\n@guarded\ndef f(x: 'Nowhere'): return x\n", module)
        with pytest.raises(PolicyError, match="'Nowhere'"):
            policies.bind_all()
        module["Nowhere"] = int
        policies.bind_all()
        assert module["f"].guard._wrapper._bound is not None
        assert module["f"]("3") == 3
