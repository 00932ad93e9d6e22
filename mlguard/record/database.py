"""DuckDB over the lines of some files, locked: it reads these files, and nothing else in the world."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from mlguard.record.columns import COLUMNS, expression, literal, quoted
from mlguard.record.errors import RecordError
from mlguard.record.folder import PACKED

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["connect", "make_views"]

_LEAST: Final = (1, 4)
"""The first DuckDB that has all that is used here; tested with 1.4 and 2.0."""

_MEMORY: Final = 0.5  # the share of the free memory that a query may take before it goes to the disk

_READ: Final = (
    # One column of text: control characters can't stand in JSON, so that none of these is ever met.
    "read_csv([{files}], columns = {{'line': 'VARCHAR'}}, delim = '\x01', quote = '', escape = '', header = false, "
    "auto_detect = false, new_line = '\\n', strict_mode = false, ignore_errors = true, filename = true)"
)
_NONE: Final = "(SELECT '' AS line, '' AS filename WHERE false)"
_SHAPE: Final = (
    "starts_with(line, '{') AND (ends_with(line, '}') OR ends_with(line, '}\r'))"  # of packed files gzip says the rest
)
_WHOLE: Final = "starts_with(line, '{') AND json_valid(line)"
_CALLS: Final = """contains(line, '"mlguard.call_id"')"""


def connect(files: Mapping[Path, Path], scratch: Path, memory: int | None = None) -> DuckDBPyConnection:
    """A database with the view `lines`: every line of these files that is a JSON object, and its file.

    Args:
        files: At least one: the name under which it is read, and the one that it has for a person.
        scratch: An empty folder for what does not fit into memory.
        memory: Bytes of memory; None: half of what is free.
    """
    import duckdb

    if tuple(int(part) for part in duckdb.__version__.split(".")[:2]) < _LEAST:
        least = ".".join(map(str, _LEAST))
        raise RecordError(f"DuckDB {duckdb.__version__} is too old. Fix: pip install 'duckdb>={least}'.")
    free = int(psutil.virtual_memory().available * _MEMORY)
    memory = free if memory is None else min(free, memory)
    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "memory_limit": f"{max(memory, 64 << 20)}B",
            "temp_directory": str(scratch),
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = true")  # so that progress can be asked for
    connection.execute("SET enable_progress_bar_print = false")
    with contextlib.suppress(duckdb.CatalogException):
        connection.execute("SET python_enable_replacements = false")  # else SQL could name Python's variables
    allowed = ", ".join(literal(str(path)) for path in files)
    connection.execute(f"SET allowed_paths = [{allowed}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    named = ", ".join(f"{literal(str(name))}: {literal(str(path))}" for name, path in files.items())
    names_of = f"MAP {{{named}}}"
    for packed, names in ((True, ("packed_lines",)), (False, ("plain_lines", "plain_shapes"))):
        of_this_kind = ", ".join(literal(str(path)) for path in files if (path.suffix == PACKED) is packed)
        source = _READ.format(files=of_this_kind) if of_this_kind else _NONE
        for name in names:
            condition = _WHOLE if name == "plain_lines" else _SHAPE
            connection.execute(
                f"CREATE VIEW {name} AS SELECT line, {names_of}[filename] AS filename FROM {source} WHERE {condition}"  # noqa: S608 - paths are quoted
            )
    connection.execute("CREATE VIEW lines AS FROM packed_lines UNION ALL FROM plain_lines")
    return connection


def make_views(connection: DuckDBPyConnection, more: Mapping[str, tuple[str, str]]) -> None:
    """The views `calls` and `violations`.

    Args:
        connection: From `connect`.
        more: Columns beside `COLUMNS`: the key of the event and the type.
    """
    shown = [f"{expression(column.key, column.type)} AS {quoted(column.name)}" for column in COLUMNS]
    shown += [f"{expression(key, kind)} AS {quoted(name)}" for name, (key, kind) in more.items()]
    shown += [f"1 / {expression('mlguard.sample_rate', 'DOUBLE')} AS weight", "filename AS file", "line AS json"]
    columns = ", ".join(shown)
    connection.execute(f"CREATE OR REPLACE VIEW calls AS SELECT {columns} FROM lines WHERE {_CALLS}")  # noqa: S608 - keys and names are quoted
    connection.execute(
        "CREATE OR REPLACE VIEW violations AS "
        "SELECT time, function, policy, call_id, v.loc AS field, v.type AS type, v.msg AS message "
        "FROM (SELECT time, function, policy, call_id, unnest(violations) AS v FROM calls "
        """WHERE contains(json, '"mlguard.violations"'))"""
    )
