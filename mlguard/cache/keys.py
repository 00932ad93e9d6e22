"""A value as bytes that two values share exactly when they have the same type and the same content, bit for bit.

Every value is written as a tag, a length and its content, recursively, so that no two different values can run into
the same bytes: 1, 1.0, True and "1" differ, and so do 0.0 and -0.0, (1, 2) and [1, 2], and two arrays of one shape that
differ in a single bit. Nothing here goes through str(), repr(), JSON or pickle of a value. What can't be written that
way is refused with `Unkeyable`; which parameters are written at all is decided in `function_key.py`.

Content longer than a few hundred bytes is replaced by its blake2b hash. There are two dialects: `LOCAL` names classes
by number and keys the hash with a secret of this process, so that its bytes mean something in this process only;
`SHARED` spells classes out (`identity.py`) and hashes without a secret, so that every process that runs the same code
writes the same bytes. In either, a collision can be neither met by chance nor made on purpose.
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

from mlguard.cache.identity import FORMAT, NotKeyed, is_marked, keyed_fields, number_of, spelt

__all__ = [
    "FORMAT", "KEYABLE", "LOCAL", "SHARED", "Dialect", "NotKeyed", "Unkeyable", "as_text", "encode", "is_marked",
    "keyed_fields", "offers_identity", "plain_or_slot", "slot",
]  # fmt: skip


class Unkeyable(Exception):  # noqa: N818 - an answer rather than an error: it never leaves the cache
    """The value has no identity that bytes could hold."""


_Encoder = Callable[[Any], bytes]

_INLINE: Final = 512  # bytes of content kept as they are, where hashing would cost more than comparing
_SLOT: Final = 128  # bytes of key that one parameter takes at most
_MISSING: Final = b"-"  # a field that model_construct() left out
_pack: Final = struct.Struct("<cQ").pack
_pack_float: Final = struct.Struct("<cd").pack


class Dialect:
    """How values are written.

    Args:
        name_of: What a class is called.
        secret: Keys the hash; empty where others must come to the same bytes.
    """

    def __init__(self, name_of: Callable[[type], bytes], secret: bytes) -> None:
        self.name_of = name_of
        self._secret = secret
        self._learnt_encoders: WeakKeyDictionary[type, _Encoder] = WeakKeyDictionary()
        self._exact: dict[type, _Encoder] = {
            type(None): lambda _: b"N",
            bool: lambda value: b"1" if value else b"0",
            int: self._int,
            float: lambda value: _pack_float(b"f", value),
            complex: lambda value: self._items(b"c", (value.real, value.imag)),
            str: self._str,
            bytes: functools.partial(self._content, b"b"),
            bytearray: lambda value: self._content(b"B", bytes(value)),
            date: lambda value: _tagged(b"D", value.isoformat().encode()),
            time: functools.partial(self._moment, b"t"),
            datetime: functools.partial(self._moment, b"M"),
            timedelta: lambda value: self._items(b"y", (value.days, value.seconds, value.microseconds)),
            UUID: lambda value: _tagged(b"u", value.bytes),
            tuple: functools.partial(self._sequence, b"(", b")"),
            list: functools.partial(self._sequence, b"[", b"]"),
            deque: lambda values: self._items(b"q", (values.maxlen, *values)),
            set: functools.partial(self._set, b"{"),
            frozenset: functools.partial(self._set, b"}"),
            # In its own order: a function that turns a dict into features sees the order.
            dict: lambda value: self._items(b":", itertools.chain.from_iterable(value.items())),
            OrderedDict: lambda value: self._items(b";", itertools.chain.from_iterable(value.items())),
            np.ndarray: self.array,
            np.memmap: lambda value: _tagged(b"w", self.array(value.view(np.ndarray))),
            **{cls: _text(cls) for cls in _TEXT_TYPES},
        }

    def encode(self, value: Any) -> bytes:
        """The value's type and content.

        Raises:
            Unkeyable: The value, or something inside it, has no type this module can write down.
        """
        kind = type(value)
        return (self._exact.get(kind) or self._learnt(kind))(value)

    def slot(self, value: Any) -> bytes:
        """`encode`, in at most 128 bytes: what one parameter contributes to a key."""
        encoded = self.encode(value)
        return encoded if len(encoded) <= _SLOT else b"#" + self.hash(encoded)

    def hash(self, content: Any) -> bytes:
        """32 bytes that stand for any number of them."""
        return hashlib.blake2b(content, digest_size=32, key=self._secret, person=FORMAT).digest()

    def hasher(self, content: bytes) -> Any:
        """What `hash` does, begun, for content that comes in parts."""
        return hashlib.blake2b(content, digest_size=32, key=self._secret, person=FORMAT)

    def model(self, value: Any, without: frozenset[str]) -> bytes:
        """A model or dataclass as `encode` writes it, without some of its fields."""
        cls = type(value)
        if issubclass(cls, BaseModel):
            keyed = tuple(name for name in keyed_fields(cls) if name not in without)
            return self._model(self.name_of(cls), keyed, frozenset(cls.model_fields), _cached_names(cls), value)
        every = frozenset(field.name for field in dataclasses.fields(cls))
        keyed = tuple(name for name in keyed_fields(cls) if name not in without)
        return self._dataclass(self.name_of(cls), keyed, every, _cached_names(cls), value)

    def __reduce__(self) -> str:
        return "SHARED" if self is SHARED else "LOCAL"

    def _content(self, tag: bytes, content: bytes) -> bytes:
        """A leaf; its length stays in the clear, and its content too where it is short."""
        if len(content) <= _INLINE:
            return _pack(tag, len(content)) + content
        return _pack(b"#", len(content)) + tag + self.hash(content)

    def _items(self, tag: bytes, values: Iterable[Any]) -> bytes:
        encode = self.encode
        return _tagged(tag, b"".join([encode(value) for value in values]))

    # Scalars

    def _int(self, value: int) -> bytes:
        return self._content(b"i", value.to_bytes((value.bit_length() + 8) >> 3, "little", signed=True))

    def _str(self, value: str) -> bytes:
        return self._content(b"s", value.encode("utf-8", "surrogatepass"))

    def _zone(self, zone: Any) -> bytes:
        kind = type(zone)
        if zone is None:
            return b"z"
        if kind is timezone:
            return self._items(b"z", (zone.utcoffset(None), zone.tzname(None)))
        if kind is TzInfo:
            return _tagged(b"Z", self.encode(zone.utcoffset(None)))
        if kind is zoneinfo.ZoneInfo and zone.key is not None:
            return _tagged(b"I", zone.key.encode())
        raise Unkeyable(f"time zone {kind.__qualname__}")

    def _moment(self, tag: bytes, value: Any) -> bytes:
        local = b"%d" % value.fold + value.replace(tzinfo=None).isoformat().encode()
        return _tagged(tag, local + self._zone(value.tzinfo))

    # Containers

    def _sequence(self, tag: bytes, floats: bytes, values: Any) -> bytes:
        if len(values) > 8 and set(map(type, values)) == {float}:  # a row of features: one pass in C
            return self._content(floats, array("d", values).tobytes())
        return self._items(tag, values)

    def _set(self, tag: bytes, values: Any) -> bytes:
        return _tagged(tag, b"".join(sorted([self.encode(value) for value in values])))

    # numpy

    def array(self, value: np.ndarray[Any, Any]) -> bytes:
        dtype = value.dtype
        if dtype.hasobject or dtype.kind in "OT":
            raise Unkeyable(f"array of dtype {dtype}")  # its bytes are pointers
        shape = ",".join(map(str, value.shape)).encode()
        head = _tagged(b"d", self.dtype(dtype)) + _tagged(b"d", shape)
        if dtype.names is not None:  # field by field: the padding between fields is noise
            return _tagged(b"a", head + b"".join([self.array(value[name]) for name in dtype.names]))
        if value.nbytes <= _INLINE:
            return _tagged(b"a", head + value.tobytes())
        flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)  # no copy where it is contiguous already
        return _tagged(b"A", head + self.hash(flat))

    def dtype(self, dtype: np.dtype[Any]) -> bytes:
        """A dtype with its byte order, unit, fields and their places."""
        if dtype.names is not None:
            fields: Any = dtype.fields
            inner = b"".join(
                self._items(b"d", (name, fields[name][1])) + self.dtype(fields[name][0]) for name in dtype.names
            )
            return b"{%d:" % dtype.itemsize + inner + b"}"
        if dtype.subdtype is not None:
            return b"(" + repr(dtype.subdtype[1]).encode() + self.dtype(dtype.subdtype[0]) + b")"
        if dtype.type.__module__ != "numpy":  # bfloat16 and its kin, whose str says no more than their size
            return dtype.str.encode() + self.name_of(dtype.type)
        return dtype.str.encode()

    def _numpy_scalar(self, value: np.generic) -> bytes:
        if isinstance(value, np.void):
            return _tagged(b"v", self.array(np.asarray(value)))
        return self._content(b"n", _tagged(b"d", self.dtype(value.dtype)) + value.tobytes())

    # Classes of the user's

    def _learnt(self, cls: type) -> _Encoder:
        encoder = self._learnt_encoders.get(cls)
        if encoder is None:
            encoder = self.encoder_of(cls)
            if encoder is None:
                raise Unkeyable(cls.__qualname__)
            self._learnt_encoders[cls] = encoder
        return encoder

    def encoder_of(self, cls: type) -> _Encoder | None:
        """How values of a class that is not in the table are written; None: nobody knows."""
        # No encoder holds its class: it is kept in a dictionary that must not keep the class alive.
        if hasattr(cls, "__mlguard_key__"):
            return functools.partial(self._own_key, self.name_of(cls))
        if issubclass(cls, type):
            return lambda value: _tagged(b"T", self.name_of(value))
        if issubclass(cls, Enum):
            return functools.partial(self._enum, self.name_of(cls))
        if issubclass(cls, BaseModel):
            every = frozenset(cls.model_fields)
            return functools.partial(self._model, self.name_of(cls), keyed_fields(cls), every, _cached_names(cls))
        if dataclasses.is_dataclass(cls):
            if not all(base is object or dataclasses.is_dataclass(base) or _is_empty(base) for base in cls.__mro__):
                return None  # what a container or another class beneath it holds, its fields don't say
            every = frozenset(field.name for field in dataclasses.fields(cls))
            if not every >= set(_slotnames(cls)):
                return None  # nor what lies in a slot that is none of them
            return functools.partial(self._dataclass, self.name_of(cls), keyed_fields(cls), every, _cached_names(cls))
        if issubclass(cls, np.generic) and cls.__module__ == "numpy" and cls is not np.object_:
            return self._numpy_scalar
        if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            return functools.partial(self._named_tuple, self.name_of(cls), keyed_fields(cls))
        if cls.__module__.partition(".")[0] in _FRAMES and cls.__name__ in _FRAME_NAMES:
            return self._table
        for base, to_base in _SCALAR_BASES:
            if issubclass(cls, base) and not _slotnames(cls):
                return functools.partial(self._derived, self.name_of(cls), to_base)
        return None

    def _table(self, value: Any) -> bytes:
        from mlguard.cache.row_keys import table_key

        return _tagged(b"F", table_key(self, value))

    def _own_key(self, name: bytes, value: Any) -> bytes:
        return _tagged(b"k", name + self.encode(value.__mlguard_key__()))

    def _enum(self, name: bytes, value: Enum) -> bytes:
        return _tagged(b"e", name + self.encode(value._name_ if value._name_ is not None else value._value_))

    def _model(
        self, name: bytes, keyed: tuple[str, ...], every: frozenset[str], cached: frozenset[str], value: BaseModel
    ) -> bytes:
        state, encode = value.__dict__, self.encode
        if len(state) > len(every) and not state.keys() <= every | cached:
            raise Unkeyable("a model with attributes that are no fields")
        parts = [name, *[encode(state[field]) if field in state else _MISSING for field in keyed]]
        if value.__pydantic_extra__:
            parts.append(_tagged(b"x", encode(value.__pydantic_extra__)))
        if value.__pydantic_private__:
            parts.append(_tagged(b"p", encode(value.__pydantic_private__)))
        return _tagged(b"m", b"".join(parts))

    def _dataclass(
        self, name: bytes, keyed: tuple[str, ...], every: frozenset[str], cached: frozenset[str], value: Any
    ) -> bytes:
        state = getattr(value, "__dict__", None)
        if state and not state.keys() <= every | cached:
            raise Unkeyable("a dataclass with attributes that are no fields")
        return _tagged(b"m", name + b"".join([self.encode(getattr(value, field)) for field in keyed]))

    def _named_tuple(self, name: bytes, keyed: tuple[str, ...], value: Any) -> bytes:
        if getattr(value, "__dict__", None):
            raise Unkeyable("a named tuple with attributes that are no fields")
        return _tagged(b"m", name + b"".join([self.encode(getattr(value, field)) for field in keyed]))

    def _derived(self, name: bytes, to_base: Callable[[Any], Any], value: Any) -> bytes:
        if getattr(value, "__dict__", None):
            raise Unkeyable(f"{type(value).__qualname__} with attributes of its own")
        return _tagged(b"c", name + self.encode(to_base(value)))


def plain_or_slot(value: Any, dialect: Dialect) -> Any:
    """A version or a tenant as it stands in a key."""
    return value if type(value) is str and len(value) < 513 else dialect.slot(value)


def as_text(part: Any) -> str:
    """A version or a tenant, as it stands in a key, as a label spells it."""
    return part if type(part) is str else f"#{part.hex()}"


def offers_identity(cls: type) -> bool:
    """Whether instances of a class can be keyed: a known type, an enum, a model, a dataclass, `__mlguard_key__`."""
    return cls in KEYABLE or LOCAL.encoder_of(cls) is not None


def _tagged(tag: bytes, content: bytes) -> bytes:
    return _pack(tag, len(content)) + content


def _text(cls: type) -> _Encoder:
    """For types whose str() says everything there is to know."""
    name = cls.__name__.encode() + b":"
    return lambda value: _tagged(b"S", name + str(value).encode("utf-8", "surrogatepass"))


def _is_empty(base: type) -> bool:
    """Such as `Generic`, `ABC`, or a mixin with ``__slots__ = ()``: what it brings is no state."""
    return base is typing.Generic or vars(base).get("__slots__") == ()  # `Generic` shows no slots from Python 3.12 on


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

_FRAMES: Final = ("pandas", "polars", "pyarrow")
_FRAME_NAMES: Final = ("DataFrame", "Series", "Table", "RecordBatch")

LOCAL: Final = Dialect(number_of, os.urandom(32))
"""Keys of this process."""
SHARED: Final = Dialect(spelt, b"")
"""Keys that every process writes alike."""

encode, slot = LOCAL.encode, LOCAL.slot

KEYABLE: Final = frozenset(LOCAL._exact)
"""The types that are keyed by what they are; their subclasses may be something else."""
