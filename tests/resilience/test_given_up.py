"""Nested guards don't multiply retries, whatever lies between them; an exception kept and raised later is a new one."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mlguard import Monitor, Retry, guarded, testing

SHARED = ConnectionError("one object for everybody")


def failing(calls: list[str], name: str, error: Any = ConnectionError, **sections: Any) -> Any:
    @guarded(retry=Retry(max_retries=2, budget=None), **sections)
    def fail() -> None:
        calls.append(name)
        raise error

    return fail


def test_one_exception_object_of_two_unrelated_functions() -> None:
    """Each function retries it, however often the other one gave up on it."""
    calls: list[str] = []
    one, other = failing(calls, "one", SHARED), failing(calls, "other", SHARED)
    with testing.instant():
        for function in (one, other, one, other):
            with pytest.raises(ConnectionError):
                function()
    assert calls == ["one"] * 3 + ["other"] * 3 + ["one"] * 3 + ["other"] * 3


@pytest.mark.parametrize("sections", [{}, {"monitor": Monitor(log=False)}], ids=["bare", "recorded"])
def test_nested(sections: Any) -> None:
    """Three attempts around three attempts are three, also at the third level, with a kept exception object too."""
    for error in (ConnectionError, SHARED):
        calls: list[str] = []
        inner = failing(calls, "inner", error, **sections)

        @guarded(retry=Retry(max_retries=2, budget=None), **sections)
        def middle() -> None:
            calls.append("middle")  # noqa: B023
            inner()  # noqa: B023

        @guarded(retry=Retry(max_retries=2, budget=None), **sections)
        def outer() -> None:
            calls.append("outer")  # noqa: B023
            middle()

        with testing.instant(), pytest.raises(ConnectionError):
            outer()
        assert calls == ["outer", "middle", "inner", "inner", "inner"]


def test_the_outcome_says_why() -> None:
    """The event of the outer call says that the failure was retried within."""
    inner = failing([], "inner")

    @guarded(retry=Retry(), monitor=Monitor())
    def outer() -> None:
        inner()

    with testing.instant(), testing.capture_events() as events, pytest.raises(ConnectionError):
        outer()
    assert events[0]["mlguard.retry.stopped"] == "retried_within"
    assert events[0]["mlguard.attempts"] == 1


async def test_nested_across_tasks() -> None:
    """Tasks that the outer function starts are within it."""
    calls: list[str] = []

    @guarded(retry=Retry(max_retries=2, budget=None))
    async def inner() -> None:
        calls.append("inner")
        raise ConnectionError

    @guarded(retry=Retry(max_retries=2, budget=None))
    async def awaits() -> None:
        await inner()

    @guarded(retry=Retry(max_retries=2, budget=None))
    async def gathers() -> None:
        await asyncio.gather(inner(), asyncio.sleep(0))

    with testing.instant():
        for outer in (awaits, gathers):
            calls.clear()
            with pytest.raises(ConnectionError):
                await outer()
            assert calls == ["inner"] * 3


@pytest.mark.parametrize("copied", [False, True])
def test_nested_across_threads(copied: bool) -> None:
    """So are threads, with the caller's context or without."""
    calls: list[str] = []
    inner = failing(calls, "inner")

    @guarded(retry=Retry(max_retries=2, budget=None))
    def outer() -> None:
        with ThreadPoolExecutor(1) as pool:
            run = (contextvars.copy_context().run, inner) if copied else (inner,)
            pool.submit(*run).result()

    with testing.instant(), pytest.raises(ConnectionError):
        outer()
    assert calls == ["inner"] * 3


def test_another_process() -> None:
    """What was unpickled from another process was retried there."""
    inner = failing([], "inner")
    with testing.instant(), pytest.raises(ConnectionError) as caught:
        inner()
    error = caught.value
    process = error.__mlguard_given_up__[2][0]  # type: ignore[attr-defined]
    mark = list(error.__mlguard_given_up__)  # type: ignore[attr-defined]
    mark[2] = (process + 1, *mark[2][1:])
    error.__mlguard_given_up__ = tuple(mark)  # type: ignore[attr-defined]
    travelled = pickle.loads(pickle.dumps(error))
    calls: list[str] = []
    with testing.instant(), pytest.raises(ConnectionError):
        failing(calls, "outer", travelled)()
    assert calls == ["outer"]


def test_an_exception_of_another_thread_from_before() -> None:
    """Where the call is recorded, an exception that another thread gave up on before it began is retried."""
    calls: list[str] = []
    kept = ConnectionError()
    one = failing([], "one", kept)
    with testing.instant():

        def give_up() -> None:
            with pytest.raises(ConnectionError):
                one()

        thread = threading.Thread(target=give_up)
        thread.start()
        thread.join()
        with pytest.raises(ConnectionError):
            failing(calls, "other", kept, monitor=Monitor(log=False))()
    assert calls == ["other"] * 3


def test_nothing_is_kept_by_looking_at_the_stack() -> None:
    """Giving up inside another guard's fallback leaves no circle behind that would keep the arguments."""

    class Batch:
        pass

    inner = failing([], "inner")

    @guarded(retry=Retry(max_retries=1, budget=None), fallback=lambda batch: inner(), validation=False)
    def outer(batch: Any) -> None:
        raise ConnectionError

    gc.collect()
    gc.disable()
    try:
        batch = Batch()
        gone = weakref.ref(batch)
        with testing.instant(), contextlib.suppress(ConnectionError):
            outer(batch)
        del batch
        assert gone() is None
    finally:
        gc.enable()
