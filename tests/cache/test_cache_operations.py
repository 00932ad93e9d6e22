import asyncio
import contextvars
import gc
import os
import threading
import time
import tracemalloc
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from pydantic import BaseModel

from mlguard import Cache, NotKeyed, Retry, guarded
from mlguard.cache import MemoryStore, shrink
from mlguard.cache.keys import LOCAL, SHARED
from mlguard.errors import PolicyError
from tests.cache.test_keys import arrays, same, values

Floats = npt.NDArray[np.float64]


class Answer(BaseModel):
    label: str
    scores: list[float]


BODIES: dict[str, Any] = {
    "floats": lambda x: x + 0.5,
    "texts": lambda x: f"a text of number {x}" * 3,
    "tuples": lambda x: (x + 0.5, str(x)),
    "lists": lambda x: [x + 0.25, x + 0.5],
    "dicts": lambda x: {"low": x + 0.25, "high": x + 0.5},
    "nested": lambda x: {"low": [x + 0.25], "high": (x + 0.5, [x + 1.5])},
    "models": lambda x: Answer(label=str(x), scores=[x + 0.5]),
    "arrays": lambda x: np.full(50, x + 0.5),
}


@pytest.mark.parametrize("name", BODIES)
def test_the_bound_in_bytes_is_the_memory_really_taken(name):
    """What a full cache takes, measured, is within 5 % of what it says and never above its bound by more."""
    body, bound = BODIES[name], 500_000

    @guarded(cache=Cache(ttl=60, max_entries=10**6, max_bytes=bound), validation=False)
    def f(x: int) -> Any:
        return body(x)

    f(0), f.guard.cache_clear()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(1000, 3500):
        f(number)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    info = f.guard.cache_info()
    assert info.entries < 2500
    assert info.bytes <= bound
    assert taken <= 1.05 * bound
    assert 0.95 <= info.bytes / taken <= 1.05


def test_the_bound_in_bytes_holds_for_rows():
    """The same for rows of a batch."""

    @guarded(cache=Cache(ttl=60, rows=True, max_entries=10**6, max_bytes=2_000_000), rows="x", validation=False)
    def f(x: Floats) -> Floats:
        return x * 2

    rng = np.random.default_rng(0)
    f(rng.random((10, 20))), f.guard.cache_clear()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(8):
        f(rng.random((1000, 20)))
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert f.guard.cache_info().entries < 8000
    assert 0.95 <= f.guard.cache_info().bytes / taken <= 1.05
    assert taken <= 1.05 * 2_000_000


def test_memory_can_be_asked_back():
    """shrink() frees about what is wanted over all stores, oldest first, and says how much."""
    shrink(1 << 40)  # what other tests left

    def build():
        @guarded(cache=Cache(ttl=60), validation=False)
        def f(x: int) -> Any:
            return np.zeros(1000) + x

        return f

    first, second = build(), build()
    for number in range(100):
        first(number)
    for number in range(50):
        second(number)
    stores = [first.guard.cache_info().bytes, second.guard.cache_info().bytes]
    freed = shrink(sum(stores) // 2)
    left = [first.guard.cache_info().bytes, second.guard.cache_info().bytes]
    assert freed >= sum(stores) // 2 - 20_000
    assert all(0.3 < now / then < 0.7 for now, then in zip(left, stores, strict=True))
    assert first.guard.call(99).cached
    assert not first.guard.call(0).cached
    assert shrink(0) == 0


def test_shrinking_what_is_empty_frees_nothing():
    """A store without entries gives nothing, and says so."""
    assert MemoryStore(10, 1000).shrink(500) == 0


def test_one_result_can_be_invalidated_however_it_is_spelt():
    """cache_invalidate takes a call's arguments, validates them as the call does, and drops that entry."""
    runs = []

    @guarded(cache=Cache(ttl=60))
    def f(x: int, y: float = 1.0) -> float:
        runs.append(x)
        return x * y

    f(1), f(2)
    assert f.guard.cache_invalidate(y=1.0, x=1) is True
    assert f.guard.cache_invalidate(1) is False
    f(1), f(2)
    assert runs == [1, 2, 1]


async def test_a_coroutine_functions_result_can_be_invalidated():
    """The same, without awaiting anything."""

    @guarded(cache=Cache(ttl=60))
    async def f(x: int) -> int:
        return x

    await f(1)
    assert f.guard.cache_invalidate(1) is True
    assert (await f.guard.acall(1)).cached is False


def test_tenants_and_versions_can_be_dropped_from_memory():
    """cache_clear drops what meets every condition: a tenant given by a field of a model, a version, or both."""

    class Request(BaseModel):
        x: int
        customer: Annotated[str, NotKeyed]

    version, runs = ["1"], []

    @guarded(cache=Cache(ttl=60, tenant="request.customer"), model_version=lambda: version[0])
    def f(request: Request) -> int:
        runs.append((request.x, request.customer))
        return request.x

    for now in ("1", "2"):
        version[0] = now
        for customer in ("a", "b"):
            f(Request(x=1, customer=customer))
    assert len(runs) == 4
    assert f.guard.cache_clear(tenant="a", model_version="1") == 1
    assert f.guard.cache_clear(model_version="1") == 1
    assert f.guard.cache_clear(tenant="c") == 0
    assert f.guard.cache_info().entries == 2
    assert f.guard.cache_clear() == 2


def test_a_fixed_version_is_all_or_nothing():
    """With model_version as a text, dropping it drops everything, and dropping another nothing."""

    @guarded(cache=Cache(ttl=60), model_version="7")
    def f(x: int) -> int:
        return x

    f(1)
    assert f.guard.cache_clear(model_version="8") == 0
    assert f.guard.cache_clear(model_version="7") == 1


@pytest.mark.parametrize(
    ("tenant", "words"), [("customer", "no parameter 'customer'"), ("x.y", "no field 'y'"), ("rest", "no parameter")]
)
def test_a_tenant_that_is_not_there_is_refused(tenant, words):
    """The tenant must be an argument, or a field that its model has."""

    class Model(BaseModel):
        z: int

    with pytest.raises(PolicyError, match=words):

        @guarded(cache=Cache(ttl=60, tenant=tenant))
        def f(x: Model, *rest: int) -> int:
            return 1


def test_clearing_a_tenant_without_tenants_is_refused():
    """Where nothing says whose a result is, dropping somebody's can't be promised."""

    @guarded(cache=Cache(ttl=60))
    def f(x: int) -> int:
        return x

    with pytest.raises(PolicyError, match=r"Cache\(tenant="):
        f.guard.cache_clear(tenant="a")


def test_what_retry_gave_up_on_is_not_kept():
    """A result that retry would rather not have had is handed on and computed again next time."""
    runs = []

    @guarded(cache=Cache(ttl=60), retry=Retry(max_retries=1, initial_delay=0, on_result=lambda result: result is None))
    def f(x: int) -> Any:
        runs.append(x)
        return None

    assert f(1) is None
    assert f(1) is None
    assert len(runs) == 4
    assert f.guard.stats()["cache"]["not_stored"] == {"unwanted": 2}


# Calls in progress


async def test_a_context_variable_set_in_a_cached_function_reaches_its_caller():
    """A miss behaves as the function itself would: what it sets in the context is there after the await."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    @guarded(cache=Cache(ttl=60))
    async def f(x: int) -> int:
        variable.set(x)
        return x

    await f(7)
    assert variable.get() == 7


async def test_a_caller_that_left_does_not_poison_the_others():
    """When the first caller is cancelled and fills its array anew, those who wait get a result of their own content."""
    go = asyncio.Event()

    @guarded(cache=Cache(ttl=60), validation=False)
    async def total(x: Floats) -> float:
        await go.wait()
        return float(x.sum())

    buffer = np.ones(3)
    first = asyncio.create_task(total(buffer))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(total(np.ones(3)))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.01)
    buffer[:] = 100
    go.set()
    assert await second == 3
    assert await total(np.ones(3)) == 3


async def test_a_circle_through_a_thread_in_the_same_context_is_seen():
    """A leader that waits for a thread of asyncio.to_thread, which asks for the same key, comes to an end."""

    @guarded(cache=Cache(ttl=60), validation=False)
    def f(x: int, deep: Annotated[bool, NotKeyed] = True) -> int:
        if not deep:
            return x
        found = []
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: found.append(context.run(f, x, False)))
        thread.start()
        thread.join(5)
        assert found, "the thread waits for the leader that waits for it"
        return found[0] + 1

    assert await asyncio.to_thread(f, 1) == 2
    assert f.guard.stats()["cache"]["bypassed"] == {"reentrant": 1}


async def test_a_hundred_tasks_on_one_cold_key_run_one_body():
    """One task computes, the others share."""
    runs = []

    @guarded(cache=Cache(ttl=60))
    async def f(x: int) -> list[int]:
        runs.append(x)
        await asyncio.sleep(0.02)
        return [x]

    assert await asyncio.gather(*(f(1) for _ in range(100))) == [[1]] * 100
    assert runs == [1]


def test_a_forked_child_computes_for_itself():
    """A child forked while a leader runs and a refresh waits does not wait for either."""
    started, go = threading.Event(), threading.Event()

    @guarded(cache=Cache(ttl=60, stale_while_revalidate=5), validation=False)
    def f(x: int) -> int:
        if threading.current_thread() is not threading.main_thread():
            started.set()
            go.wait(5)
        return x

    leader = threading.Thread(target=f, args=(1,))
    leader.start()
    started.wait(5)
    child = os.fork()
    if not child:
        os._exit(0 if f(1) == 1 else 1)
    ends = time.monotonic() + 5
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < ends
        time.sleep(0.01)
    go.set()
    leader.join(5)
    assert ended[1] == 0


# Keys of both dialects


@settings(max_examples=300, deadline=None)
@given(values, values)
def test_shared_keys_tell_apart_exactly_what_local_ones_do(left, right):
    """In keys that processes share, too, equal bytes mean same types and same bits, and the other way round."""
    assert (SHARED.slot(left) == SHARED.slot(right)) == same(left, right)


@settings(max_examples=100, deadline=None)
@given(arrays, arrays)
def test_a_call_is_a_hit_exactly_when_types_and_bytes_are_the_same(left, right):
    """Through a guarded function, not only its key: the second of two calls is cached if and only if they are equal."""

    @guarded(cache=Cache(ttl=60), validation=False)
    def f(x: Any) -> int:
        return 1

    f(left)
    assert f.guard.call(right).cached == same(left, right)


def test_two_large_arrays_that_differ_in_one_value_never_share_a_key():
    """5,000 elements, one bit apart, at either end and in the middle."""
    plain = np.linspace(0, 1, 5_000)
    for dialect in (LOCAL, SHARED):
        keys = {dialect.slot(plain)}
        for place in (0, 2_500, 4_999):
            other = plain.copy()
            other[place] = np.nextafter(other[place], 2)
            keys.add(dialect.slot(other))
        assert len(keys) == 4


def test_frames_are_keyed_by_content_names_types_and_index():
    """Data frames as ordinary arguments: equal content is one key, anything else another."""
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    frames = [
        pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
        pd.DataFrame({"a": [1, 3], "b": ["x", "y"]}),
        pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}),
        pd.DataFrame({"b": ["x", "y"], "a": [1, 2]}),
        pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}, index=[1, 0]),
        pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}).iloc[:1],
        pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}).iloc[:0],
        pl.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
        pl.DataFrame({"a": [1, 2], "b": ["x", None]}),
        pd.Series([1, 2], name="a"),
    ]
    for dialect in (LOCAL, SHARED):
        assert len({dialect.slot(frame) for frame in frames}) == len(frames)
        assert [dialect.slot(frame) for frame in frames] == [
            dialect.slot(frame.copy() if hasattr(frame, "iloc") else frame.clone()) for frame in frames
        ]


def test_frames_come_back_as_copies():
    """A cached data frame is nobody's to change; one that holds objects is not kept."""
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")

    @guarded(cache=Cache(ttl=60), validation=False)
    def f(kind: str) -> Any:
        made: Any = {
            "pandas": pd.DataFrame({"a": [1, 2]}),
            "series": pd.Series([1, 2]),
            "polars": pl.DataFrame({"a": [1, 2]}),
            "objects": pd.DataFrame({"a": [[1], [2]]}),
        }
        return made[kind]

    f("pandas"), f("polars"), f("series")
    frame, series, table = f("pandas"), f("series"), f("polars")
    frame.loc[0, "a"] = series[0] = table[0, "a"] = 9
    assert f("pandas")["a"].tolist() == [1, 2]
    assert f("series").tolist() == [1, 2]
    assert f("polars")["a"].to_list() == [1, 2]
    f("objects")
    assert f.guard.call("objects").cached is False
