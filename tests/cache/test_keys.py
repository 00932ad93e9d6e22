import collections
import enum
import struct
import threading
import zoneinfo
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel, ConfigDict, PrivateAttr, TypeAdapter

from mlguard.cache import NotKeyed
from mlguard.cache.keys import Unkeyable, encode, offers_identity, slot


def same(left: Any, right: Any) -> bool:
    """An independent definition of "same type and same bits", slow and obvious."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    return left == right


floats = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, float("nan"), struct.unpack("<d", b"\1\0\0\0\0\0\xf8\x7f")[0], -float("nan")]),
    st.floats(),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.integers(),
    floats,
    st.text(max_size=4),
    st.binary(max_size=4),
    st.sampled_from(["1", b"1", "", b""]),
)
dtypes = st.sampled_from(["<f8", ">f8", "<f4", "<i8", "<i4", "|b1", "<c16", "<M8[ns]", "<M8[s]", "|S2", "<U2"])
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), fill=st.nothing())
)
values = st.recursive(
    st.one_of(scalars, arrays),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.integers(0, 3) | st.text(max_size=1), inner, max_size=2),
    ),
    max_leaves=6,
)


@settings(max_examples=600, deadline=None)
@given(values, values)
def test_random_values_share_a_key_exactly_when_type_and_bits_are_the_same(left, right):
    """Keys are equal if and only if types, shapes and bits are, through any nesting."""
    assert (slot(left) == slot(right)) == same(left, right)
    assert (encode([left, right]) == encode([right, left])) == same(left, right)


@settings(max_examples=200, deadline=None)
@given(arrays, arrays)
def test_random_arrays_share_a_key_exactly_when_dtype_shape_and_bytes_do(left, right):
    """An array's key is its dtype, shape and content; where it lies in memory is no part of it."""
    assert (slot(left) == slot(right)) == same(left, right)
    assert (
        slot(left) == slot(np.asfortranarray(left).reshape(left.shape)) == slot(left[..., None].repeat(2, -1)[..., 0])
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(floats, min_size=9, max_size=200), st.integers(0, 8), floats)
def test_long_rows_of_floats_are_keyed_bit_by_bit(row, place, other):
    """The fast path for rows of floats tells them apart as exactly as the slow one."""
    changed = [*row[:place], other, *row[place + 1 :]]
    assert (slot(row) == slot(changed)) == same(row, changed)
    assert slot(row) != slot(tuple(row))


def test_two_long_arrays_that_differ_in_one_value_never_share_a_key():
    """5,000 elements, one of them different: the bug of text keys."""
    first = np.arange(5000.0)
    for place in (0, 2500, 4999):
        second = first.copy()
        second[place] = np.nextafter(second[place], np.inf)
        assert slot(first) != slot(second)
    assert slot(first) == slot(first.copy())
    assert slot(first) == slot(np.repeat(first, 2)[::2])


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    ONE = 1


class Bits(enum.Flag):
    A = 1
    B = 2


class Pair(NamedTuple):
    x: int
    note: Annotated[str, NotKeyed] = ""


class Item(BaseModel):
    x: float
    request_id: Annotated[str, NotKeyed] = ""


class Twin(BaseModel):
    x: float
    request_id: Annotated[str, NotKeyed] = ""


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    x: int
    _seen: list = PrivateAttr(default_factory=list)

    @cached_property
    def double(self):
        return 2 * self.x


@dataclass
class Point:
    x: int
    trace: Annotated[str, NotKeyed] = ""
    tags: list = field(default_factory=list)

    @cached_property
    def double(self):
        return 2 * self.x


@dataclass(slots=True)
class Slim:
    x: int


class Text(str):
    pass


class Own:
    def __init__(self, version):
        self.version = version
        self.lock = threading.Lock()

    def __mlguard_key__(self):
        return self.version


STRUCTURED = np.dtype([("a", "u1"), ("b", "<f8")], align=True)
DISTINCT = [
    None,
    True,
    False,
    1,
    0,
    1.0,
    0.0,
    -0.0,
    -1,
    1 + 0j,
    complex(0.0, -0.0),
    complex(0.0, 0.0),
    2**64,
    2**64 + 1,
    -(2**64),
    "1",
    b"1",
    bytearray(b"1"),
    "",
    b"",
    "\ud800",
    "x" * 600,
    "x" * 601,
    b"x" * 600,
    ["x" * 600],
    date(2026, 1, 1),
    datetime(2026, 1, 1),
    datetime(2026, 1, 1, fold=1),
    datetime(2026, 1, 1, tzinfo=UTC),
    time(1),
    time(1, tzinfo=UTC),
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(0), "x")),
    datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")),
    TypeAdapter(datetime).validate_python("2026-01-01T00:00:00+00:00"),
    timedelta(1),
    timedelta(seconds=1),
    Decimal("1"),
    Decimal("1.0"),
    Decimal("NaN"),
    UUID(int=1),
    Path("a"),
    PurePosixPath("a"),
    [],
    (),
    {},
    set(),
    frozenset(),
    collections.deque(),
    collections.deque(maxlen=1),
    collections.OrderedDict(),
    [1],
    (1,),
    {1},
    frozenset({1}),
    [[1]],
    [1, 2],
    [12],
    ["a", "b"],
    ["ab"],
    [["a"], "b"],
    {"a": 1, "b": 2},
    {"b": 2, "a": 1},
    {1: "a"},
    (1, 2),
    (1.0, 2.0),
    ((1, 2),),
    [1.0] * 9,
    (1.0,) * 9,
    [1.0] * 8 + [1],
    Colour.RED,
    Colour.BLUE,
    Level.ONE,
    Bits.A,
    Bits.A | Bits.B,
    Pair(1),
    Item(x=1),
    Item(x=2),
    Twin(x=1),
    Item.model_construct(),
    Loose(x=1),
    Loose(x=1, y=2),
    Point(1),
    Point(1, tags=[1]),
    Slim(1),
    Text("1"),
    Own(1),
    Own("1"),
    int,
    str,
    Item,
    np.float64(1),
    np.float32(1),
    np.int64(1),
    np.bool_(True),
    np.str_("1"),
    np.datetime64(1, "s"),
    np.datetime64(1, "ms"),
    np.array(1.0),
    np.array([1.0]),
    np.array([[1.0]]),
    np.array([1]),
    np.array([1.0], "<f4"),
    np.array([1.0], ">f8"),
    np.zeros((2, 0)),
    np.zeros((0, 2)),
    np.zeros(200),
    np.zeros((2, 100)),
    np.zeros(1600, "u1"),
    np.zeros(2, STRUCTURED),
    np.zeros(2, STRUCTURED)[0],
    np.zeros(2, [("a", "u1"), ("b", "<f8")]),
    np.zeros(2, [("a", "u1"), ("c", "<f8")]),
    np.zeros(2, [("a", "u1", (2,))]),
    np.zeros(2, "V9"),
]


def test_no_two_of_a_hundred_look_alikes_share_a_key():
    """What Python or numpy calls equal but is of another type or has other bits has a key of its own."""
    for place, left in enumerate(DISTINCT):
        for right in DISTINCT[place + 1 :]:
            assert encode(left) != encode(right), (left, right)
            assert slot(left) != slot(right)
            assert len(slot(left)) <= 128


def test_equal_content_has_one_key():
    """What is built twice the same way has the same key; NaN too."""
    assert slot(float("nan")) == slot(float("nan"))
    assert slot({3, 1, 2}) == slot({2, 3, 1})
    assert slot(Item(x=1, request_id="a")) == slot(Item(x=1, request_id="b"))
    assert slot(Point(1, trace="a")) == slot(Point(1, trace="b"))
    assert slot(Pair(1, "a")) == slot(Pair(1, "b"))
    assert slot(Own(1)) == slot(Own(1))
    assert slot(Bits.A | Bits.B) == slot(Bits.B | Bits.A)
    model, point = Loose(x=1), Point(1)
    before = slot(model), slot(point)
    assert (model.double, point.double) == (2, 2)
    assert (slot(model), slot(point)) == before
    model._seen.append(1)
    assert slot(model) != before[0]


def test_padding_between_the_fields_of_a_structured_array_is_noise():
    """Two records with the same fields share a key, whatever lies between the fields."""
    noisy = np.frombuffer(bytearray(b"\xff" * STRUCTURED.itemsize * 2), STRUCTURED)
    clean = np.zeros(2, STRUCTURED)
    for name in STRUCTURED.names:
        noisy[name] = clean[name]
    assert noisy.tobytes() != clean.tobytes()
    assert slot(noisy) == slot(clean)


def test_a_memory_map_is_keyed_by_its_content(tmp_path):
    """A memmap of the same numbers has the same key, and never that of the plain array."""
    maps = [np.memmap(tmp_path / name, "f8", "w+", shape=(3,)) for name in "ab"]
    assert slot(maps[0]) == slot(maps[1]) != slot(np.zeros(3))


def cyclic():
    values: list = []
    values.append(values)
    return values


@pytest.mark.parametrize(
    "value",
    [
        object(),
        threading.Lock(),
        lambda: 1,
        iter([]),
        np.array([object()]),
        np.array(["a"], dtype=object),
        np.zeros(2, [("a", object)]),
        np.ma.array([1.0]),
        [object()],
        {"a": object()},
        np.random.default_rng(0),
    ],
)
def test_what_has_no_content_is_refused(value):
    """Objects whose bytes are pointers or that have no bytes are never given a key."""
    with pytest.raises(Unkeyable):
        slot(value)


def test_numpy_texts_of_variable_length_are_refused():
    """A StringDType array holds pointers: two different ones can have equal bytes."""
    if not hasattr(np.dtypes, "StringDType"):
        pytest.skip("numpy before 2.0 has no StringDType")
    with pytest.raises(Unkeyable):
        slot(np.array(["a"], dtype=np.dtypes.StringDType()))


def test_state_that_no_field_declares_is_refused():
    """An attribute the key could not see makes the whole value unkeyable, rather than ignored."""
    point, text, pair = Point(1), Text("a"), type("Wide", (Pair,), {})(1)
    for value in (point, text, pair):
        value.hidden = 1
        with pytest.raises(Unkeyable):
            slot(value)
    model = Item(x=1)
    model.__dict__["hidden"] = 1
    model.__dict__["hidden2"] = 1
    with pytest.raises(Unkeyable):
        slot(model)


def test_classes_of_one_name_are_different_classes():
    """A class that is made twice, by a factory or a reload, never shares keys with its namesake."""

    def make():
        @dataclass
        class Same:
            x: int

        return Same

    assert slot(make()(1)) != slot(make()(1))


def test_a_value_that_contains_itself_is_refused_without_hanging():
    """A cycle ends in RecursionError, which a cache counts as unkeyable."""
    with pytest.raises(RecursionError):
        slot(cyclic())


def test_a_dataclass_that_is_a_container_too_has_no_key():
    """What a dict beneath a dataclass holds is in no field, so it is refused; `Generic` and dataclasses are not."""
    T = TypeVar("T")

    @dataclass
    class Features(dict):  # type: ignore[type-arg]
        name: str

    @dataclass
    class Base(Generic[T]):
        x: int

    @dataclass
    class Derived(Base[int]):
        y: int

    with pytest.raises(Unkeyable):
        encode(Features("a"))
    assert not offers_identity(Features)
    assert encode(Derived(1, 2)) != encode(Derived(1, 3))
