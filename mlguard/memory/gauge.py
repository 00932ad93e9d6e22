"""Which limit is the nearest: one reading out of all the probes that apply to this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mlguard import clock
from mlguard.forks import in_children
from mlguard.memory import cgroup
from mlguard.memory.host import Host
from mlguard.memory.probe import Probe, Reading
from mlguard.monitor import metrics, readings

__all__ = ["Gauge", "of_this_process", "read"]

_LOOK_AROUND_EVERY = 1.0  # seconds until it is checked whether the process was moved to another cgroup


class Gauge:
    """The tightest of all limits above this process: its cgroup, every ancestor's, and the host.

    A probe that can't be read is passed over and counted in `failures`; the others go on.

    Args:
        root: Where ``/proc`` and the cgroup mounts are; another root reads a recorded layout.
        pid: The process id that confirms a cgroup; None: our own.
        host: The probe of the machine itself.
    """

    _cgroups: Sequence[cgroup.Cgroup]
    _group: str | None
    _membership: str | None  # as of the last look around; None: look again, whatever it says
    _look_around_at: float

    def __init__(self, root: Path = Path("/"), pid: int | None = None, host: Probe | None = None) -> None:
        self.failures = 0
        self._root = root
        self._pid = pid
        self._host = host or Host()
        self._renew()

    def read(self, share: float = 1.0) -> Reading:
        """The reading that leaves the least room below that share of its limit.

        Raises:
            OSError: No probe at all can be read.
        """
        return min(self.readings(), key=lambda reading: reading.room(share))

    def readings(self) -> list[Reading]:
        """One for each level that sets a limit, the nearest group first, the host last.

        Raises:
            OSError: No probe at all can be read.
        """
        with self._lock:
            self._look_around()
            readings = [reading for probe in (*self._cgroups, self._host) if (reading := self._try(probe))]
        if not readings:
            raise OSError("no memory limit can be read, neither of a cgroup nor of the host")
        return readings

    def metrics(self) -> Iterator[metrics.Figure]:
        with suppress(OSError):
            reading = self.read()
            yield metrics.MEMORY_USED, (), reading.used
            yield metrics.MEMORY_LIMIT, (), reading.limit

    @property
    def levels(self) -> list[Probe]:
        """The groups above this process that count memory, the nearest first, and the host; with a limit or without."""
        with self._lock:
            self._look_around()
            return [*self._cgroups, self._host]

    @property
    def group(self) -> str | None:
        """What tells the container of this process from others; None where nothing does.

        It is the nearest group that counts memory. Where none is mounted, the path and namespace of the group serve.
        """
        with self._lock:
            self._look_around()
            return self._group

    def working_set(self) -> int | None:
        """Bytes used by the nearest group as the kubelet counts them, for comparison; None where there is none.

        It is usage less inactive file pages. Admission takes the active ones off as well, as the kernel does when
        memory is needed.
        """
        with self._lock:
            self._look_around()
            try:
                return self._cgroups[0].working_set() if self._cgroups else None
            except (OSError, ValueError):
                return None

    def close(self) -> None:
        """Gives back the open files; the next `read` opens them again."""
        with self._lock:
            for probe in (*self._cgroups, self._host):
                probe.close()

    def _look_around(self) -> None:
        now = clock.now()
        if now < self._look_around_at:
            return
        self._look_around_at = now + _LOOK_AROUND_EVERY
        membership = cgroup.membership(self._root)
        if membership == self._membership:
            return
        old, self._cgroups = self._cgroups, ()
        for probe in old:
            probe.close()
        self._membership = membership
        self._group = None
        try:
            self._cgroups = cgroup.find(self._root, self._pid)
            self._group = self._cgroups[0].identity if self._cgroups else self._hidden_group(membership)
        except Exception:  # no trouble with a layout is a reason to fail a prediction
            self.failures += 1
            self._membership = None

    def _hidden_group(self, membership: str) -> str | None:
        try:
            return f"{(self._root / 'proc/self/ns/cgroup').stat().st_ino}:{membership}" if membership else None
        except OSError:
            return None

    def _try(self, probe: Probe) -> Reading | None:
        try:
            return probe.read()
        except Exception:  # nor is any with a probe, whoever wrote it
            self.failures += 1
            self._membership = None  # look around anew within a second: the tree may have changed
            return None

    def _renew(self) -> None:
        """Starts afresh, in a forked child as well: its cgroup may be another, the lock held by a thread it lacks."""
        # Reentrant, as the garbage collector may run a destructor, and that a guarded function, while it is held.
        self._lock = threading.RLock()
        self._cgroups = ()
        self._group = None
        self._membership = None
        self._look_around_at = float("-inf")


of_this_process = Gauge()
"""Shared by every guard of the process; it opens nothing until it is first read."""


def read() -> Reading:
    """How full the nearest memory limit of this process is: bytes used, the limit, and whose limit it is.

    Raises:
        OSError: Neither a cgroup nor the host can be read.
    """
    return of_this_process.read()


in_children(of_this_process._renew)
readings.also(of_this_process)
