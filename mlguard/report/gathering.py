"""From a record to the figures of its report: what is read, in which order, and with which filters."""

# ruff: noqa: S608 - the SQL is put together from this package's own names; values are bound or quoted

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlguard
from mlguard.record.filters import Filters
from mlguard.record.folder import PACKED
from mlguard.record.reading import open_calls
from mlguard.report.figures import Figures
from mlguard.report.figures.concerns import concerns_of
from mlguard.report.figures.facts import Facts
from mlguard.report.figures.failures import failures_of
from mlguard.report.figures.frame import frame_of
from mlguard.report.figures.functions import functions_of
from mlguard.report.figures.latency import latency_of
from mlguard.report.figures.reference import FieldShift, from_events, from_profile, merged
from mlguard.report.figures.slowest import slowest_of
from mlguard.report.figures.source import Source, totals_of
from mlguard.report.figures.traffic import traffic_of

if TYPE_CHECKING:
    from mlguard.drift import Profile
    from mlguard.record.reading import Calls

__all__ = ["gather"]


def gather(
    paths: Sequence[str | os.PathLike[str]],
    *,
    filters: Filters | None = None,
    profile: Profile | None = None,
    title: str | None = None,
    progress: Callable[[float], object] | None = None,
) -> Figures:
    """The figures of a record.

    Args:
        paths: Folders that ``Monitor(record=...)`` names, files of JSON lines, plain or gzipped, or patterns.
        filters: Which calls count; None: all.
        profile: The training data of the model, to compare the summaries of the calls with. The function is the one
            whose calls have most fields of it.
        title: For the head of the page.
        progress: Told the share of the work that is done, from 0 to 1.

    Raises:
        RecordError: A path leads to nothing, or a file can't be read.
        ModuleNotFoundError: DuckDB is not installed (the extra ``query``).
    """
    filters = filters or Filters()
    where, found = filters.where()
    values = tuple(found)
    steps = _Steps(progress)
    with open_calls(paths, since=filters.since, until=filters.until, progress=steps.within, memory=_MEMORY) as record:
        steps.next(0.08)
        shifts = from_events(record, where, values)
        left_out: dict[str, str] = {}
        compared: list[FieldShift] = []
        steps.next(0.12 if profile is None else 0.4)
        damage = record.damage()
        if profile is not None:
            function = _function_of(record, profile, where, values)
            if function is None:
                left_out = {field.name: "no call of this record has a field of the profile" for field in profile.fields}
            else:
                compared, left_out = from_profile(record, profile, function, where, values)
        steps.next(0.9)
        facts = Facts(record, where, values)  # last of what reads lines: a file that breaks would take the table along
        steps.next(1.0)
        totals = totals_of(facts)
        frame = frame_of(facts)
        return Figures(
            title=title,
            made=datetime.now(UTC).replace(tzinfo=None),
            version=mlguard.__version__,
            source=Source(
                names=tuple(os.fspath(path) for path in paths),
                files=len(record.files),
                size=_size(record.files),
                damaged=damage.lines + _unread(record, where, values, totals["records"]),
                damaged_at=(damage.first,) if damage.first else (),
                filters={name: _told(value) for name, value in filters.given().items()},
                **totals,
            ),
            frame=frame,
            traffic=traffic_of(facts, frame),
            latency=latency_of(facts, frame),
            concerns=concerns_of(facts, frame),
            failures=failures_of(facts),
            reference=merged(shifts, compared, left_out=left_out),
            functions=functions_of(facts),
            slowest=slowest_of(facts),
        )


_MEMORY = 512 << 20
"""Bytes of the database. A record of a million calls fits; of a longer one the rest goes to the disk."""


class _Steps:
    """The share of the whole that is done, from the share of each query."""

    def __init__(self, progress: Callable[[float], object] | None) -> None:
        self._progress = progress
        self._from = self._to = 0.0

    def next(self, to: float) -> None:
        """What follows goes up to this share."""
        self._from, self._to = self._to, to
        self.within(0.0)

    def within(self, share: float) -> None:
        if self._progress is not None:
            self._progress(self._from + (self._to - self._from) * share)


_LOOKED_AT = 20_000  # calls, to tell which function the profile belongs to


def _function_of(record: Calls, profile: Profile, where: str, values: tuple[Any, ...]) -> str | None:
    """The function whose calls have most fields of the profile; None where none has any."""
    keys = [f"mlguard.input.{field.path}" for field in profile.fields if field.role == "input" and field.path]
    if not keys:
        rows = record.sql(
            f"SELECT function FROM calls WHERE {where} GROUP BY function ORDER BY count(*) DESC LIMIT 1", values
        ).rows
        return next((function for (function,) in rows), None)
    ends = ", ".join("?" for _ in keys)
    rows = record.sql(
        "SELECT function FROM (SELECT DISTINCT function, unnest(json_keys(json)) AS key FROM "
        f"(SELECT function, json FROM calls WHERE ({where}) AND attempts > 0 LIMIT {_LOOKED_AT})) "
        f"WHERE regexp_replace(key, '\\.(length|shape|rows)$', '') IN ({ends}) "
        f"OR list_has_any([{ends}], list_transform(string_split(key, '.'), lambda part: 'mlguard.input.' || part)) "
        "GROUP BY function ORDER BY count(*) DESC, function LIMIT 1",
        (*values, *keys, *keys),
    ).rows
    return next((function for (function,) in rows), None)


def _unread(record: Calls, where: str, values: tuple[Any, ...], records: int) -> int:
    """Lines of packed files that are no JSON after all: gzip vouches for the bytes only, and reading them is enough."""
    if not any(file.suffix == PACKED for file in record.files):
        return 0
    ((lines,),) = record.sql(f"SELECT count(*) FROM calls WHERE {where}", values).rows
    return max(0, int(lines) - records)


def _size(files: Sequence[Path]) -> int:
    found = 0
    for file in files:
        try:
            found += file.stat().st_size
        except OSError:  # packed or removed just now
            continue
    return found


def _told(value: Any) -> str:
    """A filter's value as a person reads it; times without a zone are UTC."""
    if not isinstance(value, datetime):
        return str(value)
    return f"{value.astimezone(UTC) if value.tzinfo else value:%Y-%m-%d %H:%M:%S} UTC"
