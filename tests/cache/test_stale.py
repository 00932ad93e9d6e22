import asyncio
import subprocess
import sys
import threading
import time

import numpy as np
import numpy.typing as npt
import pytest

from mlguard import Cache, Retry, guarded
from mlguard.cache.background import Background
from mlguard.errors import PolicyError
from mlguard.testing import FakeClock, capture_events


class MissingRowError(LookupError):
    def __init__(self, row: int, *, table: str) -> None:
        super().__init__(row)
        self.table = table


def wait_until(condition):
    ends = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.002)


def test_a_stale_result_is_served_at_once_while_one_call_computes_a_new_one():
    """After ttl every caller gets the old result, marked stale; one refresh runs behind, then the new one is there."""
    runs, go = [], threading.Event()

    @guarded(cache=Cache(ttl=10, jitter=0, stale_while_revalidate=60))
    def f(x: int) -> int:
        runs.append(x)
        if len(runs) > 1:
            go.wait(5)
        return len(runs)

    with FakeClock() as clock:
        assert f(1) == 1
        clock.advance(11)
        outcomes = [f.guard.call(1) for _ in range(5)]
        assert [(each.value, each.stale, each.cached) for each in outcomes] == [(1, True, True)] * 5
        go.set()
        wait_until(lambda: not f.guard.call(1).stale)
        assert f(1) == 2
        stats = f.guard.stats()["cache"]
        assert (stats["refreshes"], stats["misses"], stats["stale"] >= 5) == (1, 1, True)
        clock.advance(71)
        assert f.guard.call(1).stale is False
        assert len(runs) == 3


async def test_tasks_refresh_in_the_background_too():
    """A coroutine function's refresh is a task of its own, and one for each key."""
    runs = []

    @guarded(cache=Cache(ttl=10, jitter=0, stale_while_revalidate=60))
    async def f(x: int) -> int:
        runs.append(x)
        await asyncio.sleep(0.01)
        return len(runs)

    with FakeClock() as clock:
        assert await f(1) == 1
        clock.advance(11)
        assert await asyncio.gather(*(f(1) for _ in range(20))) == [1] * 20
        await asyncio.sleep(0.05)
        assert await f(1) == 2
        assert len(runs) == 2


def test_a_refresh_works_on_the_arguments_as_they_were():
    """A caller that fills its array anew at once does not poison the entry of the old content."""
    go = threading.Event()
    seen = []

    @guarded(cache=Cache(ttl=10, jitter=0, stale_while_revalidate=60))
    def total(x: npt.NDArray[np.float64]) -> float:
        if seen:
            go.wait(5)
        seen.append(x.copy())
        return float(x.sum())

    with FakeClock() as clock:
        buffer = np.ones(4)
        assert total(buffer) == 4
        clock.advance(11)
        assert total(buffer) == 4
        buffer[:] = 9
        go.set()
        wait_until(lambda: len(seen) == 2)
        wait_until(lambda: total.guard.call(np.ones(4)).stale is False)
        assert total(np.ones(4)) == 4
        assert seen[1].tolist() == [1, 1, 1, 1]


def test_a_refresh_whose_arguments_changed_is_not_kept():
    """What can't be copied is looked at again: a result of other content than the key says is thrown away."""

    class Box:
        def __init__(self, content):
            self.content = content

        def __mlguard_key__(self):
            return self.content

    go = threading.Event()
    runs = []

    @guarded(cache=Cache(ttl=10, jitter=0, stale_while_revalidate=60))
    def f(box: Box) -> int:
        if runs:
            go.wait(5)
        runs.append(box.content)
        return box.content

    with FakeClock() as clock:
        box = Box(1)
        assert f(box) == 1
        clock.advance(11)
        assert f(box) == 1
        box.content = 2
        go.set()
        wait_until(lambda: f.guard.stats()["cache"]["refreshes_failed"] == 1)
        go.clear()
        go.set()
        assert f.guard.call(Box(1)).value == 1


def test_a_refresh_that_fails_leaves_the_old_result_and_is_tried_again():
    """A failing refresh is counted, nobody sees it, and the next stale hit starts another."""
    failing = [False]

    @guarded(cache=Cache(ttl=10, jitter=0, stale_while_revalidate=60), retry=Retry(max_retries=0))
    def f(x: int) -> int:
        if failing[0]:
            raise ConnectionError
        return x

    with FakeClock() as clock:
        f(1)
        clock.advance(11)
        failing[0] = True
        for number in (1, 2):
            assert f.guard.call(1).stale
            wait_until(lambda n=number: f.guard.stats()["cache"]["refreshes_failed"] == n)
        failing[0] = False
        f(1)
        wait_until(lambda: not f.guard.call(1).stale)


def test_an_outage_is_answered_with_what_was_true_before():
    """stale_if_error serves an expired result for declared failures only, marked in the event, and not for ever."""
    error: list[Exception | None] = [None]

    @guarded(cache=Cache(ttl=10, jitter=0, stale_if_error=100), monitor=True)
    def f(x: int) -> int:
        if error[0] is not None:
            raise error[0]
        return x

    with FakeClock() as clock, capture_events() as events:
        f(1)
        clock.advance(15)
        error[0] = ConnectionError("down")
        outcome = f.guard.call(1)
        assert (outcome.value, outcome.stale, outcome.disposition) == (1, True, "cache_hit")
        error[0] = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            f(1)
        error[0] = ConnectionError("down")
        clock.advance(100)
        with pytest.raises(ConnectionError):
            f(1)
    assert [event.get("mlguard.cache") for event in events] == ["miss", "stale", "miss", "miss"]
    assert events[1]["mlguard.cache.stale_for"] == 5


async def test_an_outage_of_a_coroutine_function():
    """The same for tasks, and for errors given as classes."""
    failing = [False]

    @guarded(cache=Cache(ttl=10, jitter=0, stale_if_error=100, stale_on=[KeyError]))
    async def f(x: int) -> int:
        if failing[0]:
            raise KeyError(x)
        return x

    with FakeClock() as clock:
        await f(1)
        clock.advance(15)
        failing[0] = True
        assert (await f.guard.acall(1)).stale
        with pytest.raises(KeyError):
            await f(2)


def test_declared_failures_are_remembered_and_others_are_not():
    """negative_ttl raises an equal error again without running the body, for its time and its classes only."""
    runs = []

    @guarded(cache=Cache(ttl=60, negative_ttl=5, negative_on="LookupError"), monitor=True)
    def f(x: int) -> int:
        runs.append(x)
        if x < 0:
            raise ZeroDivisionError
        raise MissingRowError.__new__(MissingRowError, x) if x == 7 else KeyError(f"row {x}")

    with FakeClock() as clock, capture_events() as events:
        raised = []
        for _ in range(3):
            with pytest.raises(KeyError, match="row 1") as caught:
                f(1)
            raised.append(caught.value)
        assert runs == [1]
        assert len(set(map(id, raised))) == 3
        clock.advance(6)
        with pytest.raises(KeyError):
            f(1)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                f(-1)
        assert runs == [1, 1, -1, -1]
    assert [event.get("mlguard.cache") for event in events[:3]] == ["miss", "negative", "negative"]
    assert f.guard.stats()["cache"]["failures_remembered"] == 2


def test_a_failure_that_cant_be_made_again_is_not_remembered():
    """An exception whose class needs more than its args is raised as it is every time, and counted."""

    @guarded(cache=Cache(ttl=60, negative_ttl=5, negative_on=MissingRowError))
    def f(x: int) -> int:
        raise MissingRowError(x, table="rows")

    for _ in range(2):
        with pytest.raises(MissingRowError) as caught:
            f(1)
        assert caught.value.table == "rows"
    assert f.guard.stats()["cache"]["not_stored"] == {"uncopyable MissingRowError": 2}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ttl": None, "stale_while_revalidate": 5}, "nothing is ever stale with ttl = None"),
        ({"ttl": None, "stale_if_error": "1m"}, "stale_if_error = 1m"),
        ({"ttl": 1, "negative_ttl": 5}, "no error is named"),
        ({"ttl": 1, "negative_on": KeyError}, "negative_ttl = 0"),
        ({"ttl": 1, "negative_ttl": 5, "negative_on": "transient"}, "may pass at the next call"),
        ({"ttl": 1, "negative_ttl": 5, "negative_on": KeyboardInterrupt}, "derive from Exception"),
        ({"ttl": 1, "stale_on": KeyError}, "stale_if_error = 0"),
        ({"ttl": 1, "stale_if_error": 5, "stale_on": []}, "names no error"),
        ({"ttl": 1, "stale_if_error": 5, "stale_on": 7}, "must be 'transient'"),
        ({"ttl": 1, "rows": True, "stale_while_revalidate": 5}, "rows = True with stale_while_revalidate"),
        ({"ttl": 1, "store": "mysql://x"}, "redis://host:6379/0"),
        ({"ttl": 1, "store": object()}, "has no get_many"),
        ({"ttl": 1, "tenant": "a b"}, "tenant"),
    ],
)
def test_contradictions_are_refused(settings, words):
    """Settings that can't mean anything are a PolicyError with the fix."""
    with pytest.raises(PolicyError, match=words):
        Cache(**settings)


def test_the_background_is_bounded_and_dies_with_its_work():
    """So many threads run, so many pieces wait, the next is refused; when all is done no thread is left."""
    background, go, done = Background(threads=2, waiting=3), threading.Event(), []

    def work() -> None:
        go.wait(5)
        done.append(threading.current_thread())

    assert [background.submit(work) for _ in range(2)] == [True, True]
    wait_until(lambda: not background._waiting)
    assert [background.submit(work) for _ in range(4)] == [True, True, True, False]
    go.set()
    wait_until(lambda: len(done) == 5)
    for thread in set(done):
        thread.join(5)
        assert not thread.is_alive()
    assert background._running == 0
    background.submit(lambda: done.append(None))
    wait_until(lambda: len(done) == 6)


def test_waiting_refreshes_do_not_keep_a_process_alive():
    """At exit what runs ends, what waits is dropped."""
    program = """
import time
from mlguard.cache.background import Background
background = Background(threads=1)
for number in range(50):
    background.submit(lambda n=number: (time.sleep(0.2), print(n)))
time.sleep(0.05)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (ended.stdout.split(), ended.stderr) == (["0"], "")
