import collections
import enum
import threading
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel, ConfigDict, PrivateAttr, RootModel

from mlguard.cache.copies import TooLarge, Uncopyable, keep


class Answer(BaseModel):
    model_config = ConfigDict(extra="allow")
    scores: Any
    tags: list = []
    _memory: list = PrivateAttr(default_factory=list)

    @cached_property
    def first(self):
        return self.scores[0]


class Root(RootModel[list[int]]):
    pass


@dataclass(frozen=True)
class Data:
    values: list
    twice: list = field(init=False, default_factory=list)


@dataclass(slots=True)
class Slim:
    x: int


class Pair(NamedTuple):
    left: Any
    right: int


class Colour(enum.Enum):
    RED = 1


class Text(str):
    pass


def fresh(value, **options):
    return keep(value, 10**9, **{"writable": False, **options}).fresh()


def test_arrays_from_the_cache_can_never_be_made_writable():
    """setflags, .base, views and in-place operators all fail, and metadata is the caller's own."""
    kept = keep(np.arange(6.0).reshape(2, 3), 10**6, writable=False)
    array = kept.fresh()
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.setflags(write=True)
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    with pytest.raises(ValueError, match="read-only"):
        array += 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.view().setflags(write=True)
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, bytes)
    assert not np.frombuffer(base).flags.writeable
    np.lib.stride_tricks.as_strided(array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy 2.5 still allows it, and would rather not
        array.shape = (6,)
        array.dtype = np.int64
    np.testing.assert_array_equal(kept.fresh(), np.arange(6.0).reshape(2, 3))


def test_the_names_of_a_structured_array_are_its_callers_own():
    """Renaming the fields of one result renames nobody else's."""
    kept = keep(np.zeros(2, [("a", "f8"), ("b", "i4")]), 10**6, writable=False)
    kept.fresh().dtype.names = ("x", "y")
    assert kept.fresh().dtype.names == ("a", "b")


def test_on_hit_copy_gives_everybody_a_writable_array():
    """A change to one copy shows in no other."""
    kept = keep([np.zeros(3)], 10**6, writable=True)
    kept.fresh()[0][:] = 7
    np.testing.assert_array_equal(kept.fresh()[0], np.zeros(3))


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from(["f8", ">f4", "i2", "?", "M8[s]", "S3", "U2", "c16"]),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
        fill=st.nothing(),
    ),
    st.booleans(),
    st.booleans(),
)
def test_any_array_comes_back_as_it_was(array, writable, transposed):
    """dtype, shape, content and order of memory survive."""
    array = array.T if transposed else array
    copy = fresh(array, writable=writable)
    assert (copy.dtype, copy.shape, copy.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert copy.flags.f_contiguous == array.flags.f_contiguous
    assert copy.flags.writeable is writable


def mutable():
    answer = Answer(scores=np.arange(3.0), tags=["a"], other=[1])
    answer._memory.append(1)
    return [
        [1, [2, [3]]],
        {"a": [1], "b": {"c": [1]}},
        {1, 2},
        ([1], 2),
        collections.deque([[1]], maxlen=3),
        collections.OrderedDict(a=[1]),
        bytearray(b"ab"),
        answer,
        Root([1, 2]),
        Data([1]),
        Slim(1),
        Pair([1], 2),
        [Pair(1, 2)],
        {"x": np.arange(3.0)},
        [],
    ]


def scribble(value):
    """Changes whatever can be changed inside a value."""
    if isinstance(value, np.ndarray):
        if value.flags.writeable:
            value[...] = 9
    elif isinstance(value, BaseModel):
        for inner in [
            *value.__dict__.values(),
            *(value.__pydantic_extra__ or {}).values(),
            *(value.__pydantic_private__ or {}).values(),
        ]:
            scribble(inner)
        value.__dict__["scores"] = "poison"
        value.model_fields_set.add("poison")
    elif isinstance(value, Data | Slim):
        for name in value.__dataclass_fields__:
            scribble(getattr(value, name))
            object.__setattr__(value, name, "poison")
    elif isinstance(value, dict):
        for inner in value.values():
            scribble(inner)
        value["poison"] = 1
    elif isinstance(value, set):
        value.add("poison")
    elif isinstance(value, bytearray):
        value.extend(b"poison")
    elif isinstance(value, tuple | list | collections.deque):
        for inner in value:
            scribble(inner)
        if not isinstance(value, tuple):
            value.append("poison")


@pytest.mark.parametrize("place", range(len(mutable())))
@pytest.mark.parametrize("writable", [False, True])
def test_no_change_to_a_result_reaches_the_cache(place, writable):
    """Neither the leader's own object nor what a hit returned is connected with the entry."""
    original, expected = mutable()[place], mutable()[place]
    kept = keep(original, 10**6, writable=writable)
    scribble(original)
    scribble(kept.fresh())
    result = kept.fresh()
    assert type(result) is type(expected)
    np.testing.assert_equal(getattr(result, "__dict__", result), getattr(expected, "__dict__", expected))
    if isinstance(expected, Answer):
        assert (result.__pydantic_extra__, result._memory, result.model_fields_set) == (
            {"other": [1]},
            [1],
            {"scores", "tags", "other"},
        )
        assert result.first == 0.0
    if isinstance(expected, collections.deque):
        assert result.maxlen == 3
    if isinstance(expected, Slim):
        assert result == expected


@pytest.mark.parametrize(
    "value", [None, 1, "a", b"a", Colour.RED, (1, ("a",)), frozenset({1}), np.float64(1), Text("a"), Pair(1, 2)]
)
def test_what_cannot_change_is_handed_out_as_it_is(value):
    """No copy is made of what needs none."""
    kept = keep(value, 10**6, writable=False)
    assert kept.make is None
    assert kept.fresh() == value
    assert type(kept.fresh()) is type(value)


def bad_data():
    data = Data([1])
    data.__dict__["hidden"] = 1
    return data


def bad_text():
    text = Text("a")
    text.hidden = 1
    return text


def bad_pair():
    pair = type("Wide", (Pair,), {})(1, 2)
    pair.hidden = 1
    return pair


@dataclass
class Keyed:
    x: list

    __hash__ = object.__hash__


class Slotted(Answer):
    __slots__ = ("hidden",)


class Odd:
    pass


@dataclass
class OfOdd(Odd):
    x: int


@pytest.mark.parametrize(
    "value",
    [
        object(),
        threading.Lock(),
        iter([]),
        np.array([None]),
        np.ma.array([1]),
        np.zeros(1, [("a", "i4")])[0],
        bad_data(),
        bad_text(),
        bad_pair(),
        {Pair((), 1): 1, (1, 2): 1, Keyed([1]): 2},
        {Odd(): 1},
        [object()],
        Slotted(scores=1),
        OfOdd(1),
        lambda: 1,
    ],
)
def test_what_cannot_be_copied_safely_is_not_kept(value):
    """A result of which only a shared object could be kept is refused."""
    with pytest.raises(Uncopyable):
        keep(value, 10**6, writable=False)


def test_a_value_that_contains_itself_is_not_kept():
    """A cycle is refused, without a hang."""
    value: list = []
    value.append(value)
    with pytest.raises(Uncopyable, match="contains itself"):
        keep(value, 10**9, writable=False)


def test_a_large_value_is_refused_before_it_is_copied():
    """The size is known from the header: no second gigabyte is allocated to find that it does not fit."""
    huge = np.broadcast_to(np.zeros(1), (1 << 40,))
    with pytest.raises(TooLarge):
        keep([huge], 1 << 20, writable=False)


def test_sizes_are_near_the_truth():
    """Arrays by their bytes, containers by what they hold."""
    assert 8000 <= keep(np.zeros(1000), 10**6, writable=False).size <= 8300
    assert 5000 <= keep(["x" * 1000] * 5, 10**6, writable=False).size <= 6000
    assert 20_000 <= keep({"a": [float(x) for x in range(1000)]}, 10**6, writable=False).size <= 40_000
