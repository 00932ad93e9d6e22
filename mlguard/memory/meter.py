"""How much memory one call took at its peak: what the kernel says of the whole process, while one call is alone in it.

Linux keeps the most that a process ever had resident (VmHWM), and forgets it when "5" is written to
/proc/self/clear_refs: 0.5 µs, and 7 µs to read. There is one such number a process, so there is one meter, and it
measures one call at a time. Programs that watch VmHWM from outside see it restart.
"""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

from mlguard.forks import in_children
from mlguard.memory import allocator, container, ledger

__all__ = ["Measurement", "Meter", "of_this_process"]

_FORGET = b"5"
_STATUS_BYTES = 1 << 13


class Measurement(NamedTuple):
    """What a measurement starts from."""

    resident: int
    """Bytes the process had when it began."""
    reusable: int
    """Bytes that were free in the allocator's heaps: allocating from there does not show in what the process has."""
    begun: int
    """How many calls were promised memory by then; one more, and the measurement says nothing of a single call."""


class Meter:
    """Measures one call at a time, and only one that is alone: the number belongs to the whole process."""

    _files: tuple[int, int] | None = None
    _identities: tuple[tuple[int, int], ...] = ()
    _why_not: str | None
    _measuring: bool
    _spoilt: bool

    def __init__(self) -> None:
        self.renew()

    @property
    def why_not(self) -> str | None:
        """Why nothing can be measured here; None where it can."""
        with self._lock:
            if self._files is None and self._why_not is None:
                self._open()
            return self._why_not

    @property
    def measuring(self) -> bool:
        """True while a call is measured: memory handed back meanwhile would be missing in its peak."""
        return self._measuring

    def spoil(self) -> None:
        """Memory is handed back now: what is being measured is of no use."""
        self._spoilt = True

    def start(self, need: int) -> Measurement | None:
        """Starts measuring for a call that was promised `need` bytes.

        None where others were promised some as well, where another is being measured, or nothing can be measured.
        """
        if self.why_not is not None:
            return None
        with self._lock:
            if not self._ours():
                self._files = None  # somebody closed them, and may have opened others under their numbers
                self._open()
            if self._why_not is not None or self._measuring or sum(each.reserved_here for each in _LEDGERS) != need:
                return None
            self._measuring, self._spoilt = True, False
            begun = _begun()
        here = allocator.of_this_process()
        try:
            here.trim()  # what is free but resident would be used first, and not show
            reusable = 0 if here.trim_own_heap() or not here.keeps else here.free_in_heaps() or 0
            clear, _ = self._files or (-1, -1)
            os.pwrite(clear, _FORGET, 0)
            return Measurement(self._peak(), reusable, begun)
        except (OSError, ValueError) as error:
            self._give_up(error)
            return None

    def stop(self, measured: Measurement) -> int | None:
        """The bytes that the call took at its peak, on top of what was in use; None where it was not alone."""
        if not self._measuring or not self._ours():  # in a child that was forked meanwhile, or closed by somebody
            self._measuring = False
            return None
        try:
            peak = self._peak()
        except (OSError, ValueError) as error:
            self._give_up(error)
            return None
        alone = _begun() == measured.begun and not self._spoilt
        self._measuring = False
        return max(0, peak - measured.resident) if alone else None

    def _peak(self) -> int:
        _, status = self._files or (-1, -1)
        text = os.pread(status, _STATUS_BYTES, 0)
        at = text.index(b"VmHWM:") + 6
        return int(text[at : text.index(b"kB", at)]) * 1024

    def _open(self) -> None:
        try:
            clear = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            self._why_not = f"/proc/self/clear_refs can't be written ({error.strerror})"
            return
        try:
            status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            os.close(clear)
            self._why_not = f"/proc/self/status can't be read ({error.strerror})"
            return
        self._files = clear, status
        self._identities = _identity(clear), _identity(status)
        try:
            os.pwrite(clear, _FORGET, 0)
            self._peak()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """From now on, nothing is measured: a kernel that refuses once, or lacks VmHWM, goes on doing so."""
        self._why_not = f"this kernel does not say the peak of a process ({error})"
        self._close()
        self._measuring = False

    def _ours(self) -> bool:
        """False where a descriptor is closed or another file by now: some daemons close every one they find."""
        try:
            return self._files is not None and tuple(map(_identity, self._files)) == self._identities
        except OSError:
            return False

    def _close(self) -> None:
        files, ours, self._files = self._files, self._ours(), None
        for descriptor in files or () if ours else ():
            os.close(descriptor)

    def renew(self) -> None:
        """Starts afresh; in a forked child the files speak of the parent."""
        self._close()
        self._lock = threading.RLock()  # reentrant, as a destructor may run a guarded function while it is held
        self._files = None
        self._why_not = None
        self._measuring = False
        self._spoilt = False


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _begun() -> int:
    return sum(each.begun for each in _LEDGERS)


_LEDGERS = ledger.of_this_process, container.of_this_container

of_this_process = Meter()
"""Shared by every guard of the process."""

in_children(of_this_process.renew)
