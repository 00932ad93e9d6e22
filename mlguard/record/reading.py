"""The record as SQL sees it: `open_calls` gives a view `calls`, one row a call, read by DuckDB from the lines.

Lines are read as text and picked apart only where a query asks, so that a query over millions of them costs what it
looks at. A query can read the files it was given and nothing else: one statement, that selects, in a database that
lives in memory, without access to other files, the network or extensions.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from mlguard.record.columns import COLUMNS, by_key, literal, pointer, quoted, spellings
from mlguard.record.damage import Damage, damage_of, is_whole, salvaged
from mlguard.record.database import connect, make_views
from mlguard.record.errors import RecordError, first_lines, place_of
from mlguard.record.folder import PACKED
from mlguard.record.holding import Held
from mlguard.record.sources import files_of
from mlguard.record.watching import Progress, watched
from mlguard.section import nearest

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["Calls", "Progress", "Result", "open_calls"]

_TRIES: Final = 100  # more than names are learnt in a query, or files come and go before one can be opened
_TOO_FAST: Final = "the files change faster than they can be read. Fix: try again, or copy the folder first."
_AT_ONCE: Final = 1_000
_EXACT: Final = 256 << 20
_SAMPLE: Final = 200  # lines that are looked at for the type of a key
_UNKNOWN: Final = re.compile(r'[Cc]olumn (?:named )?"(.+?)"(?: not found| in EXCLUDE list not found|\n|$)')
_NO_TABLE: Final = re.compile(r'Referenced table "(.+?)" not found')
_NO_NUMBERS: Final = frozenset({'"nan"', '"inf"', '"-inf"'})  # as an event says them
_NUMBERS: Final = frozenset({"UBIGINT", "BIGINT", "HUGEINT", "UHUGEINT", "DOUBLE"})


def open_calls(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    progress: Progress | None = None,
    memory: int | None = None,
) -> Calls:
    """A record, ready for SQL.

    Args:
        paths: Folders that ``Monitor(record=...)`` names, files of JSON lines, or patterns; one, or several.
        since: Files that ended before are not read. Which calls of the others count, SQL says.
        until: Files that began later are not read.
        progress: Told how far a query is, in the thread that asked for it.
        memory: Bytes that a query takes before it goes to the disk, half of the free memory at most; None: that much.

    Raises:
        RecordError: A path leads to nothing.
        ModuleNotFoundError: DuckDB is not installed (the extra ``query``).
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    return Calls(lambda: files_of(given, since=since, until=until), progress, memory)


class Result(NamedTuple):
    """What a query found."""

    columns: list[str]
    types: list[str]
    rows: Iterator[tuple[Any, ...]]
    """Fetched as they are asked for, once, and before the next query is run."""


class Calls:
    """The calls of a record; `open_calls` makes one. Use it in one thread, and close it, or use it in a ``with``.

    Attributes:
        files: Those that are read.
    """

    def __init__(
        self, look: Callable[[], list[Path]], progress: Progress | None = None, memory: int | None = None
    ) -> None:
        self._look = look
        self._progress = progress
        self._memory = memory
        self._salvaged: dict[Path, tuple[Path, Damage]] = {}
        self._more: dict[str, tuple[str, str]] = {}
        self._queries = 0
        self._folder = Path(tempfile.mkdtemp(prefix="mlguard-query-"))
        self._tidy_up = weakref.finalize(self, shutil.rmtree, self._folder, True)  # also where nobody closes this
        self._held = Held((), self._folder)
        self.files: list[Path] = []
        try:
            self._connection = self._connected()
        except BaseException:
            self._tidy_up()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives back the database and what it kept on the disk meanwhile."""
        self._connection.close()
        self._tidy_up()

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> Result:
        """Runs one SELECT over the view `calls`, such as ``SELECT policy, count(*) FROM calls GROUP BY ALL``.

        The columns are those of `COLUMNS`, and `weight`, `file` and `json`. Any other key of the events is one as soon
        as a query names it, in double quotes where it has dots. Times are UTC. The view `violations` has a row for each
        violation: time, function, policy, call_id, field, type, message.

        Args:
            query: One statement.
            parameters: Values for its question marks.

        Raises:
            RecordError: The query is no single SELECT, or wrong, or a file can't be read.
        """
        self._refuse_other_than_select(query)
        return self._asked(query, parameters)

    def keep(self, name: str, query: str, parameters: Sequence[Any] = ()) -> None:
        """Keeps what a SELECT finds as a table, for the report, which asks many things: lines are read once.

        It is there for `sql` until this is closed, or a file turns out to be broken or gone while another query reads.

        Args:
            name: What to call the table.
            query: One statement.
            parameters: Values for its question marks.

        Raises:
            RecordError: As `sql` does.
        """
        self._refuse_other_than_select(query)
        self._asked(f"CREATE OR REPLACE TABLE {quoted(name)} AS {query}", parameters)

    def _asked(self, query: str, parameters: Sequence[Any]) -> Result:
        import duckdb

        for _ in range(_TRIES):
            try:
                return self._run(query, parameters)
            except duckdb.BinderException as error:
                name = _UNKNOWN.search(str(error))
                if name is None or not self._learn(name[1]):
                    raise RecordError(self._explained(error, name, query)) from None
            except duckdb.Error as error:
                raise RecordError(first_lines(error)) from None
        raise RecordError("the query names too many keys. Fix: take them from the column json.")

    def damage(self) -> Damage:
        """Lines that are no JSON objects, such as the torn last line of a killed process; no query shows them.

        Looks through files that are not packed, and tells of what was broken in packed ones that a query has read. In
        more than 256 MiB of files only how a line begins and ends is looked at, which finds what was torn; what is
        broken in its midst is left out of every query all the same.
        """
        plain = [path for path in self.files if path.suffix != PACKED]
        found = Damage(0, None)
        if plain:
            view = "plain_lines" if _size(plain) <= _EXACT else "plain_shapes"
            counts = self._run(f"SELECT filename, count(*) FROM {view} GROUP BY filename")  # noqa: S608 - ours
            found = damage_of(plain, dict(counts.rows))
        for _, one in self._salvaged.values():
            found = found.plus(one)
        return found

    def _connected(self) -> DuckDBPyConnection:
        """A database over the files that are there now; while a service runs, they come and go."""
        import duckdb

        scratch, names = self._folder / "scratch", self._folder / "names"
        scratch.mkdir(exist_ok=True)
        names.mkdir(exist_ok=True)
        for _ in range(_TRIES):
            self._held.close()
            self.files = self._look()
            files = [self._salvaged[path][0] if path in self._salvaged else path for path in self.files]
            try:
                self._held = Held(files, names)
                connection = connect(dict(zip(self._held.names, self.files, strict=True)), scratch, self._memory)
                make_views(connection, self._more)
            except FileNotFoundError:
                continue
            except duckdb.Error as error:
                if all(path.exists() for path in self.files):
                    raise RecordError(f"{first_lines(error)} Fix: check the file and its permissions.") from None
            else:
                return connection
        raise RecordError(_TOO_FAST)

    def _refuse_other_than_select(self, query: str) -> None:
        import duckdb

        try:
            statements = self._connection.extract_statements(query)
        except duckdb.Error as error:
            raise RecordError(first_lines(error)) from None
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise RecordError("a record can only be read: give one statement, and let it be a SELECT.")

    def _run(self, query: str, parameters: Sequence[Any] = ()) -> Result:
        """Runs a query; again where a file went in the meantime, or turned out to be broken."""
        import duckdb

        for _ in range(_TRIES):
            try:
                return self._once(query, parameters)
            except duckdb.Error as error:
                if not isinstance(error, duckdb.IOException) and all(path.exists() for path in self.files):
                    raise
                self._mend(error)
        raise RecordError(_TOO_FAST)

    def _once(self, query: str, parameters: Sequence[Any]) -> Result:
        import duckdb

        connection = self._connection  # a cursor would be another session, without its settings
        self._queries += 1
        this = self._queries

        def work() -> list[tuple[Any, ...]]:
            connection.execute(query, parameters)
            return connection.fetchmany(_AT_ONCE)  # what is not sorted or counted is read while it is fetched

        first = watched(connection, work, self._progress)
        described = connection.description or ()

        def rows() -> Iterator[tuple[Any, ...]]:
            some = first
            while some:
                yield from some
                if self._queries != this:
                    raise RecordError("these rows are gone: another query was run before they were fetched.")
                try:
                    some = connection.fetchmany(_AT_ONCE)
                except duckdb.Error as error:
                    raise RecordError(f"{first_lines(error)} What came before it is not all.") from None

        return Result([one[0] for one in described], [str(one[1]) for one in described], rows())

    def _learn(self, name: str) -> bool:
        """Makes a column of a key that a query names; False where no event has it, or it is one already."""
        if name in self._more or any(column.name == name for column in COLUMNS):
            return False
        kind = by_key[name].type if name in by_key else self._type_of(name)
        if kind is None:
            return False
        self._more[name] = (name, kind)
        make_views(self._connection, self._more)
        return True

    def _type_of(self, key: str) -> str | None:
        """By the first lines that have the key: what a key means does not change from line to line."""
        having = " OR ".join(f"contains(line, {literal(spelling)})" for spelling in spellings(key))
        value = f"TRY(line->{literal(pointer(key))})"
        some = f"SELECT {value} AS value FROM lines WHERE ({having}) AND {value} IS NOT NULL LIMIT {_SAMPLE}"  # noqa: S608 - the key is quoted
        kinds: set[str] = set()
        for kind, text in self._run(f"SELECT DISTINCT json_type(value), value::VARCHAR FROM ({some})").rows:  # noqa: S608
            kinds.add("DOUBLE" if kind in _NUMBERS or text in _NO_NUMBERS else str(kind))
        kinds -= {"NULL"}
        if not kinds:
            return None
        return kinds.pop() if kinds in ({"DOUBLE"}, {"VARCHAR"}, {"BOOLEAN"}) else "JSON"

    def _mend(self, error: Exception) -> None:
        """After a file could not be read: it is gone, and another has its lines, or it is broken."""
        if all(path.exists() for path in self.files):
            packed = [path for path in self.files if path.suffix == PACKED and path not in self._salvaged]
            broken = [path for path in packed if not is_whole(path)]
            if not broken:
                raise RecordError(f"{first_lines(error)} Fix: check the file and its permissions.") from None
            for path in broken:
                into = self._folder / f"{len(self._salvaged)}-{path.name.removesuffix(PACKED)}"
                self._salvaged[path] = (into, salvaged(path, into))
        self._connection.close()
        self._connection = self._connected()

    def _explained(self, error: Exception, name: re.Match[str] | None, query: str) -> str:
        known = [*(column.name for column in COLUMNS), "weight", "file", "json"]
        table = _NO_TABLE.search(str(error))
        dotted = re.search(rf"\b{re.escape(table[1])}(\.\w+)+", query) if table else None
        if dotted:
            return f'{first_lines(error)}\nFix: write a key with dots in double quotes: "{dotted[0]}"'
        if name is None:
            return f"{first_lines(error)}\nColumns: {', '.join(known)}"
        return (
            f'no column and no key of an event is called "{name[1]}".{nearest(name[1], known)}\n{place_of(error)}'
            f"Columns: {', '.join(known)}. Any key of an event is one as well, in double quotes: "
            '"mlguard.input.age".'
        )


def _size(files: Iterable[Path]) -> int:
    total = 0
    for path in files:
        with suppress(OSError):
            total += path.stat().st_size
    return total
