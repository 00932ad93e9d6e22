"""Entries in one SQLite file, for many processes of one machine.

SQLite in WAL mode: readers never wait, writers wait for each other at most `timeout`, and a process killed at any
moment leaves a whole file behind. A connection is used by one thread at a time and never by two processes; how a file
is made, checked and kept private is in `sqlite_file.py`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from mlguard.cache.stores.circuit import Circuit
from mlguard.cache.stores.protocol import AsyncStore, Item, Label, Stored, StoreInfo
from mlguard.cache.stores.sqlite_file import SqliteFile
from mlguard.cache.stores.sqlite_pool import Connections
from mlguard.cache.stores.threads import InThreads
from mlguard.cache.stores.urls import duration, parsed
from mlguard.errors import PolicyError

__all__ = ["OPTIONS", "SqliteStore"]

_Result = TypeVar("_Result")
_TOUCHED: Final = 2000  # entries whose use is noted with the next write, at most
_AGAIN: Final = 1.0  # seconds after which a use is worth noting again
_SWEPT: Final = 200  # expired entries dropped with one write
_LEAST: Final = 256 << 10
_AT_ONCE: Final = 500  # keys of one SELECT
_CLOCK_BACK: Final = 1.0  # seconds: an entry from further ahead was made before somebody set the clock back

OPTIONS: Final[dict[str, Callable[[str], Any]]] = {"timeout": duration}
"""The options of the URL, and how each is read."""


class SqliteStore:
    """Entries in a file.

    Args:
        url: ``sqlite:///relative/path.db`` or ``sqlite:////absolute/path.db``, and the option `timeout` (100ms: what a
            call may wait for other writers).
        max_entries: Entries kept at most; the ones not used for longest go first.
        max_bytes: Bytes the file may have; its journal beside it comes to a twentieth of that, or 64KiB.

    Raises:
        PolicyError: The URL can't be honoured, or the file is another program's.
    """

    def __init__(self, url: str, *, max_entries: int, max_bytes: int) -> None:
        address = parsed(url, OPTIONS)
        self.where = address.shown
        self.timeout: float = address.options.get("timeout", 0.1)
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        if max_bytes < _LEAST:
            raise PolicyError(
                f"cache.max_bytes = {max_bytes} is too little for a file ({self.where}), which has tables of its own. "
                f'Fix: write at least "256KiB".'
            )
        self.largest = max_bytes - _LEAST // 2
        self.file = SqliteFile(address, self.timeout, max_bytes)
        self._connections = Connections(self.file)
        self._reading, self._writing = Circuit(self.where), Circuit(self.where)
        self._url = url
        self._twin: InThreads | None = None
        self._touched: dict[int, float] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[Stored | None]:
        return self._run(lambda connection: self._read(connection, keys), self._reading) if keys else []

    def put_many(self, items: Sequence[Item], label: Label) -> None:
        if items:
            self._run(lambda connection: self._write(connection, items, label), self._writing)

    def lease(self, key: bytes, seconds: float) -> bytes | None:
        token = os.urandom(16)
        return self._run(lambda connection: _take_lease(connection, key, token, seconds), self._writing)

    def release(self, key: bytes, token: bytes) -> None:
        statement = "DELETE FROM leases WHERE key = ? AND token = ?"
        self._run(lambda connection: connection.execute(statement, (key, token)), self._writing)

    def discard(
        self,
        *,
        key: bytes | None = None,
        function: str | None = None,
        model_version: str | None = None,
        tenant: str | None = None,
    ) -> int:
        labels = {"function": function, "model_version": model_version, "tenant": tenant}
        given: dict[str, Any] = {name: _text(value) for name, value in labels.items() if value is not None}
        given |= {} if key is None else {"key": key}
        where = " AND ".join(f"{name} = ?" for name in given) or "1"
        statement = f"DELETE FROM entries WHERE {where}"  # noqa: S608 - of the four names above
        return self._run(lambda connection: connection.execute(statement, tuple(given.values())).rowcount, None)

    def info(self) -> StoreInfo:
        return StoreInfo(self.where, *self._run(lambda connection: (_entries(connection), _bytes(connection)), None))

    def close(self) -> None:
        self._connections.close_idle()
        if self._twin is not None:
            self._twin.close()

    def asynchronous(self) -> AsyncStore:
        if self._twin is None:
            self._twin = InThreads(self)
        return self._twin

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._url, self.max_entries, self.max_bytes)

    def __repr__(self) -> str:
        return f"<SqliteStore {self.where}>"

    def _run(self, work: Callable[[sqlite3.Connection], _Result], circuit: Circuit | None) -> _Result:
        entered = None if circuit is None else circuit.enter()
        try:
            with self._connections.one() as connection:
                result = work(connection)
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            failure, slow = self.file.failure_of(error)
            if slow and circuit is not None and entered is not None:
                circuit.failed(str(error), entered)
            raise failure from None
        if circuit is not None:
            circuit.worked()
        return result

    def _read(self, connection: sqlite3.Connection, keys: Sequence[bytes]) -> list[Stored | None]:
        now = time.time()
        found: dict[bytes, Stored] = {}
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            rows = connection.execute(
                f"SELECT key, rowid, stored, expires, used, payload FROM entries WHERE key IN ({marks})",  # noqa: S608
                tuple(some),
            )
            for key, row, stored, expires, used, payload in rows:
                if type(payload) is not bytes or not type(stored) is type(used) is float:
                    continue  # of a file that somebody else has written to
                if stored > now + _CLOCK_BACK or (expires is not None and expires <= now):
                    continue
                if now - used > _AGAIN and len(self._touched) < _TOUCHED:
                    self._touched[row] = now
                found[key] = Stored(payload, max(0.0, now - stored), None if expires is None else expires - now)
        return [found.get(key) for key in keys]

    def _write(self, connection: sqlite3.Connection, items: Sequence[Item], label: Label) -> None:
        now = time.time()
        touched, self._touched = self._touched, {}
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "DELETE FROM entries WHERE rowid IN (SELECT rowid FROM entries WHERE expires <= ? LIMIT ?)", (now, _SWEPT)
        )
        if touched:
            rows = [(used, row) for row, used in touched.items()]
            connection.executemany("UPDATE entries SET used = ? WHERE rowid = ?", rows)
        for item in items:
            if len(item.payload) > self.largest:
                continue
            expires = None if item.ttl is None else now + item.ttl
            self._make_room(connection, 1, len(item.payload) + 1024)
            connection.execute(_PUT, (item.key, now, expires, now, *map(_text, label), item.payload))
        self._make_room(connection, 0, 0)
        connection.execute("COMMIT")

    def _make_room(self, connection: sqlite3.Connection, entries: int, size: int) -> None:
        """Drops what was not used for longest, a little more than needed, so that not every write has to."""
        while True:
            excess = _entries(connection) + entries - self.max_entries
            if excess <= 0 and _bytes(connection) + size <= self.max_bytes:
                return
            share = _entries(connection) // 100
            dropped = connection.execute(_DROP_OLDEST, (max(excess, 1) + share,)).rowcount
            if not dropped:
                return


def _again(url: str, max_entries: int, max_bytes: int) -> SqliteStore:
    return SqliteStore(url, max_entries=max_entries, max_bytes=max_bytes)


def _text(part: str) -> str:
    """A part of a label, where it has half a surrogate pair in a form that SQLite takes."""
    return part.encode("utf-8", "backslashreplace").decode()


def _take_lease(connection: sqlite3.Connection, key: bytes, token: bytes, seconds: float) -> bytes | None:
    now = time.time()
    connection.execute("BEGIN IMMEDIATE")
    # One that was taken in the future was taken before somebody set the clock back.
    connection.execute("DELETE FROM leases WHERE expires <= ? OR taken > ?", (now, now + _CLOCK_BACK))
    statement = "INSERT INTO leases (key, token, taken, expires) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO NOTHING"
    taken = connection.execute(statement, (key, token, now, now + seconds)).rowcount
    connection.execute("COMMIT")
    return token if taken else None


def _entries(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT entries FROM totals").fetchone()[0]  # type: ignore[no-any-return]


def _bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file in use; free pages are used again before it grows."""
    pages, free, size = (
        connection.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size  # type: ignore[no-any-return]


_PUT: Final = """
    INSERT INTO entries (key, stored, expires, used, function, model_version, tenant, payload)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET stored = excluded.stored, expires = excluded.expires, used = excluded.used,
    function = excluded.function, model_version = excluded.model_version, tenant = excluded.tenant,
    payload = excluded.payload
"""
_DROP_OLDEST: Final = "DELETE FROM entries WHERE rowid IN (SELECT rowid FROM entries ORDER BY used LIMIT ?)"
