"""The file of a `SqliteStore`: where it lies, whether it is ours, how it is made and opened, and what its errors mean.

A file that is not ours is never written to. A broken one is neither repaired nor deleted: whoever runs the service may
want to know why it broke, and without it predictions are computed as if they had never been cached.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from typing import Final
from urllib.parse import quote

from mlguard.cache.stores.protocol import StoreError
from mlguard.cache.stores.urls import Address
from mlguard.errors import PolicyError

__all__ = ["SqliteFile"]

_APPLICATION: Final = 0x6D6C6743  # "mlgC"
_FORMAT: Final = 1
_MAGIC: Final = b"SQLite format 3\x00"
_PAGE: Final = 4096
_SLOW: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB,
                sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}  # fmt: skip
_SCHEMA: Final = (
    """
    CREATE TABLE entries (
        rowid INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, stored REAL NOT NULL, expires REAL, used REAL NOT NULL,
        function TEXT NOT NULL, model_version TEXT NOT NULL, tenant TEXT NOT NULL, payload BLOB NOT NULL
    )
    """,
    "CREATE INDEX entries_by_use ON entries (used)",
    "CREATE INDEX entries_by_end ON entries (expires) WHERE expires IS NOT NULL",
    """
    CREATE TABLE leases (
        key BLOB NOT NULL PRIMARY KEY, token BLOB NOT NULL, taken REAL NOT NULL, expires REAL NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE TABLE totals (entries INTEGER NOT NULL)",
    "INSERT INTO totals VALUES (0)",
    "CREATE TRIGGER entry_added AFTER INSERT ON entries BEGIN UPDATE totals SET entries = entries + 1; END",
    "CREATE TRIGGER entry_dropped AFTER DELETE ON entries BEGIN UPDATE totals SET entries = entries - 1; END",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_FORMAT}",
)


class SqliteFile:
    """One file.

    Args:
        address: Its URL.
        timeout: Seconds a statement waits for other writers.
        max_bytes: Bytes it may have.

    Raises:
        PolicyError: The URL names no file that could be ours.
    """

    def __init__(self, address: Address, timeout: float, max_bytes: int) -> None:
        self.where = address.shown
        self.path = _path_of(address)
        self.timeout = timeout
        self.max_bytes = max_bytes
        self._refuse_foreign()

    def identity(self) -> tuple[int, int]:
        """What tells the file from another of the same name."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return 0, 0
        return found.st_dev, found.st_ino

    def open(self) -> tuple[sqlite3.Connection, tuple[int, int]]:
        """A connection, and the identity of the file it is to. The file is made where it is not there.

        Raises:
            sqlite3.Error, OSError, StoreError: It can't be opened, or is not ours.
        """
        # SQLite would make it readable for everybody; results are nobody else's business.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        identity = self.identity()
        # Autocommit: transactions are begun where they are needed. Never used by two threads at once: see the pool.
        connection = sqlite3.connect(self.path, timeout=self.timeout, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection, identity

    def failure_of(self, error: BaseException) -> tuple[StoreError, bool]:
        """An error in our words, and whether the next call would have to wait for it as well."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            said = f"another process kept writing for {self.timeout * 1000:.0f}ms"
            return StoreError(f"{self.where}: {said}", "busy"), True
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or isinstance(error, UnicodeDecodeError):
            said = f"the file is damaged ({error}). Results are computed without it. Fix: delete {self.path}*, "
            said += "also while the service runs; or keep it, to find out why, under another name"
            return StoreError(f"{self.where}: {said}", "corrupt"), True
        if code == sqlite3.SQLITE_FULL:
            return StoreError(f"{self.where}: the disk is full, or the file as large as it may be", "full"), False
        if code == sqlite3.SQLITE_READONLY:
            return StoreError(f"{self.where}: the file is read-only here ({error})", "refused"), False
        return StoreError(f"{self.where}: {error}", "failed"), code in _SLOW or isinstance(error, OSError)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        run = connection.execute
        run("PRAGMA trusted_schema = OFF")
        if not self._is_ours(connection):
            run("BEGIN EXCLUSIVE")
            if not self._is_ours(connection):  # another process may have been faster
                for statement in _SCHEMA:
                    run(statement)
            run("COMMIT")
        if run("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise StoreError(
                f"{self.where}: SQLite can't keep a write-ahead log here. Fix: put the file on a local disk.", "refused"
            )
        run("PRAGMA synchronous = NORMAL")  # a power cut may lose the last results, and never the file
        journal = max(16, min(1000, self.max_bytes // 20 // _PAGE))
        run(f"PRAGMA wal_autocheckpoint = {journal}")
        run(f"PRAGMA journal_size_limit = {journal * _PAGE}")
        run(f"PRAGMA max_page_count = {self.max_bytes * 21 // 20 // _PAGE}")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, self.max_bytes + (1 << 20))

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """False where the file is empty.

        Raises:
            StoreError: It is another program's, or of another format.
        """
        application, version, tables = connection.execute(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master) "
            "FROM pragma_application_id, pragma_user_version"  # in one statement: another process may be making it
        ).fetchone()
        if (application, version) == (_APPLICATION, _FORMAT):
            return True
        if application == 0 and not tables:
            return False
        raise StoreError(_foreign(self.where, application, version), "refused")

    def _refuse_foreign(self) -> None:
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise PolicyError(
                f"cache.store = {self.where!r}: the folder {folder} does not exist. Fix: make it; or, where another "
                f"one was meant: three slashes are for a path from the working directory, four for one from the root."
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PolicyError(
                f"cache.store = {self.where!r}: this process may not write to {folder}, where SQLite needs files "
                f"beside {os.path.basename(self.path)}. Fix: name a folder of its own."
            )
        try:
            mode = os.stat(self.path).st_mode
            with open(self.path, "rb") as file:
                head = file.read(100)
        except FileNotFoundError:
            return
        except OSError as error:
            raise PolicyError(
                f"cache.store = {self.where!r}: {self.path} can't be read ({error.strerror}). Fix: name a file that "
                f"this process may read and write, or one that doesn't exist yet."
            ) from None
        if mode & stat.S_IWOTH:
            raise PolicyError(
                f"cache.store = {self.where!r}: everybody on this machine may write to {self.path}, and so decide what "
                f"is predicted. Fix: chmod o-w {self.path}"
            )
        if head.startswith(_MAGIC) and len(head) == 100:
            version, application = int.from_bytes(head[60:64], "big"), int.from_bytes(head[68:72], "big")
            if application == _APPLICATION and version == _FORMAT:
                return
            if application != 0 or version != 0:
                raise PolicyError(_foreign(self.where, application, version))
            self._refuse_tables()
        elif head.strip(b"\0"):  # zeros are what a power cut leaves behind: that is found, and told, when it is opened
            raise PolicyError(
                f"cache.store = {self.where!r}: {self.path} exists and is no SQLite file. Fix: name a file of its own."
            )

    def _refuse_tables(self) -> None:
        try:
            connection = sqlite3.connect(f"file:{quote(self.path)}?mode=ro", uri=True, timeout=self.timeout)
        except sqlite3.Error:
            return
        try:
            self._is_ours(connection)
        except StoreError as error:
            raise PolicyError(str(error)) from None
        except sqlite3.Error:
            pass  # found, and told, when it is used
        finally:
            connection.close()


def _foreign(where: str, application: int, version: int) -> str:
    if application == _APPLICATION:
        return (
            f"cache.store = {where!r}: the file is of format {version}, and this version of mlguard writes {_FORMAT}. "
            f"Fix: give each version a file of its own, or delete it: it holds cached results only."
        )
    return f"cache.store = {where!r}: the file is another program's database. Fix: name a file of its own."


def _path_of(address: Address) -> str:
    if address.host or address.user or address.port is not None:
        raise PolicyError(
            f"cache.store = {address.shown!r}: two slashes begin a host, and a file has none. Fix: write three slashes "
            f"before a path from the working directory, four before one from the root."
        )
    path = address.path.removeprefix("/")
    if not path or path == ":memory:" or "\0" in path:
        raise PolicyError(f"cache.store = {address.shown!r} names no file. Fix: write sqlite:///path/to/file.db.")
    return os.path.abspath(os.path.expanduser(path))
