"""What a forked child must not inherit: locks held, and slots taken, by threads that it does not have."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Protocol

__all__ = ["Forkable", "in_children", "renew_in_children"]


class Forkable(Protocol):
    """Something whose state belongs to the threads of one process."""

    def after_fork(self) -> None:
        """Runs in the child, before anything else does."""
        ...


def in_children(function: Callable[[], object]) -> None:
    """Calls a function in every child this process forks, before anything else runs there."""
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=function)


def renew_in_children(thing: Forkable) -> None:
    """Calls ``thing.after_fork()`` in every child this process forks, for as long as the thing is alive."""
    _things.add(thing)


def _renew() -> None:
    for thing in list(_things):
        thing.after_fork()


_things: weakref.WeakSet[Forkable] = weakref.WeakSet()
in_children(_renew)
