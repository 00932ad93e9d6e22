"""A value as bytes: exactly what it is, type by type, or `Unencodable` and the part that can't be written."""

from __future__ import annotations

import functools
import itertools
import struct
import sys
import zoneinfo
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from fractions import Fraction
from typing import Any, Final
from uuid import UUID

import numpy as np
from pydantic_core import TzInfo

from mlguard.cache.codec.classes import Known, known
from mlguard.cache.codec.dtypes import written_dtype
from mlguard.cache.codec.errors import TooLong, Unencodable
from mlguard.cache.codec.frames import frame_parts
from mlguard.cache.codec.layout import ALIGNED, DEEPEST, LONGEST_FRACTION, TEXTS, Tag, tagged, tagged_float, u32

__all__ = ["Writer", "encodable"]

_LARGE: Final = 4096  # bytes from which content is handed on as it lies, and copied once, into the entry
_DAYS: Final = struct.Struct("<iii")
_MOMENT: Final = struct.Struct("<HBBBBBIB")
_CLOCK: Final = struct.Struct("<BBBIB")


def encodable(cls: type) -> bool:
    """Whether values of exactly this class can be written, where the function's return annotation reaches it."""
    return cls in _HOW or known(cls) is not None or issubclass(cls, np.generic) or frame_parts(cls) is not None


class Writer:
    """One walk through one value.

    Args:
        classes: The classes of the user's that may be written, and their numbers.
        start: Where the first byte will stand in the entry, for alignment.
        limit: Bytes it may write.
    """

    def __init__(self, classes: dict[type, tuple[int, Known]], start: int, limit: int) -> None:
        self.classes = classes
        self.parts: list[Any] = []
        self.small = bytearray()
        self.at = start
        """Where `small` begins."""
        self.limit = limit
        self.depth = 0

    def finish(self) -> list[Any]:
        """What was written, to be joined."""
        self._flush()
        if self.at > self.limit:
            raise TooLong
        return self.parts

    def write(self, value: Any) -> None:
        cls = type(value)
        how = _HOW.get(cls)
        if how is not None:
            how(self, value)
        else:
            self._other(cls, value)

    def raw(self, content: Any) -> None:
        """Bytes as they are: short ones copied, long ones kept as they lie until the entry is joined."""
        size = len(content)
        if self.at + len(self.small) + size > self.limit:
            raise TooLong
        if size < _LARGE:
            self.small += content
        else:
            self._flush()
            self.parts.append(content)
            self.at += size

    def content(self, tag: bytes, content: Any) -> None:
        if len(content) > 0xFFFFFFFF:
            raise TooLong
        self.small += tagged.pack(tag, len(content))
        self.raw(content)

    def items(self, tag: bytes, values: Iterable[Any], count: int) -> None:
        if self.depth >= DEEPEST:
            raise Unencodable(f"a value nested more than {DEEPEST} levels deep, or one that contains itself")
        self.depth += 1
        self.small += tagged.pack(tag, count)
        for value in values:
            self.write(value)
        self.depth -= 1
        if self.at + len(self.small) > self.limit:
            raise TooLong

    def list(self, values: list[Any]) -> None:
        if len(values) > 8 and sys.byteorder == "little":
            kinds = set(map(type, values))
            if kinds == {float}:
                return self.content(Tag.FLOATS, array("d", values).tobytes())
            if kinds == {int}:
                try:
                    return self.content(Tag.INTS, array("q", values).tobytes())
                except OverflowError:
                    pass  # an int of more than 8 bytes among them
        return self.items(Tag.LIST, values, len(values))

    def array(self, value: np.ndarray[Any, Any]) -> None:
        if value.dtype.kind == "T":
            return self.strings(value)
        fortran = value.flags.fnc
        written = written_dtype(value.dtype)
        flat = value.reshape(-1, order="F" if fortran else "C")  # no copy where it is contiguous already
        head = bytes([fortran, value.ndim]) + struct.pack(f"<{value.ndim}Q", *value.shape)
        self.small += Tag.ARRAY + u32.pack(len(written)) + written + head
        self._align()
        content: Any = np.ascontiguousarray(flat).view(np.uint8) if value.size else b""
        return self.raw(memoryview(content))

    def strings(self, value: np.ndarray[Any, Any]) -> None:
        """NumPy's variable-width strings: their buffer is pointers, so each one is written."""
        dtype: Any = value.dtype
        missing = getattr(dtype, "na_object", self)
        if missing is not self and missing is not None and not (isinstance(missing, float) and missing != missing):
            raise Unencodable(f"an array of dtype {dtype!r}")
        kind = 0 if missing is self else 1 if missing is None else 2
        self.small += Tag.STRINGS + bytes([kind, dtype.coerce, value.ndim])
        self.small += struct.pack(f"<{value.ndim}Q", *value.shape)
        self.items(Tag.LIST, (item if isinstance(item, str) else None for item in value.ravel().tolist()), value.size)

    def zone(self, zone: Any) -> None:
        kind = type(zone)
        if zone is None:
            self.small += Tag.NONE
        elif kind is timezone:
            offset, name = zone.utcoffset(None), zone.tzname(None)
            plain = timezone(offset).tzname(None) == name
            self.small += Tag.OFFSET + _DAYS.pack(offset.days, offset.seconds, offset.microseconds)
            self.write(None if plain else name)
        elif kind is TzInfo:
            offset = zone.utcoffset(None)
            self.small += Tag.FIXED + _DAYS.pack(offset.days, offset.seconds, 0)
        elif kind is zoneinfo.ZoneInfo and zone.key is not None:
            self.content(Tag.ZONE, zone.key.encode())
        else:
            raise Unencodable(f"the time zone {kind.__qualname__}")

    def _flush(self) -> None:
        if self.small:
            self.parts.append(bytes(self.small))
            self.at += len(self.small)
            self.small.clear()

    def _align(self) -> None:
        self.small += bytes(-(self.at + len(self.small)) % ALIGNED)

    def _other(self, cls: type, value: Any) -> None:
        found = self.classes.get(cls)
        if found is not None:
            return self._known(*found, value)
        if issubclass(cls, np.generic) and cls.__module__ == "numpy" and not issubclass(cls, np.void | np.object_):
            self.small += Tag.SCALAR
            dtype = written_dtype(value.dtype)
            self.small += u32.pack(len(dtype)) + dtype
            return self.raw(value.tobytes())
        split = frame_parts(cls)
        if split is not None:
            kind, parts = split(value)
            self.small += Tag.FRAME + bytes([kind])
            return self.items(Tag.TUPLE, parts, len(parts))
        if known(cls) is not None:
            raise Unencodable(
                f"{cls.__qualname__}, a class that the return annotation doesn't name. "
                f"Fix: name it there, so that those who read the store know what to make"
            )
        raise Unencodable(cls.__qualname__)

    def _known(self, number: int, how: Known, value: Any) -> None:
        try:
            parts = how.take(value)
        except (ValueError, AttributeError) as error:
            raise Unencodable(f"a {how.cls.__qualname__} with {error}") from None
        self.small += Tag.KNOWN + u32.pack(number)
        try:
            self.items(Tag.TUPLE, parts, len(parts))
        except TooLong:
            raise
        except Unencodable as inner:
            raise Unencodable(f"{how.cls.__qualname__}: {inner}") from None


def _int(writer: Writer, value: int) -> None:
    writer.content(Tag.INT, value.to_bytes((value.bit_length() + 8) >> 3, "little", signed=True))


def _fraction(writer: Writer, value: Fraction) -> None:
    parts = value.numerator, value.denominator
    if max(part.bit_length() for part in parts) > LONGEST_FRACTION:
        raise Unencodable("a Fraction of numbers with thousands of digits")
    writer.items(Tag.FRACTION, parts, 2)


def _mapping(tag: bytes, writer: Writer, value: dict[Any, Any]) -> None:
    writer.items(tag, itertools.chain.from_iterable(value.items()), 2 * len(value))


def _datetime(writer: Writer, value: datetime) -> None:
    fields = value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond, value.fold
    writer.small += Tag.DATETIME + _MOMENT.pack(*fields)
    writer.zone(value.tzinfo)


def _time(writer: Writer, value: time) -> None:
    writer.small += Tag.TIME + _CLOCK.pack(value.hour, value.minute, value.second, value.microsecond, value.fold)
    writer.zone(value.tzinfo)


def _text(number: int, writer: Writer, value: Any) -> None:
    writer.content(Tag.TEXT, bytes([number]) + str(value).encode("utf-8", "surrogatepass"))


def _plain(tag: bytes) -> Callable[[Writer, Any], None]:
    def write_plain(writer: Writer, value: Any) -> None:
        writer.small += tag

    return write_plain


def _sized(tag: bytes) -> Callable[[Writer, Any], None]:
    return lambda writer, value: writer.items(tag, value, len(value))


def _bool(writer: Writer, value: bool) -> None:
    writer.small += Tag.TRUE if value else Tag.FALSE


def _float(writer: Writer, value: float) -> None:
    writer.small += tagged_float.pack(Tag.FLOAT, value)


def _complex(writer: Writer, value: complex) -> None:
    writer.small += Tag.COMPLEX + struct.pack("<dd", value.real, value.imag)


def _timedelta(writer: Writer, value: timedelta) -> None:
    writer.small += Tag.TIMEDELTA + _DAYS.pack(value.days, value.seconds, value.microseconds)


def _date(writer: Writer, value: date) -> None:
    writer.small += Tag.DATE + u32.pack(value.toordinal())


def _encoded(tag: bytes) -> Callable[[Writer, Any], None]:
    return lambda writer, value: writer.content(tag, str.encode(value, "utf-8", "surrogatepass"))


_HOW: Final[dict[type, Callable[[Writer, Any], None]]] = {
    type(None): _plain(Tag.NONE),
    bool: _bool,
    int: _int,
    float: _float,
    complex: _complex,
    str: _encoded(Tag.STR),
    bytes: lambda writer, value: writer.content(Tag.BYTES, value),
    bytearray: lambda writer, value: writer.content(Tag.BYTEARRAY, bytes(value)),
    tuple: _sized(Tag.TUPLE),
    list: Writer.list,
    set: _sized(Tag.SET),
    frozenset: _sized(Tag.FROZENSET),
    dict: functools.partial(_mapping, Tag.DICT),
    OrderedDict: functools.partial(_mapping, Tag.ORDERED),
    deque: lambda writer, value: writer.items(Tag.DEQUE, (value.maxlen, *value), len(value) + 1),
    range: lambda writer, value: writer.items(Tag.RANGE, (value.start, value.stop, value.step), 3),
    date: _date,
    time: _time,
    datetime: _datetime,
    timedelta: _timedelta,
    UUID: lambda writer, value: writer.content(Tag.UUID, value.bytes),
    Fraction: _fraction,
    np.ndarray: Writer.array,
    np.str_: _encoded(Tag.NUMPY_STR),
    np.bytes_: lambda writer, value: writer.content(Tag.NUMPY_BYTES, bytes(value)),
    **{cls: functools.partial(_text, number) for number, cls in enumerate(TEXTS)},
}
