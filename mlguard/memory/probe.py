"""What a probe is: something that can say how much of one memory limit is used."""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["Probe", "Reading"]


class Reading(NamedTuple):
    """How much of one limit was used at one moment."""

    used: int
    """Bytes that can't be given back: page cache of files, which the kernel drops when asked, is not counted."""
    limit: int
    """Bytes that may be used at most; beyond, the kernel kills."""
    source: str
    """Whose limit it is, such as ``"cgroup v2 /sys/fs/cgroup/app"`` or ``"host"``."""

    def room(self, share: float = 1.0) -> int:
        """Bytes left below that share of the limit; negative where more is used already."""
        return int(share * self.limit) - self.used


class Probe(Protocol):
    """One place where memory may be limited: a cgroup, the host.

    It is also what a probe of another device has to be, such as one of a GPU: `used` without what the framework's own
    allocator keeps and would give back, `limit` the device's total. None of those is shipped. A probe may be read by
    several threads at once, should take microseconds, and must not start what it measures: asking CUDA creates a
    context of half a gigabyte.
    """

    def read(self) -> Reading | None:
        """How full it is now; None where it sets no limit.

        Raises:
            OSError: It can't be read, or is gone.
            ValueError: What it says is no number.
        """
        ...

    def close(self) -> None:
        """Gives back what it holds open; a later `read` opens it again."""
        ...
