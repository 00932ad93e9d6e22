"""Timeout(sync_mode="thread"): the caller goes on in time, and nothing that the thread holds is forgotten."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

from mlguard import (
    Breaker,
    Concurrency,
    ConcurrencyLimitError,
    DeadlineExceededError,
    Memory,
    Monitor,
    PolicyError,
    Retry,
    Timeout,
    guarded,
    note,
    testing,
    time_left,
)
from mlguard.resilience import threads


def in_thread(limit: str = "50ms", **sections: Any) -> Any:
    return guarded(timeout=Timeout(attempt=limit, sync_mode="thread"), **sections)


def until(condition: Any) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


class Batch:
    """Something that can be weakly referred to."""


def test_the_caller_goes_on_and_the_slot_stays_until_the_thread_ends() -> None:
    """The slot and the memory of an attempt that was left behind come back when it ends, not before."""
    go = threading.Event()

    @in_thread(concurrency=Concurrency(max_concurrent=1, max_waiting=0), memory=Memory(need="64MiB", threshold=1.0))
    def hang(x: int) -> int:
        go.wait(5)
        return x

    started = time.monotonic()
    with pytest.raises(DeadlineExceededError, match=r"left running in its thread.*timeout.attempt = 50ms"):
        hang(1)
    assert time.monotonic() - started < 1
    stats = hang.guard.stats()
    assert stats["concurrency"]["in_use"] == 1
    assert stats["memory"]["reserved"] >= 64 * 2**20
    assert stats["timeout"]["threads"] == {"left": 1, "left_now": 1, "refused": 0, "late_results": 0, "late_errors": 0}
    with pytest.raises(ConcurrencyLimitError):
        hang(1)
    reserved = stats["memory"]["reserved"]
    go.set()
    until(lambda: hang.guard.stats()["concurrency"]["in_use"] == 0)
    assert hang.guard.stats()["memory"]["reserved"] == reserved - 64 * 2**20
    assert hang.guard.stats()["timeout"]["threads"]["late_results"] == 1
    assert hang(2) == 2
    assert "left behind there, with its slot and memory" in hang.guard.explain()


def test_results_errors_context_and_notes_cross() -> None:
    """Within its time a thread is invisible: results, exceptions, context variables, notes and the deadline."""
    who = contextvars.ContextVar("who", default="nobody")

    @in_thread("5s", monitor=Monitor())
    def ask(x: int) -> str:
        note(asked=x)
        assert 0 < (time_left() or 0) <= 5
        if x < 0:
            raise KeyError("x")
        assert threading.current_thread() is not threading.main_thread()
        return who.get()

    who.set("me")
    with testing.capture_events() as events:
        assert ask(1) == "me"
        with pytest.raises(KeyError) as caught:
            ask(-1)
    assert [event["asked"] for event in events] == [1, -1]
    names = [entry.name for entry in caught.traceback]
    assert names[-1] == "ask"
    assert "work" not in names


def test_retry_breaker_and_record() -> None:
    """An attempt that was left behind is a transient failure: retried, counted by the breaker, told in the event."""
    go = threading.Event()

    @in_thread(retry=Retry(max_retries=1, initial_delay=0), breaker=Breaker(minimum_calls=2), monitor=Monitor())
    def hang() -> None:
        go.wait(5)
        raise ValueError("late")

    with testing.capture_events() as events, pytest.raises(DeadlineExceededError):
        hang()
    go.set()
    event = next(event for event in events if "mlguard.call_id" in event)
    assert event["mlguard.attempts"] == 2
    assert event["mlguard.timeout.left_running"] is True
    assert event["mlguard.disposition"] == "failed"
    assert hang.guard.stats()["breaker"]["state"] == "open"
    until(lambda: hang.guard.stats()["timeout"]["threads"]["late_errors"] == 2)


def test_nested_guards_of_a_thread_that_was_left_start_nothing() -> None:
    """The thread keeps its own deadline: what it calls after that is refused, also while a new attempt runs."""
    seen: list[BaseException] = []
    go = threading.Event()

    @guarded(timeout=Timeout(total="1m"))
    def inner() -> None:
        raise AssertionError("must not run")

    @in_thread()
    def outer() -> None:
        go.wait(5)
        try:
            inner()
        except DeadlineExceededError as error:
            seen.append(error)

    with pytest.raises(DeadlineExceededError):
        outer()
    go.set()
    until(lambda: seen)
    assert "not started" in str(seen[0])


def test_too_many_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the cap a call is refused at once with a word on what to look for, and nothing is left of it."""
    monkeypatch.setattr(threads, "MOST_LEFT", 2)
    go = threading.Event()

    @in_thread("10ms", concurrency=Concurrency(max_concurrent=9), monitor=Monitor())
    def hang() -> None:
        go.wait(5)

    for _ in range(2):
        with pytest.raises(DeadlineExceededError):
            hang()
    with (
        testing.capture_events() as events,
        pytest.raises(ConcurrencyLimitError, match=r"2 threads of earlier calls still run.*Fix: find what hangs"),
    ):
        hang()
    assert events[0]["mlguard.disposition"] == "rejected_concurrency"
    assert events[0]["mlguard.attempts"] == 0
    assert hang.guard.stats()["concurrency"]["in_use"] == 2
    assert hang.guard.stats()["timeout"]["threads"]["refused"] == 1
    go.set()
    until(lambda: hang.guard.stats()["timeout"]["threads"]["left_now"] == 0)
    assert hang() is None


def test_threads_are_used_again() -> None:
    """A hundred calls after each other need no more threads than one."""
    seen = set()

    @in_thread("5s")
    def who() -> None:
        seen.add(threading.get_ident())

    who()
    before = threading.active_count()
    for _ in range(100):
        who()
    assert threading.active_count() <= before
    assert len(seen) <= 2


def test_an_idle_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread without work goes after a while."""
    monkeypatch.setattr(threads, "IDLE", 0.01)
    threads._idle.clear()

    @in_thread("5s")
    def who() -> int:
        return threading.get_ident()

    one = who()
    until(lambda: not any(thread.ident == one for thread in threading.enumerate()))
    assert not threads._idle
    assert who()


@pytest.mark.parametrize("fails", [False, True])
def test_arguments_and_results_are_free_when_the_thread_ends(fails: bool) -> None:
    """A thread that was left behind keeps its arguments until it ends, and nothing afterwards, without a collector."""
    go = threading.Event()

    @in_thread("10ms", validation=False)
    def hang(batch: Any) -> Any:
        go.wait(5)
        if fails:
            raise ValueError(batch)
        return batch

    gc.collect()
    gc.disable()
    try:
        batch = Batch()
        gone = weakref.ref(batch)
        with contextlib.suppress(DeadlineExceededError):
            hang(batch)
        del batch
        assert gone() is not None
        go.set()
        until(lambda: gone() is None)
    finally:
        gc.enable()


def test_arguments_of_calls_in_time_are_free() -> None:
    """A failed call's arguments are free once its exception is dropped."""

    @in_thread("5s", validation=False, retry=Retry(max_retries=1, initial_delay=0))
    def fail(batch: Any) -> None:
        raise ConnectionError(batch)

    gc.collect()
    gc.disable()
    try:
        batch = Batch()
        gone = weakref.ref(batch)
        with contextlib.suppress(ConnectionError):
            fail(batch)
        del batch
        until(lambda: gone() is None)
    finally:
        gc.enable()


def test_interrupted_by_ctrl_c() -> None:
    """Ctrl-C reaches the caller at once; the thread is left behind with its slot."""
    go = threading.Event()
    started = threading.Event()

    @in_thread("30s", concurrency=Concurrency(max_concurrent=1))
    def hang() -> None:
        started.set()
        go.wait(5)

    def interrupt() -> None:
        started.wait(5)
        time.sleep(0.1)  # until the caller waits
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        hang()
    assert hang.guard.stats()["concurrency"]["in_use"] == 1
    go.set()
    until(lambda: hang.guard.stats()["concurrency"]["in_use"] == 0)


def test_a_race_between_the_end_and_the_limit() -> None:
    """Whoever comes first wins, slots come back either way, and nobody is left behind twice."""

    @in_thread("2ms", concurrency=Concurrency(max_concurrent=2, max_waiting=50, max_wait=5))
    def about_two_ms() -> int:
        time.sleep(0.002)
        return 1

    ended = {"in_time": 0, "left": 0}
    for _ in range(100):
        try:
            about_two_ms()
            ended["in_time"] += 1
        except DeadlineExceededError:
            ended["left"] += 1
    until(lambda: about_two_ms.guard.stats()["concurrency"]["in_use"] == 0)
    stats = about_two_ms.guard.stats()["timeout"]["threads"]
    assert stats["left_now"] == 0
    assert stats["left"] == ended["left"] == stats["late_results"]


def test_other_kinds() -> None:
    """Generators are refused; coroutines are cancelled, as without threads."""
    with pytest.raises(PolicyError, match="sync_mode = 'thread' can't be honoured for a generator"):

        @in_thread()
        def items() -> Iterator[int]:
            yield 1

    @in_thread()
    async def wait() -> None: ...

    assert "What takes longer is cancelled." in wait.guard.explain()
    assert "threads" not in wait.guard.stats()["timeout"]


def test_cloudpickle_and_reset() -> None:
    """A copy works and gives its own slots back; a reset forgets counts."""

    @in_thread("20ms", concurrency=Concurrency(max_concurrent=1))
    def nap(seconds: float) -> float:
        import time

        time.sleep(seconds)
        return seconds

    copy = cloudpickle.loads(cloudpickle.dumps(nap))
    assert copy(0.0) == 0.0
    with pytest.raises(DeadlineExceededError):
        copy(0.1)
    assert copy.guard.stats()["concurrency"]["in_use"] == 1
    assert nap.guard.stats()["concurrency"]["in_use"] == 0
    until(lambda: copy.guard.stats()["concurrency"]["in_use"] == 0)
    copy.guard.reset()
    assert copy.guard.stats()["timeout"]["threads"]["left"] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork() -> None:
    """A forked child has none of the parent's threads, and starts its own."""

    @in_thread("5s")
    def double(x: int) -> int:
        return 2 * x

    assert double(1) == 2
    child = os.fork()
    if child == 0:
        os._exit(double(21) == 42 and 7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_slots_of_one_tenant() -> None:
    """Where slots are kept apart by an argument, the thread gives its own back."""
    go = threading.Event()

    @in_thread("20ms", concurrency=Concurrency(max_concurrent=1, max_waiting=0, per="tenant"))
    def hang(tenant: str) -> str:
        if tenant == "slow":
            go.wait(5)
        return tenant

    with pytest.raises(DeadlineExceededError):
        hang("slow")
    with pytest.raises(ConcurrencyLimitError):
        hang("slow")
    assert hang("quick") == "quick"
    go.set()
    until(lambda: hang.guard.stats()["timeout"]["threads"]["left_now"] == 0)
    time.sleep(0.01)
    assert hang("slow") == "slow"


def test_a_thread_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the machine's limit of threads the call fails, and neither its slot nor a thread counts as left behind."""
    work = in_thread(concurrency=Concurrency(max_concurrent=1))(lambda: 7)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threads, "_idle", [])
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            work()
    stats = work.guard.stats()
    assert (stats["concurrency"]["in_use"], stats["timeout"]["threads"]["left_now"]) == (0, 0)
    assert work() == 7
