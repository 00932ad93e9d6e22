"""A value as bytes that two values share exactly when they have the same type and the same content, bit for bit.

Every value is written as a tag, a length and its content, recursively, so that no two different values can run into
the same bytes: 1, 1.0, True and "1" differ, and so do 0.0 and -0.0, (1, 2) and [1, 2], and two arrays of one shape that
differ in a single bit. Nothing here goes through str(), repr(), JSON or pickle of a value. What can't be written that
way is refused with `Unkeyable`; which parameters are written at all is decided in `function_key.py`.

Content longer than a few hundred bytes is replaced by its blake2b hash, keyed with a secret of this process: collisions
can be neither met by chance nor made on purpose. The bytes mean something in this process only.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import os
import struct
import typing
import zoneinfo
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from copyreg import _slotnames  # type: ignore[attr-defined]
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Final
from uuid import UUID
from weakref import WeakKeyDictionary

import numpy as np
from pydantic import BaseModel
from pydantic_core import TzInfo

__all__ = ["KEYABLE", "NotKeyed", "Unkeyable", "encode", "is_marked", "keyed_fields", "offers_identity", "slot"]


class NotKeyed:
    """Marks a parameter or a field that must not make two calls different, such as a request id.

    ``request_id: Annotated[str, NotKeyed]``, outermost, on a parameter of the guarded function or on a field of a
    model, dataclass or named tuple. What is marked is validated like anything else and reaches the function, but is no
    part of the cache key: the cached result of one request id answers another.
    """


class Unkeyable(Exception):  # noqa: N818 - an answer rather than an error: it never leaves the cache
    """The value has no identity that bytes could hold."""


_Encoder = Callable[[Any], bytes]

_SECRET: Final = os.urandom(32)
_PERSON: Final = b"mlguard key 1"
_INLINE: Final = 512  # bytes of content kept as they are, where hashing would cost more than comparing
_SLOT: Final = 128  # bytes of key that one parameter takes at most
_pack: Final = struct.Struct("<cQ").pack
_pack_float: Final = struct.Struct("<cd").pack


def encode(value: Any) -> bytes:
    """The value's type and content.

    Raises:
        Unkeyable: The value, or something inside it, has no type this module can write down.
    """
    kind = type(value)
    return (_EXACT.get(kind) or _learnt(kind))(value)


def slot(value: Any) -> bytes:
    """`encode`, in at most 128 bytes: what one parameter contributes to a key."""
    encoded = encode(value)
    return encoded if len(encoded) <= _SLOT else b"#" + _hash(encoded)


def offers_identity(cls: type) -> bool:
    """Whether instances of a class can be keyed: a known type, an enum, a model, a dataclass, `__mlguard_key__`."""
    return cls in KEYABLE or _encoder_of(cls) is not None


def is_marked(metadata: Iterable[Any]) -> bool:
    """Whether `NotKeyed`, the class or an instance, is among the metadata of an `Annotated`."""
    return any(item is NotKeyed or isinstance(item, NotKeyed) for item in metadata)


def keyed_fields(cls: type) -> tuple[str, ...]:
    """The fields of a model, dataclass or named tuple that are part of its key.

    Raises:
        NameError: An annotation of the class names something that is not defined yet.
    """
    if issubclass(cls, BaseModel):
        return tuple(name for name, field in cls.model_fields.items() if not is_marked(field.metadata))
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else list(cls._fields)  # type: ignore[attr-defined]
    return tuple(name for name in names if not is_marked(getattr(hints.get(name), "__metadata__", ())))


def _hash(content: Any) -> bytes:
    return hashlib.blake2b(content, digest_size=32, key=_SECRET, person=_PERSON).digest()


def _tagged(tag: bytes, content: bytes) -> bytes:
    return _pack(tag, len(content)) + content


def _content(tag: bytes, content: bytes) -> bytes:
    """A leaf; its length stays in the clear, and its content too where it is short."""
    if len(content) <= _INLINE:
        return _pack(tag, len(content)) + content
    return _pack(b"#", len(content)) + tag + _hash(content)


def _items(tag: bytes, values: Iterable[Any]) -> bytes:
    return _tagged(tag, b"".join([encode(value) for value in values]))


# Scalars


def _int(value: int) -> bytes:
    return _content(b"i", value.to_bytes((value.bit_length() + 8) >> 3, "little", signed=True))


def _float(value: float) -> bytes:
    return _pack_float(b"f", value)


def _str(value: str) -> bytes:
    return _content(b"s", value.encode("utf-8", "surrogatepass"))


def _text(cls: type) -> _Encoder:
    """For types whose str() says everything there is to know."""
    name = cls.__name__.encode() + b":"
    return lambda value: _tagged(b"S", name + str(value).encode("utf-8", "surrogatepass"))


def _zone(zone: Any) -> bytes:
    kind = type(zone)
    if zone is None:
        return b"z"
    if kind is timezone:
        return _items(b"z", (zone.utcoffset(None), zone.tzname(None)))
    if kind is TzInfo:
        return _tagged(b"Z", encode(zone.utcoffset(None)))
    if kind is zoneinfo.ZoneInfo and zone.key is not None:
        return _tagged(b"I", zone.key.encode())
    raise Unkeyable(f"time zone {kind.__qualname__}")


def _moment(tag: bytes) -> _Encoder:
    def encode_moment(value: Any) -> bytes:
        local = b"%d" % value.fold + value.replace(tzinfo=None).isoformat().encode()
        return _tagged(tag, local + _zone(value.tzinfo))

    return encode_moment


# Containers


def _sequence(tag: bytes, floats: bytes) -> _Encoder:
    def encode_sequence(values: Any) -> bytes:
        if len(values) > 8 and set(map(type, values)) == {float}:  # a row of features: one pass in C
            return _content(floats, array("d", values).tobytes())
        return _items(tag, values)

    return encode_sequence


def _set(tag: bytes) -> _Encoder:
    return lambda values: _tagged(tag, b"".join(sorted([encode(value) for value in values])))


def _mapping(tag: bytes) -> _Encoder:
    # In its own order: a function that turns a dict into features sees the order.
    return lambda values: _items(tag, itertools.chain.from_iterable(values.items()))


# numpy


def _array(value: np.ndarray[Any, Any]) -> bytes:
    dtype = value.dtype
    if dtype.hasobject or dtype.kind in "OT":
        raise Unkeyable(f"array of dtype {dtype}")  # its bytes are pointers
    shape = ",".join(map(str, value.shape)).encode()
    if dtype.names is not None:  # field by field: the padding between fields is noise
        columns = b"".join([_array(value[name]) for name in dtype.names])
        return _tagged(b"a", _tagged(b"d", _dtype(dtype)) + _tagged(b"d", shape) + columns)
    head = _tagged(b"d", _dtype(dtype)) + _tagged(b"d", shape)
    if value.nbytes <= _INLINE:
        return _tagged(b"a", head + value.tobytes())
    flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)  # no copy where it is contiguous already
    return _tagged(b"A", head + _hash(flat))


def _dtype(dtype: np.dtype[Any]) -> bytes:
    if dtype.names is not None:
        fields: Any = dtype.fields
        inner = b"".join(_items(b"d", (name, fields[name][1])) + _dtype(fields[name][0]) for name in dtype.names)
        return b"{%d:" % dtype.itemsize + inner + b"}"
    if dtype.subdtype is not None:
        return b"(" + repr(dtype.subdtype[1]).encode() + _dtype(dtype.subdtype[0]) + b")"
    if dtype.type.__module__ != "numpy":  # bfloat16 and its kin, whose str says no more than their size
        return dtype.str.encode() + _name_of(dtype.type)
    return dtype.str.encode()


def _numpy_scalar(value: np.generic) -> bytes:
    if isinstance(value, np.void):
        return _tagged(b"v", _array(np.asarray(value)))
    return _content(b"n", _tagged(b"d", _dtype(value.dtype)) + value.tobytes())


# Classes of the user's, each told apart by a number of its own: names may repeat, and a class that is defined anew,
# by a reload or in a factory, may behave differently under the same name and with the same fields.

_numbers = itertools.count(1)
_names: WeakKeyDictionary[type, bytes] = WeakKeyDictionary()
_learnt_encoders: WeakKeyDictionary[type, _Encoder] = WeakKeyDictionary()
_MISSING: Final = b"-"  # a field that model_construct() left out


def _name_of(cls: type) -> bytes:
    name = _names.get(cls)
    if name is None:
        name = _names.setdefault(cls, b"%d:" % next(_numbers))
    return name


def _learnt(cls: type) -> _Encoder:
    encoder = _learnt_encoders.get(cls)
    if encoder is None:
        encoder = _encoder_of(cls)
        if encoder is None:
            raise Unkeyable(cls.__qualname__)
        _learnt_encoders[cls] = encoder
    return encoder


def _encoder_of(cls: type) -> _Encoder | None:
    # No encoder holds its class: it is kept in a dictionary that must not keep the class alive.
    name = _name_of(cls)
    if hasattr(cls, "__mlguard_key__"):
        return functools.partial(_own_key, name)
    if issubclass(cls, type):
        return lambda value: _tagged(b"T", _name_of(value))
    if issubclass(cls, Enum):
        return functools.partial(_enum, name)
    if issubclass(cls, BaseModel):
        return functools.partial(_model, name, keyed_fields(cls), frozenset(cls.model_fields), _cached_names(cls))
    if dataclasses.is_dataclass(cls):
        if not all(base is object or dataclasses.is_dataclass(base) or _is_empty(base) for base in cls.__mro__):
            return None  # what a container or another class beneath it holds, its fields don't say
        every = frozenset(field.name for field in dataclasses.fields(cls))
        return functools.partial(_dataclass, name, keyed_fields(cls), every, _cached_names(cls))
    if issubclass(cls, np.generic) and cls.__module__ == "numpy" and cls is not np.object_:
        return _numpy_scalar
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return functools.partial(_named_tuple, name, keyed_fields(cls))
    for base, to_base in _SCALAR_BASES:
        if issubclass(cls, base) and not _slotnames(cls):
            return functools.partial(_derived, name, to_base)
    return None


def _is_empty(base: type) -> bool:
    """Such as `Generic`, `ABC`, or a mixin with ``__slots__ = ()``: what it brings is no state."""
    return base is typing.Generic or vars(base).get("__slots__") == ()  # `Generic` shows no slots from Python 3.12 on


def _own_key(name: bytes, value: Any) -> bytes:
    return _tagged(b"k", name + encode(value.__mlguard_key__()))


def _enum(name: bytes, value: Enum) -> bytes:
    return _tagged(b"e", name + encode(value._name_ if value._name_ is not None else value._value_))


def _model(
    name: bytes, keyed: tuple[str, ...], every: frozenset[str], cached: frozenset[str], value: BaseModel
) -> bytes:
    state = value.__dict__
    if len(state) > len(every) and not state.keys() <= every | cached:
        raise Unkeyable("a model with attributes that are no fields")
    parts = [name, *[encode(state[field]) if field in state else _MISSING for field in keyed]]
    if value.__pydantic_extra__:
        parts.append(_tagged(b"x", encode(value.__pydantic_extra__)))
    if value.__pydantic_private__:
        parts.append(_tagged(b"p", encode(value.__pydantic_private__)))
    return _tagged(b"m", b"".join(parts))


def _dataclass(name: bytes, keyed: tuple[str, ...], every: frozenset[str], cached: frozenset[str], value: Any) -> bytes:
    state = getattr(value, "__dict__", None)
    if state and not state.keys() <= every | cached:
        raise Unkeyable("a dataclass with attributes that are no fields")
    return _tagged(b"m", name + b"".join([encode(getattr(value, field)) for field in keyed]))


def _named_tuple(name: bytes, keyed: tuple[str, ...], value: Any) -> bytes:
    if getattr(value, "__dict__", None):
        raise Unkeyable("a named tuple with attributes that are no fields")
    return _tagged(b"m", name + b"".join([encode(getattr(value, field)) for field in keyed]))


def _derived(name: bytes, to_base: Callable[[Any], Any], value: Any) -> bytes:
    if getattr(value, "__dict__", None):
        raise Unkeyable(f"{type(value).__qualname__} with attributes of its own")
    return _tagged(b"c", name + encode(to_base(value)))


def _cached_names(cls: type) -> frozenset[str]:
    """Names under which a class keeps what it computed from its fields."""
    return frozenset(
        name
        for parent in cls.__mro__
        for name, member in vars(parent).items()
        if isinstance(member, functools.cached_property)
    )


_SCALAR_BASES: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, lambda value: bytes.__add__(value, b"")),
)

_TEXT_TYPES: Final = (
    Decimal, Fraction, PurePosixPath, PureWindowsPath, PosixPath, WindowsPath,
    IPv4Address, IPv6Address, IPv4Network, IPv6Network,
)  # fmt: skip

_EXACT: Final[dict[type, _Encoder]] = {
    type(None): lambda _: b"N",
    bool: lambda value: b"1" if value else b"0",
    int: _int,
    float: _float,
    complex: lambda value: _items(b"c", (value.real, value.imag)),
    str: _str,
    bytes: functools.partial(_content, b"b"),
    bytearray: lambda value: _content(b"B", bytes(value)),
    date: lambda value: _tagged(b"D", value.isoformat().encode()),
    time: _moment(b"t"),
    datetime: _moment(b"M"),
    timedelta: lambda value: _items(b"y", (value.days, value.seconds, value.microseconds)),
    UUID: lambda value: _tagged(b"u", value.bytes),
    tuple: _sequence(b"(", b")"),
    list: _sequence(b"[", b"]"),
    deque: lambda values: _items(b"q", (values.maxlen, *values)),
    set: _set(b"{"),
    frozenset: _set(b"}"),
    dict: _mapping(b":"),
    OrderedDict: _mapping(b";"),
    np.ndarray: _array,
    np.memmap: lambda value: _tagged(b"w", _array(value.view(np.ndarray))),
    **{cls: _text(cls) for cls in _TEXT_TYPES},
}

KEYABLE: Final = frozenset(_EXACT)
"""The types that are keyed by what they are; their subclasses may be something else."""
