import asyncio
import enum
import os
import threading
import time
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import cloudpickle
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel

from mlguard import Cache, NotKeyed, Retry, guarded
from mlguard.cache import background, stale
from mlguard.cache.flow import drive, drive_async
from mlguard.cache.identity import fingerprint_of
from mlguard.cache.keys import LOCAL, SHARED
from mlguard.cache.stores import StoreError
from mlguard.errors import PolicyError
from mlguard.testing import FakeClock
from tests.cache.test_shared_cache import DictStore

Floats = npt.NDArray[np.float64]
ROWS = Cache(ttl=60, rows=True)


# Flows


def test_a_flow_gets_what_came_of_each_step():
    """A driver sends results, throws what was raised, and returns the flow's own result."""

    def flow():
        first = yield int, ("7",)
        try:
            yield int, ("x",)
        except ValueError:
            return first + 1

    async def number(text):
        return int(text)

    def waiting():
        first = yield number, ("7",)
        try:
            yield number, ("x",)
        except ValueError:
            return first + 1

    assert drive(flow()) == 8
    assert asyncio.run(drive_async(waiting())) == 8


# Background work


def test_a_machine_without_threads_refreshes_nothing(monkeypatch):
    """Where no thread can be started, the stale result is served and the refresh counted as dropped."""

    @guarded(cache=Cache(ttl=1, jitter=0, stale_while_revalidate=60))
    def f(x: int) -> int:
        return x

    def refuse(self):
        raise RuntimeError("can't start new thread")

    with FakeClock() as clock:
        f(1)
        clock.advance(2)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert f.guard.call(1).stale
        assert f.guard.call(1).stale
    assert f.guard.stats()["cache"]["refreshes_dropped"] == 2
    assert background.background._running == 0


async def test_too_many_refreshing_tasks_are_dropped(monkeypatch):
    """Refreshes of an event loop are bounded as well."""
    monkeypatch.setattr(stale, "_MOST_TASKS", 2)
    slow = [False]

    @guarded(cache=Cache(ttl=1, jitter=0, stale_while_revalidate=60), retry=Retry(max_retries=0))
    async def f(x: int) -> int:
        if slow[0]:
            await asyncio.sleep(0.02)
            raise ConnectionError
        return x

    with FakeClock() as clock:
        for number in range(4):
            await f(number)
        clock.advance(2)
        slow[0] = True
        for number in range(4):
            assert await f(number) == number
        await asyncio.sleep(0.1)
        stats = f.guard.stats()["cache"]
        assert (stats["refreshes_dropped"], stats["refreshes_failed"]) == (2, 2)


async def test_a_tasks_refresh_whose_arguments_changed_is_not_kept():
    """The arguments that can't be copied are looked at before and after, for tasks too."""

    class Box:
        content = 1

        def __mlguard_key__(self):
            return self.content

    go = asyncio.Event()
    runs = []

    @guarded(cache=Cache(ttl=1, jitter=0, stale_while_revalidate=60), validation=False)
    async def f(box: Box) -> int:
        runs.append(box.content)
        if len(runs) > 1:
            await go.wait()
        return box.content

    with FakeClock() as clock:
        box = Box()
        await f(box)
        clock.advance(2)
        await f(box)
        await asyncio.sleep(0.01)
        box.content = 2
        go.set()
        await asyncio.sleep(0.01)
        assert f.guard.stats()["cache"]["refreshes_failed"] == 1
        assert (await f.guard.acall(Box())).value == 1


def test_a_failure_too_large_to_remember_is_only_raised():
    """A remembered failure is bounded like a result."""

    @guarded(cache=Cache(ttl=60, max_bytes=10_000, negative_ttl=5, negative_on="LookupError"))
    def f(x: int) -> int:
        raise LookupError("x" * 100_000)

    with pytest.raises(LookupError):
        f(1)
    assert f.guard.stats()["cache"]["not_stored"] == {"too_large": 1}


def test_a_stale_cache_survives_pickling_and_forgets():
    """What is lenient travels with its cache; reset forgets its counts."""

    @guarded(cache=Cache(ttl=60, stale_if_error=5, negative_ttl=5, negative_on="LookupError"), timeout={"total": 5})
    def f(x: int) -> int:
        if x < 0:
            raise LookupError
        return x

    copied = cloudpickle.loads(cloudpickle.dumps(f))
    for _ in range(2):
        with pytest.raises(LookupError):
            copied(-1)
    assert copied.guard.stats()["cache"]["failures_remembered"] == 1
    copied.guard.reset()
    assert copied.guard.stats()["cache"]["failures_remembered"] == 0


# A shared store's bad days


def build(store, body, **settings):
    @guarded(cache=Cache(**{"ttl": 60, "store": store, **settings}), model_version="1")
    def f(x: int) -> Any:
        return body(x)

    return f


@pytest.mark.parametrize("operation", ["put_many", "lease", "release", "get_many"])
def test_each_operation_may_fail_alone(operation):
    """Whichever operation of the store fails, the call computes and the failure is counted once."""
    store = DictStore()

    def fail(*args, **kwargs):
        raise StoreError("no", "full")

    setattr(store, operation, fail)
    f = build(store, lambda x: x)
    assert f(1) == 1
    assert f.guard.stats()["cache"]["store_errors"]["full"] >= 1


def test_a_store_that_fails_while_another_process_is_waited_for():
    """The wait ends at once, and the call computes."""
    store = DictStore()
    f = build(store, lambda x: x)
    f(1)
    (key,) = store.entries
    store.entries.clear()
    store.leases[key] = b"other"
    threading.Timer(0.05, lambda: setattr(store, "broken", StoreError("gone", "unreachable"))).start()
    started = time.monotonic()
    assert build(store, lambda x: x)(1) == 1
    assert time.monotonic() - started < 0.9


@pytest.mark.parametrize("stored", [True, False])
def test_a_lease_given_back_is_taken_up(stored):
    """Who waited takes over when the holder gives up, and looks once more whether the result came meanwhile."""
    store, runs = DictStore(), []
    f = build(store, lambda x: runs.append(x) or x)
    f(1)
    ((key, entry),) = store.entries.items()
    store.entries.clear()
    store.leases[key] = b"other"
    taken = store.lease

    def lease(key, seconds):
        if store.calls.count("lease") > 3:
            store.leases.clear()
            if stored:
                store.entries[key] = entry
        return taken(key, seconds)

    store.lease = lease
    assert build(store, lambda x: runs.append(x) or x)(1) == 1
    assert runs == ([1] if stored else [1, 1])
    assert store.leases == {}


def test_a_deadline_leaves_time_to_compute():
    """A call in a hurry waits for another process only as long as it can still compute afterwards."""
    store = DictStore()

    @guarded(cache=Cache(ttl=60, store=store), model_version="1", timeout={"total": 0.5})
    def f(x: int) -> int:
        return x

    f(1)
    (key,) = store.entries
    store.entries.clear()
    store.leases[key] = b"other"
    f.guard.reset()
    outcome = f.guard.call(1)
    assert (outcome.value, outcome.late) == (1, False)
    assert outcome.duration < 0.5


def test_what_decodes_but_is_larger_than_memory_is_computed():
    """An entry that this process may not hold is a miss."""
    store, runs = DictStore(), []
    build(store, lambda x: np.zeros(5_000))(1)
    small = build(store, lambda x: runs.append(x) or np.zeros(5_000), max_bytes=1_000)
    assert small(1).shape == (5_000,)
    assert runs == [1]


def test_reset_leaves_the_store_alone():
    """reset() forgets this process; the shared results are everybody's."""
    store = DictStore()
    f = build(store, lambda x: x)
    f(1)
    f.guard.reset()
    assert len(store.entries) == 1
    assert f.guard.call(1).cached


def test_policies_that_build_keys_differently_never_share():
    """Another tenant, another batch argument or a key of the user's makes other entries of one function."""
    store = DictStore()

    def f(x: Floats, y: Floats) -> Any:
        return x[:, 0] - y[0, 0]

    def by(**options):
        return guarded(model_version="1", validation=False, **options)(f)

    one, two = np.array([[1.0], [2.0]]), np.array([[5.0], [6.0]])
    variants = [
        by(cache=Cache(ttl=60, store=store)),
        by(cache=Cache(ttl=60, store=store, tenant="y")),
        by(cache=Cache(ttl=60, store=store), key=lambda x, y: (x, y)),
        by(cache=Cache(ttl=60, store=store, rows=True), rows="x"),
    ]
    for number, call in enumerate(variants):
        for x, y in ((one, two), (two, one)):
            assert call(x, y).tolist() == f(x, y).tolist(), number
    assert len(store.entries) == 3 * 2 + 2 * 2


def test_a_function_of_a_script_is_known_by_its_file():
    """Two scripts with a function of one name, both called __main__, never share."""
    from mlguard.cache.codec import Codec
    from mlguard.cache.identity import identity_of
    from mlguard.target import Target

    def f(x: int) -> int:
        return x

    plain = identity_of(Target(f), Codec(int), (False, True))
    f.__module__ = "__main__"
    script = identity_of(Target(f), Codec(int), (False, True))
    assert plain != script
    assert any(b"__main__" in part and len(part) > len(b"__main__") for part in script)


def test_the_text_of_a_function_is_known_without_its_lines():
    """Constants, inner functions and sets count; where the text stands does not."""

    def compiled(text):
        names: dict[str, Any] = {}
        exec(text, names)
        return fingerprint_of(names["f"].__code__)

    text = "def f(x):\n    return [y for y in x if y in {'a', 'b', 'c'}]"
    assert compiled(text) == compiled("\n\n" + text)
    assert compiled(text) != compiled(text.replace("'c'", "'d'"))
    assert compiled("def f(x):\n    return 1") != compiled("def f(x):\n    return 1.0")


def test_classes_of_every_kind_are_spelt():
    """Enums by their members, named tuples and dataclasses by their fields, plain classes by their name."""

    def kinds(change):
        color = enum.Enum("Color", {"RED": 1 + change}, module="shop")
        point = NamedTuple("Point", [("x", str if change else int)])  # noqa: UP014
        line = dataclass(type("Line", (), {"__annotations__": {"x": str if change else int}, "x": 1}))
        return [SHARED.encode(color.RED), SHARED.encode(point(1)), SHARED.encode(line())]

    assert kinds(0) == kinds(0)
    assert all(old != new for old, new in zip(kinds(0), kinds(1), strict=True))
    assert SHARED.encode(int) == SHARED.encode(int) != SHARED.encode(str)


# Rows


def test_rows_deeper_in_a_model_are_refused():
    """A batch may be a field of an argument, not a field of a field."""

    class Inner(BaseModel, arbitrary_types_allowed=True):
        x: Floats

    class Outer(BaseModel):
        inner: Inner

    with pytest.raises(PolicyError, match="lies deeper"):

        @guarded(cache=ROWS, rows="outer.inner.x")
        def f(outer: Outer) -> Any:
            return outer.inner.x


async def test_coroutine_functions_go_past_the_cache_too():
    """Batches without rows or keys, and rows that nobody can keep, reach a coroutine function as they are."""

    @guarded(cache=ROWS, rows="x")
    async def f(x: Any) -> Any:
        return ({"a": 1}, len(x)) if len(x) > 2 else [object() for _ in x]

    assert await f([]) == []
    assert len(await f([object()])) == 1
    assert len(await f([1, 2])) == 2
    assert f.guard.cache_invalidate([object()]) is False
    assert f.guard.cache_invalidate([1, 2]) is False


def test_a_part_that_cant_be_kept_is_computed_as_a_whole():
    """Where only the new rows turn out to be no result to keep, the caller gets one computed as a whole."""

    @guarded(cache=ROWS, rows="x")
    def f(x: list[int]) -> Any:
        return [object() if each > 2 else each for each in x]

    f([1, 2])
    assert len(f([1, 2, 3])) == 3


def test_rows_that_break_their_schema_in_report_mode_are_nobody_elses():
    """What only report mode let pass is handed to its caller and computed again."""
    from mlguard import Array

    runs = []

    @guarded(cache=ROWS, rows="x", validation={"on_invalid": "report"})
    def f(x: Floats) -> Annotated[Floats, Array("n", ge=0)]:
        runs.append(len(x))
        return x[:, 0]

    bad = np.array([[-1.0], [1.0]])
    f(bad), f(bad)
    good = np.array([[2.0], [3.0]])
    f(good)
    f(np.concatenate([good, bad]))
    assert runs == [2, 2, 2, 2]
    assert f.guard.cache_info().entries == 2


def test_results_of_frames_that_rows_cant_be_made_of():
    """Frames with an index of their own, nulls, objects or doubled names are handed on, not taken apart."""
    makers = [
        lambda n: pd.DataFrame({"a": np.arange(n)}, index=np.arange(n) + 5),
        lambda n: pd.DataFrame({"a": ["x"] * n}),
        lambda n: pd.DataFrame(np.ones((n, 2)), columns=["a", "a"]),
        lambda n: pd.DataFrame(np.ones((n, 2)), columns=[1, 2]),
        lambda n: pd.DataFrame(np.ones((n, 1)), columns=pd.Index(["a"], name="names")),
        lambda n: pd.Series(np.ones(n), name=("a", "b")),
        lambda n: pl.DataFrame({"a": [None] * n}),
        lambda n: pl.DataFrame({"a": [[1]] * n}),
        lambda n: pa.table({"a": pa.array([None] * n, pa.int64())}),
        lambda n: pa.table({"a": [[1]] * n}),
        lambda n: np.array([object()] * n),
        lambda n: pa.array([1] * n),
    ]
    for make in makers:

        @guarded(cache=ROWS, rows="x")
        def f(x: list[int], make: Annotated[Any, NotKeyed]) -> Any:
            return make(len(x))

        assert len(f([1, 2], make)) == 2
        stats = f.guard.stats()["cache"]
        assert (stats["entries"], len(stats["not_stored"])) == (0, 1)


def test_an_arrow_table_is_kept_apart_from_what_it_was_made_of():
    """A table over somebody's array does not change with it once it is cached."""
    source = np.arange(4.0)

    @guarded(cache=Cache(ttl=60), validation=False)
    def f(x: int) -> pa.Table:
        return pa.table({"a": pa.array(source)})

    f(1)
    source[:] = 99
    assert f(1)["a"].to_pylist() == [0, 1, 2, 3]


def test_arrow_parts_and_polars_series_have_rows():
    """Record batches, arrays and chunked arrays are looked up row by row."""
    sizes = []

    @guarded(cache=ROWS, rows="t")
    def f(t: Any) -> Any:
        sizes.append(len(t))
        return [0 for _ in range(len(t))]

    for table in (
        pa.record_batch({"a": [1, 2, 3]}),
        pa.array([1, 2, 3]),
        pa.chunked_array([[1, 2], [3]]),
        pl.Series("s", ["a", "b", "c"]),
        pd.Series(["a", "b", "c"]),
        pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]}, index=pd.MultiIndex.from_tuples([(1, 2), (1, 3), (2, 2)])),
    ):
        sizes.clear()
        f(table[:2])
        f(table)
        assert sizes == [2, 1]


def test_a_forked_child_has_rows_of_its_own():
    """A child forked while a batch is computed does not wait for its parent's threads."""
    started, go = threading.Event(), threading.Event()

    @guarded(cache=ROWS, rows="x", validation=False)
    def f(x: Floats) -> Any:
        if threading.current_thread() is not threading.main_thread():
            started.set()
            go.wait(5)
        return x[:, 0]

    thread = threading.Thread(target=f, args=(np.ones((2, 2)),))
    thread.start()
    started.wait(5)
    child = os.fork()
    if not child:
        os._exit(0 if f(np.ones((2, 2))).tolist() == [1, 1] else 1)
    ends = time.monotonic() + 5
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < ends
        time.sleep(0.01)
    go.set()
    thread.join(5)
    assert ended[1] == 0


def test_models_are_written_without_the_fields_of_the_batch():
    """What a model's key leaves out is its batch, and nothing else; dataclasses too."""

    @dataclass
    class Part:
        x: int
        y: int

    assert LOCAL.model(Part(1, 2), frozenset({"x"})) == LOCAL.model(Part(9, 2), frozenset({"x"}))
    assert LOCAL.model(Part(1, 2), frozenset({"x"})) != LOCAL.model(Part(1, 3), frozenset({"x"}))
