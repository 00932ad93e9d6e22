"""Retry: what is retried, when, how often, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import pickle
import sys
import threading
import time as real_time
import types
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import cloudpickle
import httpx
import pytest
from pydantic import TypeAdapter

from mlguard.context import Call, current
from mlguard.errors import (
    CircuitOpenError,
    DeadlineExceededError,
    InvalidInputError,
    InvalidOutputError,
    PolicyError,
)
from mlguard.resilience import Retry, Retrying, Timeout, retry
from mlguard.target import Target

VIOLATION = [{"type": "missing", "loc": ("x",), "msg": "Field required"}]


def failing(*errors: BaseException | type[BaseException]) -> Any:
    """A function that raises these one after the other, then succeeds."""
    left = list(errors)

    def function() -> str:
        function.calls += 1  # type: ignore[attr-defined]
        if left:
            raise left.pop(0)
        return "done"

    function.calls = 0  # type: ignore[attr-defined]
    return function


class Batch:
    """Something that can be weakly referred to."""


class TestWhen:
    def test_backoff_is_exact_without_jitter(self, guard: Any, time: Any) -> None:
        """0.1, 0.2, 0.4, ... up to max_delay."""
        function = failing(*[ConnectionError] * 6)
        assert guard(function, Retry(max_retries=6, jitter=False, max_delay=1.0))() == "done"
        assert time.sleeps == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])

    async def test_backoff_of_async_functions(self, guard: Any, time: Any) -> None:
        """An async function pauses for as long."""
        function = failing(ConnectionError, ConnectionError)

        async def predict() -> str:
            return function()

        assert await guard(predict, Retry(jitter=False))() == "done"
        assert time.sleeps == pytest.approx([0.1, 0.2])

    def test_a_constant_pause(self, guard: Any, time: Any) -> None:
        """A backoff_factor of 1 keeps the pause as it is."""
        guard(failing(*[ConnectionError] * 3), Retry(jitter=False, backoff_factor=1))()
        assert time.sleeps == pytest.approx([0.1, 0.1, 0.1])

    def test_full_jitter(self, target: Target) -> None:
        """Each pause is drawn evenly between 0 and the backoff of its attempt."""
        retrying = Retrying(target, Retry(budget=None, max_retries=3))
        for made, high in ((0, 0.1), (1, 0.2), (2, 0.4)):
            pauses = [decide(retrying, made).pause for _ in range(2000)]
            assert 0 <= min(pauses) < 0.05 * high
            assert 0.95 * high < max(pauses) <= high
            assert sum(pauses) / len(pauses) == pytest.approx(high / 2, rel=0.06)

    def test_last_attempt_raises_the_error_itself(self, guard: Any, time: Any) -> None:
        """After max_retries the caller gets the function's own exception, not a wrapper."""
        last = ConnectionError("the third")
        function = failing(ConnectionError, ConnectionError, last)
        with pytest.raises(ConnectionError) as caught:
            guard(function, Retry(max_retries=2))()
        assert caught.value is last
        assert function.calls == 3

    def test_the_record(self, guard: Any, time: Any) -> None:
        """The call in progress learns how often and why it was retried, and how long it paused."""
        call = guard(failing(*[ConnectionError] * 9), Retry(max_retries=2, jitter=False))
        with pytest.raises(ConnectionError):
            call()
        this = call.state.last
        assert this.attempts == 3
        assert this.waited == pytest.approx(0.3)
        assert this.facts == {
            "mlguard.retry.retries": 2,
            "mlguard.retry.waited": pytest.approx(0.3),
            "mlguard.retry.last_error": "ConnectionError",
            "mlguard.retry.stopped": "max_retries",
        }

    def test_works_without_a_record(self, guard: Any, time: Any) -> None:
        """Retry alone needs no Call."""
        assert guard(failing(ConnectionError), Retry(), record=False)() == "done"
        with pytest.raises(ConnectionError):
            guard(failing(*[ConnectionError] * 9), Retry(), record=False)()

    def test_streams_before_their_first_item(self, guard: Any, time: Any) -> None:
        """A generator is retried until its first item is out, and never after."""
        function = failing(ConnectionError)

        def items() -> Iterator[str]:
            yield function()
            raise ConnectionError("after the first item")

        stream = guard(items, Retry())()
        assert next(stream) == "done"
        with pytest.raises(ConnectionError, match="after"):
            next(stream)
        assert function.calls == 2

    def test_cap(self, guard: Any, time: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """The test mode can cap every policy."""
        monkeypatch.setattr(retry, "cap", 1)
        function = failing(*[ConnectionError] * 9)
        with pytest.raises(ConnectionError):
            guard(function, Retry(max_retries=5))()
        assert function.calls == 2


def decide(retrying: Retrying, made: int = 0, error: BaseException | None = None, deadline: float | None = None) -> Any:
    tries = 0 if made == 0 else retry.Tries(0, made, 0.0)
    return retrying.again(None, tries, error or ConnectionError(), deadline)


class TestWhat:
    @pytest.mark.parametrize(
        "error",
        [
            KeyboardInterrupt(),
            SystemExit(),
            asyncio.CancelledError(),
            GeneratorExit(),
            InvalidInputError.of("f", VIOLATION),
            CircuitOpenError("open"),
            PolicyError("wrong"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_never_retried(self, target: Target, error: BaseException) -> None:
        """Whatever `on` says, exits, cancellation, invalid input and local refusals are not retried."""
        assert decide(Retrying(target, Retry(on=Exception)), error=error) is None

    def test_what_could_not_start(self, target: Target) -> None:
        """An attempt that was not started because its time was up is not tried again."""
        error = DeadlineExceededError("no time left")
        vars(error)["started"] = False
        assert decide(Retrying(target, Retry(on=(TimeoutError, "transient"))), error=error) is None

    @pytest.mark.parametrize(
        ("on", "retried", "not_retried"),
        [
            ("transient", TimeoutError(), ValueError()),
            (ValueError, UnicodeError(), ConnectionError()),
            ([ValueError, "transient"], ConnectionError(), KeyError()),
            ("KeyError", KeyError(), ValueError()),
            (["httpx.TimeoutException", "builtins.OSError"], httpx.ReadTimeout("slow"), httpx.ConnectError("no")),
            ("json.JSONDecodeError", json.JSONDecodeError("no", "", 0), ValueError()),
        ],
        ids=["transient", "class", "mixed", "bare name", "paths", "stdlib"],
    )
    def test_on(self, target: Target, on: Any, retried: Exception, not_retried: Exception) -> None:
        """`on` takes the word, classes, import paths, and lists of them."""
        retrying = Retrying(target, Retry(on=on))
        assert decide(retrying, error=retried) is not None
        assert decide(retrying, error=not_retried) is None

    def test_invalid_output(self, target: Target) -> None:
        """A result that breaks its schema is retried only where the policy says so."""
        error = InvalidOutputError.of("f", VIOLATION)
        assert decide(Retrying(target, Retry(on=Exception)), error=error) is None
        assert decide(Retrying(target, Retry(on_invalid_output=True)), error=error) is not None

    @pytest.mark.parametrize(
        ("on", "message"),
        [
            ("no_such_module.Error", "'no_such_module.Error' lies there.*Fix: import the module before"),
            ("httpx.NoSuchError", "'httpx.NoSuchError' is none: httpx has no 'NoSuchError'"),
            ("NoSuchError", "Python has no exception 'NoSuchError'"),
            ("os.system", "'os.system' does not"),
            ("KeyboardInterrupt", "derive from Exception"),
            ("asyncio.CancelledError", "derive from Exception"),
            ("antigravity.Anything", "must not import antigravity"),
            ("mlguard.errors.CircuitOpenError", "CircuitOpenError, which the same call would meet again"),
            (InvalidOutputError, "Fix: on_invalid_output=True"),
            (KeyboardInterrupt, "cancellation and exits are never retried"),
            ([], "must be 'transient', an exception class"),
            (3, "must be 'transient', an exception class"),
            ([3], "must hold classes"),
        ],
    )
    def test_on_that_cannot_be_honoured(self, on: Any, message: str) -> None:
        """A path or class that can't be retried is refused at once, with the fix."""
        with pytest.raises(PolicyError, match=message):
            Retry(on=on)

    def test_a_path_imports_nothing_that_is_not_listed(self) -> None:
        """A policy is data: naming a module does not run it."""
        sys.modules.pop("this", None)
        with pytest.raises(PolicyError):
            Retry(on="this.s")
        assert "this" not in sys.modules

    def test_a_client_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A listed client that is missing gives the install line."""
        monkeypatch.setitem(sys.modules, "grpc", None)
        with pytest.raises(PolicyError, match=r"needs grpc, which is not installed. Fix: pip install grpcio, or"):
            Retry(on="grpc.RpcError")

    def test_a_class_within_a_class(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A path reaches exceptions that are attributes of a class, as Django's DoesNotExist is."""
        module: Any = types.ModuleType("shop")
        module.Item = type("Item", (), {"Missing": type("Missing", (Exception,), {})})
        monkeypatch.setitem(sys.modules, "shop", module)
        assert Retry(on="shop.Item.Missing").on == (module.Item.Missing,)

    def test_as_data(self) -> None:
        """A Retry becomes JSON and comes back, with a JSON Schema to match."""
        section = Retry(on=[ValueError, "httpx.ReadTimeout", "transient"])
        as_json = json.loads(section.model_dump_json())
        assert as_json["on"] == ["ValueError", "httpx.ReadTimeout", "transient"]
        assert Retry(**as_json) == section
        assert TypeAdapter(Retry).json_schema()["properties"]["on"]["anyOf"][0] == {"type": "string"}

    def test_delays_that_contradict_each_other(self) -> None:
        """A first pause above the longest is refused."""
        with pytest.raises(PolicyError, match=r"initial_delay <= max_delay, but 0.1 > 0.05. Fix"):
            Retry(max_delay="50ms")


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("carrier", "asked"),
        [
            ({"retry_after": 3}, 3.0),
            ({"retry_after": timedelta(seconds=4)}, 4.0),
            ({"headers": {"Retry-After": "2.5"}}, 2.5),
            ({"headers": {"retry-after": "2"}}, 2.0),
            ({"response": httpx.Response(429, headers={"retry-after": "7"})}, 7.0),
            ({"response": {"ResponseMetadata": {"HTTPHeaders": {"retry-after": "5"}}}}, 5.0),
            ({"headers": {"RETRY-AFTER": "2"}}, 2.0),
            ({"headers": {"retry-after-ms": "1500", "retry-after": "7"}}, 1.5),
            ({"headers": {"retry-after-ms": "soon", "retry-after": "7"}}, 7.0),
            ({"retry_after": "soon", "headers": {"retry-after": "7"}}, 7.0),
            ({"headers": {"Retry-After": "9" * 400}}, 10.0),
            ({"retry_after": 10**400}, 10.0),
            ({"retry_after": 120}, 10.0),
            ({"retry_after": -3}, 0.0),
        ],
    )
    def test_seconds(self, target: Target, carrier: dict[str, Any], asked: float) -> None:
        """The pause is what the callee asks for, plus the backoff, and never more than max_delay."""
        error = ConnectionError()
        vars(error).update(carrier)
        pause = decide(Retrying(target, Retry(jitter=False)), error=error).pause
        assert pause == pytest.approx(min(asked + 0.1, 10.0))

    def test_date(self, target: Target) -> None:
        """An HTTP date is reckoned from the callee's own clock, or from ours where it does not tell its own."""
        theirs = datetime(2030, 1, 1, tzinfo=UTC)
        skewed = {"Retry-After": format_datetime(theirs + timedelta(seconds=5)), "Date": format_datetime(theirs)}
        ours = {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=6))}
        garbled = {**ours, "Date": "yesterday"}
        for headers, least, most in ((skewed, 5.1, 5.1), (ours, 4.5, 6.2), (garbled, 4.5, 6.2)):
            error = ConnectionError()
            vars(error)["headers"] = headers
            pause = decide(Retrying(target, Retry(jitter=False)), error=error).pause
            assert least - 1e-6 <= pause <= most + 1e-6

    @pytest.mark.parametrize("given", ["soon", "nan", float("inf"), object()])
    def test_nonsense(self, target: Target, given: Any) -> None:
        """What nobody can read is ignored, and never raises."""
        error = ConnectionError()
        vars(error)["retry_after"] = given
        assert decide(Retrying(target, Retry(jitter=False)), error=error).pause == pytest.approx(0.1)

    def test_not_respected(self, target: Target) -> None:
        """`respect_retry_after=False` leaves the backoff alone."""
        error = ConnectionError()
        vars(error)["retry_after"] = 5
        retrying = Retrying(target, Retry(jitter=False, respect_retry_after=False))
        assert decide(retrying, error=error).pause == pytest.approx(0.1)


class TestDeadline:
    def test_gives_up_at_once(self, guard: Any, time: Any) -> None:
        """A pause that would pass the deadline is not slept."""
        function = failing(*[ConnectionError] * 9)
        call = guard(function, Retry(jitter=False, max_retries=9), Timeout(total=0.5))
        with pytest.raises(ConnectionError):
            call()
        assert time.sleeps == pytest.approx([0.1, 0.2])
        assert call.state.last.facts["mlguard.retry.stopped"] == "deadline"
        assert call.rooms.retry.stats() == {**call.rooms.retry.stats(), "retries": 2}
        assert call.rooms.retry.stats()["gave_up"] == {"max_retries": 0, "deadline": 1, "budget": 0}

    def test_ambient(self, target: Target, time: Any) -> None:
        """The deadline of a guarded call further out binds as well."""
        outer = Call()
        outer.deadline = time.now() + 0.05
        token = current.set(outer)
        try:
            assert decide(Retrying(target, Retry(jitter=False))) is None
        finally:
            current.reset(token)
        assert decide(Retrying(target, Retry(jitter=False))) is not None

    def test_the_attempt_of_before_does_not_bind(self, guard: Any, time: Any) -> None:
        """An attempt's own limit, once passed, does not keep the next from starting."""
        calls = []

        def slow() -> str:
            calls.append(1)
            time.time += 3
            if len(calls) < 3:
                raise TimeoutError
            return "done"

        assert guard(slow, Retry(), Timeout(attempt=1))() == "done"


class TestBudget:
    def test_a_minimum_is_always_allowed(self, target: Target, time: Any) -> None:
        """Ten retries in ten seconds, and ten more in the next."""
        retrying = Retrying(target, Retry(max_retries=100))
        assert sum(decide(retrying) is not None for _ in range(50)) == 10
        time.time += 11
        assert sum(decide(retrying) is not None for _ in range(50)) == 10

    def test_a_share_of_the_calls(self, target: Target, time: Any) -> None:
        """Where more is called, a fifth of the calls of the last ten seconds may be retried."""
        retrying = Retrying(target, Retry())
        counted = retrying.names(asynchronous=False)["counted"]
        allowed = 0
        for _ in range(10):
            for _ in range(100):
                counted()
                allowed += decide(retrying) is not None  # a callee that is down: every call fails
            time.time += 1
        assert allowed == pytest.approx(0.2 * 1000, abs=25)

    def test_a_long_outage(self, target: Target, time: Any) -> None:
        """A callee that stays down gets a fifth more load, minute after minute."""
        retrying = Retrying(target, Retry())
        allowed = 0
        for _ in range(600):
            for _ in range(10):
                retrying.steps.__next__()
                allowed += decide(retrying) is not None
            time.time += 0.1
        assert allowed == pytest.approx(0.2 * 6000, rel=0.1)

    def test_a_share_of_zero_leaves_the_minimum(self, target: Target, time: Any) -> None:
        """budget=0 still allows the minimum, budget=None anything."""
        assert sum(decide(Retrying(target, Retry(budget=0))) is not None for _ in range(1)) == 1
        free = Retrying(target, Retry(budget=None))
        assert all(decide(free) is not None for _ in range(100))

    def test_calls_of_long_ago_do_not_count(self, target: Target, time: Any) -> None:
        """After a quiet night, the calls of the evening allow nothing more."""
        retrying = Retrying(target, Retry())
        for _ in range(1000):
            retrying.steps.__next__()
        time.time += 36_000
        assert sum(decide(retrying) is not None for _ in range(50)) == 10

    def test_a_blip_of_a_busy_function(self, target: Target, time: Any) -> None:
        """A hundred calls that fail at once among a thousand a second are all retried."""
        retrying = Retrying(target, Retry())
        for _ in range(10):
            for _ in range(1000):
                retrying.steps.__next__()
            time.time += 1
        assert all(decide(retrying) is not None for _ in range(100))

    def test_says_why_it_stopped(self, guard: Any, time: Any) -> None:
        """The event says that the budget ended it."""
        call = guard(failing(*[ConnectionError] * 99), Retry(max_retries=100, initial_delay=0))
        with pytest.raises(ConnectionError):
            call()
        assert call.state.last.facts["mlguard.retry.stopped"] == "budget"
        assert call.rooms.retry.stats()["gave_up"]["budget"] == 1

    def test_threads(self, target: Target) -> None:
        """Sixty-four threads together get no more than the budget."""
        retrying = Retrying(target, Retry())
        allowed: list[bool] = []
        threads = [
            threading.Thread(target=lambda: allowed.extend(decide(retrying) is not None for _ in range(20)))
            for _ in range(64)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(allowed) == 10


class TestNested:
    def test_retries_do_not_multiply(self, guard: Any, time: Any) -> None:
        """Three retries around three retries stay three."""
        function = failing(*[ConnectionError] * 99)
        outer = guard(guard(function, Retry()), Retry())
        with pytest.raises(ConnectionError):
            outer()
        assert function.calls == 4

    def test_an_inner_guard_that_did_not_retry_leaves_it_to_the_outer(self, guard: Any, time: Any) -> None:
        """What the inner policy does not retry, or may not any more, the outer one may."""
        function = failing(KeyError(), KeyError())
        assert guard(guard(function, Retry()), Retry(on=KeyError))() == "done"
        function = failing(ConnectionError)
        assert guard(guard(function, Retry(max_retries=0)), Retry())() == "done"

    def test_the_same_exception_object_again(self, guard: Any, time: Any) -> None:
        """One exception object that is raised by every call, as mocks do, is retried in every call."""
        error = ConnectionError()
        function = failing(*[error] * 99)
        call = guard(function, Retry())
        for _ in range(2):
            with pytest.raises(ConnectionError):
                call()
        assert function.calls == 8

    def test_exceptions_that_refuse_attributes(self, guard: Any, time: Any) -> None:
        """An exception that can't be marked is raised as it is."""

        class Frozen(ConnectionError):
            def __setattr__(self, name: str, value: Any) -> None:
                raise AttributeError(name)

        function = failing(*[Frozen] * 99)
        with pytest.raises(Frozen):
            guard(guard(function, Retry()), Retry())()
        assert function.calls == 4

    def test_a_marked_exception_pickles(self, guard: Any, time: Any) -> None:
        """The mark crosses processes with the exception."""
        with pytest.raises(ConnectionError) as caught:
            guard(failing(*[ConnectionError] * 99), Retry())()
        assert vars(pickle.loads(pickle.dumps(caught.value))) == vars(caught.value)


class TestLeavesNothingBehind:
    def test_arguments_are_free_after_a_failure(self, guard: Any, time: Any) -> None:
        """Once the caller has dropped the exception, the arguments are gone, with the garbage collector off."""

        def predict(batch: Batch) -> None:
            raise ConnectionError("no")

        call = guard(predict, Retry(), Timeout(total=60))
        batch = Batch()
        gone = weakref.ref(batch)
        gc.disable()
        try:
            with pytest.raises(ConnectionError):
                call(batch)
            del batch
            assert gone() is None
        finally:
            gc.enable()

    async def test_arguments_of_an_async_function(self, guard: Any, time: Any) -> None:
        """The same for a coroutine function whose attempt is cancelled by its limit."""

        async def predict(batch: Batch) -> None:
            await asyncio.sleep(5)

        call = guard(predict, Retry(max_retries=1), Timeout(attempt=0.01))
        batch = Batch()
        gone = weakref.ref(batch)
        gc.disable()
        try:
            with contextlib.suppress(DeadlineExceededError):
                await call(batch)
            del batch
            await asyncio.sleep(0)
            assert gone() is None
        finally:
            gc.enable()

    def test_a_failed_attempt_is_gone_before_the_pause(self, guard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """During the pause nothing keeps what the failed attempt held."""
        alive = []

        def predict() -> str:
            batch = Batch()
            alive.append(weakref.ref(batch))
            if len(alive) < 2:
                raise ConnectionError
            return "done"

        gone = []
        monkeypatch.setattr("mlguard.clock.sleep", lambda seconds: gone.append(alive[0]() is None))
        gc.disable()
        try:
            assert guard(predict, Retry())() == "done"
        finally:
            gc.enable()
        assert gone == [True]


class TestRuntime:
    def test_explains_itself(self, target: Target) -> None:
        """Every number in force is in the text."""
        said = " ".join(Retrying(target, Retry(on=["transient", KeyError], on_invalid_output=True)).explain())
        for part in ("3 retries", "transient failures and KeyError", "100ms", "2-fold", "10s", "20%", "schema"):
            assert part in said
        bare = Retry(jitter=False, budget=None, respect_retry_after=False)
        assert Retrying(target, bare).explain() == [
            "Up to 3 retries after transient failures, with pauses of 100ms, growing 2-fold to at most 10s."
        ]

    def test_stats_and_reset(self, target: Target) -> None:
        """Counts start over after a reset."""
        retrying = Retrying(target, Retry())
        counted = retrying.names(asynchronous=False)["counted"]
        counted()
        counted()
        decide(retrying)
        assert retrying.stats()["calls"] == 2
        stats = retrying.stats()
        assert 0 <= stats.pop("waited_seconds") <= 0.1
        assert stats == {"calls": 2, "retries": 1, "gave_up": {"max_retries": 0, "deadline": 0, "budget": 0}}
        retrying.reset()
        assert retrying.stats()["calls"] == retrying.stats()["retries"] == 0

    def test_cloudpickle(self, target: Target) -> None:
        """Names travel together, without state: the counter that arrives is the one its Retrying reads."""
        retrying = Retrying(target, Retry(max_retries=5))
        names = retrying.names(asynchronous=False)
        names["counted"]()
        there = pickle.loads(cloudpickle.dumps(names))
        there["counted"]()
        there["counted"]()
        copy = there["again"].__self__
        assert copy is not retrying
        assert copy.stats()["calls"] == 2
        assert copy.explain() == retrying.explain()

    def test_counting_loses_nothing(self, target: Target) -> None:
        """A million steps from eight threads, read in between, are a million."""
        retrying = Retrying(target, Retry())
        counted = retrying.names(asynchronous=False)["counted"]

        def count() -> None:
            for number in range(20_000):
                counted()
                if number % 1000 == 0:
                    retrying.stats()

        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert retrying.stats()["calls"] == 160_000


class Server(BaseHTTPRequestHandler):
    """Answers with the codes it was told, then with 200."""

    answers: ClassVar[list[tuple[int, dict[str, str]]]] = []
    at: ClassVar[list[float]] = []

    def do_GET(self) -> None:
        self.at.append(real_time.monotonic())
        status, headers = self.answers.pop(0) if self.answers else (200, {})
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "2"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Server.answers, Server.at = [], []
    running = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def fetch(port: int) -> bytes:
    with urlopen(f"http://127.0.0.1:{port}", timeout=5) as answer:
        return answer.read()


def fetch_httpx(port: int) -> bytes:
    return httpx.get(f"http://127.0.0.1:{port}", trust_env=False).raise_for_status().content


@pytest.mark.parametrize("client", [fetch, fetch_httpx])
class TestRealServer:
    def test_recovers(self, guard: Any, server: ThreadingHTTPServer, client: Any) -> None:
        """A server that answers 500 and then 429 with Retry-After is asked again, no sooner than it wants."""
        Server.answers[:] = [(500, {}), (429, {"Retry-After": "0.3"})]
        call = guard(client, Retry(initial_delay=0.01))
        assert call(server.server_port) == b"ok"
        assert len(Server.at) == 3
        assert Server.at[2] - Server.at[1] >= 0.3

    def test_client_errors_are_final(self, guard: Any, server: ThreadingHTTPServer, client: Any) -> None:
        """A 404 is raised at once."""
        Server.answers[:] = [(404, {})]
        with pytest.raises((HTTPError, httpx.HTTPStatusError)) as caught:
            guard(client, Retry())(server.server_port)
        getattr(caught.value, "close", lambda: None)()
        assert len(Server.at) == 1

    def test_refused_connection(self, guard: Any, server: ThreadingHTTPServer, client: Any) -> None:
        """A port where nobody listens is tried again, and the client's own error comes out."""
        server.server_close()
        call = guard(client, Retry(max_retries=2, initial_delay=0.01))
        with pytest.raises((URLError, httpx.ConnectError)):
            call(server.server_port)
        assert call.state.last.attempts == 3
