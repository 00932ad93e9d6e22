"""The folder of a record: which files are segments, and which of them go when there is no room.

Workers share the folder without a lock. Each looks before it writes more than it may: what all open files may grow by
until their owners look again is reserved, so that the folder stays within its bound whoever writes at the same time.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final, NamedTuple

__all__ = [
    "GAIN",
    "LOOK_EVERY",
    "OPEN",
    "PACKED",
    "PART",
    "PREFIX",
    "SUFFIX",
    "Room",
    "Segment",
    "make_room",
    "segments_of",
]

PREFIX: Final = "calls-"
SUFFIX: Final = ".jsonl"
PACKED: Final = ".gz"
"""Follows the suffix of a segment that is packed."""
PART: Final = ".part"
"""Follows the suffix of a segment while it is being packed."""

GAIN: Final = 0.25
"""The most that a packed file may be of the other, else it is not packed. Events make 0.1."""

LOOK_EVERY: Final = 30.0
"""Seconds after which a process looks at the folder before it writes on, however little it wrote since."""

OPEN: Final = 2 * LOOK_EVERY
"""Seconds without a write after which a file grows only after its owner has looked."""


class Segment(NamedTuple):
    """One file of a record."""

    path: Path
    size: int
    last_write: float
    """Seconds since the epoch, by the file system."""


def segments_of(folder: Path, *, parts: bool = False) -> list[Segment]:
    """The segments of a folder, by the time they were begun; a file that goes in the meantime is none.

    Args:
        folder: Where.
        parts: Also those that are being packed.

    Raises:
        OSError: The folder can't be listed.
    """
    endings = (SUFFIX, SUFFIX + PACKED, SUFFIX + PART) if parts else (SUFFIX, SUFFIX + PACKED)
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and entry.name.endswith(endings):
                try:
                    if entry.is_file(follow_symlinks=False):
                        status = entry.stat(follow_symlinks=False)
                        found.append(Segment(Path(entry.path), status.st_size, status.st_mtime))
                except OSError:
                    continue
    return sorted(found)


class Room(NamedTuple):
    """What making room came to."""

    removed: int
    """Segments that went."""
    plain: int
    """Segments that are not packed, which are those of all processes that write here."""


def make_room(folder: Path, *, most: int, reserve: int, oldest: float | None, spare: Path) -> Room:
    """Removes the segments whose last write is longest ago until the rest fits.

    Args:
        folder: Where.
        most: Bytes that the folder may hold.
        reserve: Bytes by which an open file may grow before its owner looks again.
        oldest: Files last written before this time go in any case; None: no matter how old.
        spare: The caller's own file.

    Raises:
        OSError: The folder can't be listed, or a file in it can't be removed.
    """
    found = segments_of(folder, parts=True)
    now = time.time()
    growing = {one.path for one in found if now - one.last_write < OPEN and one.path.suffix == SUFFIX}
    parts = {one.path.with_suffix("") for one in found if one.path.suffix == PART}
    held = sum(one.size + (int(one.size * GAIN) if one.path in parts else 0) for one in found) + reserve * len(growing)
    removed = 0
    for one in sorted(found, key=lambda one: (one.last_write, one.path)):
        too_old = oldest is not None and one.last_write < oldest
        if (held <= most and not too_old) or one.path == spare or one.path.suffix == PART:
            continue
        try:
            os.unlink(one.path)
        except FileNotFoundError:  # another process was quicker
            pass
        else:
            removed += 1
        held -= one.size + (reserve if one.path in growing else 0)
    return Room(removed, max(1, sum(one.path.suffix == SUFFIX for one in found)))
