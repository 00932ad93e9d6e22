"""The file that a process appends to, and when the next one begins.

Its name begins with the time it was begun, so that sorting by name sorts by time, and has the process's id and a random
part, so that no two processes share one, in whatever container they run. Lines are appended by one `write` of whole
lines: what a killed process leaves is whole but for its last line. A file that is full is packed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mlguard import clock
from mlguard.forks import renew_in_children
from mlguard.record.folder import LOOK_EVERY, PREFIX, SUFFIX, make_room
from mlguard.record.lines import LONGEST
from mlguard.record.packing import hold, pack, pack_abandoned
from mlguard.record.section import FEWEST, LEAST_SEGMENT, Record

__all__ = ["BACK_OFF", "Segments"]

BACK_OFF: Final = 1.0
"""Seconds after a failed write in which nothing is tried: a full disk is not asked a thousand times a second."""

_STEPS = 16  # a segment's size in steps after which the folder is looked at
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Segments:
    """Appends lines to the segment of this process. One thread at a time uses it, and nothing is raised."""

    def __init__(self, section: Record) -> None:
        self._section = section
        self._size = section.segment_size
        self._step = self._size // _STEPS
        self._file: int | None = None
        self.after_fork()
        renew_in_children(self)

    def after_fork(self) -> None:
        """In the child: the parent goes on with the file, and the counts are the parent's."""
        self.close()
        self._path = Path()
        self._length = 0
        self._unchecked = 0
        self._looked = 0.0
        self._last_start = 0.0
        self._not_before = 0.0
        self._written = self._lost = self._bytes = self._removed = 0
        self._last_error: str | None = None

    def append(self, lines: list[bytes]) -> None:
        """Writes whole lines. Those that the disk would not take are lost and counted."""
        done = 0
        goes_on = time.monotonic() >= self._not_before
        while goes_on and done < len(lines):
            try:
                file = self._ready()
            except OSError as error:
                self._failed(error)
                break
            some = self._fitting(lines, done)
            written = self._write(file, some)
            done += written
            goes_on = written == len(some)
        self._written += done
        self._lost += len(lines) - done

    def stats(self) -> dict[str, Any]:
        """Lines `written` and `lost`, `bytes` written, files `removed` to make room, and the `last_error`."""
        return {
            "written": self._written,
            "lost": self._lost,
            "bytes": self._bytes,
            "removed": self._removed,
            "last_error": self._last_error,
        }

    def _fitting(self, lines: list[bytes], start: int) -> list[bytes]:
        """As many lines as may be written before the file is full or the folder is looked at, at least one."""
        room = min(self._size - self._length, self._step - self._unchecked)
        end, size = start, 0
        while end < len(lines) and (end == start or size + len(lines[end]) <= room):
            size += len(lines[end])
            end += 1
        return lines[start:end]

    def _ready(self) -> int:
        """A file that has room, in a folder that has room.

        Raises:
            OSError: There is none to be had.
        """
        file = self._file
        # One that was removed, by a process that made room or by a person, would be written for nobody.
        if file is not None and self._gone(file):
            self.close()
            file = None
        elif file is not None and self._length >= self._size:
            self._finish()
            file = None
        if file is None:
            return self._begin()
        if self._unchecked >= self._step or time.monotonic() - self._looked >= LOOK_EVERY:
            self._look()
        return file

    def _gone(self, file: int) -> bool:
        """Whether the file's name is another's or nobody's; a query may keep the file itself alive by a link."""
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(file))
        except FileNotFoundError:
            return True

    def _begin(self) -> int:
        folder = Path(os.path.abspath(self._section.path))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        start = max(time.time(), self._last_start + 1e-6)  # a clock set back must not sort the new before the old
        stamp = datetime.fromtimestamp(start, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self._path = folder / f"{PREFIX}{stamp}-{os.getpid()}-{secrets.token_hex(3)}{SUFFIX}"
        file = self._file = os.open(self._path, _FLAGS, 0o600)
        hold(file)
        self._last_start, self._length = start, 0
        self._look()
        return file

    def _finish(self) -> None:
        """Closes a file that is full, and packs it."""
        self.close()
        pack(self._path, self._make_room)

    def _look(self) -> None:
        self._make_room()
        pack_abandoned(self._path.parent, self._make_room)

    def _make_room(self) -> None:
        self._unchecked, self._looked = 0, time.monotonic()
        age = self._section.max_age
        most = clock.bytes_of(self._section.max_bytes)
        room = make_room(
            self._path.parent,
            most=most,
            reserve=max(self._step, LONGEST),
            oldest=None if age is None else time.time() - clock.seconds(age),
            spare=self._path,
        )
        self._removed += room.removed
        # Many workers pack smaller files, so that those which are not packed take no more than a quarter of the folder.
        self._size = max(LEAST_SEGMENT, min(self._section.segment_size, most // FEWEST // room.plain))

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
        self._last_error = f"{type(error).__name__}: {error.strerror or 'no reason given'}"
        self._not_before = time.monotonic() + BACK_OFF

    def close(self) -> None:
        """Closes the file; what is appended later goes into another one."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                os.close(file)


def _whole(lines: list[bytes], written: int) -> tuple[int, int]:
    """How many of these lines lie within so many bytes, and the bytes they take."""
    count, size = 0, 0
    for line in lines:
        if size + len(line) > written:
            break
        count, size = count + 1, size + len(line)
    return count, size
