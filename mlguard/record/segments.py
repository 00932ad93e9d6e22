"""The files of a record: each process appends to one of its own, and the oldest go so that the folder stays small.

A file's name begins with the time it was begun, so that sorting by name sorts by time, and has the process's id and a
random part, so that no two processes share one, in whatever container they run. Lines are appended by one `write` of
whole lines. What a killed process leaves is whole but for its last line.
"""

from __future__ import annotations

import os
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mlguard import clock
from mlguard.record.folder import LOOK_EVERY, PREFIX, SUFFIX, make_room
from mlguard.record.lines import LONGEST
from mlguard.record.section import Record

__all__ = ["Segments"]

BACK_OFF: Final = 1.0
"""Seconds after a failed write in which nothing is tried: a full disk is not asked a thousand times a second."""

_STEPS = 16  # a segment's size in steps after which the folder is looked at
_OPEN = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class Segments:
    """Appends lines to the segment of this process. One thread at a time uses it, and nothing is raised."""

    def __init__(self, section: Record) -> None:
        self._section = section
        self._size = section.segment_size
        self._step = self._size // _STEPS
        self._file: int | None = None
        self._path = Path()
        self._length = 0
        self._unchecked = 0
        self._looked = 0.0
        self._last_start = 0.0
        self._not_before = 0.0
        self._bytes = self._removed = 0
        self._last_error: str | None = None

    def append(self, lines: list[bytes]) -> int:
        """Writes whole lines; returns how many are in a file now, which is fewer where the disk would not take them."""
        done = 0
        while done < len(lines) and clock.now() >= self._not_before:
            try:
                file = self._ready()
            except OSError as error:
                self._failed(error)
            else:
                done += self._write(file, self._fitting(lines, done))
        return done

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                os.close(file)
            except OSError as error:  # a network's file system says only now that something was lost
                self._last_error = _said(error)

    def abandon(self) -> None:
        """In a forked child: the parent goes on with the file."""
        self.close()
        self._bytes = self._removed = 0

    def stats(self) -> dict[str, Any]:
        return {"bytes": self._bytes, "removed": self._removed, "last_error": self._last_error}

    def _fitting(self, lines: list[bytes], start: int) -> list[bytes]:
        """As many lines as may be written before the file is full or the folder is looked at, at least one."""
        room = min(self._size - self._length, self._step - self._unchecked)
        end, size = start, 0
        while end < len(lines) and (end == start or size + len(lines[end]) <= room):
            size += len(lines[end])
            end += 1
        return lines[start:end]

    def _ready(self) -> int:
        """A file that has room, in a folder that has room."""
        file = self._file
        # One that was removed, by a process that made room or by a person, would be written for nobody.
        if file is not None and (self._length >= self._size or os.fstat(file).st_nlink == 0):
            self.close()
            file = None
        if file is None:
            return self._begin()
        if self._unchecked >= self._step or clock.now() - self._looked >= LOOK_EVERY:
            self._make_room()
        return file

    def _begin(self) -> int:
        folder = Path(os.path.abspath(self._section.path))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        start = max(time.time(), self._last_start + 1e-6)  # a clock set back must not sort the new before the old
        stamp = datetime.fromtimestamp(start, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self._path = folder / f"{PREFIX}{stamp}-{os.getpid()}-{secrets.token_hex(3)}{SUFFIX}"
        file = self._file = os.open(self._path, _OPEN, 0o600)
        self._last_start, self._length = start, 0
        self._make_room()
        return file

    def _make_room(self) -> None:
        self._unchecked, self._looked = 0, clock.now()
        age = self._section.max_age
        self._removed += make_room(
            self._path.parent,
            most=clock.bytes_of(self._section.max_bytes),
            reserve=max(self._step, LONGEST),
            oldest=None if age is None else time.time() - clock.seconds(age),
            spare=self._path,
        )

    def _write(self, file: int, lines: list[bytes]) -> int:
        """Appends lines; returns how many. Of a write that stopped within a line, the piece is cut off again."""
        data = memoryview(b"".join(lines))
        written = 0
        try:
            while written < len(data):
                written += os.write(file, data[written:])
            if self._section.fsync:
                os.fsync(file)
        except OSError as error:
            self._failed(error)
        whole, size = _whole(lines, written)
        if size < written:
            try:
                os.ftruncate(file, self._length + size)
            except OSError:
                self.close()  # the next line begins a new file rather than the end of a piece
        self._length += size
        self._unchecked += size
        self._bytes += size
        return whole

    def _failed(self, error: OSError) -> None:
        self._last_error = _said(error)
        self._not_before = clock.now() + BACK_OFF


def _whole(lines: list[bytes], written: int) -> tuple[int, int]:
    """How many of these lines lie within so many bytes, and the bytes they take."""
    count, size = 0, 0
    for line in lines:
        if size + len(line) > written:
            break
        count, size = count + 1, size + len(line)
    return count, size


def _said(error: OSError) -> str:
    return f"{type(error).__name__}: {error.strerror or 'unknown'}"
