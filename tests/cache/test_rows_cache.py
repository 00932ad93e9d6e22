import asyncio
import gc
import pickle
import threading
import time
import weakref
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import cloudpickle
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel

from mlguard import Array, Cache, NotKeyed, Retry, guarded
from mlguard.cache.keys import LOCAL, Unkeyable
from mlguard.cache.row_keys import row_keys
from mlguard.errors import DeadlineExceededError, InvalidOutputError, PolicyError
from mlguard.testing import FakeClock, capture_events

Floats = npt.NDArray[np.float64]
Features = Annotated[Floats, Array("n", 3)]
ROWS = Cache(ttl=60, rows=True)


def batch(*numbers: float) -> Floats:
    return np.array([[number, number + 0.25, number + 0.5] for number in numbers])


@pytest.fixture
def model():
    """A guarded model and the batches it really ran on."""
    runs: list[list[float]] = []

    @guarded(cache=ROWS)
    def score(x: Features, scale: float = 2.0) -> Annotated[Floats, Array("n")]:
        runs.append(x[:, 0].tolist())
        return x[:, 0] * scale

    score.runs = runs
    return score


def test_only_rows_nobody_has_seen_are_computed_and_stand_in_order(model):
    """Known rows, new rows and repeated rows come back in the order of the batch; each is computed once."""
    assert model(batch(1, 2, 3)).tolist() == [2, 4, 6]
    assert model(batch(9, 2, 8, 1, 9, 2)).tolist() == [18, 4, 16, 2, 18, 4]
    assert model(batch(3, 2, 1)).tolist() == [6, 4, 2]
    assert model.runs == [[1, 2, 3], [9, 8]]
    info = model.guard.cache_info()
    assert (info.misses, info.hits, info.coalesced, info.entries) == (5, 6, 1, 5)


def test_other_arguments_are_part_of_every_row(model):
    """The same rows with another argument are other rows."""
    model(batch(1, 2))
    assert model(batch(1, 2), scale=3.0).tolist() == [3, 6]
    assert model(batch(1, 2), scale=2.0).tolist() == [2, 4]
    assert len(model.runs) == 2


def test_the_all_hit_path_gives_back_dtype_and_shape():
    """From entries alone comes what the function would have returned: dtype, shape, and nobody can write to it."""

    @guarded(cache=ROWS, rows="x")
    def f(x: Floats) -> Any:
        return np.stack([x, x + 1], axis=1).astype(">f4")

    first = f(batch(1, 2))
    again = f(batch(2, 1, 2))
    assert (again.dtype, again.shape) == (np.dtype(">f4"), (3, 2, 3))
    assert again.tolist() == first[[1, 0, 1]].tolist()
    assert not again.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        again.setflags(write=True)


def test_a_cached_row_never_holds_on_to_its_batch():
    """What is kept of a row is its own bytes: the batch, and what it was computed from, go."""
    made = []

    @guarded(cache=ROWS, rows="x", validation=False)
    def f(x: Floats) -> Floats:
        result = x * 2
        made.append(weakref.ref(result))
        return result

    f(batch(1, 2, 3))
    gc.collect()
    assert made[0]() is None
    assert f(batch(2)).tolist() == (batch(2) * 2).tolist()


def test_a_poisoned_result_reaches_nobody():
    """The first caller may write to its own result; the next gets what the function said."""

    @guarded(cache=Cache(ttl=60, rows=True, on_hit="copy"), rows="x")
    def f(x: list[str]) -> list[dict[str, int]]:
        return [{"length": len(text)} for text in x]

    first = f(["a", "bb"])
    first[0]["length"] = 99
    again = f(["bb", "a"])
    again[1]["length"] = 98
    assert f(["a", "bb"]) == [{"length": 1}, {"length": 2}]


class Pair(NamedTuple):
    mean: Any
    names: Any


FRAME = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": ["x", "y", "x"], "c": pd.array([1, None, 3], dtype="Int64")})
TABLES: dict[str, tuple[Any, Any]] = {
    "pandas": (FRAME, lambda t, rows: t.iloc[rows].reset_index(drop=True)),
    "pandas category": (
        FRAME.assign(
            b=FRAME["b"].astype("category"), d=pd.to_datetime(["2026-01-01", "2026-01-02", "2026-01-03"], utc=True)
        ),
        lambda t, rows: t.iloc[rows].reset_index(drop=True),
    ),
    "polars": (
        pl.DataFrame({"a": [1.0, None, 3.0], "b": ["x", "y", None], "d": [True, None, False], "e": [[1], [], [3]]}),
        lambda t, rows: t[rows],
    ),
    "pyarrow": (pa.table({"a": [1.0, None, 3.0], "b": ["x", "y", None]}), lambda t, rows: t.take(pa.array(rows))),
    "dict": (
        {"a": np.array([1.0, 2.0, 3.0]), "b": ["x", "y", "z"]},
        lambda t, rows: {"a": t["a"][rows], "b": [t["b"][row] for row in rows]},
    ),
    "list": ([{"a": 1}, {"a": 2}, {"a": 1.0}], lambda t, rows: [t[row] for row in rows]),
    "structured": (
        np.array([(1, 2.0), (2, 3.0), (3, 4.0)], dtype=[("i", "i4"), ("f", "f8")]),
        lambda t, rows: t[rows],
    ),
    "tuple": (
        (np.array([1.0, 2.0, 3.0]), ["x", "y", "z"]),
        lambda t, rows: (t[0][rows], [t[1][row] for row in rows]),
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_every_kind_are_looked_up_row_by_row(name):
    """Rows of a table are found again wherever they stand in another batch of the same kind."""
    table, cut = TABLES[name]
    sizes = []

    def length(t: Any) -> int:
        return len(next(iter(t.values()))) if isinstance(t, dict) else len(t[0]) if isinstance(t, tuple) else len(t)

    @guarded(cache=ROWS, rows="t")
    def f(t: Any) -> Any:
        sizes.append(length(t))
        return np.arange(length(t)) + 100.0 * len(sizes)

    first = f(cut(table, [0, 1]))
    again = f(cut(table, [1, 2, 0, 1]))
    assert sizes == [2, 1]
    assert again.tolist() == [first[1], 200.0, first[0], first[1]]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x[:, 0].astype("f4"),
        lambda x: x[:, 0] > 2,
        lambda x: [f"row {each}" for each in x[:, 0]],
        lambda x: (x[:, 0], [int(each) for each in x[:, 1]]),
        lambda x: Pair(x.mean(axis=1), [None for _ in x]),
        lambda x: {"mean": x.mean(axis=1), "label": ["a" for _ in x]},
        lambda x: pd.Series(x[:, 0], name="score"),
        lambda x: pd.DataFrame({"a": x[:, 0], "b": x[:, 1].astype("i4")}),
        lambda x: pl.DataFrame({"a": x[:, 0], "b": [str(each) for each in x[:, 1]]}),
        lambda x: pl.Series("s", x[:, 0]),
        lambda x: pa.table({"a": x[:, 0].tolist(), "b": ["t" for _ in x]}),
        lambda x: np.zeros((len(x), 0)),
        lambda x: x[:, 0].astype("M8[s]"),
        lambda x: np.array([(1, each) for each in x[:, 0]], dtype=[("i", "i4"), ("f", "f8")]),
    ],
)
def test_results_of_every_kind_come_back_as_the_function_gives_them(make):
    """Type, dtypes, names and values of a stitched result are those of a computed one."""

    @guarded(cache=ROWS, rows="x")
    def f(x: Floats) -> Any:
        return make(x)

    rows = batch(1, 2, 3, 4)
    f(rows[:3])
    stitched, hit, computed = f(rows[::-1]), f(rows[::-1]), make(rows[::-1])
    assert f.guard.cache_info().misses == 4
    for found in (stitched, hit):
        assert type(found) is type(computed)
        if isinstance(computed, pd.DataFrame):
            pd.testing.assert_frame_equal(found, computed)
        elif isinstance(computed, pd.Series):
            pd.testing.assert_series_equal(found, computed)
        elif isinstance(computed, pl.DataFrame | pl.Series | pa.Table):
            assert found.equals(computed)
        elif isinstance(computed, np.ndarray):
            assert (found.dtype, found.shape, found.tobytes()) == (computed.dtype, computed.shape, computed.tobytes())
        else:
            assert repr(found) == repr(computed)


class Patient(BaseModel, arbitrary_types_allowed=True):
    features: Features
    clinic: str
    request_id: Annotated[str, NotKeyed] = ""


def test_the_batch_may_be_a_field_of_a_model():
    """The other fields of the model are part of every row, those marked NotKeyed are not."""
    runs = []

    @guarded(cache=ROWS, rows="patient.features")
    def f(patient: Patient) -> Any:
        runs.append(len(patient.features))
        return patient.features[:, 0]

    f(Patient(features=batch(1, 2), clinic="a", request_id="1"))
    f(Patient(features=batch(2, 3), clinic="a", request_id="2"))
    f(Patient(features=batch(2, 3), clinic="b", request_id="2"))
    assert runs == [2, 1, 2]


def test_several_row_arguments_belong_together():
    """A row is a row of all of them; one that is marked NotKeyed travels along but is no part of the key."""
    runs = []

    @guarded(cache=ROWS, rows=("ids", "mask", "names"))
    def f(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.bool_], names: Annotated[list[str], NotKeyed]) -> Any:
        runs.append(names)
        return ids * mask

    f(np.array([1, 2]), np.array([True, False]), ["a", "b"])
    assert f(np.array([2, 2]), np.array([False, True]), ["c", "d"]).tolist() == [0, 2]
    assert runs == [["a", "b"], ["d"]]
    with pytest.raises(ValueError, match="2 and 3 rows"):
        f(np.array([1, 2, 3]), np.array([True, False]), ["a", "b"])


def test_the_axis_of_the_rows_is_declared():
    """With rows={"images": 1} the batch lies along the second axis."""
    shapes = []

    @guarded(cache=ROWS, rows={"images": 1})
    def f(images: Floats) -> Any:
        shapes.append(images.shape)
        return images.sum(axis=(0, 2))

    images = np.arange(24.0).reshape(2, 3, 4)
    f(images[:, :2])
    assert f(images).tolist() == images.sum(axis=(0, 2)).tolist()
    assert shapes == [(2, 2, 4), (2, 1, 4)]


@pytest.mark.parametrize("result", [lambda x: x[:-1, 0], lambda x: x.sum(), lambda x: 1.0, lambda x: [], lambda x: {}])
def test_a_wrong_number_of_rows_is_an_error(result):
    """A function that returns more, fewer or no rows can't be cached by row, and says so."""

    @guarded(cache=ROWS, rows="x")
    def f(x: Floats) -> Any:
        return result(x)

    with pytest.raises(InvalidOutputError, match=r"one row for each of the batch.*Fix"):
        f(batch(1, 2))


def test_named_dimensions_are_those_of_the_part(model):
    """The output check of a part knows how many rows it has, and still refuses a wrong output."""

    @guarded(cache=ROWS)
    def f(x: Features) -> Annotated[Floats, Array("n", ge=0)]:
        return x[:, 0]

    f(batch(1, 2))
    assert f(batch(1, 3)).tolist() == [1, 3]
    with pytest.raises(InvalidOutputError):
        f(batch(1, -1))
    assert f(batch(1, 2, 3)).tolist() == [1, 2, 3]


def test_results_nobody_can_keep_are_handed_on():
    """An object per batch is not taken apart: the call computes, the reason is counted, and the cache rests."""

    @dataclass
    class Custom:
        x: Any

    @guarded(cache=ROWS, rows="x")
    def f(x: Floats) -> Any:
        return Custom(x)

    assert isinstance(f(batch(1, 2)), Custom)
    assert len(f(batch(1, 2)).x) == 2
    stats = f.guard.stats()["cache"]
    assert (list(stats["not_stored"]), stats["bypassed"]) == (
        ["uncopyable test_results_nobody_can_keep_are_handed_on.<locals>.Custom"],
        {"not_worth_it": 1},
    )


def test_a_result_of_another_form_is_computed_as_a_whole():
    """Rows of different dtypes are never stitched: one call decides what the result is."""
    kinds = iter(["f4", "f8", "f8"])

    @guarded(cache=ROWS, rows="x")
    def f(x: Floats) -> Any:
        return x[:, 0].astype(next(kinds))

    f(batch(1, 2))
    assert f(batch(2, 3)).dtype == "f8"
    assert f.guard.stats()["cache"]["bypassed"] == {"forms_differ": 1}


def test_empty_batches_and_unkeyable_rows_go_past_the_cache(model):
    """No rows, or rows without identity: the function runs on the whole."""
    assert model(np.empty((0, 3))).tolist() == []

    @guarded(cache=ROWS, rows="x")
    def f(x: Any) -> Any:
        return [1 for _ in x]

    assert f([object(), object()]) == [1, 1]
    assert f(np.array([object()])) == [1]
    assert f.guard.stats()["cache"]["bypassed"] == {"unkeyable": 2}


def test_rows_expire_and_are_bounded(model):
    """Each row has its own time; the bounds count rows."""
    with FakeClock() as clock:
        model(batch(1, 2))
        clock.advance(61)
        model(batch(2, 3))
        assert model.runs == [[1, 2], [2, 3]]

    @guarded(cache=Cache(ttl=60, rows=True, max_entries=3), rows="x")
    def f(x: Floats) -> Any:
        return x[:, 0]

    assert f(batch(*range(10))).tolist() == list(range(10))
    assert f.guard.cache_info().entries == 3


def test_it_rests_where_it_loses():
    """A model faster than a lookup is soon left alone, and asked again later."""

    @guarded(cache=ROWS, rows="x", validation=False)
    def f(x: Floats) -> Any:
        return x[:, 0]

    rng = np.random.default_rng(0)
    for _ in range(60):
        f(rng.random((500, 3)))
    stats = f.guard.stats()["cache"]
    assert stats["bypassed"]["not_worth_it"] >= 30
    assert stats["misses"] + 500 * stats["bypassed"]["not_worth_it"] == 60 * 500


# In progress


def test_overlapping_batches_compute_each_row_once():
    """Threads with overlapping batches share rows in progress and come to an end, in whatever order they overlap."""
    runs: list[float] = []
    ready = threading.Barrier(20)

    @guarded(cache=ROWS, rows="x", validation=False)
    def f(x: Floats) -> Any:
        runs.extend(x[:, 0].tolist())
        time.sleep(0.03)
        return x[:, 0] * 2

    results = {}

    def call(number):
        numbers = [(number * 3 + step * (1 if number % 2 else -1)) % 40 for step in range(12)]
        ready.wait()
        results[number] = (f(batch(*numbers)).tolist(), [2 * each for each in numbers])

    threads = [threading.Thread(target=call, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert all(found == wanted for found, wanted in results.values())
    assert sorted(runs) == sorted(set(runs))


async def test_overlapping_batches_of_tasks_compute_each_row_once():
    """The same among tasks; a hundred calls of one batch run the body once."""
    runs: list[float] = []

    @guarded(cache=ROWS, rows="x", validation=False)
    async def f(x: Floats) -> Any:
        runs.extend(x[:, 0].tolist())
        await asyncio.sleep(0.02)
        return x[:, 0] * 2

    results = await asyncio.gather(*(f(batch(1, 2, number % 5)) for number in range(100)))
    assert [found.tolist() for found in results] == [[2, 4, 2 * (number % 5)] for number in range(100)]
    assert sorted(runs) == [0, 1, 2, 3, 4]


async def test_a_cancelled_leader_leaves_its_rows_to_those_who_wait():
    """Whoever waited claims the rows anew; nothing hangs, nothing is cached of the cancelled call."""
    runs = []

    @guarded(cache=ROWS, rows="x", validation=False)
    async def f(x: Floats) -> Any:
        runs.append(x[:, 0].tolist())
        await asyncio.sleep(0.05)
        return x[:, 0]

    leader = asyncio.create_task(f(batch(1, 2)))
    await asyncio.sleep(0.01)
    followers = [asyncio.create_task(f(batch(2, 3))) for _ in range(3)]
    await asyncio.sleep(0.01)
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    assert [(await each).tolist() for each in followers] == [[2, 3]] * 3
    assert runs == [[1, 2], [3], [2]]


def test_a_failed_batch_says_nothing_about_single_rows():
    """A batch that waited for a row of a failed one computes it itself."""
    started, go = threading.Event(), threading.Event()

    @guarded(cache=ROWS, rows="x", validation=False, retry=Retry(max_retries=0))
    def f(x: Floats) -> Any:
        if (x[:, 0] < 0).any():
            started.set()
            go.wait(5)
            raise ZeroDivisionError
        return x[:, 0]

    failed = []

    def lead():
        try:
            f(batch(-1, 2))
        except ZeroDivisionError:
            failed.append(True)

    leader = threading.Thread(target=lead)
    leader.start()
    started.wait(5)
    found = []
    follower = threading.Thread(target=lambda: found.append(f(batch(2, 3)).tolist()))
    follower.start()
    time.sleep(0.05)
    go.set()
    leader.join(5), follower.join(5)
    assert (failed, found) == ([True], [[2, 3]])


def test_a_follower_waits_no_longer_than_its_deadline():
    """Waiting for rows of another batch ends with the caller's own time."""
    started, go = threading.Event(), threading.Event()

    @guarded(cache=ROWS, rows="x", timeout={"total": 0.1})
    def f(x: Floats) -> Any:
        started.set()
        go.wait(5)
        return x[:, 0]

    leader = threading.Thread(target=f, args=(batch(1),))
    leader.start()
    started.wait(5)
    threading.Timer(0.5, go.set).start()
    with pytest.raises(DeadlineExceededError, match="waited for an equal one"):
        f(batch(1))
    go.set()
    leader.join(5)


async def test_a_call_inside_a_call_for_the_same_rows_computes():
    """A batch that asks for its own rows further in does not wait for itself, in threads and in tasks."""

    @guarded(cache=ROWS, rows="x", validation=False)
    def f(x: Floats, deep: Annotated[bool, NotKeyed] = True) -> Any:
        return f(x, False) + 1 if deep else x[:, 0]

    @guarded(cache=ROWS, rows="x", validation=False)
    async def g(x: Floats, deep: Annotated[bool, NotKeyed] = True) -> Any:
        return await asyncio.create_task(g(x, False)) + 1 if deep else x[:, 0]

    @guarded(cache=ROWS, rows="x", validation=False)
    def h(x: Floats, deep: Annotated[bool, NotKeyed] = True) -> Any:
        return asyncio.run(asyncio.to_thread(h, x, False)) + 1 if deep else x[:, 0]

    assert f(batch(1, 2)).tolist() == [2, 3]
    assert (await g(batch(1, 2))).tolist() == [2, 3]
    assert f.guard.stats()["cache"]["bypassed"] == {"reentrant": 2}


def test_a_clear_while_rows_are_computed_keeps_them_out(model):
    """What was in progress when the cache was cleared is not stored."""
    started, go = threading.Event(), threading.Event()

    @guarded(cache=ROWS, rows="x", validation=False)
    def f(x: Floats) -> Any:
        started.set()
        go.wait(5)
        return x[:, 0]

    thread = threading.Thread(target=f, args=(batch(1),))
    thread.start()
    started.wait(5)
    f.guard.cache_clear()
    go.set()
    thread.join(5)
    assert f.guard.cache_info().entries == 0


# Operations


def test_rows_can_be_invalidated(model):
    """cache_invalidate drops the rows of a batch, and those only."""
    model(batch(1, 2, 3))
    assert model.guard.cache_invalidate(batch(2, 7)) is True
    assert model.guard.cache_invalidate(batch(2, 7)) is False
    model(batch(1, 2, 3))
    assert model.runs == [[1, 2, 3], [2]]


def test_the_event_says_how_many_rows_were_there():
    """A partial hit tells how many rows were cached and how many computed."""

    @guarded(cache=ROWS, rows="x", monitor=True)
    def f(x: Floats) -> Any:
        return x[:, 0]

    with capture_events() as events:
        f(batch(1, 2))
        f(batch(1, 2, 3))
        f(batch(1, 2, 3))
    told = [tuple(event.get(f"mlguard.cache{key}") for key in ("", ".rows_hit", ".rows_computed")) for event in events]
    assert told == [("miss", 0, 2), ("partial", 2, 1), (None, None, None)]
    assert events[2]["mlguard.disposition"] == "cache_hit"


def test_a_pickled_row_cache_works(model):
    """A guarded function with cached rows travels to another process by cloudpickle."""
    copied = pickle.loads(cloudpickle.dumps(model))
    assert copied(batch(1, 2)).tolist() == [2, 4]
    assert copied(batch(1, 2)).tolist() == [2, 4]
    assert copied.guard.cache_info().hits == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": lambda x: 1}, "drop key="),
        ({"rows": "y"}, "no such parameter"),
        ({"cache": Cache(ttl=1, rows=True, tenant="x")}, "part of the batch"),
        ({}, "which argument is the batch"),
    ],
)
def test_what_rows_cant_be_is_refused(options, words):
    """A key of the user's, an unknown argument, a tenant in the batch, no batch at all: a PolicyError each."""
    given = {"cache": ROWS, **({"rows": "x"} if options else {}), **options}
    with pytest.raises(PolicyError, match=words):

        @guarded(**given)
        def f(x: Floats) -> Any:
            return x


def test_a_batch_that_is_not_keyed_is_refused():
    """Rows that are all alike would all have one result."""
    with pytest.raises(PolicyError, match="marked NotKeyed"):

        @guarded(cache=ROWS, rows="x")
        def f(x: Annotated[Floats, NotKeyed]) -> Any:
            return x


# Keys


def keys_of(table: Any, axis: int = 0, common: tuple[bytes, ...] = ()) -> list[bytes]:
    return row_keys(common, [(table, axis)], len(table), LOCAL, None)


dtypes = st.sampled_from(["<f8", ">f8", "<f4", "<i8", "|b1", "<M8[ns]", "<U2", "|S3"])
tables = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, st.tuples(st.just(4), st.integers(0, 3)), fill=st.nothing()))


@settings(max_examples=300, deadline=None)
@given(tables, tables)
def test_rows_share_a_key_exactly_when_type_and_bytes_are_the_same(left, right):
    """For random tables: equal keys if and only if dtype, shape of a row and the row's bytes are equal."""
    ours, theirs = keys_of(left), keys_of(right)
    for row, key in enumerate(ours):
        for other, other_key in enumerate(theirs):
            same = (
                left.dtype == right.dtype
                and left.shape[1:] == right.shape[1:]
                and left[row].tobytes() == right[other].tobytes()
            )
            assert (key == other_key) == same


@settings(max_examples=100, deadline=None)
@given(tables, st.integers(-2, 2).filter(bool))
def test_where_a_row_lies_in_memory_is_no_part_of_its_key(table, step):
    """Strided, reversed and Fortran-ordered rows have the keys of their content."""
    expected = keys_of(np.ascontiguousarray(table[::step]))
    assert keys_of(table[::step]) == expected
    assert keys_of(np.asfortranarray(table)[::step]) == expected
    assert (
        row_keys((), [(np.ascontiguousarray(table.T), 1)], len(table), LOCAL, None) != keys_of(table) or not table.size
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), min_size=2, max_size=2),
)
def test_texts_side_by_side_never_run_into_one_another(rows):
    """Columns without a fixed width are told apart by their lengths."""
    table = {"a": [a for a, _ in rows], "b": [b for _, b in rows]}
    first, second = row_keys((), [(table, 0)], 2, LOCAL, None)
    assert (first == second) == (rows[0] == rows[1])


def test_long_rows_are_hashed_and_still_differ_in_one_value():
    """Two rows of 5,000 values that differ in one never share a key."""
    table = np.zeros((3, 5_000))
    table[1, 4_321] = np.nextafter(0, 1)
    table[2, 17] = -0.0
    keys = keys_of(table)
    assert len(set(keys)) == 3
    assert {len(key) for key in keys} == {32}


def test_types_names_and_kinds_of_tables_tell_rows_apart():
    """The same values in another dtype, under another name or in another kind of table are other rows."""
    frames = [
        pd.DataFrame({"a": [1, 2]}),
        pd.DataFrame({"b": [1, 2]}),
        pd.DataFrame({"a": [1.0, 2.0]}),
        pd.DataFrame({"a": pd.array([1, 2], dtype="Int64")}),
        pd.DataFrame({"a": [1, 2]}, index=[5, 6]),
        pd.DataFrame({"a": [1, 2]}).astype("category"),
        pd.Series([1, 2], name="a"),
        pl.DataFrame({"a": [1, 2]}),
        pl.Series("a", [1, 2]),
        pa.table({"a": [1, 2]}),
        {"a": np.array([1, 2])},
        {"a": [1, 2]},
        np.array([1, 2]),
        np.array([[1], [2]]),
        [1, 2],
        [1.0, 2.0],
    ]
    keys = [key for frame in frames for key in row_keys((), [(frame, 0)], 2, LOCAL, None)]
    assert len(keys) == len(set(keys)) == 2 * len(frames)


def test_missing_values_are_values_of_their_own():
    """NA, None, NaN and 0 are four rows."""
    column = pd.Series([pd.NA, None, float("nan"), 0], dtype=object)
    assert len(set(keys_of(column))) == 4
    nullable = pd.Series([0, pd.NA], dtype="Int64")
    assert len(set(keys_of(nullable))) == 2
    assert len(set(keys_of(pl.Series([0.0, None, float("nan")])))) == 3
    assert len(set(keys_of(pa.table({"a": [0.0, None, float("nan")]})))) == 3


def test_rows_of_other_things_are_refused():
    """Arrays of objects and unknown tables have no rows that bytes could hold."""
    for table in (np.array([object()]), {1, 2}, pd.DataFrame({"a": [object()]})):
        with pytest.raises(Unkeyable):
            keys_of(table)


def test_rows_of_a_tenant_or_a_version_can_be_dropped():
    """Every row knows whose it is and of which model, and goes with them."""
    version, runs = ["1"], []

    @guarded(cache=Cache(ttl=60, rows=True, tenant="who"), rows="x", model_version=lambda: version[0])
    def f(x: Floats, who: Annotated[str, NotKeyed]) -> Any:
        runs.append((version[0], who))
        return x[:, 0]

    f(batch(1, 2), "a"), f(batch(1, 2), "b")
    version[0] = "2"
    f(batch(1, 2), "a")
    assert len(runs) == 3
    assert f.guard.cache_clear(tenant="a", model_version="1") == 2
    assert f.guard.cache_clear(model_version="1") == 2
    assert f.guard.cache_info().entries == 2


def test_rejected_rows_and_cached_rows_go_together():
    """Under quarantine the valid rows are looked up, the rejected ones get their fallback, whatever is cached."""
    from pydantic import Field

    from mlguard import Fallback, Rows

    class Row(BaseModel):
        a: Annotated[float, Field(ge=0)]

    runs = []

    @guarded(cache=ROWS, validation={"on_invalid": "quarantine"}, fallback=Fallback(value=-1.0))
    def f(t: Annotated[pd.DataFrame, Rows(Row, "n")]) -> Annotated[Floats, Array("n")]:
        runs.append(len(t))
        return t["a"].to_numpy() * 2

    bad = pd.DataFrame({"a": [1.0, -2.0, 3.0]})
    assert f(bad).tolist() == [2, -1, 6]
    assert f(bad).tolist() == [2, -1, 6]
    assert f(pd.DataFrame({"a": [3.0, 5.0, 1.0]})).tolist() == [6, 10, 2]
    assert runs == [2, 1]
