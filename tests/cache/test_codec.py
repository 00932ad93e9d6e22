import collections
import contextlib
import dataclasses
import datetime as dt
import enum
import functools
import io
import ipaddress
import pathlib
import pickle
import random
import struct
import sys
import threading
import tracemalloc
import uuid
import zoneinfo
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel, ConfigDict, PrivateAttr, RootModel, TypeAdapter

from mlguard.cache.codec import Codec, DecodeError, Secret, TooLong, Unencodable, encodable
from mlguard.cache.codec.classes import classes_in, fingerprint
from mlguard.cache.codec.layout import Tag, tagged
from mlguard.errors import PolicyError

KEY = b"k" * 32


class Color(enum.Enum):
    RED = 1
    BLUE = "blue"
    AZURE = "blue"  # noqa: PIE796 - an alias


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


class Point(BaseModel):
    x: float
    label: str = "none"


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int
    _secret: int = PrivateAttr(default=3)


class Names(RootModel[list[str]]):
    pass


@dataclasses.dataclass(frozen=True, slots=True)
class Box:
    points: list[Point]
    content: np.ndarray


class Pair(NamedTuple):
    left: int
    right: Any = None


class Row(TypedDict, total=False):
    color: Color
    box: Box


class Score(float):
    pass


T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    items: list[T]


Everything = (
    Point | Open | Names | Box | Pair | Row | Score | Rights | Page[Point] | list[Color] | dict[str, Any] | np.ndarray
)


def codec(annotation=Everything, **options):
    return Codec(annotation, secret=Secret("a secret of tests"), **options)


def there_and_back(value, annotation=Everything):
    one = codec(annotation)
    return one.decode(one.encode(value, KEY), KEY).value


def same(left: Any, right: Any) -> bool:
    """An independent definition of "equal type and bytes", slow and obvious."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    if isinstance(left, complex):
        return same(left.real, right.real) and same(left.imag, right.imag)
    if isinstance(left, np.ndarray):
        if left.dtype.kind == "T":
            return left.dtype == right.dtype and left.shape == right.shape and left.tolist() == right.tolist()
        order = left.flags.fnc == right.flags.fnc
        return order and left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, np.generic):
        return left.dtype == right.dtype and left.tobytes() == right.tobytes()
    if isinstance(left, BaseModel):
        return (
            same(left.__dict__, right.__dict__)
            and same(left.__pydantic_extra__, right.__pydantic_extra__)
            and same(left.__pydantic_private__, right.__pydantic_private__)
            and left.model_fields_set == right.model_fields_set
        )
    if dataclasses.is_dataclass(left):
        return all(same(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left))
    if isinstance(left, list | tuple | collections.deque):
        return len(left) == len(right) and all(map(same, left, right)) and vars_of(left) == vars_of(right)
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, Decimal):
        return left.as_tuple() == right.as_tuple()
    if isinstance(left, dt.datetime | dt.time):
        return (
            left.replace(tzinfo=None) == right.replace(tzinfo=None)
            and left.fold == right.fold
            and type(left.tzinfo) is type(right.tzinfo)
            and str(left.tzinfo) == str(right.tzinfo)
        )
    return left == right


def vars_of(value):
    return getattr(value, "maxlen", None)


PLAIN = [
    None, True, False, 0, -1, 2**63, -(2**63), 2**1000, -(2**1000) - 1, 0.0, -0.0, float("inf"), -float("nan"),
    struct.unpack("<d", b"\1\0\0\0\0\0\xf8\x7f")[0], 1 + 2j, complex(-0.0, float("nan")), "", "aé\0", "\ud800", b"",
    b"\0\xff" * 5000, bytearray(b"x"), (), (1, (2.0, [3])), [], [1.0] * 9, [1] * 9, [2**70] * 9, [True] * 9,
    [1.0, 1] * 5, [-0.0] * 20, {1, "a"}, frozenset({1.0, (2,)}), {}, {"b": 1, "a": [2]}, {1: {2: {3: None}}},
    collections.OrderedDict([("b", 1), ("a", 2)]), collections.deque([1, 2], 5), collections.deque(), range(1, 10, 3),
    dt.date(2024, 2, 29), dt.time(1, 2, 3, 4, fold=1), dt.datetime(2024, 1, 1, 1, 2, 3, 999999, fold=1),
    dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, seconds=7))),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1), "CET")),
    dt.time(5, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    TypeAdapter(dt.datetime).validate_python("2024-01-01T00:00:00+05:30"), dt.timedelta(-5, 3, 1), uuid.UUID(int=5),
    Decimal("1.50"), Decimal("-0"), Decimal("sNaN12"), Decimal("1E+500"), Fraction(-3, 7),
    pathlib.PurePosixPath("/a/b"), pathlib.PureWindowsPath("c:\\x"), pathlib.Path("x"),
    ipaddress.ip_address("::1%eth0"), ipaddress.ip_address("10.0.0.1"), ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_network("fe80::/10"),
]  # fmt: skip

CLASSES = [
    Color.RED, Color.AZURE, Rights.READ, Rights.READ | Rights.WRITE, Rights(0), Point(x=1.0),
    Point(x=-0.0, label="y"), Point.model_construct(label="no x"), Open(a=1, b=[2], c=Color.RED), Open(a=1),
    Names(["a"]), Box([Point(x=1)], np.arange(3)), Pair(1), Pair(2, Pair(3)), Score(0.5),
    Page[Point](items=[Point(x=2)]),
    {"color": Color.BLUE, "box": Box([], np.zeros(2))}, [Point(x=1), Color.RED] * 10,
]  # fmt: skip

ARRAYS = [
    np.arange(6), np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.float32(3).reshape(()),
    np.arange(20)[::-3], np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0), np.zeros((0, 5)), np.zeros((3, 0, 2), "f4"),
    np.array([True, False]), np.array([1 + 2j], "c8"), np.arange(5, dtype=">i4"), np.arange(3, dtype="f2"),
    np.array(["a", "bcd", "\ud800"]), np.array([b"x\0y", b""], "S5"), np.array(["2024-01-01", "NaT"], "M8[ns]"),
    np.array([1, 2], "m8[25s]"), np.array(5, "M8[D]"), np.zeros(3, "V7"), np.array([1, 2], "longlong"),
    np.zeros(4, [("a", "i1"), ("b", ">f8", (2, 2)), ("ü", [("c", "U3")])]), np.zeros(2, np.dtype("i1,f8", align=True)),
    np.zeros(2, {"names": ["a"], "formats": ["i4"], "offsets": [8], "itemsize": 32}), np.ones((1,) * 20),
    np.broadcast_to(np.float64(3), (4, 5)), np.random.default_rng(0).random((100, 100)), np.zeros((5, 4), "f4", "F"),
]  # fmt: skip

SCALARS = [
    np.float64(-0.0), np.float32(1.5), np.int8(-3), np.bool_(True), np.complex64(1j), np.datetime64("2024-01-01"),
    np.datetime64("NaT", "us"), np.timedelta64(5, "ms"), np.str_("a\0"), np.str_(""), np.bytes_(b"x\0"), np.longlong(3),
    np.uint64(2**64 - 1), np.float16(1),
]  # fmt: skip


def _id(value):
    """The order of a set is another one in every process, and pytest's workers must agree on the names of tests."""
    return "a set" if isinstance(value, (set, frozenset)) else repr(value)[:30]


@pytest.mark.parametrize("value", PLAIN + CLASSES + ARRAYS + SCALARS, ids=_id)
def test_what_is_read_is_what_was_written(value):
    """A value comes back with its type and its bits, whatever it is made of."""
    back = there_and_back(value)
    assert same(value, back), back
    again = there_and_back([value, (value, {"x": value})])
    assert same([value, (value, {"x": value})], again)


floats = st.one_of(st.sampled_from([0.0, -0.0, float("nan"), -float("nan"), 5e-324]), st.floats())
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), floats, st.text(max_size=5), st.binary(max_size=5), st.decimals(),
    st.datetimes(timezones=st.none() | st.timezones()), st.timedeltas(), st.uuids(), st.fractions(), st.dates(),
    st.complex_numbers(), st.sampled_from(Color), st.builds(Point, x=floats, label=st.text(max_size=3)),
    hnp.arrays(
        hnp.scalar_dtypes().filter(lambda d: d.itemsize and d.kind != "O" and d.type is not np.longdouble
                                   and d.type is not np.clongdouble),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    ),
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=12),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4),
        st.builds(Pair, st.integers(), inner),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(value=values)
def test_random_values_come_back_exactly(value):
    """decode(encode(x)) has equal type and bytes, for values of every kind nested in every container."""
    assert same(value, there_and_back(value, Color | Point | Pair))


@settings(max_examples=150, deadline=None)
@given(value=values, data=st.data())
def test_altered_bytes_are_never_a_value(value, data):
    """An entry with any byte changed, cut off or added, under this key or another, is a DecodeError."""
    one = codec(Color | Point | Pair)
    entry = bytearray(one.encode(value, KEY))
    place = data.draw(st.integers(0, len(entry) - 1))
    entry[place] ^= data.draw(st.integers(1, 255))
    for bad, key in ((bytes(entry), KEY), (bytes(entry[:place]), KEY), (one.encode(value, KEY), b"x" * 32)):
        with pytest.raises(DecodeError):
            one.decode(bad, key)


def sealed(one, body, **header):
    """An entry that somebody forged who has the secret, or where there is none."""
    fields = {
        "magic": b"mlgC",
        "version": 1,
        "sealed": one.secret.given,
        "schema": one.fingerprint,
        "fresh": 1.0,
        "cost": 0.0,
    }
    fields |= {"length": len(body)} | header
    head = struct.pack("<4sBBxx8sddQ8x", *fields.values())
    return head + body + one.secret.seal(KEY, head, body)


TAGS = [bytes([tag]) for tag in b"i(:{[dqraTnkFsSMtzIZuQ"]


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=60) | st.builds(bytes.__add__, st.sampled_from(TAGS), st.binary(max_size=60)))
def test_forged_bytes_are_a_value_or_a_decode_error(body):
    """Whatever stands behind a right seal, only DecodeErrors are raised, and no other class is made."""
    one = codec(Everything)
    try:
        value = one.decode(sealed(one, body), KEY).value
    except DecodeError:
        return
    assert type(value).__module__ in ("builtins", "collections", "datetime", "decimal", "fractions", "numpy", "uuid",
                                      "pathlib", "ipaddress", __name__)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(value=values, data=st.data())
def test_mutated_values_behind_a_right_seal(value, data):
    """Entries written by the codec, changed at random and sealed again, decode to something or are DecodeErrors."""
    one = codec(Color | Point | Pair)
    body = bytearray(one.encode(value, KEY)[48:-16])
    for _ in range(3):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        one.decode(sealed(one, bytes(body)), KEY)


HUGE = struct.pack("<I", 0xFFFFFFFF)
PLAIN_DTYPE = struct.pack("<I", 5) + b".\x03<f8"
BOMBS = {
    "a list of four billion": b"[" + HUGE,
    "lists of lists": b"[\x01\0\0\0" * 5000 + b"N",
    "a text of four billion": b"s" + HUGE,
    "a dict of four billion": b":" + HUGE,
    "an array of exabytes": b"a" + PLAIN_DTYPE + b"\0\x03" + struct.pack("<3Q", 2**40, 2**20, 2**3),
    "an array of nothing times everything": b"a" + PLAIN_DTYPE + b"\0\x03" + struct.pack("<3Q", 0, 2**62, 2**62),
    "an array of 255 dimensions": b"a" + PLAIN_DTYPE + b"\0\xff",
    "an array of objects": b"a" + struct.pack("<I", 5) + b".\x03|O8" + b"\0\x01" + struct.pack("<Q", 1) + b"\0" * 40,
    "a dtype from a text": b"a" + struct.pack("<I", 9) + b".\x07(9999,)f" + b"\0\0",
    "a dtype in a dtype": b"a" + struct.pack("<I", 600) + b"(\0" * 300 + b"\0\0",
    "a wide void": b"a" + struct.pack("<I", 13) + b".\x0b|V999999999" + b"\0\x01" + struct.pack("<Q", 4),
    "many fields": b"a" + struct.pack("<I", 13) + b"{" + struct.pack("<IIB", 99999, 8, 0) + b"...",
    "a range as long as time": b"r\x03\0\0\0" + b"i\x01\0\0\0\x01" * 3,
    "an unknown class": b"k" + HUGE + b"(\0\0\0\0",
    "a fraction by nothing": b"/\x02\0\0\0" + b"i\x01\0\0\0\x01" + b"i\x01\0\0\0\0",
    "a time zone elsewhere": b"M" + struct.pack("<HBBBBBIB", 2000, 1, 1, 0, 0, 0, 0, 0) + b"I\x0e\0\0\0../etc/passwd!",
    "strings of four billion": b"T\0\0\x01" + struct.pack("<Q", 2**60) + b"[" + HUGE,
    "a frame of nothing": b"F\x01(\0\0\0\0",
    "a frame of another kind": b"F\xff(\0\0\0\0",
    "a tag of its own": b"!",
    "nothing at all": b"",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_hostile_sizes_allocate_nothing(bomb):
    """A header or a length that claims gigabytes is refused before anything is allocated for it."""
    one = codec()
    tracemalloc.start()
    try:
        if bomb in ("a range as long as time",):
            assert one.decode(sealed(one, BOMBS[bomb]), KEY).value == range(1, 1, 1)
        else:
            with pytest.raises(DecodeError) as caught:
                one.decode(sealed(one, BOMBS[bomb]), KEY)
            assert caught.value.reason == "malformed"
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_why_an_entry_is_no_entry():
    """Each reason has its word: foreign, version, damaged, unsigned, schema, malformed."""
    one, plain = codec(), Codec(Everything)
    entry = one.encode(1, KEY)
    reasons = {
        "foreign": [b"", b"x" * 100, pickle.dumps(1), bytearray(entry), entry[:63]],
        "version": [sealed(one, b"N", version=2)],
        "damaged": [entry[:-1], entry + b"x", sealed(one, b"N", length=2**60)],
        "unsigned": [plain.encode(1, KEY), sealed(one, b"N", sealed=0), entry[:-1] + b"x",
                     codec_of("another secret!!").encode(1, KEY)],
        "schema": [codec(int).encode(1, KEY)],
        "malformed": [sealed(one, b"N", fresh=-1.0), sealed(one, b"N", cost=float("nan")), sealed(one, b"NN")],
    }  # fmt: skip
    for reason, entries in reasons.items():
        for bad in entries:
            with pytest.raises(DecodeError) as caught:
                one.decode(bad, KEY)
            assert caught.value.reason == reason
            assert pickle.loads(pickle.dumps(caught.value)).reason == reason
    with pytest.raises(DecodeError, match="altered") as caught:
        plain.decode(plain.encode(1, KEY), b"x" * 32)
    assert caught.value.reason == "damaged"


def codec_of(secret):
    return Codec(Everything, secret=Secret(secret))


def test_an_entry_says_how_fresh_and_how_dear():
    """Freshness and cost travel with the value; without a time it is fresh as long as it is there."""
    one = codec()
    assert one.decode(one.encode(1, KEY, fresh=2.5, cost=0.25), KEY) == (1, 2.5, 0.25)
    assert one.decode(one.encode(1, KEY), KEY) == (1, None, 0.0)


def test_arrays_are_views_that_nobody_can_write_to_or_copies():
    """Read arrays are aligned views of the entry; with writable=True each is a copy of its own, in its own order."""
    one, other = codec(), codec(writable=True)
    for array in (np.arange(1000.0), np.asfortranarray(np.ones((3, 5)))):
        entry = one.encode(["x", array], KEY)
        view = one.decode(entry, KEY).value[1]
        assert not view.flags.writeable
        assert view.flags.aligned
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True
        copy = other.decode(entry, KEY).value[1]
        copy[...] = 7
        assert (one.decode(entry, KEY).value[1] == array).all()
        assert copy.flags.fnc == array.flags.fnc


def test_an_array_is_copied_once():
    """Writing an array takes the memory of the entry, and not of a second copy."""
    one, array = codec(), np.zeros(2_000_000)
    tracemalloc.start()
    entry = one.encode(array, KEY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.1 * len(entry)


class Local(BaseModel):
    lock: Any


class Slotted(BaseModel):
    __slots__ = ("more",)
    a: int = 1


@dataclasses.dataclass
class OnDict(dict):
    a: int = 1


def selfish():
    value = []
    value.append(value)
    return value


def with_attribute(value):
    value.more = 1
    return value


class Loose(NamedTuple):
    a: int


class LooseChild(Loose):
    pass


@dataclasses.dataclass
class Plain:
    a: int = 1


class Missing(enum.Enum):
    A = 1


def stray_member():
    member = object.__new__(Missing)
    member._name_, member._value_ = "B", 2
    return member


def deep_dtype():
    return functools.reduce(lambda inner, _: np.dtype([("a", inner)]), range(20), np.dtype("i4"))


def zone_from_a_file():
    utc = b"TZif" + b"\0" * 16 + struct.pack(">6I", 0, 0, 0, 0, 1, 4) + struct.pack(">iBB", 0, 0, 0) + b"UTC\0"
    return zoneinfo.ZoneInfo.from_file(io.BytesIO(utc))


REFUSED = {
    "a lock": (threading.Lock(), "lock"),
    "a lock in a model": (Local(lock=threading.Lock()), "Local: lock"),
    "a class nobody named": (Plain(), "doesn't name"),
    "an array of objects": (np.array([1, None]), "dtype object"),
    "a structure with objects": (np.zeros(1, [("a", "O")]), "dtype"),
    "a long double": (np.zeros(1, np.longdouble), "another machine"),
    "a long double scalar": (np.longdouble(1), "another machine"),
    "a structure with titles": (np.zeros(1, [(("title", "a"), "i4")]), "titles"),
    "a deep structure": (np.zeros(1, deep_dtype()), "nested"),
    "a void": (np.zeros(1, "i4,i4")[0], "void"),
    "a masked array": (np.ma.masked_array([1]), "MaskedArray"),
    "a function": (print, "builtin_function_or_method"),
    "itself": (selfish(), "contains itself"),
    "a slotted model": (Slotted(), "Slotted"),
    "a dataclass on a dict": (OnDict(), "OnDict"),
    "a dataclass with more": (with_attribute(Plain()), "no fields"),
    "a named tuple with more": (with_attribute(LooseChild(1)), "attributes"),
    "a float with more": (with_attribute(Score(1)), "attributes"),
    "a member that is none": (stray_member(), "none of its members"),
    "a zone of another package": (dt.datetime(2024, 1, 1, tzinfo=type("Zone", (dt.tzinfo,), {})()), "time zone Zone"),
    "a zone from a file": (dt.datetime(2024, 1, 1, tzinfo=zone_from_a_file()), "time zone ZoneInfo"),
}  # fmt: skip
if hasattr(np.dtypes, "StringDType"):
    REFUSED["strings with another missing value"] = (
        np.array(["a"], np.dtypes.StringDType(na_object="none")),
        "StringDType",
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_cant_be_written_is_named(name):
    """A value with a part that bytes can't hold is refused, with the part in the message."""
    value, message = REFUSED[name]
    known = Local | Score | LooseChild | Missing if name != "a dataclass with more" else Plain
    with pytest.raises(Unencodable, match=message):
        codec(known).encode(value, KEY)


def test_an_array_without_bytes_in_its_elements_is_refused():
    """A dtype of width 0 could claim any length for nothing."""
    with pytest.raises(Unencodable, match="dtype"):
        codec().encode(np.ndarray((5,), np.dtype("V0"), b""), KEY)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 1 has no StringDType")
def test_strings_of_any_width():
    """NumPy's variable-width strings come back with their missing values."""
    for dtype in (np.dtypes.StringDType(), np.dtypes.StringDType(coerce=False), np.dtypes.StringDType(na_object=None)):
        value = np.array([["a", "b" * 100], ["", "é"]], dtype)
        back = there_and_back(value)
        assert same(value, back)
        assert not back.flags.writeable
    value = np.array(["a", float("nan")], np.dtypes.StringDType(na_object=np.nan))
    back = there_and_back(value)
    assert back.dtype == value.dtype
    assert back.tolist()[0] == "a"
    assert back.tolist()[1] != back.tolist()[1]


def test_too_long_is_found_before_it_is_written():
    """A result above the store's largest entry is refused, wherever its size is."""
    one = codec(largest=10_000)
    for value in (np.zeros(10_000), b"x" * 9_990, ["xx"] * 5000, list(range(2000)), {"a": [np.zeros(900)] * 9}):
        with pytest.raises(TooLong, match="10000 bytes"):
            one.encode(value, KEY)
    for size in range(9_800, 10_000):
        try:
            entry = one.encode(b"x" * size, KEY)
        except TooLong:
            assert size > 9_900
        else:
            assert len(entry) <= 10_000


def test_classes_are_those_the_annotation_reaches():
    """Through containers, unions, aliases, fields, bounds and literals, and in an order that every process shares."""
    Name = NewType("Name", Color)
    bound = TypeVar("bound", bound=Point)
    annotation = dict[str, list[Box | None] | Annotated[Pair, "x"]] | Name | Literal[Rights.READ] | Row | bound
    found = classes_in(annotation)
    assert {Box, Pair, Color, Rights, Point, Row} <= set(found)
    assert found == classes_in(annotation)
    assert classes_in(list[int]) == []
    assert classes_in(Annotated[list[Point], []]) == [Point]


def test_the_fingerprint_changes_with_the_classes():
    """Another field, type, constraint, order or member makes another fingerprint; another process does not."""

    def model(**fields):
        return type("M", (BaseModel,), {"__annotations__": fields, "__module__": "m", "__qualname__": "M"})

    def members(**names):
        return enum.Enum("E", names, module="m")

    same_twice = [fingerprint(list[model(a=int)]) for _ in range(2)]
    assert same_twice[0] == same_twice[1]
    others = [
        fingerprint(annotation)
        for annotation in (
            list[model(a=int)], list[model(a=float)], list[model(a=int, b=int)], list[model(b=int, a=int)],
            list[model(a=Annotated[int, "ge 0"])], tuple[model(a=int)], members(A=1), members(A=2), members(B=1),
        )
    ]  # fmt: skip
    assert len(set(others)) == len(others)
    with_function = Annotated[int, lambda: None]
    assert b" at 0x" not in fingerprint(with_function)


def test_an_annotation_for_type_checkers_only():
    """A class whose annotations can't be resolved is written all the same."""

    @dataclasses.dataclass
    class Odd:
        a: "NoSuchName"  # noqa: F821

    assert there_and_back(Odd(3), Odd).a == 3


def test_encodable_says_which_classes():
    """For refusing a function at decoration."""
    for cls in (int, list, Color, Point, Box, Pair, np.ndarray, np.float32, Score):
        assert encodable(cls)
    for cls in (threading.Thread, Slotted, OnDict, type(threading.Lock())):
        assert not encodable(cls)


def test_a_forged_part_makes_no_half_made_object():
    """Parts that no value of the class has are refused: unknown fields, missing ones, another base."""
    one = codec(Point | Pair | Box | Score | Rights | Color | Open)
    for number, cls in enumerate(way.cls for way in one._ways):
        for parts in ((), (1,), ({"no": 1},), ({"x": 1.0}, None, None, frozenset({"z"})), ("RED2",), ((1, 2, 3),),
                      ({"a": 1}, None, {"_x": 1}, frozenset())):  # fmt: skip
            if (cls, parts) in ((Rights, (1,)),):
                continue
            body = b"k" + struct.pack("<I", number) + codec(Any).encode(parts, KEY)[48:-16]
            with pytest.raises(DecodeError):
                one.decode(sealed(one, body), KEY)


def test_doubled_keys_and_elements_are_refused():
    """A dict or set that was forged with the same key twice is no value."""
    one = codec()
    twice = b"\x04\0\0\0" + (b"s\x01\0\0\0a" + b"N") * 2
    for body in (b":" + twice, b"{\x02\0\0\0NN", b"}\x02\0\0\011"):
        with pytest.raises(DecodeError):
            one.decode(sealed(one, body), KEY)


# Secrets


def test_a_secret_from_the_environment(monkeypatch):
    """MLGUARD_CACHE_SECRET is used where no secret is given; entries without it, or with another one, are refused."""
    monkeypatch.delenv("MLGUARD_CACHE_SECRET", raising=False)
    without = Codec(int)
    assert not without.secret.given
    monkeypatch.setenv("MLGUARD_CACHE_SECRET", "a long enough secret")
    with_one = Codec(int)
    assert with_one.secret.given
    assert with_one.secret.key_digest(b"x") != without.secret.key_digest(b"x")
    entry = with_one.encode(1, KEY)
    assert Codec(int, secret=Secret("a long enough secret")).decode(entry, KEY).value == 1
    for other in (without, codec(int)):
        with pytest.raises(DecodeError):
            other.decode(entry, KEY)
        with pytest.raises(DecodeError):
            with_one.decode(other.encode(1, KEY), KEY)


def test_a_short_secret_is_refused(monkeypatch):
    """The message names the source, the length and how to make one."""
    with pytest.raises(PolicyError, match=r"The secret .* has 5 bytes, and 16 are needed. Fix: make one"):
        Secret("short")
    with pytest.raises(PolicyError, match="The secret"):
        Secret("")
    monkeypatch.setenv("MLGUARD_CACHE_SECRET", "short")
    with pytest.raises(PolicyError, match="variable MLGUARD_CACHE_SECRET"):
        Secret()


def test_a_secret_shows_nothing_of_itself():
    """Neither repr nor a traceback's variables show it; pickled, it works in another process."""
    secret = Secret("correct horse battery")
    assert "horse" not in repr(secret) + str(vars(secret))
    again = pickle.loads(pickle.dumps(secret))
    assert again.key_digest(b"x") == secret.key_digest(b"x")
    assert again.given


# Frames


def test_pandas_frames_come_back_equal():
    """Columns of every supported dtype, indexes of every kind, names and order."""
    pd = pytest.importorskip("pandas")
    columns = {
        "i": [1, 2, 3], "f": [1.5, float("nan"), -0.0], "b": [True, False, True], "s": ["x", None, "é"],
        "c": pd.Categorical(["u", "v", None], categories=["v", "u"], ordered=True),
        "z": pd.date_range("2024", periods=3, tz="Europe/Berlin"), "d": pd.date_range("2024", periods=3),
        "t": pd.to_timedelta([1, 2, None], unit="s"), "n": pd.array([1, None, 3], dtype="UInt8"),
        "m": pd.array([True, None, False], dtype="boolean"), "g": pd.array([1.5, None, 2], dtype="Float32"),
        "o": pd.Series([1, "a", None], dtype=object), "l": pd.Series([[1, 2], [3, 4], []], dtype=object),
        "p": pd.array(["a", None, "b"], dtype=pd.StringDtype("python")),
    }  # fmt: skip
    frame = pd.DataFrame(columns)
    multi = pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["x", None])
    for index in (None, multi, pd.date_range("2024", periods=3, freq="D", name="when"), ["x", "y", "x"], [1.5, 2, 3],
                  pd.CategoricalIndex(["a", "b", "a"]), pd.RangeIndex(5, 20, 5, name="r")):  # fmt: skip
        made = frame if index is None else frame.set_axis(index, axis=0)
        back = there_and_back(made)
        pd.testing.assert_frame_equal(made, back, check_exact=True, check_freq=True)
        assert type(back.index) is type(made.index)
        series = made["f"]
        pd.testing.assert_series_equal(series, there_and_back(series), check_exact=True, check_freq=True)
    twice = pd.DataFrame(np.arange(6).reshape(2, 3), columns=["a", "b", "a"])
    pd.testing.assert_frame_equal(twice, there_and_back(twice))
    pd.testing.assert_frame_equal(pd.DataFrame(), there_and_back(pd.DataFrame()))
    back = there_and_back(frame)
    back.loc[0, "i"] = 99  # a frame of one's own
    assert there_and_back(frame).loc[0, "i"] == 1


def test_pandas_frames_that_cant_be_written_exactly():
    """A column, an index or attributes that would be lost are refused, with the name."""
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    odd = pd.DataFrame({"a": [1]})
    odd.attrs["source"] = "x"
    refused = {
        "attrs": odd,
        "'p' of dtype period": pd.DataFrame({"p": pd.period_range("2024", periods=2, freq="D")}),
        "dtype int64": pd.DataFrame({"w": pd.array([1], dtype="int64[pyarrow]")}),
        "IntervalIndex": pd.DataFrame({"a": [1]}, index=pd.IntervalIndex.from_breaks([0, 1])),
        "lock": pd.DataFrame({"o": pd.Series([threading.Lock()], dtype=object)}),
    }
    for message, frame in refused.items():
        with pytest.raises(Unencodable, match=message):
            codec().encode(frame, KEY)


def test_polars_and_arrow_tables_come_back_equal():
    """Through their own Arrow format, types and nulls included."""
    pl, pa = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    frame = pl.DataFrame({"a": [1, None], "b": ["x", "y"], "c": pl.Series(["u", "v"], dtype=pl.Categorical),
                          "l": [[1], [2, 3]], "s": [{"x": 1}, {"x": 2}], "d": [dt.date(2024, 1, 1), None]})  # fmt: skip
    back = there_and_back(frame)
    assert back.equals(frame)
    assert back.schema == frame.schema
    series = pl.Series("n", [1.5, None])
    assert there_and_back(series).equals(series)
    assert there_and_back(series).name == "n"
    table = pa.table({"a": [1, None], "b": ["x", "y"]}).replace_schema_metadata({"k": "v"})
    assert there_and_back(table).equals(table, check_metadata=True)
    with pytest.raises(Unencodable, match="objects"):
        codec().encode(pl.DataFrame({"o": pl.Series([object()], dtype=pl.Object)}), KEY)


def test_damaged_tables_behind_a_right_seal():
    """A table's bytes changed at random are a table or a DecodeError; polars' panics are DecodeErrors too."""
    pl, pa = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    one, numbers = codec(), random.Random(5)
    for table in (pl.DataFrame({"a": list(range(50)), "b": ["x"] * 50}), pa.table({"a": list(range(50))})):
        body = one.encode(table, KEY)[48:-16]
        for _ in range(40):
            changed = bytearray(body)
            for _ in range(5):
                changed[numbers.randrange(20, len(changed))] = numbers.randrange(256)
            with contextlib.suppress(DecodeError):
                one.decode(sealed(one, bytes(changed)), KEY)


def test_a_table_of_a_package_that_is_not_imported_is_a_miss(monkeypatch):
    """Nothing is imported because data asks for it."""
    pl = pytest.importorskip("polars")
    entry = codec().encode(pl.DataFrame({"a": [1]}), KEY)
    monkeypatch.delitem(sys.modules, "polars")
    with pytest.raises(DecodeError):
        codec().decode(entry, KEY)
    assert "polars" not in sys.modules


def test_fractions_that_take_for_ever_are_neither_written_nor_read():
    """Cancelling a fraction takes time by the square of its digits: one of millions is a miss within milliseconds."""
    one = codec(Any)
    part = Fraction(1, 3**200)
    assert one.decode(one.encode(part, KEY), KEY).value == part
    with pytest.raises(Unencodable, match="Fraction"):
        one.encode(Fraction(1, 1 << 40_000), KEY)
    numbers = [tagged.pack(Tag.INT, 4_000_000) + byte * 3_999_999 + b"\1" for byte in (b"\x55", b"\x33")]
    with pytest.raises(DecodeError, match="can't be read"):
        one.decode(sealed(one, tagged.pack(Tag.FRACTION, 2) + b"".join(numbers)), KEY)
