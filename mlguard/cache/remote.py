"""A shared store as one cache sees it: values instead of bytes, and never a failure.

Whatever a store does, a call goes on: an outage, a damaged entry and a result that can't be written are misses,
counted, and said in the call's event. The methods are flows, so that threads and tasks share their text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from mlguard import clock
from mlguard.cache.codec import Codec, DecodeError, TooLong, Unencodable
from mlguard.cache.flow import Flow
from mlguard.cache.section import Cache
from mlguard.cache.stores import Front, Item, Label, StoreError, async_of, open_store, shown_url
from mlguard.context import Call

__all__ = ["Found", "Remote"]

_FRONT: Final = 1.0  # seconds: a busy key asks the store once a second, and a discard elsewhere is seen as soon


class Found(NamedTuple):
    """A result from a shared store."""

    value: Any
    fresh: float
    """Until when it counts as fresh, on `clock.now`; infinity: as long as it is there."""
    cost: float
    """Seconds it took to compute, wherever that was."""


class Remote:
    """The store of one cache's section.

    Args:
        section: Its settings: the store's URL or a store object, and its bounds.
        annotation: What the function returns, which says of what classes a value may be made.
    """

    def __init__(self, section: Cache, annotation: Any) -> None:
        store = section.store
        self.front = _FRONT
        """Seconds for which what was read or written is answered from memory, without asking the store."""
        if isinstance(store, str):
            if "front" in dict(parse_qsl(urlsplit(store).query, keep_blank_values=True)):
                self.front = 0.0  # unless it says how long, below
            opened: Any = open_store(
                store, max_entries=section.max_entries, max_bytes=clock.bytes_of(section.max_bytes)
            )
        else:
            opened = store
        if isinstance(opened, Front):  # this cache's own memory does the same without reading bytes again
            self.front, opened = opened.ttl, opened.store
        self.store = opened
        self._where = shown_url(store) if isinstance(store, str) else type(opened).__qualname__
        self.codec = Codec(annotation, largest=opened.largest, writable=section.on_hit == "copy")
        self.forget_counts()

    @property
    def where(self) -> str:
        """The store's URL without its password, or the class of a store object."""
        return self._where

    def forget_counts(self) -> None:
        self.errors: Counter[str] = Counter()
        self.undecodable: Counter[str] = Counter()
        self.not_encoded: Counter[str] = Counter()

    def get_many(self, this: Call | None, keys: Sequence[bytes], *, asynchronous: bool) -> Flow:
        """What is stored under each key: a `Found`, or None. None instead of a list where the store failed."""
        try:
            stored = yield self.operation("get_many", asynchronous), (keys,)
            if len(stored) != len(keys):
                raise StoreError(f"asked for {len(keys)} entries, it gave {len(stored)}")
        except Exception as error:
            self.failed(this, error)
            return None
        return [entry and self._read(this, key, entry) for key, entry in zip(keys, stored, strict=True)]

    def put_many(
        self, this: Call | None, results: Sequence[tuple[bytes, Any]], label: Label, *,
        ttl: float | None, fresh: float | None, cost: float, asynchronous: bool,
    ) -> Flow:  # fmt: skip
        """Stores results; those that can't be written are counted and left out."""
        items = []
        for key, value in results:
            try:
                payload = self.codec.encode(value, key, fresh=fresh, cost=max(0.0, cost))
            except TooLong:
                self.not_encoded["too_large"] += 1
            except Unencodable as error:
                self.not_encoded[f"unencodable {error}"] += 1
            except Exception:  # whatever a value of the user's does when it is taken apart
                self.not_encoded["encode_failed"] += 1
            else:
                items.append(Item(key, payload, ttl))
        if items:
            try:
                yield self.operation("put_many", asynchronous), (items, label)
            except Exception as error:
                self.failed(this, error)

    def lease(self, this: Call | None, key: bytes, seconds: float, *, asynchronous: bool) -> Flow:
        """A token; None: somebody else computes. Empty where the store can't say, so that this call computes."""
        try:
            return (yield self.operation("lease", asynchronous), (key, seconds))
        except Exception as error:
            self.failed(this, error)
            return b""

    def release(self, this: Call | None, key: bytes, token: bytes, *, asynchronous: bool) -> Flow:
        try:
            yield self.operation("release", asynchronous), (key, token)
        except Exception as error:
            self.failed(this, error)

    def failed(self, this: Call | None, error: Exception) -> None:
        reason = error.reason if isinstance(error, StoreError) else "failed"
        self.errors[reason] += 1
        if this is not None:
            this.tell(mlguard__cache__error=reason)

    def operation(self, name: str, asynchronous: bool) -> Any:
        """A method of the store, or of its twin for coroutines."""
        if not asynchronous:
            return getattr(self.store, name)
        return getattr(async_of(self.store), name)

    def stats(self) -> dict[str, Any]:
        return {"store_errors": dict(self.errors), "undecodable": dict(self.undecodable)}

    def _read(self, this: Call | None, key: bytes, entry: Any) -> Found | None:
        try:
            decoded = self.codec.decode(entry.payload, key)
        except DecodeError as error:
            reason = error.reason
        except Exception:  # a store of the user's that gave back something else than an entry
            reason = "foreign"
        else:
            left = float("inf") if decoded.fresh is None else decoded.fresh - entry.age
            if left <= float("inf"):  # an age that is no number says nothing
                return Found(decoded.value, clock.now() + left, decoded.cost)
            reason = "foreign"
        self.undecodable[reason] += 1
        if this is not None:
            this.tell(mlguard__cache__error=reason)
        return None
