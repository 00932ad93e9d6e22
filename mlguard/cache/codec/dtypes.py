"""NumPy dtypes as bytes and back, exactly: byte order, units, fields, offsets. No object dtype, nothing by name."""

from __future__ import annotations

import re
import struct
from typing import Any, Final

import numpy as np

from mlguard.cache.codec.errors import Unencodable

__all__ = ["dtype_of", "written_dtype"]

_PLAIN: Final = re.compile(
    r"[<>|=][biufcSUVmM][0-9]{1,9}(\[[0-9]{0,6}(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?(~[a-zA-Z?])?"
)
_MOST_FIELDS: Final = 1024
_DEEPEST: Final = 16
_u32: Final = struct.Struct("<I")
_written: dict[tuple[str, str], bytes] = {}
_read: dict[bytes, np.dtype[Any]] = {}


def written_dtype(dtype: np.dtype[Any]) -> bytes:
    """A dtype as bytes.

    Raises:
        Unencodable: Its values are pointers, or mean something else on another machine, or belong to another package.
    """
    name = (dtype.str, dtype.char)  # equal dtypes may differ in the latter: long and long long
    written = _written.get(name) if dtype.names is None and dtype.isbuiltin != 2 else None
    if written is None:
        written = _write(dtype)
        if len(_written) < 64 and dtype.names is None and dtype.subdtype is None:
            _written[name] = written
    return written


def dtype_of(written: bytes) -> np.dtype[Any]:
    """The dtype that `written_dtype` wrote.

    Raises:
        ValueError: It wrote no such thing.
    """
    found = _read.get(written)
    if found is None:
        found, end = _parse(written, 0, 0)
        if end != len(written):
            raise ValueError("bytes after a dtype")
        if len(_read) < 64 and found.names is None:
            _read[written] = found
    return found


def _write(dtype: np.dtype[Any], depth: int = 0) -> bytes:
    if depth > _DEEPEST:
        raise Unencodable("an array whose dtype is nested too deeply")
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return b"(" + bytes([len(shape)]) + b"".join(map(_u32.pack, shape)) + _write(base, depth + 1)
    if dtype.names is not None:
        fields: Any = dtype.fields
        if len(dtype.names) > _MOST_FIELDS or any(len(field) > 2 for field in fields.values()):
            raise Unencodable("an array of a structured dtype with titles or more than 1024 fields")
        head = b"{" + _u32.pack(len(dtype.names)) + _u32.pack(dtype.itemsize) + bytes([dtype.isalignedstruct])
        for name in dtype.names:
            text = name.encode("utf-8", "surrogatepass")
            head += _u32.pack(len(text)) + text + _u32.pack(fields[name][1]) + _write(fields[name][0], depth + 1)
        return head
    if dtype.hasobject or dtype.type.__module__ != "numpy" or not dtype.itemsize or dtype.kind == "T":
        raise Unencodable(f"an array of dtype {dtype}")
    if dtype.type in (np.longdouble, np.clongdouble) and dtype.itemsize not in (8, 16 if dtype.kind == "c" else 8):
        raise Unencodable(f"an array of dtype {dtype}, whose bytes mean something else on another machine")
    written = dtype.str if np.dtype(dtype.str).char == dtype.char else f"{dtype.str}~{dtype.char}"
    if _PLAIN.fullmatch(written) is None:
        raise Unencodable(f"an array of dtype {dtype}")
    return b"." + bytes([len(written)]) + written.encode()


def _parse(written: bytes, at: int, depth: int) -> tuple[np.dtype[Any], int]:
    if depth > _DEEPEST:
        raise ValueError("a dtype nested too deeply")
    try:
        return _PARSERS[written[at : at + 1]](written, at + 1, depth)
    except (KeyError, IndexError, struct.error, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"no dtype: {type(error).__name__}") from None


def _plain(written: bytes, at: int, depth: int) -> tuple[np.dtype[Any], int]:
    end = at + 1 + written[at]
    text = written[at + 1 : end].decode("ascii")
    if _PLAIN.fullmatch(text) is None:
        raise ValueError("a dtype that is never written")
    text, _, char = text.partition("~")
    dtype: np.dtype[Any] = np.dtype(text)
    if char:
        other = np.dtype(char).newbyteorder(text[0])  # type: ignore[arg-type]
        dtype = other if other.str == text and not other.hasobject else dtype
    if not dtype.itemsize:
        raise ValueError("a dtype without bytes")
    return dtype, end


def _sub(written: bytes, at: int, depth: int) -> tuple[np.dtype[Any], int]:
    count = written[at]
    shape = struct.unpack_from(f"<{count}I", written, at + 1)
    base, end = _parse(written, at + 1 + 4 * count, depth + 1)
    return np.dtype((base, shape)), end


def _fields(written: bytes, at: int, depth: int) -> tuple[np.dtype[Any], int]:
    count, itemsize, aligned = struct.unpack_from("<IIB", written, at)
    if count > _MOST_FIELDS:
        raise ValueError("too many fields")
    at += 9
    names, formats, offsets = [], [], []
    for _ in range(count):
        length = _u32.unpack_from(written, at)[0]
        names.append(written[at + 4 : at + 4 + length].decode("utf-8", "surrogatepass"))
        at += 4 + length
        offsets.append(_u32.unpack_from(written, at)[0])
        dtype, at = _parse(written, at + 4, depth + 1)
        formats.append(dtype)
    made = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize}, align=bool(aligned))
    return made, at


_PARSERS: Final = {b".": _plain, b"(": _sub, b"{": _fields}
