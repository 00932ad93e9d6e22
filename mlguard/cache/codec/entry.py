"""One entry of a shared store: a header of 48 bytes, the value, and a seal over both and over the key it lies under.

    magic  "mlgC"      4    no entry of ours without it
    version            1    of this format
    sealed             1    1 where the seal was made with a secret
    (nothing)          2
    fingerprint        8    of the classes the result may be made of
    fresh              8    seconds for which the value counts as fresh; infinity: as long as it is there
    cost               8    seconds it took to compute
    length             8    of the value
    (nothing)          8
    value              length
    seal              16    blake2b over key, header and value

Sizes are checked before anything is made of the value, and the seal before anything in it is looked at.
"""

from __future__ import annotations

import hmac
import struct
from typing import Any, Final, NamedTuple

from mlguard.cache.codec.classes import Known, classes_in, fingerprint, known
from mlguard.cache.codec.errors import DecodeError, TooLong, Unencodable
from mlguard.cache.codec.reader import Reader
from mlguard.cache.codec.secret import Secret
from mlguard.cache.codec.writer import Writer

__all__ = ["Codec", "Decoded"]

_MAGIC: Final = b"mlgC"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sBBxx8sddQ8x")
_SEAL: Final = 16
_OWN: Final = _HEADER.size + _SEAL


class Decoded(NamedTuple):
    """A value, and what its entry says about it."""

    value: Any
    fresh: float | None
    """Seconds after storing for which it counts as fresh; None: as long as it is there."""
    cost: float
    """Seconds it took to compute."""


class Codec:
    """Writes and reads the results of one function.

    Args:
        annotation: What the function returns, resolved. Classes are written only where it reaches them; plain values,
            arrays and frames always.
        secret: Who may read and write with it; the default asks the environment.
        largest: Bytes of the largest entry.
        writable: Whether arrays are read as copies of their own, instead of views that nobody can write to.
    """

    def __init__(
        self, annotation: Any, *, secret: Secret | None = None, largest: int = 1 << 30, writable: bool = False
    ) -> None:
        self.secret = Secret() if secret is None else secret
        self.largest = min(largest, 0xFFFFFFFF)
        self.writable = writable
        self.fingerprint = fingerprint(annotation)
        """8 bytes that change when the classes of the result do; a good part of a key as well."""
        ways = [way for way in map(known, classes_in(annotation)) if way is not None]
        self._ways: list[Known] = ways
        self._numbers = {way.cls: (number, way) for number, way in enumerate(ways)}

    def encode(self, value: Any, key: bytes, *, fresh: float | None = None, cost: float = 0.0) -> bytes:
        """An entry for one key.

        Args:
            value: The result.
            key: What it will be stored under; under any other key it can't be read.
            fresh: Seconds for which it counts as fresh; None: as long as it is there.
            cost: Seconds it took to compute.

        Raises:
            Unencodable: Part of the value can't be written; the message names it.
            TooLong: It takes more than `largest` bytes.
        """
        writer = Writer(self._numbers, _HEADER.size, self.largest - _SEAL)
        try:
            writer.write(value)
            parts = writer.finish()
        except TooLong:
            raise TooLong(f"a result of more than {self.largest} bytes") from None
        except RecursionError:
            raise Unencodable("a value that is nested too deeply") from None
        until = float("inf") if fresh is None else fresh
        header = _HEADER.pack(
            _MAGIC, _VERSION, self.secret.given, self.fingerprint, until, cost, writer.at - _HEADER.size
        )
        return b"".join([header, *parts, self.secret.seal(key, header, *parts)])

    def decode(self, payload: bytes, key: bytes) -> Decoded:
        """The value of an entry.

        Raises:
            DecodeError: It is no result of this function, under this key, written by somebody who shares the secret.
        """
        if type(payload) is not bytes or len(payload) < _OWN or payload[:4] != _MAGIC:
            raise DecodeError("what lies under the key is no entry of a cache", "foreign")
        _, version, sealed, schema, fresh, cost, length = _HEADER.unpack_from(payload)
        if version != _VERSION:
            raise DecodeError(f"the entry is of format {version}, and this is {_VERSION}", "version")
        if len(payload) != _OWN + length:
            raise DecodeError(f"the entry has {len(payload)} bytes and says {_OWN + length}", "damaged")
        if sealed != self.secret.given:
            raise DecodeError("the entry was written without the secret, or this process has none", "unsigned")
        end = len(payload) - _SEAL
        if not hmac.compare_digest(self.secret.seal(key, memoryview(payload)[:end]), payload[end:]):
            reason = "unsigned" if sealed else "damaged"
            raise DecodeError("the entry was altered, or written for another key or with another secret", reason)
        if schema != self.fingerprint:
            raise DecodeError("the classes of the result have changed since", "schema")
        reader = Reader(payload, _HEADER.size, end, self._ways, writable=self.writable)
        try:
            value = reader.read()
            if reader.at != end or not fresh >= 0 or not cost >= 0:
                raise ValueError("bytes after the value")
        except Exception as error:  # whatever the bytes made pydantic, numpy or pandas raise
            raise DecodeError(f"the entry can't be read: {type(error).__name__}", "malformed") from None
        return Decoded(value, None if fresh == float("inf") else fresh, cost)
