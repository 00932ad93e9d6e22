"""The one that writes the calls of a process into a folder: a bounded queue, and a thread that empties it."""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from typing import Any, Final

from mlguard.forks import renew_in_children
from mlguard.record.lines import line_of
from mlguard.record.section import Record
from mlguard.record.segments import Segments

__all__ = ["Recorder", "recorder_for"]

BATCH: Final = 500
"""Calls that are written together at most."""

LINGER: Final = 0.05
"""Seconds in which more calls may come before they are written: one write for many, and one waking of the thread."""


class Recorder:
    """Takes events and writes them as lines, in a thread of its own that starts with the first.

    `recorder_for` gives the one that all functions with one `Record` share.
    """

    def __init__(self, section: Record) -> None:
        self.section = section
        self._most = section.max_waiting
        self._segments = Segments(section)
        self._waiting: deque[tuple[float, dict[str, Any]]] = deque()
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._written = self._dropped = 0
        renew_in_children(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return recorder_for, (self.section,)

    def put(self, event: dict[str, Any]) -> None:
        """Hands an event over: plain JSON data that nobody else changes from now on. Never raises, never waits."""
        if self._closed or len(self._waiting) >= self._most:
            self._dropped += 1
            return
        self._waiting.append((time.time(), event))
        self._idle.clear()
        if not self._some.is_set():
            if self._thread is None:
                self._start()
            self._some.set()

    def flush(self, timeout: float = 5.0) -> bool:
        """Waits until what was put is written or dropped; False where that takes longer."""
        if self._thread is None:
            return not self._waiting
        self._some.set()
        return self._idle.wait(timeout)

    def stats(self) -> dict[str, Any]:
        """`written` and `dropped` calls, `bytes` written, calls `waiting`, files `removed`, and the `last_error`."""
        return {
            "written": self._written,
            "dropped": self._dropped,
            "waiting": len(self._waiting),
            **self._segments.stats(),
        }

    def close(self, timeout: float = 5.0) -> None:
        """Writes what waits and closes the file; what is put later is dropped and counted."""
        self.flush(timeout)
        self._closed = True
        self._some.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def after_fork(self) -> None:
        """In the child: the thread, what waits and the open file are the parent's."""
        self._lock = threading.Lock()
        self._waiting.clear()
        self._some = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = None
        self._written = self._dropped = 0
        self._segments.abandon()

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._work, name="mlguard-record", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread to be had; the next call tries again
                return
            self._thread = thread
            atexit.register(self.close, 2.0)

    def _work(self) -> None:
        while True:
            self._some.wait()
            if not self._closed and len(self._waiting) < BATCH:
                time.sleep(LINGER)
            self._some.clear()
            while self._waiting:
                self._write([self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))])
            self._idle.set()
            if self._waiting:
                self._idle.clear()
                self._some.set()
            elif self._closed:
                self._segments.close()
                return

    def _write(self, batch: list[tuple[float, dict[str, Any]]]) -> None:
        written = self._segments.append([line_of(event, when) for when, event in batch])
        self._written += written
        self._dropped += len(batch) - written


def recorder_for(section: Record) -> Recorder:
    """The recorder of this process for these settings: every function that has them shares it.

    Where two sections name one folder with different limits, each writes files of its own, and the stricter limit is
    the folder's.
    """
    with _lock:
        recorder = _recorders.get(section)
        if recorder is None or recorder._closed:
            recorder = _recorders[section] = Recorder(section)
        return recorder


_lock = threading.Lock()
_recorders: dict[Record, Recorder] = {}


class _Renewed:
    def after_fork(self) -> None:
        global _lock
        _lock = threading.Lock()


_renewed = _Renewed()
renew_in_children(_renewed)
