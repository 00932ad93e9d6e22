"""Whether a failure was retried further in: three retries around three retries stay three.

A guard that gives up notes on the exception which calls it gave up in: those of the retrying guards around it, found on
the stack, by name and number of the call. So a guard knows its own call again, and an exception object that somebody
keeps and raises later, from another function, is that function's own failure.

Where the guard that gave up ran in another thread, task or process than the one around it, the stack does not show
that. The exception then counts as retried already, unless the call around it is known to have begun later.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from contextlib import suppress
from typing import Any, Final

import mlguard.call
from mlguard import clock
from mlguard.context import Call

__all__ = ["give_up_on", "given_up_within"]

_MARK: Final = "__mlguard_given_up__"
_CALL_PATH: Final = mlguard.call.__file__


def give_up_on(error: Exception, mark: str) -> None:
    """Notes that the guard of this mark has retried in vain; called from its `again`. Names and numbers only."""
    around = _calls_around()
    where = None if around else _here()
    with suppress(Exception):  # some exceptions refuse attributes
        BaseException.__setattr__(error, _MARK, (mark, around, where, clock.now()))


def given_up_within(error: Exception, mark: str, call: int, this: Call | None) -> bool:
    """Whether a guard further in gave up on this failure during this call of the guard of this mark."""
    try:
        found = vars(error).get(_MARK)
    except Exception:  # some exceptions have attributes that fail
        return False
    if found is None or found[0] == mark:
        return False
    _, around, where, when = found
    if where is None:
        return (mark, call) in around
    process, thread, task = _here()
    if process != where[0]:
        return True  # what was unpickled here belongs to nobody else
    if (thread, task) == where[1:]:
        return False
    return this is None or bool(when >= this.started)


def _calls_around() -> tuple[tuple[str, int], ...]:
    """The calls of retrying guards on the stack, but for the innermost, which gives up."""
    found = []
    frame: Any = sys._getframe(2)
    while frame is not None:
        again = _again_of(frame) if frame.f_code.co_filename == _CALL_PATH else None
        if again is not None:
            variables = frame.f_locals
            tries = variables.get("tries")
            if type(variables) is dict:  # a copy, before Python 3.13; kept by the frame, it would close circles
                variables.clear()
            if tries is not None:
                found.append((again.__self__.mark, getattr(tries, "call", tries)))
        frame = frame.f_back
    return tuple(found[1:])


def _again_of(frame: Any) -> Any:
    """The `again` that a wrapper looks up, by its name under the policy in force; None: it never retries."""
    for name in frame.f_code.co_names:
        if name == "again" or name.startswith("again__"):
            return frame.f_globals.get(name)
    return None


def _here() -> tuple[int, int, int | None]:
    """Process, thread and task."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return os.getpid(), threading.get_ident(), None if task is None else id(task)
