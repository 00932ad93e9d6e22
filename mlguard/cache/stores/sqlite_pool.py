"""SQLite connections of one process: each used by one thread at a time, none taken through a fork.

A connection in a forked child shares its file's locks with nobody, and even closing it there can harm the file. So all
of them are closed before a fork, and nobody opens one until it is over.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from weakref import WeakSet

from mlguard.cache.stores.protocol import StoreError
from mlguard.cache.stores.sqlite_file import SqliteFile

__all__ = ["Connections"]

_IDLE: Final = 8  # kept for the next call
_FORK_WAITS: Final = 1.0  # seconds for calls of other threads to end

_Open = tuple[sqlite3.Connection, tuple[int, int]]


class Connections:
    """Connections to one file.

    Args:
        file: The file. Where it was replaced or deleted meanwhile, connections to the old one are closed.
    """

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._idle: list[_Open] = []
        self._changed = threading.Condition()
        self._active = 0
        self._forking = False
        self._torn = False
        _every.add(self)

    @contextmanager
    def one(self) -> Iterator[sqlite3.Connection]:
        """A connection for the calling thread; it is closed instead of kept where the work inside fails."""
        with self._changed:
            if self._torn:
                raise StoreError(
                    f"{self._file.where}: this process was forked while another thread used the file, so it must not "
                    f"use it. Fix: fork before the first call, or start processes with 'spawn' or 'forkserver'.",
                    "closed",
                )
            self._changed.wait_for(lambda: not self._forking, 2 * _FORK_WAITS)
            self._active += 1
            found = self._idle.pop() if self._idle else None
        kept = None
        try:
            if found is not None and found[1] != self._file.identity():
                found[0].close()
                found = None
            if found is None:
                found = self._file.open()
            try:
                yield found[0]
            except BaseException:
                found[0].close()  # rolls back what was begun
                raise
            if len(self._idle) < _IDLE:
                kept = found
            else:
                found[0].close()
        finally:
            with self._changed:  # in one step: a fork closes what is idle, and waits for the rest
                self._active -= 1
                if kept is not None:
                    self._idle.append(kept)
                self._changed.notify_all()

    def close_idle(self) -> None:
        """Closes what nobody uses at the moment."""
        with self._changed:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def before_fork(self) -> None:
        """Waits for calls in progress, closes every connection, and holds new calls up."""
        self._changed.acquire()
        self._forking = True
        self._changed.wait_for(lambda: not self._active, _FORK_WAITS)
        while self._idle:
            self._idle.pop()[0].close()

    def after_fork_in_parent(self) -> None:
        """Lets calls go on."""
        self._forking = False
        self._changed.notify_all()
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """Starts anew, unless a connection was in use: then this file is out of bounds here."""
        self._torn = self._torn or self._active > 0
        self._changed = threading.Condition()
        self._active = 0
        self._forking = False

    def __del__(self) -> None:
        for connection, _ in self._idle:
            connection.close()


_every: WeakSet[Connections] = WeakSet()
_held: list[Connections] = []


def _hold() -> None:
    _held.extend(_every)
    for connections in _held:
        connections.before_fork()


def _resume() -> None:
    while _held:
        _held.pop().after_fork_in_parent()


def _renew() -> None:
    while _held:
        _held.pop().after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_resume, after_in_child=_renew)
