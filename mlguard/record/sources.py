"""Which files a person means: folders, files and patterns, and of a record only the segments of the time asked for."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from mlguard.record.errors import RecordError
from mlguard.record.folder import PACKED, PREFIX, SUFFIX

__all__ = ["files_of"]

_ENDINGS: Final = (SUFFIX, SUFFIX + PACKED, ".ndjson", ".ndjson" + PACKED)
_BEGUN: Final = re.compile(rf"{PREFIX}(\d{{8}}T\d{{6}}\.\d{{6}})Z-")
_SLACK: Final = 60.0  # seconds between a call's end and the time it is written, at most


def files_of(
    paths: Iterable[str | os.PathLike[str]], *, since: datetime | None = None, until: datetime | None = None
) -> list[Path]:
    """The files, each once, in the order of their names.

    Args:
        paths: Folders, of which every ``.jsonl``, ``.ndjson`` and their ``.gz`` counts, in folders below as well; files
            of any name; and patterns such as ``logs/*.jsonl``.
        since: Segments whose last line is older are left out, by the time of their last write. In UTC, or with a zone.
        until: Segments that were begun later are left out, by their name.

    Raises:
        RecordError: A path leads to nothing, or to nothing that can be read.
    """
    found: dict[Path, None] = {}
    for path in paths:
        for file in _files(Path(path)):
            found[file] = None
    whole = {path for path in found if not (path.name.endswith(SUFFIX) and Path(f"{path}{PACKED}") in found)}
    within = sorted(path for path in whole if _within(path, since, until))
    return within or [max(whole)]  # whose calls are of another time, so that a query finds none and says so


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        files = list(_below(path))
        if not files:
            raise RecordError(
                f"{path} holds no record: no file ends in {', '.join(_ENDINGS)}. Fix: give the folder that "
                "Monitor(record=...) names, or the files themselves."
            )
        yield from files
    elif path.exists():
        yield path
    else:
        matching = sorted(glob.glob(os.fspath(path), recursive=True))  # a pattern that no shell has resolved
        if not matching:
            raise RecordError(
                f"there is no {path}. Fix: give the folder that Monitor(record=...) names; a relative one starts from "
                "where the service was started."
            )
        for match in matching:
            yield from _files(Path(match))


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise RecordError(f"{error.filename} can't be read: {error.strerror}. Fix: check its permissions.") from None

    for where, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            if name.endswith(_ENDINGS):
                yield Path(where, name)


def _within(path: Path, since: datetime | None, until: datetime | None) -> bool:
    begun = _BEGUN.match(path.name)
    if begun is None:
        return True
    if until is not None:
        start = datetime.strptime(begun[1], "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)
        if start.timestamp() - _SLACK > _seconds(until):
            return False
    if since is not None:
        try:
            return path.stat().st_mtime + _SLACK >= _seconds(since)
        except FileNotFoundError:  # packed or removed just now
            return False
    return True


def _seconds(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
