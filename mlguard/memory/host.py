"""The memory of the machine: the limit where no cgroup sets one, on Linux, macOS and Windows alike."""

from __future__ import annotations

import psutil

from mlguard.memory.probe import Reading

__all__ = ["Host"]


class Host:
    """The host's memory, by psutil: total minus available, where available is what a new process could still get.

    On macOS and Windows this is all there is: limits of containers and job objects are not seen there.
    """

    def read(self) -> Reading:
        memory = psutil.virtual_memory()
        return Reading(memory.total - memory.available, memory.total, "host")

    def close(self) -> None:
        """Nothing is held open."""
