"""Who else hears of every call as it ends, beside the log: sinks that need each duration and not only their sum.

Hearing is on the path of the call: a listener appends to its queue and returns. What it hears is who was
called, how the call ended and how long it took, nothing of arguments or results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

__all__ = ["Ended", "Listener", "listen", "listeners", "unlisten"]


class Ended(NamedTuple):
    """A guarded call that ended."""

    guard: str
    """Module and qualified name of the function."""
    disposition: str
    """How, as in `mlguard.outcome.Disposition`."""
    duration: float
    """Seconds."""


Listener: TypeAlias = Callable[[Ended], object]

listeners: Final[list[Listener]] = []
"""Those that listen now; a call reads it once, without a lock."""


def listen(listener: Listener) -> None:
    """Lets it hear of every monitored call from now on. What it raises is counted as trouble of the monitor."""
    listeners.append(listener)


def unlisten(listener: Listener) -> None:
    """It hears no more; nothing happens where it did not listen."""
    listeners[:] = [each for each in listeners if each != listener]
