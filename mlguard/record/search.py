"""The newest calls that meet some conditions, without reading more of the record than it takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from mlguard.record.damage import Damage
from mlguard.record.filters import Filters
from mlguard.record.folder import PACKED
from mlguard.record.reading import Calls, Progress
from mlguard.record.sources import files_of

__all__ = ["Found", "newest"]

_AT_FIRST: Final = 128 << 20  # bytes of lines that are looked through before all others are: a few tenths of a second
_PACKED_TO: Final = 10  # lines are so many times larger than the file that packs them, about


class Found(NamedTuple):
    """What a search found."""

    lines: list[str]
    """Events as they were recorded, the newest first."""
    damage: Damage
    """Lines that could not be read, in the files that were looked through."""


def newest(
    paths: Sequence[str | os.PathLike[str]], filters: Filters, limit: int, progress: Progress | None = None
) -> Found:
    """The newest calls that meet the conditions.

    The last files come first; where they have enough, and no other was written to since, no other is read.

    Raises:
        RecordError: A path leads to nothing, or a file can't be read.
    """
    since, until = filters.since, filters.until
    files = files_of(paths, since=since, until=until)
    last, written_until = _last_of(files)
    if len(last) < len(files):
        with Calls(lambda: [path for path in last if path.exists()] or files, progress) as calls:
            lines, end = _newest(calls, filters, limit)
            if len(lines) == limit and end is not None and end.replace(tzinfo=UTC).timestamp() >= written_until:
                return Found(lines, calls.damage())
    with Calls(lambda: files_of(paths, since=since, until=until), progress) as calls:
        lines, _ = _newest(calls, filters, limit)
        return Found(lines, calls.damage())


def _newest(calls: Calls, filters: Filters, limit: int) -> tuple[list[str], datetime | None]:
    """Lines, and when the last of them ended."""
    condition, parameters = filters.where()
    query = f"SELECT json, time FROM calls WHERE {condition} ORDER BY time DESC NULLS LAST LIMIT ?"  # noqa: S608 - the conditions are ours, their values parameters
    rows = list(calls.sql(query, [*parameters, limit]).rows)
    return [line for line, _ in rows], rows[-1][1] if rows else None


def _last_of(files: Sequence[Path]) -> tuple[list[Path], float]:
    """The files written to last, up to a bound, and when the last of the others was."""
    dated = []
    for path in files:
        try:
            status = path.stat()
        except OSError:  # gone meanwhile: for the second, thorough look
            continue
        dated.append((status.st_mtime, status.st_size * (_PACKED_TO if path.suffix == PACKED else 1), path))
    last: list[Path] = []
    room = _AT_FIRST
    for written, size, path in sorted(dated, reverse=True):
        room -= size
        if last and room < 0:
            return last, written
        last.append(path)
    return last, 0.0
