"""What is broken in a record: counted and named, so that nobody takes a part for the whole."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Damage", "damage_of", "is_whole", "salvaged"]

_CHUNK: Final = 1 << 20
_IN_PROGRESS: Final = 5.0  # seconds since the last write in which a last line may still be on its way


class Damage(NamedTuple):
    """Lines that no query shows."""

    lines: int
    first: str | None
    """The first of them, as ``file:line``."""

    def plus(self, other: Damage) -> Damage:
        """Both together."""
        return Damage(self.lines + other.lines, self.first or other.first)


def damage_of(files: Iterable[Path], good: Mapping[str, int]) -> Damage:
    """Damage in files that are not packed.

    Args:
        files: They.
        good: How many lines of each are good, as they were counted before; only files that have other lines as well
            are read one by one.
    """
    found = Damage(0, None)
    for path in files:
        try:
            if _lines(path) != good.get(str(path), 0):
                found = found.plus(_read(path))
        except FileNotFoundError:  # packed or removed meanwhile
            continue
    return found


def is_whole(path: Path) -> bool:
    """Whether a packed file can be read to its end."""
    empty = True
    try:
        with gzip.open(path) as file:
            while file.read(_CHUNK):
                empty = False
    except (EOFError, OSError, zlib.error):
        return False
    return not empty  # which DuckDB takes for broken as well


def salvaged(path: Path, into: Path) -> Damage:
    """Writes what a broken packed file still holds; returns where it breaks off."""
    whole = 0
    with into.open("wb") as out:
        rest = b""
        try:
            with gzip.open(path) as file:
                while chunk := file.read1(_CHUNK // 16):
                    lines, newline, rest = (rest + chunk).rpartition(b"\n")
                    out.write(lines + newline)
                    whole += lines.count(b"\n") + len(newline)
        except (EOFError, OSError, zlib.error):
            pass
    return Damage(1, f"{path}:{whole + 1} (the rest of this file can't be unpacked)")


def _lines(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            count += chunk.count(b"\n")
            last = chunk[-1:]
    return count + (last != b"\n")


def _read(path: Path) -> Damage:
    found = Damage(0, None)
    fresh = time.time() - path.stat().st_mtime < _IN_PROGRESS
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.isspace() or _is_object(line) or (fresh and not line.endswith(b"\n")):
                continue
            found = found.plus(Damage(1, f"{path}:{number}"))
    return found


def _is_object(line: bytes) -> bool:
    try:
        found = json.loads(line)
        json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair, which no reader but Python's takes
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict)
