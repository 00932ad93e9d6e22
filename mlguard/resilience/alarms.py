"""Waiting for somebody else, but not for ever: the three ways this room does it, for tests to replace.

Pauses go through `mlguard.clock`; what is here ends early when a slot, a thread or a result comes. `testing.FakeClock`
replaces the three names, so that a limit passes when its clock says so.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

__all__ = ["Alarm", "acquire", "call_later", "timeout"]


class Alarm(Protocol):
    """Something that will happen, unless it is cancelled before."""

    def cancel(self) -> None: ...


def _acquire(lock: Any, seconds: float) -> bool:
    return bool(lock.acquire(timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX)))


def _call_later(loop: asyncio.AbstractEventLoop, seconds: float, ring: Callable[[], None]) -> Alarm:
    return loop.call_later(seconds, ring)


acquire: Callable[[Any, float], bool] = _acquire
"""Takes a lock, blocking the thread for that many seconds at most; False: it could not."""

call_later: Callable[[asyncio.AbstractEventLoop, float, Callable[[], None]], Alarm] = _call_later
"""Calls a function on an event loop after that many seconds."""

timeout: Callable[[float], AbstractAsyncContextManager[Any]] = asyncio.timeout
"""Cancels what runs in it after that many seconds, and raises TimeoutError in place of its own cancellation."""
