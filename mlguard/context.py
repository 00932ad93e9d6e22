"""The call in progress: what it has met so far, and what the code it runs may ask of it.

`call.py` keeps a `Call` only where a policy needs one (a monitor, a timeout, an Outcome). Turning it into a log event
is the monitor's work.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextvars import ContextVar, Token
from typing import Any

from mlguard import clock
from mlguard.forks import in_children

__all__ = ["Call", "current", "enter", "leave", "note", "time_left"]

current: ContextVar[Call | None] = ContextVar("mlguard_call", default=None)
"""The guarded call whose function is running in this thread or task."""


class Until:
    """A deadline from outside of every guarded call, such as that of the request they answer."""

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        self.at: float | None = at
        """On `clock.now`; None: it does not hold any more, for what the same request still does after its answer."""


outside: ContextVar[Until | None] = ContextVar("mlguard_outside", default=None)
"""What bounds every guarded call in this thread or task, whatever their policies say."""


class Call:
    """One call of one guarded function, from its start to its end.

    What most calls never set lives on the class, so that starting a call writes two attributes.
    """

    attempts: int = 0
    """How often the function was entered; 0 for a cache hit or a rejection."""
    disposition: str = "executed"
    """How the call ended; the values are those of `mlguard.outcome.Disposition`."""
    shareable: bool = True
    """False where the result is this caller's only, and no cache may keep it."""
    degraded: bool = False
    """True where the value is a fallback."""
    deadline: float | None = None
    """When the running attempt must end, on `clock.now`; None: no deadline."""
    late: bool = False
    """True where a cooperative attempt ended after its deadline and its result was used all the same."""
    waited: float = 0.0
    """Seconds spent waiting for a slot, for memory, or between attempts."""
    left: Any = None
    """The attempt that goes on in a thread after its time was up; see `resilience/threads.py`."""
    entered: float = 0.0
    """When the function was entered last, on `clock.now`; only a monitored call asks."""
    left_at: float | None = None
    """When that attempt's function returned; None: it has not."""
    ran: float = 0.0
    """Seconds spent in the function, all attempts together, without the check of what it returned."""
    span: Any = None
    """The OpenTelemetry span of the call, where the policy asks for one."""
    first_item_at: float | None = None
    """When a stream's first item was there, on `clock.now`."""
    violations: list[dict[str, Any]] | None = None
    """What report mode let pass, as pydantic's `errors()` lists it."""
    facts: dict[str, Any] | None = None
    """What the concerns found worth telling, by event key, such as ``"mlguard.breaker.state"``."""
    notes: dict[str, Any] | None = None
    """What the user's code added with `note()`."""
    _id: str | None = None

    def __init__(self) -> None:
        self.started = clock.now()
        self.parent = current.get()

    @property
    def id(self) -> str:
        """Unique across processes; made when first asked for."""
        if self._id is None:
            self._id = f"{_process}{next(_numbers)}"
        return self._id

    def tell(self, **facts: Any) -> None:
        """Adds facts to the event of this call; keys are spelt with `__` for the dot."""
        if self.facts is None:
            self.facts = {}
        self.facts.update({key.replace("__", "."): value for key, value in facts.items()})


def enter(this: Call) -> Any:
    """Makes a call the one in progress, while its function runs; what it returns is for `leave`."""
    return current.set(this)


def leave(this: Call, token: Token[Call | None]) -> bool:
    """Ends what `enter` began; False where its context is gone."""
    try:
        current.reset(token)
    except ValueError:  # destroyed with its event loop, in another context
        return False
    return True


def note(**fields: Any) -> None:
    """Adds fields to the event of the guarded call in progress, such as ``note(tokens=412)``.

    Outside a monitored call it does nothing, so that a function behaves the same when it is tested on its own. The same
    field noted twice keeps the last value.
    """
    call = current.get()
    if call is not None:
        if call.notes is None:
            call.notes = {}
        call.notes.update(fields)


def time_left() -> float | None:
    """Seconds until the ambient deadline, never below 0; None where neither the request nor a guarded call has one.

    Hand it to the clients a guarded function calls: ``httpx.get(url, timeout=time_left())``.
    """
    deadline = ambient_deadline()
    return None if deadline is None else max(0.0, deadline - clock.now())


def ambient_deadline() -> float | None:
    """The earliest deadline of the calls in progress around this one and of the request, on `clock.now`; None: none."""
    until = outside.get()
    limit = None if until is None else until.at
    call = current.get()
    while call is not None:
        if call.deadline is not None:
            return call.deadline if limit is None else min(call.deadline, limit)
        call = call.parent
    return limit


_process: str
_numbers: Iterator[int]


def _renew() -> None:
    global _process, _numbers
    _process = os.urandom(6).hex()
    _numbers = itertools.count(10**9)  # so that all ids have one length


_renew()
in_children(_renew)
