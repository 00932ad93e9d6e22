import collections
import gc
import os
import random
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NamedTuple, NewType, Protocol, Self, TypedDict

import cloudpickle
import numpy as np
import numpy.typing as npt
import pytest
import typing_extensions
from pydantic import BaseModel, RootModel

from mlguard import guarded
from mlguard.cache import MISS, Cache, MemoryStore, NotKeyed, ResultCache, store_of
from mlguard.context import Call
from mlguard.errors import PolicyError
from mlguard.target import Target


def test_equal_arguments_are_one_key_however_they_are_passed(cached):
    """f(1), f(a=1) and f(1, b=default) run the body once."""
    runs = []

    def f(a: int, b: float = 2.0, *, c: str = "x") -> float:
        runs.append(a)
        return a * b

    call = cached(f)
    assert [call(1), call(a=1), call(1, b=2.0), call(1, c="x"), call(b=2.0, a=1)] == [2.0] * 5
    assert runs == [1]
    assert call.cache.info() == (4, 1, 0, 0, 1, call.cache.info().bytes)


@pytest.mark.parametrize("annotations", [{}, {"x": float}, {"x": int | float}, {"x": Any}, {"x": int | None}])
def test_types_and_bits_are_told_apart_whatever_the_annotation(cached, annotations):
    """1, 1.0, True, "1", 0.0 and -0.0 have results of their own, and NaN is a hit."""

    def f(x):
        return repr(x)

    f.__annotations__ = dict(annotations)
    call = cached(f)
    values = [1, 1.0, True, "1", b"1", None, 0.0, -0.0, 0, False, float("nan"), np.float64(1), "x" * 600, 2**80]
    assert [call(x) for x in values] == [repr(x) for x in values]
    assert [call(x) for x in values] == [repr(x) for x in values]
    assert call.cache.info()[:2] == (len(values), len(values))


def test_variadic_parameters_are_keyed(cached):
    """*args and **kwargs are part of the key, in their order, which the function sees."""
    runs = []

    def f(a, *rest, **more):
        runs.append(a)
        return (a, rest, sorted(more))

    call = cached(f)
    call(1, 2, x=1, y=2)
    call(1, 2, y=2, x=1)
    call(1, 2, x=1, y=2)
    call(1, (2,), x=1, y=2)
    call(1)
    assert len(runs) == 4


def test_a_function_without_parameters_has_one_result(cached):
    """No arguments: one key."""
    call = cached(lambda: 7)
    assert (call(), call(), call.cache.info().hits) == (7, 7, 1)


def test_parameters_of_any_name_work(cached):
    """No parameter name collides with the words of the key function."""

    def f(self, key: str, args: int, *, kwargs: int = 1, slot: str = "", cache=None):
        return (key, args, kwargs, slot)

    call = cached(f)
    assert call(1, "a", 2, slot="s") == ("a", 2, 1, "s") == call(1, "a", 2, slot="s")
    assert call.cache.info().hits == 1


def test_wrong_arguments_are_the_functions_own_error(cached):
    """A call that does not fit the signature raises what Python raises."""
    call = cached(lambda a, *, b=1: a)
    for args, kwargs in [((), {}), ((1, 2), {}), ((1,), {"c": 1})]:
        with pytest.raises(TypeError, match="argument"):
            call(*args, **kwargs)
    assert call.cache.info().entries == 0


def test_a_cached_none_is_a_hit(cached):
    """None is a result like any other."""
    runs = []
    call = cached(lambda x: runs.append(x))
    assert call(1) is None
    assert call(1) is None
    assert runs == [1]


def test_not_keyed_parameters_do_not_divide(cached):
    """A request id marked NotKeyed does not make two calls different."""

    def f(x: int, request_id: Annotated[str, NotKeyed]) -> str:
        return request_id

    call = cached(f)
    assert (call(1, "a"), call(1, "b"), call(2, "b")) == ("a", "a", "b")
    assert "without request_id" in call.cache.explain()[2]


def test_key_replaces_the_arguments(cached):
    """key= is asked with the arguments; what it returns is keyed exactly, and unkeyable answers bypass."""
    call = cached(lambda lock, n: n, key=lambda lock, n: n % 2)
    assert [call(threading.Lock(), n) for n in (1, 3, 2, 4)] == [1, 1, 2, 2]
    bad = cached(lambda n: n, key=lambda n: object())
    assert (bad(1), bad(1)) == (1, 1)
    assert bad.cache.stats()["bypassed"] == {"unkeyable": 2}
    broken = cached(lambda n: n, key=lambda n: 1 / 0)
    assert broken(1) == 1
    assert broken.cache.stats()["bypassed"] == {"key_failed": 1}


def test_the_model_version_is_part_of_the_key(cached):
    """A new model version never gets an older result."""
    version, runs = ["a"], []
    call = cached(lambda x: runs.append(x) or len(runs), model_version=lambda: version[0])
    assert (call(1), call(1)) == (1, 1)
    version[0] = "b"
    assert call(1) == 2
    version[0] = "a"
    assert call(1) == 1
    assert "with model_version" in call.cache.explain()[2]


def test_a_shared_store_shares_bounds_not_results(cached):
    """Two functions, or two versions of one, in one store never answer each other."""
    store = MemoryStore(3, 10**6)
    first = cached(lambda x: "first", store=store, model_version="1")
    second = cached(lambda x: "second", store=store, model_version="2")
    assert (first(1), second(1), first(1), second(1)) == ("first", "second", "first", "second")
    for x in range(5):
        first(x)
    assert len(store.entries) == 3
    second(1)
    first.cache.clear()
    assert (first.cache.info().entries, second.cache.info().entries) == (0, 1)


class Plain:
    def predict(self, x: int) -> int:
        return x


class Versioned:
    def __init__(self, version):
        self.version = version

    def __mlguard_key__(self):
        return self.version

    def predict(self: Self, x: int) -> int:
        return self.version * x


def test_self_without_an_identity_is_refused(cached):
    """A method of a class without an identity raises PolicyError that names the ways out."""
    call = cached(Plain.predict)
    with pytest.raises(PolicyError, match=r"Plain objects have no identity.*__mlguard_key__.*NotKeyed.*key="):
        call(Plain(), 1)
    call = cached(Plain.predict, key=lambda self, x: x)
    assert (call(Plain(), 1), call(Plain(), 1), call.cache.info().hits) == (1, 1, 1)


def test_self_with_an_identity_is_keyed_by_it(cached):
    """__mlguard_key__ tells two models apart; classes are their own identity."""
    call = cached(Versioned.predict)
    assert (call(Versioned(1), 2), call(Versioned(2), 2), call(Versioned(1), 2)) == (2, 4, 2)
    assert call.cache.info()[:2] == (1, 2)
    of_class = cached(lambda cls, x: cls.__name__)
    assert (of_class(Plain, 1), of_class(Versioned, 1), of_class(Plain, 1)) == ("Plain", "Versioned", "Plain")


class Inner(BaseModel, arbitrary_types_allowed=True):
    lock: Any = None
    handle: threading.Thread | None = None


class Bad(BaseModel, arbitrary_types_allowed=True):
    worker: threading.Thread


class Hidden(BaseModel, arbitrary_types_allowed=True):
    worker: Annotated[threading.Thread, NotKeyed]
    next: "Hidden | None" = None


@dataclass
class BadData:
    worker: threading.Thread


class BadTuple(NamedTuple):
    worker: threading.Thread


class MarkedDict(TypedDict):
    x: Annotated[int, NotKeyed]


class FineDict(TypedDict):
    x: int


UserId = NewType("UserId", int)


class Shape(Protocol):
    def area(self) -> float: ...


@pytest.mark.parametrize(
    "annotation",
    [
        threading.Thread,
        Callable[[int], int],
        Callable,
        Iterator[int],
        AsyncIterator[int],
        IO[bytes],
        list[threading.Thread],
        dict[str, threading.Thread],
        threading.Thread | Callable,
        npt.NDArray[np.object_],
        np.ma.MaskedArray,
        Bad,
        BadData,
        BadTuple,
        tuple[int, threading.Thread],
        list[Annotated[int, NotKeyed]],
        MarkedDict,
        type(threading.Lock()),
        np.random.Generator,
    ],
)
def test_annotations_that_can_never_be_keyed_are_refused(annotation):
    """The refusal at construction names the parameter, and a fix."""

    def f(x): ...

    f.__annotations__ = {"x": annotation}
    with pytest.raises(PolicyError, match=r"parameter 'x'.*Fix: .*NotKeyed"):
        ResultCache(Target(f), Cache(ttl=1))
    f.__annotations__ = {"x": Annotated[annotation, NotKeyed]}
    ResultCache(Target(f), Cache(ttl=1))
    f.__annotations__ = {"x": annotation}
    ResultCache(Target(f), Cache(ttl=1), key=lambda x: 1)


@pytest.mark.parametrize(
    "annotation",
    [
        int,
        Any,
        object,
        "int",
        threading.Thread | None,
        Literal["a", 1],
        Sequence[int],
        Mapping[str, float],
        npt.NDArray[np.float64],
        Path,
        UserId,
        Inner,
        Hidden,
        Shape,
        FineDict,
        Versioned,
        list,
        tuple[int, ...],
        type[int],
        np.floating,
        npt.ArrayLike,
        collections.deque[int],
        Self,
    ],
)
def test_annotations_that_leave_room_are_accepted(annotation):
    """What some value of the annotation can be keyed by is decided when the value is there."""

    def f(x): ...

    f.__annotations__ = {"x": annotation}
    ResultCache(Target(f), Cache(ttl=1)).explain()


def test_unkeyable_values_bypass_and_are_counted(cached):
    """A value that turns out unkeyable costs the cache, never the prediction."""
    call = cached(lambda x: 1)
    this = Call()
    assert call(object(), this=this) == 1
    cyclic: list = []
    cyclic.append(cyclic)
    assert call(cyclic) == 1
    assert call.cache.stats()["bypassed"] == {"unkeyable": 2}
    assert this.facts == {"mlguard.cache": "bypass"}


def test_streams_and_results_that_cannot_be_kept_are_refused():
    """A generator, or a result that no copy can be made of, is refused at construction with the fix."""

    def stream():
        yield 1

    def opens() -> Iterator[int]: ...

    def handle() -> threading.Thread: ...

    for function in (stream, opens, handle):
        with pytest.raises(PolicyError, match="Fix: "):
            ResultCache(Target(function), Cache(ttl=1))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "ttl: is required"),
        ({"ttl": 0}, "longer than 0"),
        ({"ttl": "soon"}, "must be a duration"),
        ({"ttl": 1, "max_bytes": 0}, "more than 0"),
        ({"ttl": 1, "max_entries": 0}, "greater than 0"),
        ({"ttl": 1, "jitter": 1}, "less than 1"),
        ({"ttl": 1, "on_hit": "raw"}, "on_hit"),
        ({"ttl": 1, "size": 3}, "no setting 'size'"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    """The error names the field and what it must be."""
    with pytest.raises(PolicyError, match=words):
        Cache(**settings)


def test_facts_of_a_miss_are_told(cached):
    """A miss is told to the event of its call."""
    call, this = cached(lambda x: x), Call()
    call(1, this=this)
    assert this.facts == {"mlguard.cache": "miss"}


def test_entries_expire_within_the_jitter_and_never_after_ttl(cached, now):
    """ttl is the longest life; jitter shortens it by its share at most."""
    runs = []
    call = cached(lambda x: runs.append(x), ttl=100, jitter=0.1)
    for x in range(50):
        call(x)
    now[0] += 89.9
    for x in range(50):
        call(x)
    assert len(runs) == 50
    now[0] += 5
    for x in range(50):
        call(x)
    early = len(runs) - 50
    assert 5 < early < 45
    now[0] += 200
    call(0)
    assert len(runs) == 50 + early + 1
    assert call.cache.stats()["expired"] >= early


def test_ttl_none_never_expires(cached, now):
    """None means until evicted."""
    call = cached(lambda x: x, ttl=None)
    call(1)
    now[0] += 1e12
    call(1)
    assert call.cache.info().hits == 1
    assert "until it is evicted" in call.cache.explain()[0]


def test_expired_entries_are_swept_as_others_come(cached, now):
    """What nobody asks for again does not stay for ever."""
    call = cached(lambda x: x, ttl=1)
    for x in range(20):
        call(x)
    now[0] += 2
    for x in range(100, 120):
        call(x)
    assert call.cache.info().entries == 20
    assert call.cache.stats()["expired"] == 20
    assert call.cache.stats()["evictions"] == 0


def test_the_users_random_numbers_are_left_alone(cached):
    """Jitter draws from a generator of its own."""
    random.seed(1)
    expected = random.random()
    random.seed(1)
    cached(lambda x: x)(1)
    assert random.random() == expected


def test_entries_are_bounded_and_those_in_use_stay(cached):
    """The oldest go first, unless they were asked for since."""
    call = cached(lambda x: x, max_entries=3)
    for x in (1, 2, 3):
        call(x)
    call(1)
    call(4)
    call(5)
    hits = call.cache.info().hits
    call(1)
    assert call.cache.info().hits == hits + 1
    assert call.cache.info().entries == 3
    assert call.cache.stats()["evictions"] == 2
    for x in (1, 4, 5):
        call(x)
    call(6)
    assert call.cache.info().entries == 3


def test_bytes_are_bounded(cached):
    """The estimated bytes of results never pass max_bytes, and a result larger than that is not kept."""
    call = cached(lambda n: np.zeros(n), max_bytes=100_000)
    for n in range(1000, 1100):
        call(n)
        assert call.cache.info().bytes <= 100_000
    assert 5 <= call.cache.info().entries <= 12
    call(50_000)
    assert call.cache.stats()["not_stored"] == {"too_large": 1}
    tight = cached(lambda n: "x" * 900, max_bytes=1000)
    tight(1)
    assert tight.cache.stats()["not_stored"] == {"too_large": 1}
    assert tight.cache.info().entries == 0


def test_clear_and_reset(cached):
    """clear() forgets results, reset() the counts as well."""
    call = cached(lambda x: x)
    call(1), call(1)
    call.cache.clear()
    assert call.cache.info()[:2] == (1, 1)
    assert call.cache.info()[4:] == (0, 0)
    call.cache.reset()
    assert call.cache.info() == (0, 0, 0, 0, 0, 0)
    assert call.cache.stats() == {
        "hits": 0,
        "misses": 0,
        "coalesced": 0,
        "hit_rate": None,
        "bypassed": {},
        "not_stored": {},
        "entries": 0,
        "bytes": 0,
        "evictions": 0,
        "expired": 0,
        "seconds_saved": 0,
    }


def test_seconds_saved_counts_what_hits_did_not_compute(cached, now):
    """Each hit saves what its entry cost, also after the entry is gone."""

    def f(x):
        now[0] += 2.0
        return x

    call = cached(f, ttl=None, max_entries=1)
    call(1), call(1), call(1)
    assert call.cache.stats()["seconds_saved"] == 4.0
    call(2)
    assert call.cache.stats()["seconds_saved"] == 4.0


def test_what_broke_the_schema_in_report_mode_is_not_kept(cached):
    """A result that only report mode let pass is nobody else's."""
    call, this = cached(lambda x: x), Call()
    this.violations = [{"type": "x"}]
    call(1, this=this)
    assert call.cache.stats()["not_stored"] == {"violates_schema": 1}


def test_errors_are_never_cached_and_their_arguments_are_freed(cached):
    """A failure is raised anew, and nothing of it stays once the caller has dropped it, without the collector."""

    class Big:
        def __mlguard_key__(self):
            return 1

    def f(x):
        raise ValueError("no")

    call = cached(f)
    gc.disable()
    try:
        for _ in range(2):
            argument = Big()
            alive = weakref.ref(argument)
            with pytest.raises(ValueError, match="no") as caught:
                call(argument)
            frames = [entry.name for entry in caught.traceback]
            del caught, argument
            assert alive() is None
    finally:
        gc.enable()
    assert frames[-3:] == ["share", "produce", "f"]
    assert call.cache.info()[:2] == (0, 2)


def test_a_pickled_cache_starts_empty_and_works():
    """What travels is the function and the settings; names travel by their cache."""
    cache = ResultCache(Target(lambda x: x + 1), Cache(ttl=5), key=lambda x: x, store=store_of(None, Cache(ttl=5)))
    names = cloudpickle.loads(cloudpickle.dumps(cache.names(asynchronous=False)))
    key = names["key_of"]((1,), {})
    assert names["MISS"] is MISS
    assert names["lookup"](key) is MISS
    assert names["share"](key, lambda *_: 2, None, (1,), {}, None, None) == 2
    assert names["lookup"](key) == 2
    assert cloudpickle.loads(cloudpickle.dumps(cache.names(asynchronous=True)))["MISS"] is MISS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_child_keeps_results_and_never_waits_for_the_parents_threads(cached):
    """Locks held and computations led by other threads at the fork do not exist in the child."""
    started, go = threading.Event(), threading.Event()

    def f(x):
        if x == 2:
            started.set()
            go.wait(10)
        return x

    call = cached(f)
    call(1)
    thread = threading.Thread(target=call, args=(2,))
    thread.start()
    started.wait(10)
    call.cache.memory._lock.acquire()
    call.cache.memory._lock.release()
    child = os.fork()
    if child == 0:
        go.set()
        hit = call.cache.lookup(call.cache.key_of((1,), {})) == 1
        os._exit(0 if hit and call(2) == 2 and call(3) == 3 else 1)
    go.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
    call.cache.memory._lock.acquire()
    child = os.fork()
    if child == 0:
        os._exit(0 if call(7) == 7 and call.cache.info().entries == 1 else 1)
    call.cache.memory._lock.release()
    assert os.waitpid(child, 0)[1] == 0


class Item(BaseModel):
    tags: list[str]


class Root(RootModel[list[int]]):
    pass


def test_a_destructor_that_calls_the_cache_does_not_hang(cached):
    """What eviction destroys may itself use the cache: no lock is held by then."""
    calls = []

    class Loud(str):
        def __del__(self):
            calls.append(call(-1))

    def f(x):
        return Loud(f"{x}") if x >= 0 else "again"

    call = cached(f, max_entries=1)
    for x in range(3):
        call(x)
    assert calls[:1] == ["again"]


def test_a_change_inside_a_change_is_skipped(cached):
    """A collector run in the middle of the store's own update does not deadlock on its lock."""
    call = cached(lambda x: x)
    store = call.cache.memory
    store._holder = threading.get_ident()
    with store._lock:
        assert call(1) == 1
    store._holder = None
    assert call.cache.info().entries == 0


def test_the_order_of_keywords_is_part_of_the_key(cached):
    """A function that turns **features into a row sees their order, so each order has its own result."""
    call = cached(lambda **features: list(features.values()))
    assert (call(a=1, b=2), call(b=2, a=1), call(a=1, b=2)) == ([1, 2], [2, 1], [1, 2])
    assert call.cache.info()[:2] == (1, 2)


def test_not_keyed_fields_of_a_schema_are_left_out():
    """`NotKeyed` works where `schema=` declares the parameter, and its own annotation's mark is not lost."""

    class Request(BaseModel):
        x: int
        request_id: Annotated[str, NotKeyed]
        trace: str

    runs = []

    @guarded(schema=Request, cache=Cache(ttl=60))
    def predict(x, request_id, trace: Annotated[str, NotKeyed]):
        runs.append(request_id)
        return x

    assert (predict(1, "a", "t"), predict(1, "b", "u"), predict(2, "a", "t")) == (1, 1, 2)
    assert runs == ["a", "a"]


def test_a_marked_output_is_still_checked_for_copies():
    """`output=` says what the cache has to copy; a result that never can be is refused at decoration."""
    with pytest.raises(PolicyError, match="no safe copy"):
        guarded(output=threading.Lock().__class__, cache=Cache(ttl=60))(lambda x: x)


def test_not_keyed_in_a_typed_dict_of_typing_extensions_is_refused():
    """The typed dicts that pydantic wants before Python 3.12 are recognised like those of typing."""

    class Options(typing_extensions.TypedDict):
        trace: Annotated[str, NotKeyed]

    def f(options: Options) -> int:
        return 1

    with pytest.raises(PolicyError, match="NotKeyed"):
        ResultCache(Target(f), Cache(ttl=60))
