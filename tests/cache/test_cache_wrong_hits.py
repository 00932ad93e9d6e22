"""Calls that look alike and are not, and results that belong to another call than the one that asked."""

import asyncio
import functools
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import mlguard
from mlguard import Cache, Timeout, guarded
from mlguard.errors import DeadlineExceededError, InvalidOutputError, PolicyError
from mlguard.testing import FakeClock
from tests.cache.test_shared_cache import DictStore

Floats = npt.NDArray[np.float64]


def scaled(scale: Any, store: Any):
    """A factory as people write it: one name, one text, another model each time."""

    @guarded(cache=Cache(ttl=60, store=store), model_version="1")
    def predict(x: float) -> float:
        return x * (scale() if callable(scale) else float(np.sum(scale)))

    return predict


@pytest.mark.parametrize(
    "scales", [(2, 3), (2, 2.5), (np.array([1.0, 2.0]), np.array([1.0, 3.0])), (lambda: 2.0, lambda: 3.0)]
)
def test_two_functions_of_one_factory_share_nothing_in_a_shared_store(scales):
    """What a function closes over, a value or another function, tells its entries from its twin's."""
    store = DictStore()
    first, second = (scaled(scale, store) for scale in scales)
    assert first(1.0) != second(1.0)
    assert scaled(scales[0], store)(1.0) == first(1.0)
    assert len(store.entries) == 2  # and the third function found what the first one had stored


def test_a_wrapper_below_counts_as_text_of_the_function():
    """Two functions that differ in a decorator's argument are two functions."""
    store = DictStore()

    def times(scale):
        def decorate(function):
            @functools.wraps(function)
            def wrapper(x: float) -> float:
                return function(x) * scale

            return wrapper

        return decorate

    def built(scale):
        @guarded(cache=Cache(ttl=60, store=store), model_version="1")
        @times(scale)
        def predict(x: float) -> float:
            return x

        return predict

    assert [built(2)(1.0), built(3)(1.0)] == [2.0, 3.0]


def test_a_function_that_closes_over_itself_has_an_identity():
    """A recursive inner function, and one that closes over a guarded one, work with a shared store."""
    store = DictStore()

    def built():
        def facts(n: int) -> int:
            return 1 if n < 2 else n * facts(n - 1)

        inner = scaled(2, store)

        @guarded(cache=Cache(ttl=60, store=store), model_version="1")
        def predict(n: int) -> float:
            return facts(n) * inner(1.0)

        return predict

    assert built()(4) == built()(4) == 48.0
    assert len(store.entries) == 2


def test_what_has_no_key_counts_by_its_class():
    """A function that closes over a lock, a list or what is not there yet has an identity all the same."""
    store = DictStore()

    def built(tool: Any):
        @guarded(cache=Cache(ttl=60, store=store), model_version="1")
        def predict(x: float) -> float:
            return x if tool is not None else later

        if tool is None:
            later = 1.0
        return predict

    for tool in (threading.Lock(), [1], [2], object()):
        assert built(tool)(1.0) == 1.0
    assert len(store.entries) == 3  # both lists are one


class Model:
    def __init__(self, scale):
        self.scale = scale

    def predict(self, x: float) -> float:
        return x * self.scale


class Known(Model):
    def __mlguard_key__(self):
        return self.scale


def test_methods_of_two_objects_share_nothing_in_a_shared_store():
    """A bound method is told apart by its object's identity, and refused where the object has none."""
    store = DictStore()
    cached = guarded(cache=Cache(ttl=60, store=store), model_version="1")
    assert [cached(Known(scale).predict)(1.0) for scale in (2, 3)] == [2.0, 3.0]
    with pytest.raises(PolicyError, match=r"Model\.predict.*can't be told from another one.*__mlguard_key__"):
        cached(Model(2).predict)


def test_another_key_function_means_other_entries():
    """An entry stored under one key= never answers under another key=."""
    store = DictStore()

    def built(key):
        @guarded(cache=Cache(ttl=60, store=store), model_version="1", key=key)
        def pair(a: int, b: int) -> str:
            return f"{a},{b}"

        return pair

    assert built(lambda a, b: a)(1, 2) == "1,2"
    assert built(lambda a, b: b)(2, 1) == "2,1"


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("store", ["memory", "shared"])
async def test_a_model_swapped_during_a_call_leaves_nothing_behind(asynchronous, rows, store):
    """A result computed while model_version changed is nobody else's: not now, and not after a roll-back."""
    version, swaps = ["1"], ["2"]

    def body(x: Floats) -> Floats:
        if swaps:
            version[0] = swaps.pop()
        return x * float(version[0])

    async def awaited(x: Floats) -> Floats:
        return body(x)

    cache = Cache(ttl=60, rows=rows, store="memory" if store == "memory" else DictStore())
    chosen = awaited if asynchronous else body
    f = guarded(cache=cache, model_version=lambda: version[0], rows="x" if rows else None)(chosen)

    async def call():
        result = f(np.ones(2))
        return (await result if asynchronous else result).tolist()

    assert await call() == [2.0, 2.0]
    version[0] = "1"
    assert await call() == [1.0, 1.0]
    assert f.guard.stats()["cache"]["not_stored"]["model_version_changed"] >= 1


def test_a_model_version_that_fails_after_the_call_costs_the_entry_only():
    """What can't be asked again is taken for changed: the result is handed on and not kept."""
    answers = ["1"]

    @guarded(cache=Cache(ttl=60), model_version=lambda: answers.pop())
    def f(x: int) -> int:
        return x

    assert f(1) == 1
    assert f.guard.cache_info().entries == 0


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("store", ["memory", "shared"])
async def test_an_array_filled_anew_while_a_task_computes_poisons_nothing(rows, store):
    """The result of a buffer that another task reuses meanwhile is never served to who asks for the first content."""
    cache = Cache(ttl=60, rows=rows, store="memory" if store == "memory" else DictStore())

    @guarded(cache=cache, model_version="1", rows="x" if rows else None)
    async def f(x: Floats) -> Floats:
        await asyncio.sleep(0.01)
        return x * 2

    x = np.array([1.0, 2.0, 3.0])
    task = asyncio.create_task(f(x))
    await asyncio.sleep(0.001)
    x[:] = 5.0
    await task
    assert (await f(np.array([1.0, 2.0, 3.0]))).tolist() == [2.0, 4.0, 6.0]
    assert f.guard.stats()["cache"]["not_stored"]["arguments_changed"] == 1


# Rows


async def test_a_batch_that_is_no_batch_any_more_fails_no_call():
    """A list that another task empties while its rows are computed costs the entries, not the call."""

    @guarded(cache=Cache(ttl=60, rows=True), rows=("x", "y"), validation=False)
    async def f(x: list[float], y: list[float]) -> list[float]:
        result = [a + b for a, b in zip(x, y, strict=True)]
        await asyncio.sleep(0.01)
        return result

    x, y = [1.0, 2.0], [3.0, 4.0]
    task = asyncio.create_task(f(x, y))
    await asyncio.sleep(0.001)
    x.clear()
    assert await task == [4.0, 6.0]
    assert f.guard.cache_info().entries == 0


def test_a_table_in_another_ones_place_is_another_row():
    """With several optional tables, one given as the first is not the same given as the second."""

    @guarded(cache=Cache(ttl=60, rows=True), rows=("a", "b"))
    def f(a: Floats | None = None, b: Floats | None = None) -> Floats:
        return a * 1.0 if a is not None else b * -1.0  # type: ignore[operator]

    x = np.array([1.0, 2.0])
    assert f(a=x).tolist() == [1.0, 2.0]
    assert f(b=x).tolist() == [-1.0, -2.0]
    assert f(a=x).tolist() == [1.0, 2.0]
    assert f.guard.cache_info().hits == 2


def test_a_batch_that_was_left_out_is_no_failure_of_the_cache():
    """A function whose batch is optional answers as it would without a cache."""

    @guarded(cache=Cache(ttl=60, rows=True), rows="x")
    def f(x: Floats | None = None) -> list[float]:
        return [] if x is None else x.tolist()

    assert f() == []
    assert f.guard.stats()["cache"]["bypassed"] == {"no_rows": 1}


def test_names_that_are_equal_to_python_stay_what_they_were():
    """A dict of columns comes back with its own keys, where another batch had 1 and this one True."""
    name: list[Any] = [1]

    @guarded(cache=Cache(ttl=60, rows=True), rows="x")
    def f(x: Floats) -> dict[Any, Floats]:
        return {name[0]: x}

    f(np.array([1.0, 2.0]))
    for name[0] in (True, 1.0):
        x = np.array([3.0, 4.0]) + name[0] * isinstance(name[0], float)
        f(x)
        assert [type(key) for key in f(x)] == [type(name[0])]


def test_arrow_results_keep_their_own_metadata():
    """Rows of tables whose schemas differ only in long metadata are never put together under one of them."""
    text = ["a" * 500]

    @guarded(cache=Cache(ttl=60, rows=True), rows="x")
    def f(x: Floats) -> pa.Table:
        return pa.table({"y": x}).replace_schema_metadata({"k": text[0]})

    f(np.array([1.0]))
    text[0] = "a" * 499 + "b"
    f(np.array([2.0]))
    assert f(np.array([2.0])).schema.metadata == {b"k": text[0].encode()}


def test_tables_without_columns_are_handed_on():
    """A result of which no row could be kept is no failure of the call."""

    @guarded(cache=Cache(ttl=60, rows=True), rows="x")
    def f(x: Floats) -> pd.DataFrame:
        return pd.DataFrame(index=range(len(x)))

    assert f(np.ones(2)).shape == (1, 0) or f(np.ones(2)).shape == (2, 0)
    assert f.guard.cache_info().entries == 0


def test_rows_invalidated_while_they_are_computed_are_not_stored():
    """cache_invalidate of some rows of a batch in progress holds for those rows, wherever they stand in it."""
    factor, began, go = [1.0], threading.Event(), threading.Event()

    @guarded(cache=Cache(ttl=60, rows=True), rows="x")
    def f(x: Floats) -> Floats:
        result = x * factor[0]
        began.set()
        go.wait(5)
        return result

    x = np.array([[1.0], [2.0]])
    thread = threading.Thread(target=f, args=(x,))
    thread.start()
    began.wait(5)
    factor[0] = 10.0
    f.guard.cache_invalidate(x[1:])
    go.set()
    thread.join()
    assert f(x[1:]).tolist() == [[20.0]]
    assert f(x[:1]).tolist() == [[1.0]]


def test_new_rows_of_a_numbered_frame_come_as_a_numbered_frame():
    """What a function makes of the index of a frame's new rows fits together with what it made of the others."""
    sizes = []

    @guarded(cache=Cache(ttl=60, rows=True), rows="df")
    def f(df: pd.DataFrame) -> pd.Series:
        sizes.append(list(df.index))
        return df["a"] * 2

    df = pd.DataFrame({"a": np.arange(6.0)})
    f(df.iloc[:3])
    pd.testing.assert_series_equal(f(df), df["a"] * 2)
    pd.testing.assert_series_equal(f(df), df["a"] * 2)
    assert sizes == [[0, 1, 2], [0, 1, 2]]


async def test_a_hurried_batch_leaves_its_rows_to_one_other():
    """Batches that waited for one whose own time was up claim its rows anew, instead of all computing them."""
    runs = []

    @guarded(cache=Cache(ttl=60, rows=True), rows="x", timeout=Timeout(total=30))
    async def f(x: Floats) -> Floats:
        runs.append(len(x))
        await asyncio.sleep(0.05)
        return x * 2

    @guarded(timeout=Timeout(total=0.03))
    async def hurried() -> None:
        await f(np.arange(3.0))

    tasks: list[Any] = [asyncio.create_task(hurried())]
    await asyncio.sleep(0.005)
    tasks += [asyncio.create_task(f(np.arange(3.0))) for _ in range(5)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], DeadlineExceededError)
    assert [each.tolist() for each in results[1:]] == [[0.0, 2.0, 4.0]] * 5
    assert runs == [3, 3]


# Frames


def frames():
    plain = pd.DataFrame({"a": [1, 2]})
    noted = plain.copy()
    noted.attrs["unit"] = "kg"
    small, large = (
        pd.DataFrame({"a": pd.Categorical([1], categories=pd.Index([1], dtype=kind))}) for kind in ("int8", "int64")
    )
    days = pd.date_range("2026", periods=3)
    table = pa.table({"a": [1]})
    required = pa.table([pa.array([1])], schema=pa.schema([pa.field("a", pa.int64(), nullable=False)]))
    yield pytest.param(plain, noted, id="attrs")
    yield pytest.param(small, large, id="dtype of categories")
    yield pytest.param(
        *(pd.DataFrame([[1]], columns=pd.Index([0], dtype=kind)) for kind in ("int64", object)), id="dtype of labels"
    )
    yield pytest.param(
        pd.DataFrame({"a": [1, 2, 3]}, index=days),
        pd.DataFrame({"a": [1, 2, 3]}, index=pd.DatetimeIndex(list(days))),
        id="frequency",
    )
    yield pytest.param(table, table.replace_schema_metadata({"unit": "kg"}), id="metadata")
    yield pytest.param(table, required, id="nullability")


@pytest.mark.parametrize(("one", "other"), list(frames()))
def test_frames_that_a_function_can_tell_apart_are_two_keys(one, other):
    """attrs, metadata, dtypes of labels and categories, and the frequency of dates belong to a frame."""
    seen = []

    @guarded(cache=Cache(ttl=60))
    def f(table: Any) -> int:
        seen.append(table)
        return len(seen)

    assert [f(one), f(other), f(one), f(other)] == [1, 2, 1, 2]


@pytest.mark.parametrize("make", [pl.Series, lambda base: pl.from_arrow(pa.table({"a": pa.array(base)}))])
def test_polars_results_on_memory_of_numpy_are_copied(make):
    """Who writes to the array that a polars result was made of changes no cached result."""
    base = np.array([1.0, 2.0])

    @guarded(cache=Cache(ttl=60))
    def f(x: int) -> Any:
        return make(base)

    f(1)
    base[0] = 99.0
    found = f(1)
    assert (found if isinstance(found, pl.Series) else found["a"]).to_list() == [1.0, 2.0]


def test_labels_of_a_hit_are_its_own():
    """No two hits share the memory of their index or their column names, which old versions of pandas let one write."""

    @guarded(cache=Cache(ttl=60))
    def f(x: int) -> pd.DataFrame:
        return pd.DataFrame({"a": [1.0], "b": [2.0]}, index=[5])

    f(1)
    one, two = f(1), f(1)
    assert not np.shares_memory(one.index.values, two.index.values)
    assert not np.shares_memory(one.columns.values, two.columns.values) or not two.columns.values.flags.writeable


def test_a_dataclass_with_a_hidden_slot_has_no_key():
    """What lies in a slot that is no field can't be seen, so such objects are refused."""

    @dataclass
    class Odd:
        __slots__ = ("a", "hidden")
        a: int

    with pytest.raises(PolicyError, match="Odd"):

        @guarded(cache=Cache(ttl=60))
        def f(odd: Odd) -> str:
            return odd.hidden


# Operations


def test_a_failure_that_began_before_a_clear_is_not_remembered():
    """After cache_clear nothing is served that was computed before it, failures included."""
    began, go, bad = threading.Event(), threading.Event(), [True]

    @guarded(cache=Cache(ttl=60, negative_ttl=60, negative_on="LookupError"))
    def f(x: int) -> int:
        began.set()
        go.wait(5)
        if bad[0]:
            raise LookupError(x)
        return x

    def call():
        with pytest.raises(LookupError):
            f(1)

    thread = threading.Thread(target=call)
    thread.start()
    began.wait(5)
    f.guard.cache_clear()
    go.set()
    thread.join()
    bad[0] = False
    assert f(1) == 1


def test_a_reloaded_policy_with_stricter_checks_forgets_what_was_not_checked(tmp_path):
    """A result that validation let pass is not served under a policy that would have refused it."""
    file = tmp_path / "policies.toml"
    file.write_text('[policies.loose]\nvalidation = false\n[policies.loose.cache]\nttl = "1h"\n')
    mlguard.policies.load(file)
    try:

        @guarded("loose")
        def f(x: int) -> int:
            return "no number"  # type: ignore[return-value]

        assert f(1) == "no number"
        file.write_text('[policies.loose.validation]\n[policies.loose.cache]\nttl = "1h"\n')
        mlguard.policies.reload()
        with pytest.raises(InvalidOutputError):
            f(1)
    finally:
        mlguard.policies.reset()


async def test_a_task_that_waits_gives_up_when_a_fake_clock_says_so():
    """Followers keep their deadline on the clock of a test, without waiting for the real one."""
    go = asyncio.Event()

    @guarded(cache=Cache(ttl=60), timeout=Timeout(total="30s"))
    async def f(x: int) -> int:
        await go.wait()
        return x

    with FakeClock() as time:
        tasks = [asyncio.create_task(f(1)) for _ in range(2)]
        for _ in range(5):
            await asyncio.sleep(0)
        time.advance(31)
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert [type(each) for each in results] == [DeadlineExceededError] * 2


def test_a_thread_that_waits_gives_up_when_a_fake_clock_says_so():
    """Likewise threads."""
    go, began, errors = threading.Event(), threading.Event(), []

    @guarded(cache=Cache(ttl=60), timeout=Timeout(total="30s"))
    def f(x: int) -> int:
        began.set()
        go.wait(5)
        return x

    def call():
        try:
            f(1)
        except DeadlineExceededError as error:
            errors.append(str(error))

    with FakeClock() as time:
        leader, follower = (threading.Thread(target=call) for _ in range(2))
        leader.start()
        began.wait(5)
        follower.start()
        while not f.guard._wrapper.rooms["cache"].threads.table or len(mlguard.cache.circles.thread_waits) < 1:
            pass
        time.advance(31)
        follower.join(5)
        assert not follower.is_alive()
        go.set()
        leader.join(5)
    assert any("waited for an equal one in progress" in error for error in errors)


@pytest.mark.parametrize("url", ["redsi://:sec/r@et@host/0", "redis//user:sec@ret@host", "redis:/u:secret@host"])
def test_a_misspelt_store_is_never_shown_with_its_password(url):
    """An error about a URL that nobody can read masks what may be its password."""
    with pytest.raises(PolicyError) as caught:
        Cache(ttl=1, store=url)
    assert "host" in str(caught.value)
    assert "sec" not in str(caught.value).split("must be")[0]
