"""What a Redis store says and how it reads the answers, apart from how the two travel.

Each operation is a generator: it yields commands for one round trip, and is sent their replies, an error reply as an
exception among them. The sync and the async store drive the same generators.

An entry lies under ``PREFIX:e:KEY`` as 8 bytes of time, on the server's own clock, 3 x 8 bytes of label, 8 bytes of
time to live, then the payload; a lease under ``PREFIX:l:KEY``. The clock of this machine is compared with the server's
in the same round trip, so that machines need not agree about the time.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Generator, Sequence
from hashlib import blake2b
from typing import Any, Final, TypeAlias, TypeVar

from mlguard.cache.stores.protocol import Item, Label, Stored, StoreError

__all__ = ["Commands", "Trip"]

_Result = TypeVar("_Result")
_Command: TypeAlias = tuple[Any, ...]
Trip: TypeAlias = Generator[list[_Command], list[Any], _Result]

_HEAD: Final = struct.Struct("<d8s8s8sd")
_NEVER: Final = float("inf")
_LONGEST: Final = 1e15  # ms that a server takes: more overflows its clock; the entry knows better
_CLOCK_CHECKED: Final = 30.0  # seconds for which a comparison of the clocks counts
_MOST: Final = 1000  # keys of one round trip of a discard
_RELEASE: Final = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"


class Commands:
    """The commands of one store.

    Args:
        where: The store, for messages.
        prefix: What its keys begin with.
        largest: Bytes of the largest payload.
    """

    def __init__(self, where: str, prefix: str, largest: int) -> None:
        self.where = where
        self.prefix = prefix.encode()
        self.largest = largest
        self._ahead = 0.0  # the server's clock minus ours, at the least
        self._compared = -_NEVER

    def get_many(self, keys: Sequence[bytes]) -> Trip[list[Stored | None]]:
        asked = time.monotonic()
        if len(keys) == 1:  # bounded, whatever somebody else has put there
            clock, reply = yield [("TIME",), ("GETRANGE", self._entry(keys[0]), 0, self.largest + _HEAD.size)]
            now = self._server_time(clock, asked)
            if isinstance(reply, Exception) and not str(reply).startswith("WRONGTYPE"):
                raise reply
            payloads = [None if isinstance(reply, Exception) else reply]
        else:
            clock, payloads = yield [("TIME",), ("MGET", *map(self._entry, keys))]
            now = self._server_time(clock, asked)
            if isinstance(payloads, Exception):
                raise payloads
            if type(payloads) is not list or len(payloads) != len(keys):
                raise self._no_redis("MGET")
        return [self._stored(payload, now) for payload in payloads]

    def put_many(self, items: Sequence[Item], label: Label) -> Trip[None]:
        if time.monotonic() - self._compared > _CLOCK_CHECKED:
            asked = time.monotonic()
            (clock,) = yield [("TIME",)]
            self._server_time(clock, asked)
        now = time.monotonic() + self._ahead
        labels = [_digest(part) for part in label]
        commands: list[_Command] = []
        for item in items:
            left = _NEVER if item.ttl is None else item.ttl
            entry = _HEAD.pack(now, *labels, left) + item.payload
            key = self._entry(item.key)
            if left == _NEVER:
                commands.append(("SET", key, entry))
            else:
                commands.append(("SET", key, entry, "PX", max(1, int(min(left * 1000, _LONGEST)))))
        for reply in (yield commands):
            if isinstance(reply, Exception):
                raise reply

    def lease(self, key: bytes, seconds: float) -> Trip[bytes | None]:
        token = os.urandom(16)
        (reply,) = yield [("SET", self._lease(key), token, "NX", "PX", max(1, int(seconds * 1000)))]
        if isinstance(reply, Exception):
            raise reply
        return token if reply else None

    def release(self, key: bytes, token: bytes) -> Trip[None]:
        (reply,) = yield [("EVAL", _RELEASE, 1, self._lease(key), token)]
        if isinstance(reply, Exception) and not str(reply).startswith("WRONGTYPE"):
            raise reply

    def discard(
        self, key: bytes | None, function: str | None, model_version: str | None, tenant: str | None
    ) -> Trip[int]:
        wanted = [None if part is None else _digest(part) for part in (function, model_version, tenant)]
        if key is not None:
            return (yield from self._discard([self._entry(key)], wanted))
        cursor: Any = b"0"
        dropped = 0
        while True:
            (reply,) = yield [("SCAN", cursor, "MATCH", _escaped(self.prefix) + b":e:*", "COUNT", _MOST)]
            if isinstance(reply, Exception):
                raise reply
            cursor, names = reply
            if names:
                dropped += yield from self._discard(names, wanted)
            if cursor in (0, b"0"):
                return dropped

    def info(self) -> Trip[None]:
        (reply,) = yield [("PING",)]
        if isinstance(reply, Exception):
            raise reply

    def _discard(self, names: Sequence[bytes], wanted: list[bytes | None]) -> Trip[int]:
        """Unlinks those of these entries whose label is wanted; what is no entry of ours goes only with everything."""
        if any(wanted):
            heads = yield [("GETRANGE", name, 0, _HEAD.size - 1) for name in names]
            names = [name for name, head in zip(names, heads, strict=True) if _meets(head, wanted)]
            if not names:
                return 0
        (reply,) = yield [("UNLINK", *names)]
        if isinstance(reply, Exception):
            raise reply
        return int(reply)

    def _stored(self, entry: Any, now: float) -> Stored | None:
        if type(entry) is not bytes or not _HEAD.size < len(entry) <= self.largest + _HEAD.size:
            return None
        stored, _, _, _, ttl = _HEAD.unpack_from(entry)
        if not (0.0 <= stored < _NEVER and ttl > 0.0):
            return None
        age = max(0.0, now - stored)
        left = None if ttl == _NEVER else ttl - age
        return None if left is not None and left <= 0 else Stored(entry[_HEAD.size :], age, left)

    def _server_time(self, reply: Any, asked: float) -> float:
        if isinstance(reply, Exception):
            raise reply
        if type(reply) is not list or len(reply) != 2 or not all(type(part) is bytes for part in reply):
            raise self._no_redis("TIME")
        now = int(reply[0]) + int(reply[1]) / 1e6
        # The reply was made between asking and now. The earlier stamp for what is written, and the later time for what
        # is read: an entry may look a round trip older than it is, and never younger.
        heard = time.monotonic()
        self._ahead, self._compared = now - heard, heard
        return now + (heard - asked)

    def _no_redis(self, command: str) -> StoreError:
        return StoreError(f"{self.where} answered {command} with something else. Fix: is a Redis there?", "refused")

    def _entry(self, key: bytes) -> bytes:
        return self.prefix + b":e:" + key

    def _lease(self, key: bytes) -> bytes:
        return self.prefix + b":l:" + key


def _digest(part: str) -> bytes:
    return blake2b(part.encode("utf-8", "surrogatepass"), digest_size=8, person=b"mlguard label 1").digest()


def _meets(head: Any, wanted: list[bytes | None]) -> bool:
    if type(head) is not bytes or len(head) < _HEAD.size:
        return False
    labels = _HEAD.unpack_from(head)[1:4]
    return all(part is None or part == label for part, label in zip(wanted, labels, strict=True))


def _escaped(prefix: bytes) -> bytes:
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\^-" else bytes([byte]) for byte in prefix)
