import asyncio
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Annotated, Any

import cloudpickle
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from pydantic import BaseModel

from mlguard import Array, Cache, NotKeyed, guarded
from mlguard.cache.keys import SHARED
from mlguard.cache.stores import Item, Label, Stored, StoreError, StoreInfo
from mlguard.errors import PolicyError
from mlguard.testing import FakeClock, capture_events

Floats = npt.NDArray[np.float64]


class DictStore:
    """A user's own store, the least that works; tests break it on purpose."""

    largest = 1 << 20

    def __init__(self):
        self.entries: dict[bytes, tuple[bytes, float, Label]] = {}
        self.leases: dict[bytes, bytes] = {}
        self.calls: list[str] = []
        self.broken: Exception | None = None

    def _called(self, name):
        self.calls.append(name)
        if self.broken is not None:
            raise self.broken

    def get_many(self, keys):
        self._called("get")
        now = time.monotonic()
        found = [self.entries.get(key) for key in keys]
        return [entry and Stored(entry[0], now - entry[1], None) for entry in found]

    def put_many(self, items: list[Item], label):
        self._called("put")
        for item in items:
            self.entries[item.key] = item.payload, time.monotonic(), label

    def lease(self, key, seconds):
        self._called("lease")
        if key in self.leases:
            return None
        self.leases[key] = token = os.urandom(8)
        return token

    def release(self, key, token):
        self._called("release")
        if self.leases.get(key) == token:
            del self.leases[key]

    def discard(self, *, key=None, function=None, model_version=None, tenant=None):
        gone = [
            each
            for each, (_, _, label) in self.entries.items()
            if key in (None, each)
            and function in (None, label.function)
            and model_version in (None, label.model_version)
            and tenant in (None, label.tenant)
        ]
        for each in gone:
            del self.entries[each]
        return len(gone)

    def info(self):
        return StoreInfo("a dict", len(self.entries), None)

    def close(self):
        pass


class Result(BaseModel, arbitrary_types_allowed=True):
    score: float
    values: Floats


def make(store, runs, version: Any = "1", **settings):
    """The same function anew, as another process would have it: nothing in memory, the same store."""

    @guarded(cache=Cache(**{"ttl": 60, "store": store, **settings}), model_version=version, monitor=True)
    def predict(x: int, who: Annotated[str, NotKeyed] = "") -> Result:
        runs.append(x)
        return Result(score=x / 2, values=np.arange(float(x)))

    return predict


def test_what_one_computes_others_get_from_the_store():
    """A result is computed once for all who share the store, and served from memory after that."""
    store, runs = DictStore(), []
    first, second = make(store, runs), make(store, runs)
    first(4)
    outcome = second.guard.call(4)
    assert (outcome.value.score, outcome.value.values.tolist()) == (2.0, [0, 1, 2, 3])
    assert (outcome.cached, outcome.disposition) == (True, "cache_hit")
    asked = len(store.calls)
    second(4)
    assert len(store.calls) == asked
    assert runs == [4]
    stats = second.guard.stats()["cache"]
    assert (stats["misses"], stats["hits"], stats["store_hits"]) == (0, 2, 1)


async def test_coroutine_functions_share_as_well(tmp_path):
    """The same from tasks, through the store's own twin, with threads reading what tasks wrote."""
    runs = []
    url = f"sqlite:///{tmp_path}/cache.db"

    def make_async():
        @guarded(cache=Cache(ttl=60, store=url), model_version="1")
        async def predict(x: int) -> list[float]:
            runs.append(x)
            await asyncio.sleep(0.01)
            return [x / 2]

        return predict

    first, second = make_async(), make_async()
    assert await asyncio.gather(*(first(3) for _ in range(20))) == [[1.5]] * 20
    assert await second(3) == [1.5]
    assert runs == [3]


@pytest.mark.parametrize("error", [StoreError("gone", "unreachable"), ZeroDivisionError(), OSError("disk")])
def test_a_store_that_fails_fails_no_prediction(error):
    """Every operation of a broken store is a miss, counted, and said in the event."""
    store, runs = DictStore(), []
    predict = make(store, runs)
    store.broken = error
    with capture_events() as events:
        assert predict(4).score == 2
        assert predict(4).score == 2
    reason = getattr(error, "reason", "failed")
    assert runs == [4]  # its own memory still works
    assert events[0]["mlguard.cache.error"] == reason
    assert events[0]["mlguard.cache"] == "miss"
    assert predict.guard.stats()["cache"]["store_errors"][reason] >= 2


def test_an_outage_does_not_empty_the_front():
    """What was read before the outage is served until its own time is up, although the front would ask again."""
    store, runs = DictStore(), []
    predict = make(store, runs, jitter=0)
    with FakeClock() as clock:
        predict(4)
        clock.advance(30)
        store.broken = StoreError("gone", "unreachable")
        outcome = predict.guard.call(4)
        assert (runs, outcome.disposition, outcome.stale) == ([4], "cache_hit", False)
        clock.advance(31)
        predict(4)
        assert runs == [4, 4]


@pytest.mark.parametrize(
    "damage",
    [
        lambda payload: b"",
        lambda payload: b"\x80\x04cos\nsystem\n(S'false'\ntR.",
        lambda payload: payload[:-1],
        lambda payload: payload[:-20] + bytes([payload[-20] ^ 1]) + payload[-19:],
        lambda payload: payload + b"x",
        lambda payload: None,
        lambda payload: os.urandom(200),
    ],
)
def test_a_poisoned_entry_is_a_miss_and_is_replaced(damage):
    """Garbage under a key never becomes a value: it is counted, computed over, and gone for the next one."""
    store, runs = DictStore(), []
    make(store, runs)(4)
    ((key, (payload, since, label)),) = store.entries.items()
    store.entries[key] = damage(payload), since, label
    reader = make(store, runs)
    assert reader(4).score == 2
    assert runs == [4, 4]
    assert sum(reader.guard.stats()["cache"]["undecodable"].values()) == 1
    assert make(store, runs)(4).score == 2
    assert runs == [4, 4]


def test_an_entry_moved_to_another_key_is_a_miss():
    """A payload belongs to its key: swapped entries never answer for one another."""
    store, runs = DictStore(), []
    predict = make(store, runs)
    predict(4), predict(6)
    first, second = store.entries
    store.entries[first], store.entries[second] = store.entries[second], store.entries[first]
    again = make(store, runs)
    assert (again(4).score, again(6).score) == (2, 3)
    assert runs == [4, 6, 4, 6]


@pytest.mark.parametrize("answer", [[], [None, None], None, 7])
def test_a_store_that_answers_nonsense_is_a_miss(answer):
    """Too few answers, too many, none at all: the call computes."""
    store, runs = DictStore(), []
    store.get_many = lambda keys: answer
    assert make(store, runs)(4).score == 2
    store.get_many = lambda keys: [Stored(b"x", float("nan"), None)]
    assert make(store, runs)(4).score == 2


def test_what_cant_be_written_is_handed_on_and_counted():
    """A result outside the declared type's classes, or too large, is not stored."""

    @dataclass
    class Odd:
        x: int

    store = DictStore()

    @guarded(cache=Cache(ttl=60, store=store), model_version="1")
    def f(x: int) -> Any:
        return Odd(x) if x else np.zeros(1 << 20)

    f(1), f(0)
    assert store.entries == {}
    reasons = f.guard.stats()["cache"]["not_stored"]
    assert any(reason.startswith("unencodable") for reason in reasons)
    assert reasons["too_large"] == 1


def test_frames_are_shared_and_copied():
    """A data frame travels through the store, and what a caller does to its own reaches nobody."""
    store, runs = DictStore(), []

    def build():
        @guarded(cache=Cache(ttl=60, store=store), model_version="1")
        def f(x: pd.DataFrame) -> pd.DataFrame:
            runs.append(len(x))
            return x * 2

        return f

    first, second, frame = build(), build(), pd.DataFrame({"a": [1.0, 2.0]})
    expected = frame * 2
    for call in (first, second, first, second):
        found = call(frame.copy())
        pd.testing.assert_frame_equal(found, expected)
        found.loc[0, "a"] = 99.0
    assert runs == [2]
    second(pd.DataFrame({"a": [1.0, 2.0]}, index=[5, 6]))
    assert runs == [2, 2]


# Whose result it is


def test_a_model_version_is_required():
    """A store that outlives the process is refused where nothing says of which model a result is."""
    for version in (None, ""):
        with pytest.raises(PolicyError, match=r"which model.*model_version"):
            make(DictStore(), [], version)


def test_versions_never_share_and_a_callable_is_asked_at_every_call():
    """Results of another version are another's; a model swapped at run time is seen at the next call."""
    store, runs, version = DictStore(), [], ["1"]
    fixed, moving = make(store, runs, "1"), make(store, runs, lambda: version[0])
    fixed(4), moving(4)
    assert runs == [4]
    version[0] = "2"
    moving(4)
    assert runs == [4, 4]
    make(store, runs, "2")(4)
    assert runs == [4, 4]


def test_a_tenant_separates_and_can_be_dropped():
    """The tenant is part of the key though marked NotKeyed, and one customer's results go together."""
    store, runs = DictStore(), []
    predict = make(store, runs, tenant="who")
    predict(4, "a"), predict(4, "b"), predict(6, "a"), predict(4, who="a")
    assert runs == [4, 4, 6]
    assert predict.guard.cache_clear(tenant="a") == 2
    predict(4, "b")
    predict(4, "a")
    assert runs == [4, 4, 6, 4]
    other = make(store, runs, tenant="who")
    assert other.guard.cache_clear(tenant="b", model_version="2") == 0
    assert other.guard.cache_clear(tenant="b", model_version="1") == 1
    assert other.guard.cache_invalidate(4, "a") is True
    assert other.guard.cache_invalidate(4, "a") is False
    assert store.entries == {}


def test_another_text_of_the_function_is_another_function():
    """An edited body, another signature or another return type never answers from old entries."""
    store, runs = DictStore(), []

    def build(body):
        namespace = {"guarded": guarded, "Cache": Cache, "store": store, "runs": runs}
        exec(f"@guarded(cache=Cache(ttl=60, store=store), model_version='1')\n{body}", namespace)
        return namespace["f"]

    bodies = [
        "def f(x: int) -> float:\n    runs.append(1); return x / 2",
        "def f(x: int) -> float:\n    runs.append(1); return x / 4",
        "def f(x: float) -> float:\n    runs.append(1); return x / 2",
        "def f(x: int) -> object:\n    runs.append(1); return x / 2",
    ]
    for body in bodies:
        build(body)(4)
    assert len(runs) == 4
    for body in bodies:
        build("\n\n" + body if not body.startswith("@") else body)(4)
    assert len(runs) == 4


PROGRAM = """
import enum, sys, datetime
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Literal
import numpy as np, numpy.typing as npt, pandas as pd
from pydantic import BaseModel, Field
from mlguard import Cache, guarded, Array
class Color(enum.Enum):
    RED = 1
class Inner(BaseModel):
    kind: Literal["b", "a"] = "a"
    n: Annotated[int, Field(ge=0)] = 1
@dataclass
class Point:
    x: float
    inner: Inner
class Named(NamedTuple):
    a: int
runs = []
@guarded(cache=Cache(ttl=600, store=sys.argv[1]), model_version="1")
def f(
    x: Annotated[npt.NDArray[np.float64], Array("n", ge=0)], p: Point, c: Color, names: set[str], when: object
) -> dict[str, float]:
    runs.append(1)
    known = p.inner.kind in {"a", "b", "c", "d"}
    return {"sum": float(x.sum()) + known}
arguments = (np.arange(2000.), Point(1.5, Inner()), Color.RED, {"x", "y", "z"},
    [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), Named(3), np.float32(1), pd.DataFrame({"a": [1], "b": ["t"]})])
print(f(*arguments), len(runs))
"""


def test_processes_of_other_hash_seeds_write_the_same_keys(tmp_path):
    """Arrays, models, dataclasses, enums, sets and frames have one key in every process that runs the same code."""
    program = tmp_path / "service.py"
    program.write_text(PROGRAM)
    printed = []
    for seed in ("1", "2"):
        ended = subprocess.run(
            [sys.executable, str(program), f"sqlite:///{tmp_path}/cache.db"],
            capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        printed.append(ended.stdout.split()[-1])
    assert printed == ["1", "0"]


def test_classes_with_other_fields_are_spelt_differently():
    """A class of the same name whose fields changed is another class in a shared store."""

    def build(annotation):
        return type("Thing", (BaseModel,), {"__annotations__": {"x": annotation}, "__module__": "shop"})

    assert SHARED.encode(build(int)(x=1)) == SHARED.encode(build(int)(x=1))
    assert SHARED.encode(build(int)(x=1)) != SHARED.encode(build(int | str)(x=1))


# Processes in progress


def test_another_process_that_holds_the_lease_is_waited_for():
    """A call whose key somebody else computes waits for that result instead of computing its own."""
    store, runs = DictStore(), []
    other = make(store, runs)
    mine = make(store, runs)
    other(4)
    ((key, entry),) = store.entries.items()
    store.entries.clear()
    store.leases[key] = b"other"
    threading.Timer(0.1, lambda: store.entries.update({key: entry})).start()
    assert mine(4).score == 2
    assert runs == [4]
    assert mine.guard.stats()["cache"]["lease_waits"] == 1


def test_a_lease_nobody_gives_back_delays_and_no_more():
    """Whoever died with the lease is waited for no longer than the wait is bounded; then the call computes."""
    store, runs = DictStore(), []
    first = make(store, runs)
    first(4)
    ((key, _),) = store.entries.items()
    store.entries.clear()
    store.leases[key] = b"dead"
    started = time.monotonic()
    assert make(store, runs)(4).score == 2
    assert 0.5 < time.monotonic() - started < 3
    assert runs == [4, 4]
    assert store.leases == {key: b"dead"}


def test_a_failure_gives_the_lease_back():
    """The next one may compute at once, in whatever process it is."""
    store = DictStore()

    @guarded(cache=Cache(ttl=60, store=store), model_version="1")
    def f(x: int) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        f(1)
    assert store.leases == {}
    assert store.calls[-1] == "release"


def test_the_users_stop_iteration_is_his_own():
    """An exception that generators can't raise comes through as it is."""

    @guarded(cache=Cache(ttl=60, store=DictStore()), model_version="1")
    def f(x: int) -> int:
        raise StopIteration(x)

    with pytest.raises(StopIteration):
        f(1)


# Staleness and rows with a store


def test_another_process_result_helps_through_an_outage():
    """stale_if_error serves what another process stored, once it has expired and computing fails."""
    store, failing = DictStore(), [False]

    def build():
        @guarded(cache=Cache(ttl=0.05, jitter=0, store=store, stale_if_error=60, stale_on=KeyError), model_version="1")
        def f(x: int) -> int:
            if failing[0]:
                raise KeyError(x)
            return x

        return f

    build()(1)
    time.sleep(0.08)
    failing[0] = True
    outcome = build().guard.call(1)
    assert (outcome.value, outcome.stale) == (1, True)


def test_rows_are_shared_one_by_one():
    """A row computed in one process is known in the next; a broken store computes."""
    store, runs = DictStore(), []

    def build():
        @guarded(cache=Cache(ttl=60, rows=True, store=store), model_version="1")
        def f(x: Annotated[Floats, Array("n", 2)]) -> Annotated[Floats, Array("n")]:
            runs.append(x[:, 0].tolist())
            return x.sum(axis=1)

        return f

    rows = np.arange(8.0).reshape(4, 2)
    build()(rows[:2])
    second = build()
    assert second(rows[::-1]).tolist() == [13, 9, 5, 1]
    assert runs == [[0, 2], [6, 4]]
    assert second.guard.cache_info()[:2] == (2, 2)
    assert build().guard.cache_invalidate(rows[:1]) is True
    store.broken = StoreError("gone", "unreachable")
    third = build()
    assert third(rows).tolist() == [1, 5, 9, 13]
    assert third.guard.stats()["cache"]["store_errors"]["unreachable"] >= 2


async def test_rows_are_shared_among_coroutine_functions(tmp_path):
    """The same through a real file and the store's twin."""
    runs = []

    def build():
        @guarded(cache=Cache(ttl=60, rows=True, store=f"sqlite:///{tmp_path}/rows.db"), model_version=lambda: "1")
        async def f(x: Annotated[Floats, Array("n", 2)]) -> Annotated[Floats, Array("n")]:
            runs.append(len(x))
            return x.sum(axis=1)

        return f

    rows = np.arange(8.0).reshape(4, 2)
    await build()(rows[:2])
    assert (await build()(rows)).tolist() == [1, 5, 9, 13]
    assert runs == [2, 2]


def test_explain_names_the_store_without_its_password():
    """explain() says where results lie, and shows no secret."""

    @guarded(cache=Cache(ttl=60, store="redis://user:hunter2@localhost:1/0?front=3s"), model_version="1")
    def f(x: int) -> int:
        return x

    said = f.guard.explain()
    assert "redis://user:***@localhost:1/0" in said
    assert "for 3s" in said
    assert "hunter2" not in said + repr(f.guard.policy)


def test_a_pickled_shared_cache_works(tmp_path):
    """A guarded function with a store travels by cloudpickle and finds the same entries."""
    runs: list[int] = []

    @guarded(cache=Cache(ttl=60, store=f"sqlite:///{tmp_path}/cache.db"), model_version="1")
    def f(x: int) -> int:
        return x + 1

    f(1)
    copied = cloudpickle.loads(cloudpickle.dumps(f))
    assert copied.guard.call(1).disposition == "cache_hit"
    assert runs == []
