"""What happens seldom: no threads left, forked children, rows forgotten while they are computed, foreign entries."""

import asyncio
import threading

import cloudpickle
import numpy as np
import numpy.typing as npt
import pytest

from mlguard import Cache, Timeout, guarded
from mlguard.cache.background import Background
from mlguard.cache.stores import Stored
from mlguard.errors import DeadlineExceededError
from tests.cache.test_shared_cache import DictStore

Floats = npt.NDArray[np.float64]


# What a cache says of itself


def test_explain_says_every_leniency_with_its_figures():
    """Stale answers, remembered failures and their errors are said in sentences, with times and names."""

    @guarded(
        cache=Cache(
            ttl="1m", stale_while_revalidate="5s", stale_if_error="1h", stale_on=["transient", KeyError],
            negative_ttl="3s", negative_on=["LookupError", ValueError], on_hit="copy",
        )
    )  # fmt: skip
    def f(x: int) -> int:
        return x

    text = str(f.guard.explain())
    assert "For 5s more an expired result is served at once, marked stale" in text
    assert "fails with a transient error or KeyError, a result that expired at most 1h ago is served" in text
    assert "A failure with LookupError or ValueError is remembered for 3s and raised again" in text
    assert "as writable copies" in text


def test_explain_says_where_shared_rows_lie():
    """A row-wise cache on a shared store names its batch, the store and how long memory answers alone."""

    @guarded(cache=Cache(ttl=None, rows=True, store=DictStore()), rows="x", model_version="1")
    def f(x: Floats) -> Floats:
        return x

    text = str(f.guard.explain())
    assert "A row of a result is cached until it is evicted" in text
    assert "A batch ('x') is looked up row by row" in text
    assert "Results are shared in DictStore, not sealed with a secret; this process answers from its own memory" in text


# The background


def test_where_no_thread_can_be_started_work_is_refused(monkeypatch):
    """Out of threads, a refresh is dropped and said so; the next one tries again."""
    background = Background(threads=1)

    def refuse(self):
        raise RuntimeError("can't start new thread")

    ran = threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        assert background.submit(ran.set) is False
    assert background.submit(ran.set) is True
    assert ran.wait(5)


def test_work_that_waits_is_dropped_when_the_interpreter_goes(monkeypatch):
    """At exit what runs is waited for, and what waits is not begun."""
    background, go, begun, ran = Background(threads=1), threading.Event(), threading.Event(), []

    def first():
        begun.set()
        go.wait(5)

    background.submit(first)
    begun.wait(5)
    worker = next(thread for thread in threading.enumerate() if thread.name == "mlguard-refresh")
    assert background.submit(lambda: ran.append(1)) is True
    monkeypatch.setattr(threading.main_thread(), "is_alive", lambda: False, raising=False)
    go.set()
    worker.join(5)
    assert not ran


def test_a_forked_child_has_neither_the_threads_nor_the_work_of_its_parent():
    """What waits in the parent is the parent's, and work handed in after the fork runs."""
    background, go, ran, late = Background(threads=1), threading.Event(), threading.Event(), []
    background.submit(lambda: go.wait(5))
    background.submit(lambda: late.append(1))
    background.after_fork()
    assert background.submit(ran.set) is True
    assert ran.wait(5)
    go.set()
    assert not late


# Rows in progress


async def test_rows_forgotten_while_tasks_compute_them_are_not_stored():
    """cache_invalidate, cache_clear and a fork let nobody join the rows that a task computes."""
    runs, go = [], asyncio.Event()

    @guarded(cache=Cache(ttl=60, rows=True), rows="x")
    async def f(x: Floats) -> Floats:
        runs.append(x.tolist())
        await go.wait()
        return x * 2

    x = np.array([1.0, 2.0])
    cache = f.guard._wrapper.rooms["cache"]
    tasks = [asyncio.create_task(f(x))]
    await asyncio.sleep(0.001)
    f.guard.cache_invalidate(x[:1])
    tasks.append(asyncio.create_task(f(x)))  # joins the second row only
    await asyncio.sleep(0.001)
    f.guard.cache_clear()
    tasks.append(asyncio.create_task(f(x)))
    await asyncio.sleep(0.001)
    cache._task_rows.after_fork()
    tasks.append(asyncio.create_task(f(x)))
    await asyncio.sleep(0.001)
    go.set()
    assert [each.tolist() for each in await asyncio.gather(*tasks)] == [[2.0, 4.0]] * 4
    assert runs == [[1.0, 2.0], [1.0], [1.0, 2.0], [1.0, 2.0]]
    assert f.guard.cache_info().entries == 2  # of the last one


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_batch_that_waits_for_another_keeps_its_own_deadline(asynchronous):
    """Whoever waits for rows of another batch gives up when its own time is over, and says for what it waited."""
    go, begun = threading.Event(), threading.Event()
    cache = Cache(ttl=60, rows=True)

    def body(x: Floats) -> Floats:
        begun.set()
        go.wait(5)
        return x

    async def awaited(x: Floats) -> Floats:
        begun.set()
        while not go.is_set():
            await asyncio.sleep(0.001)
        return x

    f = guarded(cache=cache, rows="x")(awaited if asynchronous else body)
    x = np.array([1.0, 2.0])
    if asynchronous:

        @guarded(timeout=Timeout(total=0.05))
        async def hurried() -> Floats:
            return await f(x)

        leader = asyncio.create_task(f(x))
        await asyncio.sleep(0.002)
        with pytest.raises(DeadlineExceededError):
            await hurried()
        go.set()
        assert (await leader).tolist() == [1.0, 2.0]
    else:

        @guarded(timeout=Timeout(total=0.05))
        def hurried_too() -> Floats:
            return f(x)

        thread = threading.Thread(target=f, args=(x,))
        thread.start()
        begun.wait(5)
        with pytest.raises(DeadlineExceededError, match="waited for an equal one in progress"):
            hurried_too()
        go.set()
        thread.join(5)
    assert f.guard.cache_info().entries == 2


def test_a_row_cache_travels_without_its_claims():
    """A function with a row-wise cache can be pickled by value while its rows are computed elsewhere."""

    @guarded(cache=Cache(ttl=60, rows=True), rows="x")
    def f(x: Floats) -> Floats:
        return x * 2

    f(np.array([1.0]))
    there = cloudpickle.loads(cloudpickle.dumps(f))
    assert there(np.array([1.0, 2.0])).tolist() == [2.0, 4.0]
    assert there.guard.cache_info().misses == 2
    cache = there.guard._wrapper.rooms["cache"]
    function, arguments = cache._task_rows.__reduce__()
    assert function(*arguments) is cache._task_rows
    function, arguments = cache._thread_rows.__reduce__()
    assert function(*arguments) is cache._thread_rows
    cache._thread_rows.after_fork()
    assert not cache._thread_rows.table


# Shared stores


class Wrong(DictStore):
    """Gives what it was not asked for."""

    answer: object = None

    def get_many(self, keys):
        return super().get_many(keys) if self.answer is None else [self.answer for _ in keys]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("no entry", "foreign"), (Stored(b"", float("nan"), None), None), (Stored(b"garbage", 0.0, None), None)],
)
def test_what_is_no_entry_is_a_miss_and_counted(answer, reason):
    """A store of the user's that answers anything at all costs the hit, for calls and for rows."""
    store = Wrong()
    store.answer = answer

    @guarded(cache=Cache(ttl=60, store=store), model_version="1")
    def f(x: int) -> int:
        return x

    @guarded(cache=Cache(ttl=60, store=store, rows=True), rows="x", model_version="1")
    def rows(x: Floats) -> Floats:
        return x * 2

    assert f(1) == 1
    assert rows(np.array([1.0, 2.0])).tolist() == [2.0, 4.0]
    for counted in (f, rows):
        undecodable = counted.guard.stats()["cache"]["undecodable"]
        assert sum(undecodable.values()) >= 1
        assert reason is None or reason in undecodable


def test_an_entry_whose_age_is_no_number_is_a_miss():
    """Freshness is never computed from what is no number."""
    store = DictStore()

    @guarded(cache=Cache(ttl=60, store=store), model_version="1")
    def f(x: int) -> int:
        return x

    f(1)
    f.guard.reset()
    store.get_many = lambda keys: [Stored(store.entries[key][0], float("nan"), None) for key in keys]  # type: ignore[method-assign]
    assert f(1) == 1
    assert f.guard.stats()["cache"]["undecodable"] == {"foreign": 1}


def test_a_whole_result_where_a_row_should_be_is_a_miss():
    """An entry of another shape than one row is counted as malformed and computed anew."""
    store = DictStore()

    @guarded(cache=Cache(ttl=60, store=store, rows=True), rows="x", model_version="1")
    def f(x: Floats) -> Floats:
        return x * 2

    cache = f.guard._wrapper.rooms["cache"]
    f(np.array([1.0, 2.0]))
    for key in list(store.entries):
        payload = cache.remote.codec.encode(np.array([7.0, 8.0, 9.0]), key, fresh=60.0, cost=0.0)
        store.entries[key] = payload, *store.entries[key][1:]
    f.guard.reset()
    assert f(np.array([1.0, 2.0])).tolist() == [2.0, 4.0]
    assert f.guard.stats()["cache"]["undecodable"] == {"malformed": 2}


def test_invalidating_a_call_without_a_key_is_no_error():
    """Where a batch has no key there is nothing to forget, in memory or in the store."""

    @guarded(cache=Cache(ttl=60, store=DictStore(), rows=True), rows="x", model_version="1")
    def f(x: list[object]) -> list[int]:
        return [1 for _ in x]

    assert f.guard.cache_invalidate([object()]) is False


def test_results_that_cannot_be_written_are_handed_on_and_named():
    """A result larger than the store takes, or of a type it can't hold, is counted as such."""
    store = DictStore()
    store.largest = 100

    @guarded(cache=Cache(ttl=60, store=store), model_version="1")
    def f(x: int) -> bytes:
        return bytes(1000)

    assert len(f(1)) == 1000
    assert f.guard.stats()["cache"]["not_stored"] == {"too_large": 1}
