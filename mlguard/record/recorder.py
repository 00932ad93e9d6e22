"""The one that writes the calls of a process into a folder: a bounded queue, and a thread that empties it."""

from __future__ import annotations

import threading
import time
from typing import Any

from mlguard.forks import in_children
from mlguard.monitor.drain import EXIT_WAIT, Drain
from mlguard.record.lines import line_of
from mlguard.record.section import Record
from mlguard.record.segments import Segments

__all__ = ["Recorder", "recorder_for"]


class Recorder:
    """Takes events and writes them as lines, in a thread of its own that starts with the first.

    `recorder_for` gives the one that all functions with one `Record` share.
    """

    def __init__(self, section: Record) -> None:
        self.section = section
        self._segments = Segments(section)
        self._drain = Drain("record", self._write, capacity=section.max_waiting)

    def __reduce__(self) -> tuple[Any, ...]:
        return recorder_for, (self.section,)

    def put(self, event: dict[str, Any]) -> None:
        """Hands an event over: plain JSON data that nobody else changes from now on. Never raises, never waits."""
        self._drain.put((time.time(), event))

    def flush(self, timeout: float = EXIT_WAIT) -> bool:
        """Waits until what was put before is in a file, or dropped; False where that takes longer."""
        return self._drain.flush(timeout)

    def close(self, timeout: float = EXIT_WAIT) -> bool:
        """`flush`, and thread and file end; a later event starts others. False where that takes longer."""
        flushed = self._drain.close(timeout)
        if flushed:
            self._segments.close()
        return flushed

    def stats(self) -> dict[str, Any]:
        """What became of the calls of this process, as plain data.

        ``written`` are in a file, ``dropped`` are not and never will be, because the queue was full or the disk would
        not take them, ``waiting`` are still in the queue. ``bytes`` were written, ``removed`` counts the files that
        went to make room, and ``last_error`` is what the disk said last when it refused, with None for never.
        """
        queue = self._drain.stats()
        files = self._segments.stats()
        return {
            "written": files["written"],
            "dropped": queue["dropped"] + queue["failed"] + files["lost"],
            "waiting": queue["waiting"],
            "bytes": files["bytes"],
            "removed": files["removed"],
            "last_error": files["last_error"] or queue["last_error"],
        }

    def _write(self, batch: list[tuple[float, dict[str, Any]]]) -> None:
        self._segments.append([line_of(event, when) for when, event in batch])


def recorder_for(section: Record) -> Recorder:
    """The recorder of this process for these settings: every function that has them shares it.

    Where two sections name one folder with different limits, each writes files of its own, and the stricter limit is
    the folder's.
    """
    with _lock:
        if section not in _recorders:
            _recorders[section] = Recorder(section)
        return _recorders[section]


_lock = threading.Lock()
_recorders: dict[Record, Recorder] = {}


def _renew() -> None:
    global _lock
    _lock = threading.Lock()


in_children(_renew)
