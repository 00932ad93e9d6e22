"""Calls of a record, and rows of a query, as a terminal or another program reads them.

What a record holds was said by callers and exceptions: nothing of it may move a cursor, colour a line or turn its
direction, so that every text goes through `safe`.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mlguard import clock

__all__ = ["as_json", "as_text", "details", "event_line", "events_table", "rows_table", "safe", "safe_json"]

_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_LONGEST: Final = 300  # characters of a cell
_WIDE: Final = 120
_FLAGS: Final = ("degraded", "late", "slow")


def safe(text: str, keep: str = "") -> str:
    """A text without control characters and marks of direction, which are written as escapes.

    Args:
        text: Of anybody's.
        keep: Characters that stay all the same, such as a newline.
    """
    return _UNSAFE.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)


def safe_json(line: str) -> str:
    """A line of JSON with the same characters escaped as JSON escapes them, which changes nothing of what it says."""
    return _UNSAFE.sub(lambda found: found[0] if found[0] == "\t" else f"\\u{ord(found[0]):04x}", line.strip())


def as_json(columns: Sequence[str], row: Sequence[Any]) -> str:
    """A row as a JSON object."""
    named = {name: _plain(value) for name, value in zip(columns, row, strict=True)}
    return safe_json(json.dumps(named, ensure_ascii=False))


def as_text(value: Any) -> str:
    """A value as a cell of CSV: whole, and with the newlines that a traceback has."""
    plain = _plain(value)
    text = "" if plain is None else plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    return safe(text, keep="\n\t")


def events_table(events: Iterable[Mapping[str, Any]], width: int) -> Table:
    """Calls, two lines each: when and which, where, how long it took, and how it ended.

    Args:
        events: As recorded.
        width: Characters of the terminal; the module of a function is shown where there is room for it.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("time (UTC), call id", no_wrap=True)
    table.add_column("function", overflow="fold")
    table.add_column("policy", overflow="fold")
    table.add_column("took", no_wrap=True, justify="right")
    table.add_column("how it ended", overflow="fold")
    for event in events:
        when = _cell(str(event.get("timestamp", "")).replace("T", " ", 1)[:23])
        function = str(event.get("code.function.name", ""))
        failed = event.get("event.outcome") == "failure"
        ending = Text(_cell(event.get("mlguard.disposition", "")), style="bold" if failed else "")
        if what := _what(event):
            ending.append(f"\n{_cell(what)}", style="not bold")
        table.add_row(
            Text(when).append(f"\n{_cell(event.get('mlguard.call_id', ''))}", style="dim"),
            Text(_cell(function if width >= _WIDE else function.rpartition(".")[2])),
            Text(_cell(event.get("mlguard.policy", ""))),
            Text(_took(event.get("mlguard.duration"))),
            ending,
        )
    return table


def event_line(event: Mapping[str, Any]) -> str:
    """One call in one line, for who watches them come."""
    said = (
        str(event.get("timestamp", "")).replace("T", " ", 1)[:23],
        event.get("mlguard.call_id"),
        event.get("code.function.name"),
        event.get("mlguard.policy"),
        _took(event.get("mlguard.duration")),
        event.get("mlguard.disposition"),
        _what(event),
    )
    return "  ".join(_cell(part) for part in said if part)


def rows_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Rows of any query; numbers to the right."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    held = list(rows)
    for place, name in enumerate(columns):
        number = any(isinstance(row[place], int | float | Decimal) for row in held[:20])
        table.add_column(Text(safe(name)), overflow="fold", justify="right" if number else "left")
    for row in held:
        table.add_row(*(Text(_cell(value)) for value in row))
    return table


def details(fields: Iterable[tuple[str, Any]]) -> Table:
    """Everything known of one call, or of one row, a field a line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for key, value in fields:
        text = _cell(value) if isinstance(value, datetime | float) else as_text(value)
        table.add_row(Text(_cell(key)), Text(text))
    return table


def _took(duration: Any) -> str:
    return clock.duration_text(duration) if isinstance(duration, int | float) and 0 <= duration < math.inf else ""


def _what(event: Mapping[str, Any]) -> str:
    """Why a call is worth a look, in one line."""
    said = []
    if kind := event.get("error.type"):
        message = str(event.get("exception.message") or "").partition("\n")[0]
        said.append(f"{str(kind).rpartition('.')[2]}: {message}" if message else str(kind))
    said += [flag for flag in _FLAGS if event.get(f"mlguard.{flag}")]
    violations = event.get("mlguard.violations")
    if not kind and isinstance(violations, list):
        said += [f"{one.get('loc')}: {one.get('msg')}" for one in violations[:3] if isinstance(one, dict)]
    anomalies = event.get("mlguard.anomalies")
    if isinstance(anomalies, list):
        said += [str(one) for one in anomalies[:3]]
    return "; ".join(said)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, datetime):
        text = value.isoformat(" ", "milliseconds")
    else:
        plain = _plain(value)
        text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    return safe(text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")


def _plain(value: Any) -> Any:
    """A value of DuckDB's as JSON has it; times are UTC and say so."""
    if isinstance(value, datetime):
        return value.isoformat() + ("" if value.tzinfo else "Z")
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)
