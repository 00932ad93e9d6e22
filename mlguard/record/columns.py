"""The columns that SQL sees: short names for what a person asks of calls, each with its key and a declared type.

No type is guessed for these, whatever millions of lines hold: what does not fit its type is NULL. Any other key of an
event is a column as well once a query names it, see `reading.py`.
"""

from __future__ import annotations

import json
from typing import Final, NamedTuple

__all__ = ["COLUMNS", "Column", "by_key", "expression", "literal", "pointer", "quoted", "spellings"]


class Column(NamedTuple):
    """One column of the view `calls`."""

    name: str
    key: str
    """What the event calls it."""
    type: str
    """DuckDB's type."""
    about: str


_VIOLATIONS: Final = '[{"loc":"VARCHAR","type":"VARCHAR","msg":"VARCHAR"}]'

COLUMNS: Final = (
    Column("time", "timestamp", "TIMESTAMP", "when the call ended, in UTC"),
    Column("function", "code.function.name", "VARCHAR", "module and name of the function"),
    Column("policy", "mlguard.policy", "VARCHAR", "the policy's name"),
    Column("outcome", "event.outcome", "VARCHAR", "success, failure, or unknown for a cancelled call"),
    Column("disposition", "mlguard.disposition", "VARCHAR", "how it ended: executed, cache_hit, failed and so on"),
    Column("duration", "mlguard.duration", "DOUBLE", "seconds"),
    Column("attempts", "mlguard.attempts", "BIGINT", "how often the function was entered"),
    Column("error", "error.type", "VARCHAR", "class of the exception"),
    Column("message", "exception.message", "VARCHAR", "what it said"),
    Column("cache", "mlguard.cache", "VARCHAR", "miss, coalesced, stale and so on"),
    Column("waited", "mlguard.waited", "DOUBLE", "seconds spent waiting"),
    Column("degraded", "mlguard.degraded", "BOOLEAN", "the value is a fallback"),
    Column("slow", "mlguard.slow", "BOOLEAN", "it took longer than the policy's slow_call"),
    Column("late", "mlguard.late", "BOOLEAN", "it ended after its deadline"),
    Column("model_version", "mlguard.model_version", "VARCHAR", "as given to guarded()"),
    Column("fingerprint", "mlguard.policy.fingerprint", "VARCHAR", "of the policy in force"),
    Column("violation_count", "mlguard.violation_count", "BIGINT", "violations of the schema"),
    Column("violations", "mlguard.violations", _VIOLATIONS, "the first of them: loc, type, msg"),
    Column("anomaly_count", "mlguard.anomaly_count", "BIGINT", "inputs that training never saw"),
    Column("anomalies", "mlguard.anomalies", '["VARCHAR"]', "the first of them"),
    Column("prediction", "mlguard.prediction", "JSON", "what it returned, with record_outputs"),
    Column("call_id", "mlguard.call_id", "VARCHAR", "unique"),
    Column("parent_call_id", "mlguard.parent_call_id", "VARCHAR", "the call inside which it ran"),
    Column("recorded_by", "mlguard.recorded_by", "VARCHAR", "the inner call that has message and traceback"),
    Column("trace_id", "trace_id", "VARCHAR", "of OpenTelemetry"),
    Column("span_id", "span_id", "VARCHAR", "of OpenTelemetry"),
    Column("pid", "process.pid", "BIGINT", "the process"),
    Column("host", "host.name", "VARCHAR", "the machine"),
    Column("sample_rate", "mlguard.sample_rate", "DOUBLE", "share of calls like it that is kept"),
    Column("traceback", "exception", "VARCHAR", "where it happened"),
)
"""Beside these the view has `weight`, which is 1 / sample_rate, `file`, and `json`, the whole line."""

by_key: Final = {column.key: column for column in COLUMNS}


def expression(key: str, type_: str) -> str:
    """SQL for one key of a line; NULL where the line does not have it, or something else than the type."""
    place = literal(pointer(key))
    text = f"TRY(line->>{place})"
    if type_ == "VARCHAR":
        return text
    if type_ == "JSON":
        return f"TRY(line->{place})"
    if type_.startswith("["):
        return f"TRY(from_json(line->{place}, {literal(type_)}))"
    if type_ == "TIMESTAMP":  # ISO 8601, or seconds since the epoch as some loggers write it
        seconds = f"TRY_CAST(TRY_CAST({text} AS DOUBLE) * 1000000 AS BIGINT)"
        return f"coalesce(TRY_CAST({text} AS TIMESTAMP), TRY(make_timestamp({seconds})))"
    return f"TRY_CAST({text} AS {type_})"


def pointer(key: str) -> str:
    """A key as JSON Pointer, which takes dots and quotes as they are."""
    return "/" + key.replace("~", "~0").replace("/", "~1")


def literal(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def spellings(key: str) -> tuple[str, ...]:
    """How JSON may spell a key or a text, quotes included."""
    return tuple(dict.fromkeys((json.dumps(key), json.dumps(key, ensure_ascii=False))))
