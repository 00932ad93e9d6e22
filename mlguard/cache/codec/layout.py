"""The tags of the format, shared by writer and reader, and the types that are written as a text.

Every value is a tag of one byte, then what the tag says: nothing, a number of fixed size, or a length and so many bytes
or values. Numbers are little-endian.
"""

from __future__ import annotations

import struct
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Final

__all__ = ["ALIGNED", "DEEPEST", "LONGEST_FRACTION", "TEXTS", "Tag", "f64", "tagged", "tagged_float", "u32"]

DEEPEST: Final = 64
"""Levels of nesting; deeper values are not written and not read."""

LONGEST_FRACTION: Final = 1 << 15
"""Bits of the numbers of a fraction: cancelling takes time by the square of them."""

ALIGNED: Final = 16
"""Where an array's content may begin, in bytes from the start of an entry: aligned for every dtype."""

u32: Final = struct.Struct("<I")
f64: Final = struct.Struct("<d")
tagged: Final = struct.Struct("<cI")
tagged_float: Final = struct.Struct("<cd")


class Tag:
    """One byte each."""

    NONE: Final = b"N"
    TRUE: Final = b"1"
    FALSE: Final = b"0"
    INT: Final = b"i"
    FLOAT: Final = b"f"
    COMPLEX: Final = b"c"
    STR: Final = b"s"
    BYTES: Final = b"b"
    BYTEARRAY: Final = b"B"
    TUPLE: Final = b"("
    LIST: Final = b"["
    FLOATS: Final = b"d"
    """A list of floats only: their bits, one after another."""
    INTS: Final = b"q"
    """A list of ints only, each of 8 bytes."""
    SET: Final = b"{"
    FROZENSET: Final = b"}"
    DICT: Final = b":"
    ORDERED: Final = b";"
    DEQUE: Final = b"Q"
    RANGE: Final = b"r"
    DATE: Final = b"D"
    TIME: Final = b"t"
    DATETIME: Final = b"M"
    TIMEDELTA: Final = b"y"
    OFFSET: Final = b"z"
    FIXED: Final = b"Z"
    ZONE: Final = b"I"
    UUID: Final = b"u"
    FRACTION: Final = b"/"
    TEXT: Final = b"S"
    ARRAY: Final = b"a"
    STRINGS: Final = b"T"
    SCALAR: Final = b"n"
    NUMPY_STR: Final = b"U"
    NUMPY_BYTES: Final = b"V"
    KNOWN: Final = b"k"
    FRAME: Final = b"F"


TEXTS: Final[tuple[type, ...]] = (
    Decimal, PurePosixPath, PureWindowsPath, PosixPath, WindowsPath,
    IPv4Address, IPv6Address, IPv4Network, IPv6Network,
)  # fmt: skip
"""Types whose str() says everything there is to know. The bytes hold their place here: only ever append."""
