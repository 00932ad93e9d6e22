"""`mlguard query`: which calls failed, and why, out of the record that `Monitor(record=...)` keeps.

A thin reading of `mlguard.record`, which needs the extra `query` (DuckDB).
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from itertools import islice
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from mlguard import clock
from mlguard.cli import absent
from mlguard.cli.progress import Progress
from mlguard.cli.recorded import as_json, as_text, details, event_line, events_table, rows_table, safe, safe_json
from mlguard.cli.times import time_of
from mlguard.outcome import Disposition
from mlguard.record.columns import COLUMNS
from mlguard.record.damage import Damage
from mlguard.record.errors import RecordError
from mlguard.record.filters import Filters
from mlguard.record.reading import Result, open_calls
from mlguard.record.search import newest

__all__ = ["query"]

FOUND, NOTHING, FAILED = 0, 1, 2
"""What the command ends with, as grep does."""

_MOST_ROWS: Final = 1_000
"""Rows of a query of one's own that are printed as a table."""


_NARROWEST: Final = 8
"""Characters that a column of a table should have; with less, a row is shown a column a line."""

_LOOK_EVERY: Final = 1.0
"""Seconds between two looks of `--follow`."""

_WRITTEN_WITHIN: Final = timedelta(seconds=30)
"""What `--follow` looks back: calls of a busy process are written some seconds after they ended."""

_MOST_FOLLOWED: Final = 10_000
"""Calls of one look that `--follow` shows, the newest; more of them nobody reads."""


class Form(Enum):
    """How what was found is written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class Outcome(StrEnum):
    """`event.outcome`, as typer wants it."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNKNOWN = "unknown"


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return clock.seconds(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}.") from None


def _disposition(text: str | None) -> str | None:
    if text is not None and not any(known.startswith(text) for known in Disposition):
        raise typer.BadParameter(f"{text!r} is none of {', '.join(Disposition)}, nor the beginning of one.")
    return text


def query(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="The folder of Monitor(record=...), or files of JSON lines.")
    ],
    policy: Annotated[str | None, typer.Option(help="The policy's name.")] = None,
    function: Annotated[str | None, typer.Option(help="The function: module and name, or the last part.")] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="How it ended.")] = None,
    disposition: Annotated[
        str | None, typer.Option(help="The same in detail, or the beginning: rejected.", callback=_disposition)
    ] = None,
    error: Annotated[str | None, typer.Option(help="The exception's class, with its module or without.")] = None,
    since: Annotated[str | None, typer.Option(help='How long ago ("1h"), or a time in UTC.')] = None,
    until: Annotated[str | None, typer.Option(help="The same, for the end.")] = None,
    field: Annotated[str | None, typer.Option(help="What broke its schema, or what lies above it.")] = None,
    slow: Annotated[str | None, typer.Option(help='Calls that took at least so long: "500ms".')] = None,
    call_id: Annotated[str | None, typer.Option(help="One call and those inside it, with everything known.")] = None,
    trace_id: Annotated[str | None, typer.Option(help="The calls of one trace.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many are shown, the newest first.")] = 20,
    sql: Annotated[str | None, typer.Option(help='A SELECT over the view "calls" instead.')] = None,
    count: Annotated[bool, typer.Option("--count", help="Only how many there are.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show calls as they come, until Ctrl-C.")] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")] = False,
    csv_lines: Annotated[bool, typer.Option("--csv", help="Comma-separated, for spreadsheets.")] = False,
) -> None:
    """Find calls in the record, the newest first.

    Ends with 0 where it found some, with 1 where there are none, and with 2 for an error.
    """
    filters = Filters(
        policy=policy,
        function=function,
        outcome=None if outcome is None else outcome.value,
        disposition=disposition,
        error=error,
        field=field,
        slow=_seconds(slow),
        call_id=call_id,
        trace_id=trace_id,
        since=time_of(since),
        until=time_of(until),
    )
    if json_lines and csv_lines:
        raise typer.BadParameter("--json or --csv, not both.")
    if sql is not None and (filters.given() or count):
        raise typer.BadParameter("--sql says everything itself: put conditions and counts into it.")
    if follow and (sql is not None or count or csv_lines or until is not None):
        raise typer.BadParameter("--follow shows calls as they come: without --sql, --count, --csv and --until.")
    form = Form.JSON if json_lines else Form.CSV if csv_lines else Form.TABLE
    with _errors_end_it(), Progress() as progress:
        if sql is not None:
            found = _own(paths, sql, form, progress)
        elif follow:
            found = _followed(paths, filters, form)
        elif count:
            found = _counted(paths, filters, form, progress)
        else:
            found = _listed(paths, filters, limit, form, progress)
    raise typer.Exit(FOUND if found else NOTHING)


def _listed(paths: list[str], filters: Filters, limit: int, form: Form, progress: Progress) -> bool:
    """Calls, as they were recorded or as a table; one that was asked for by its id with everything."""
    found = newest(paths, filters, limit, progress)
    progress.close()
    events = [json.loads(line) for line in found.lines]
    if form is Form.JSON:
        for line in found.lines:
            typer.echo(safe_json(line))
    elif form is Form.CSV:
        _write_csv(
            [column.name for column in COLUMNS],
            ([as_text(event.get(column.key)) for column in COLUMNS] for event in events),
        )
    elif filters.call_id is not None:
        for event in events:
            _console().print(details(event.items()))
            typer.echo()
    elif events:
        console = _console()
        console.print(events_table(events, console.width))
        if len(events) == limit:
            typer.echo(f"The newest {limit:,}; --limit shows more, --count how many there are.", err=True)
    _warn(found.damage)
    if not events:
        _say_nothing_found(paths, filters, progress)
    return bool(events)


def _followed(paths: list[str], filters: Filters, form: Form) -> bool:
    """Calls that end from now on, or from `--since` on, the oldest first."""
    since = filters.since or datetime.now(UTC)
    shown: dict[str, None] = {}
    with suppress(KeyboardInterrupt):
        while True:
            asked = datetime.now(UTC)
            for line in reversed(newest(paths, replace(filters, since=since), _MOST_FOLLOWED).lines):
                event = json.loads(line)
                if (call := str(event.get("mlguard.call_id"))) not in shown:
                    shown[call] = None
                    typer.echo(safe_json(line) if form is Form.JSON else event_line(event))
            since = max(since, asked - _WRITTEN_WITHIN)
            for call in list(shown)[:-_MOST_FOLLOWED]:
                del shown[call]
            clock.sleep(_LOOK_EVERY)
    return bool(shown)


def _counted(paths: list[str], filters: Filters, form: Form, progress: Progress) -> bool:
    condition, parameters = filters.where()
    with open_calls(paths, since=filters.since, until=filters.until, progress=progress) as calls:
        result = calls.sql(f"SELECT count(*) AS calls FROM calls WHERE {condition}", parameters)  # noqa: S608 - the conditions are ours, their values parameters
        ((number,),) = result.rows
        damage = calls.damage()
    progress.close()
    if form is Form.TABLE:
        typer.echo(f"{number}")
    else:
        _print_rows(Result(result.columns, result.types, iter([(number,)])), form)
    _warn(damage)
    return bool(number)


def _own(paths: list[str], sql: str, form: Form, progress: Progress) -> bool:
    """Rows of a SELECT that the user wrote."""
    with open_calls(paths, progress=progress) as calls:
        result = calls.sql(sql)
        progress.close()
        rows = _print_rows(result, form)
        _warn(calls.damage())
    return rows > 0


def _print_rows(result: Result, form: Form) -> int:
    """Prints rows; returns how many."""
    if form is Form.TABLE:
        rows = list(islice(result.rows, _MOST_ROWS + 1))
        console = _console()
        if len(result.columns) * _NARROWEST > console.width:
            for row in rows[:_MOST_ROWS]:
                console.print(details(zip(result.columns, row, strict=True)))
                typer.echo()
        elif rows:
            console.print(rows_table(result.columns, rows[:_MOST_ROWS]))
        if len(rows) > _MOST_ROWS:
            typer.echo(f"The first {_MOST_ROWS:,} rows; --csv and --json print all.", err=True)
        elif not rows:
            typer.echo("mlguard: the query found no rows.", err=True)
        return len(rows)
    number = 0

    def counted() -> Iterator[tuple[Any, ...]]:
        nonlocal number
        for row in result.rows:
            number += 1
            yield row

    if form is Form.JSON:
        for row in counted():
            typer.echo(as_json(result.columns, row))
    else:
        _write_csv(result.columns, ([as_text(value) for value in row] for row in counted()))
    return number


def _write_csv(columns: list[str], rows: Iterable[list[str]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([safe(name) for name in columns])
    writer.writerows(rows)


def _say_nothing_found(paths: list[str], filters: Filters, progress: Progress) -> None:
    """What was searched, and what there is instead."""
    named = [name for name in ("policy", "function", "outcome", "disposition", "error") if name in filters.given()]
    there = "".join(f", (list(DISTINCT {name}) FILTER ({name} IS NOT NULL))[:10]" for name in named)
    with open_calls(paths, progress=progress) as calls:
        result = calls.sql(f"SELECT count(*), min(time), max(time){there} FROM calls")  # noqa: S608 - names are ours
        (number, first, last, *known), *_ = result.rows
        files = len(calls.files)
    progress.close()
    conditions = ", ".join(f"{name} = {_condition(value)}" for name, value in filters.given().items())
    span = f" from {_condition(first)} to {_condition(last)} UTC" if first else ""
    typer.echo(
        f"mlguard: no call {'has ' + conditions if conditions else 'is there'}. "
        f"Searched: {number:,} calls in {files} {'file' if files == 1 else 'files'} of {', '.join(paths)}{span}.",
        err=True,
    )
    for name, values in zip(named, known, strict=True):
        typer.echo(
            f"  {name} is one of: {', '.join(safe(value) for value in sorted(values or [])) or 'none'}", err=True
        )


def _condition(value: object) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else safe(str(value))


def _warn(damage: Damage) -> None:
    if damage.lines:
        lines = "line is" if damage.lines == 1 else "lines are"
        typer.echo(
            f"mlguard: {damage.lines:,} {lines} damaged and left out, the first at {safe(str(damage.first))}.", err=True
        )


def _console() -> Console:
    return Console(highlight=False, soft_wrap=False)


@contextmanager
def _errors_end_it() -> Iterator[None]:
    try:
        yield
    except RecordError as error:
        typer.echo(f"mlguard: {safe(str(error), keep=chr(10))}", err=True)
        raise typer.Exit(FAILED) from None
    except ModuleNotFoundError as missing:
        typer.echo(absent("mlguard query", missing, "query"), err=True)
        raise typer.Exit(FAILED) from None
