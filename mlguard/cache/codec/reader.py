"""Bytes as the value they were written from. Nothing is allocated before the bytes for it are known to be there.

The bytes may be anybody's: whatever is wrong with them ends as a ValueError, which the entry turns into a miss.
"""

from __future__ import annotations

import functools
import struct
import zoneinfo
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta, timezone
from fractions import Fraction
from typing import Any, Final, Literal
from uuid import UUID

import numpy as np
from pydantic_core import TzInfo

from mlguard.cache.codec.classes import Known
from mlguard.cache.codec.dtypes import dtype_of
from mlguard.cache.codec.frames import frame_of
from mlguard.cache.codec.layout import ALIGNED, DEEPEST, LONGEST_FRACTION, TEXTS, Tag, f64, u32

__all__ = ["Reader"]

_DAYS: Final = struct.Struct("<iii")
_MOMENT: Final = struct.Struct("<HBBBBBIB")
_CLOCK: Final = struct.Struct("<BBBIB")
_MOST_DIMENSIONS: Final = 64


class Reader:
    """One walk through one entry.

    Args:
        data: The entry.
        start: Where the value begins.
        end: Where it ends.
        classes: The classes that may be made, by number.
        writable: Whether arrays come as copies of their own, instead of views that nobody can write to.
    """

    def __init__(self, data: bytes, start: int, end: int, classes: Sequence[Known], *, writable: bool) -> None:
        self.data = data
        self.at = start
        self.end = end
        self.classes = classes
        self.writable = writable
        self.depth = 0

    def read(self) -> Any:
        at = self.at
        if at >= self.end:
            raise ValueError("cut off")
        self.at = at + 1
        how = _HOW.get(self.data[at])
        if how is None:
            raise ValueError("a tag that is never written")
        return how(self)

    def take(self, size: int) -> bytes:
        at = self.at
        if size > self.end - at:
            raise ValueError("cut off")
        self.at = at + size
        return self.data[at : at + size]

    def number(self) -> int:
        return u32.unpack(self.take(4))[0]  # type: ignore[no-any-return]

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        return layout.unpack(self.take(layout.size))

    def content(self) -> bytes:
        return self.take(self.number())

    def text(self) -> str:
        return self.content().decode("utf-8", "surrogatepass")

    def items(self) -> list[Any]:
        count = self.number()
        if count > self.end - self.at or self.depth >= DEEPEST:
            raise ValueError("more values than bytes, or nested too deeply")
        self.depth += 1
        read = self.read
        values = [read() for _ in range(count)]
        self.depth -= 1
        return values

    def mapping(self, make: Callable[[Any], Any]) -> Any:
        values = self.items()
        made = make(zip(values[::2], values[1::2], strict=True))
        if 2 * len(made) != len(values):
            raise ValueError("a key that comes twice")
        return made

    def parts(self, count: int) -> list[Any]:
        values = self.items()
        if len(values) != count:
            raise ValueError("too many or too few parts")
        return values

    def numbers(self, code: str) -> list[Any]:
        values = array(code)
        values.frombytes(self.content())
        if _BIG:
            values.byteswap()
        return values.tolist()

    def shape(self) -> tuple[int, ...]:
        dimensions = self.take(1)[0]
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError("too many dimensions")
        return struct.unpack(f"<{dimensions}Q", self.take(8 * dimensions))

    def array(self) -> np.ndarray[Any, Any]:
        dtype = dtype_of(self.content())
        fortran = self.take(1)[0]
        shape = self.shape()
        self.at += -self.at % ALIGNED
        size = dtype.itemsize
        for length in shape:
            size *= length
        at = self.at
        if size > self.end - at or fortran > 1:
            raise ValueError("cut off")
        self.at = at + size
        order: Literal["C", "F"] = "F" if fortran else "C"
        made: np.ndarray[Any, Any] = np.ndarray(shape, dtype, self.data, at if size else 0, None, order)
        return made.copy("K") if self.writable else made

    def strings(self) -> np.ndarray[Any, Any]:
        kind, coerce = self.take(2)
        shape = self.shape()
        if self.take(1) != Tag.LIST:
            raise ValueError("no strings")
        values = self.items()
        missing = {} if kind == 0 else {"na_object": None if kind == 1 else float("nan")}
        if not all(type(value) is str or (value is None and kind) for value in values):
            raise ValueError("no strings")
        made = np.array([missing["na_object"] if value is None else value for value in values],
                        np.dtypes.StringDType(coerce=bool(coerce), **missing))  # fmt: skip
        made = made.reshape(shape)
        made.flags.writeable = self.writable
        return made

    def scalar(self) -> Any:
        dtype = dtype_of(self.content())
        if dtype.names is not None or dtype.subdtype is not None or dtype.kind in "VSU":
            raise ValueError("no scalar")
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0]

    def zone(self) -> Any:
        tag = self.take(1)
        if tag == Tag.NONE:
            return None
        if tag == Tag.OFFSET:
            offset, name = timedelta(*self.unpack(_DAYS)), self.read()
            return timezone(offset) if name is None else timezone(offset, name)
        if tag == Tag.FIXED:
            return TzInfo(timedelta(*self.unpack(_DAYS)).total_seconds())
        if tag == Tag.ZONE:
            return zoneinfo.ZoneInfo(self.text())
        raise ValueError("no time zone")

    def moment(self) -> datetime:
        *fields, fold = self.unpack(_MOMENT)
        return datetime(*fields, tzinfo=self.zone(), fold=fold)  # type: ignore[misc]

    def time(self) -> time:
        *fields, fold = self.unpack(_CLOCK)
        return time(*fields, tzinfo=self.zone(), fold=fold)  # type: ignore[misc]

    def known(self) -> Any:
        how = self.classes[self.number()]
        if self.take(1) != Tag.TUPLE:
            raise ValueError("no parts")
        return how.make(*self.items())

    def frame(self) -> Any:
        kind = self.take(1)[0]
        if self.take(1) != Tag.TUPLE:
            raise ValueError("no parts")
        return frame_of(kind, self.items())


def _int(reader: Reader) -> int:
    return int.from_bytes(reader.content(), "little", signed=True)


def _float(reader: Reader) -> float:
    return f64.unpack(reader.take(8))[0]  # type: ignore[no-any-return]


def _complex(reader: Reader) -> complex:
    return complex(*struct.unpack("<dd", reader.take(16)))


def _deque(reader: Reader) -> deque[Any]:
    values = reader.items()
    return deque(values[1:], values[0])


def _fraction(reader: Reader) -> Fraction:
    parts = reader.parts(2)
    if not all(type(part) is int and part.bit_length() <= LONGEST_FRACTION for part in parts):
        raise ValueError("no fraction")
    return Fraction(*parts)


def _unique(make: Callable[[list[Any]], Any], reader: Reader) -> Any:
    values = reader.items()
    made = make(values)
    if len(made) != len(values):
        raise ValueError("an element that comes twice")
    return made


def _text(reader: Reader) -> Any:
    content = reader.content()
    return TEXTS[content[0]](content[1:].decode("utf-8", "surrogatepass"))


_BIG: Final = struct.pack("=H", 1) == struct.pack(">H", 1)

_BY_TAG: Final[dict[bytes, Callable[[Reader], Any]]] = {
    Tag.NONE: lambda reader: None,
    Tag.TRUE: lambda reader: True,
    Tag.FALSE: lambda reader: False,
    Tag.INT: _int,
    Tag.FLOAT: _float,
    Tag.COMPLEX: _complex,
    Tag.STR: Reader.text,
    Tag.BYTES: Reader.content,
    Tag.BYTEARRAY: lambda reader: bytearray(reader.content()),
    Tag.TUPLE: lambda reader: tuple(reader.items()),
    Tag.LIST: Reader.items,
    Tag.FLOATS: lambda reader: reader.numbers("d"),
    Tag.INTS: lambda reader: reader.numbers("q"),
    Tag.SET: functools.partial(_unique, set),
    Tag.FROZENSET: functools.partial(_unique, frozenset),
    Tag.DICT: lambda reader: reader.mapping(dict),
    Tag.ORDERED: lambda reader: reader.mapping(OrderedDict),
    Tag.DEQUE: _deque,
    Tag.RANGE: lambda reader: range(*reader.parts(3)),
    Tag.DATE: lambda reader: date.fromordinal(reader.number()),
    Tag.TIME: Reader.time,
    Tag.DATETIME: Reader.moment,
    Tag.TIMEDELTA: lambda reader: timedelta(*reader.unpack(_DAYS)),
    Tag.UUID: lambda reader: UUID(bytes=reader.content()),
    Tag.FRACTION: _fraction,
    Tag.TEXT: _text,
    Tag.ARRAY: Reader.array,
    Tag.STRINGS: Reader.strings,
    Tag.SCALAR: Reader.scalar,
    Tag.NUMPY_STR: lambda reader: np.str_(reader.text()),
    Tag.NUMPY_BYTES: lambda reader: np.bytes_(reader.content()),
    Tag.KNOWN: Reader.known,
    Tag.FRAME: Reader.frame,
}
_HOW: Final = {tag[0]: how for tag, how in _BY_TAG.items()}
