"""The ledger of a container: what all its processes promised, as far as they can share a file.

Where they can't, each process counts for itself; that is visible, told once, and tried again. No trouble with the file
is a reason to fail a prediction.
"""

from __future__ import annotations

from typing import Any

from mlguard import clock
from mlguard.forks import in_children
from mlguard.memory import gauge as gauges
from mlguard.memory.gauge import Gauge
from mlguard.memory.ledger import Ledger
from mlguard.memory.locks import UNAVAILABLE
from mlguard.memory.shared_file import (
    FIX,
    Books,
    BusyError,
    GoneError,
    Mine,
    SharedFile,
    UnusableError,
    other_users,
    path_for,
)

__all__ = ["ContainerLedger", "of_this_container"]

RETRY_AFTER = 5.0
"""Seconds until the file is tried again after it could not be used."""

STUCK_AFTER = 3.0
"""Seconds for which the file's lock may be taken before this process goes on without. It is held for microseconds, by
a process that the scheduler passes by for milliseconds; only one that was stopped meanwhile holds it that long."""

_NAMELESS = (
    "nothing tells this container from others, as /proc/self/cgroup can't be read. "
    'Fix: mount /proc, or memory.scope="process" where this process is alone.'
)
_REAP_EVERY = 0.1


class ContainerLedger(Ledger):
    """The bytes promised to the calls in flight of all processes of one container.

    Where the file for it can't be used it is as good as a `Ledger`, and says so; it tries again every few seconds.

    Args:
        gauge: Tells which container this process is in.
    """

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self.failures = 0
        """How often the file could not be used."""
        super().__init__()

    @property
    def reserved(self) -> int:
        return self._promised + self._others(alive=True).promised

    @property
    def trouble(self) -> str | None:
        """Why promises of other processes don't count now; None where they do."""
        return self._trouble

    def state(self) -> dict[str, Any]:
        others = self._others(alive=True)
        return {
            "scope": "process" if self._file is None else "container",
            "reserved": self._promised + others.promised,
            "reserved_here": self._promised,
            "processes": others.processes + 1,
            "waiting": len(self.line),
            "file": None if self._file is None else str(self._file.path),
            "trouble": self._trouble,
            "failures": self.failures,
            "other_users": [] if self._file is None else other_users(self._file.path),
        }

    def explain(self) -> str:
        try:
            with self._lock:
                file = self._file_now(clock.now())
        except (GoneError, BusyError):
            file = None
        if file is None:
            return f"Promises to calls of this process count, but not those of other processes: {self._trouble}"
        others = ", ".join(map(str, other_users(file.path)))
        but = f" Processes of other users (user id {others}) keep books of their own." if others else ""
        return f"Promises to calls of all processes of the container count, by {file.path}.{but}"

    def renew(self) -> None:
        super().renew()
        file: SharedFile | None = getattr(self, "_file", None)
        self._file: SharedFile | None = None
        if file is not None:
            file.close()
        self._group: str | None = None
        self._trouble = UNAVAILABLE
        self._try_at = float("-inf" if UNAVAILABLE is None else "inf")
        self._reap_at = float("-inf")
        self._stuck_since: float | None = None

    def _file_now(self, now: float) -> SharedFile | None:
        """The container's file, opened where it is due."""
        if now < self._try_at:
            return None
        group = self._gauge.group
        if self._file is not None and group == self._group:
            return self._file
        if self._file is not None:  # this process was moved to another container
            self._file.close()
            self._file = None
        try:
            if group is None:
                raise UnusableError(_NAMELESS)
            self._file = SharedFile(path_for(group))
            self._group, self._trouble, self.news = group, None, None
            if self._promised:
                self._file.write_slot(self._mine())
        except (OSError, UnusableError) as error:
            self._give_up(error, now)
        return self._file

    def _open(self, now: float) -> Books | None:
        for _ in range(2):
            try:
                file = self._file_now(now)
                if file is None:
                    return self._books
                file.lock()
                self._stuck_since = None
                try:
                    due = now >= self._reap_at
                    if due and not file.named():
                        raise GoneError
                    books = file.read(reap=due)
                except BaseException:
                    file.unlock()
                    raise
                if due:
                    self._reap_at = now + _REAP_EVERY
                return books
            except BusyError as error:
                return self._stuck(error, now)
            except GoneError:
                self._drop()
            except (OSError, UnusableError) as error:
                self._give_up(error, now)
        return self._books

    def _close(self, books: Books) -> None:
        file = self._file
        if file is None or books is self._books:
            return
        try:
            file.write(books, self._mine())
        except OSError as error:
            self._give_up(error, clock.now())
        finally:
            file.unlock()

    def _write_down(self) -> None:
        """Writes this process's slot, under the lock where that can be had."""
        for _ in range(2):
            try:
                file = self._file_now(clock.now())
                if file is not None:
                    self._published = self.line.first()
                    self._write_slot(file)
                return
            except BusyError:
                return  # it has no slot yet
            except GoneError:
                self._drop()
            except OSError as error:
                self._give_up(error, clock.now())

    def _write_slot(self, file: SharedFile) -> None:
        try:
            file.lock()
        except BusyError:
            file.write_slot(self._mine())
            return
        try:
            file.write_slot(self._mine())
        finally:
            file.unlock()

    def _mine(self) -> Mine:
        first = self._published
        if first is None:
            return Mine(self._promised, self._ended)
        return Mine(self._promised, self._ended, first.since, first.need, first.looked, first.share)

    def _others(self, *, alive: bool = False) -> Books:
        file = self._file
        try:
            return Books() if file is None else file.read(alive=alive)
        except (OSError, UnusableError):
            return Books()

    def _peek(self) -> int:
        file = self._file
        return 0 if file is None else file.ended()

    def _stuck(self, error: BusyError, now: float) -> Books | None:
        if self._stuck_since is None:
            self._stuck_since = now
        if now - self._stuck_since < STUCK_AFTER:
            return None
        self._stuck_since = None
        self._give_up(error, now)
        return self._books

    def _drop(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _give_up(self, error: Exception, now: float) -> None:
        """Goes on without the file for a while. Its slot is given up, so that others don't count what may be old."""
        self._drop()
        self.failures += 1
        self._try_at = now + RETRY_AFTER
        self._books = Books()
        trouble = str(error) if isinstance(error, UnusableError | BusyError) else f"{error}. Fix: {FIX}"
        if trouble != self._trouble:
            self._trouble = self.news = trouble


of_this_container = ContainerLedger(gauges.of_this_process)
"""Shared by every guard of the process whose scope is "container"; it opens no file until a call needs much."""

in_children(of_this_container.renew)
