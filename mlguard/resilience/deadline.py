"""How long a call may take. `Timeout` is what a policy says, `Deadlines` holds one function to it.

Async code is cancelled when its time is up. Plain code can't be stopped safely, so its deadline is cooperative: the
function can read it (`mlguard.time_left()`), guarded functions further in are bound by it, no attempt starts after it,
and a result that comes late is used and called late. Or it runs in a thread that is left behind (`threads.py`). Waits
for slots and memory, and pauses between attempts, see to it themselves that they end in time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, model_validator

from mlguard import clock
from mlguard.clock import Duration
from mlguard.context import Call, ambient_deadline, outside
from mlguard.errors import DeadlineExceededError, PolicyError
from mlguard.forks import renew_in_children
from mlguard.monitor import metrics
from mlguard.resilience import alarms
from mlguard.resilience.threads import MOST_LEFT, Threads, TimeIsUpError
from mlguard.section import Section
from mlguard.target import Kind, Target

__all__ = ["Deadlines", "Timeout"]


def _some_time(value: float) -> float:
    if value == 0:
        raise ValueError("must be more than 0")
    return value


Limit = Annotated[Duration, AfterValidator(_some_time)]


class Timeout(Section):
    """Limits in time: for the whole call, for each attempt, and for the items of a stream.

    Raises:
        PolicyError: A limit is impossible, or none is set.
    """

    total: Limit | None = None
    """From the start of the call to its end, with waits, attempts and pauses. The time that a stream's consumer takes
    does not count. None: no limit, but that of a guarded call further out holds all the same."""
    attempt: Limit | None = None
    """For each attempt, from when the function starts; for a stream, to its first item. None: no limit of its own."""
    first_item: Limit | None = None
    """Streams only: for each attempt to its first item; where `attempt` is set as well, the shorter holds. None: no
    limit of its own."""
    idle: Limit | None = None
    """Streams only: from one item to the next; the time that the consumer takes does not count. None: no limit of its
    own."""
    sync_mode: Literal["cooperative", "thread"] = "cooperative"
    """What happens to plain functions that take too long. "cooperative": they see the deadline and are never
    interrupted, because nothing in Python can stop a thread safely. "thread": each attempt runs in a thread of its own;
    when its time is up the caller goes on and the thread is left behind, with its slot and its memory, until it ends.
    Not for generators. Coroutines are cancelled either way."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.total is None and self.attempt is None and self.first_item is None and self.idle is None:
            raise ValueError(
                "must set a limit: total, attempt, first_item or idle. "
                'Fix: give it at least one limit, such as total = "30s"'
            )
        return self


class Deadlines:
    """Gives every call of one function its deadline, and every attempt its limit.

    Args:
        target: The function.
        section: What its policy says.

    Raises:
        PolicyError: A limit for items is set on a function that has none, or threads on a generator.
    """

    def __init__(self, target: Target, section: Timeout) -> None:
        self.target = target
        self._section = section
        for_items = [name for name in ("first_item", "idle") if getattr(section, name) is not None]
        if for_items and not target.kind.stream:
            raise PolicyError(
                f"{target.name}: Timeout.{' and Timeout.'.join(for_items)} can't be honoured, because a "
                f"{target.kind.value} has no items. Fix: Timeout(attempt=...), or make it a generator."
            )
        if section.sync_mode == "thread" and target.kind is Kind.GENERATOR:
            raise PolicyError(
                f"{target.name}: Timeout.sync_mode = 'thread' can't be honoured for a generator, whose frame can't be "
                "left to another thread between two items. Fix: sync_mode='cooperative', or make it an async generator."
            )
        self.threads = Threads(self) if section.sync_mode == "thread" and target.kind is Kind.PLAIN else None
        self.total = _seconds(section.total)
        self.idle = _seconds(section.idle)
        limits = {"attempt": _seconds(section.attempt), "first_item": _seconds(section.first_item)}
        set_ones = [(seconds, name) for name, seconds in limits.items() if seconds is not None]
        self.attempt: float | None
        self.attempt, self.attempt_name = min(set_ones, default=(None, "attempt"))
        self.after_fork()
        self.reset()
        renew_in_children(self)

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        names: dict[str, Any] = {
            "deadline_from": self.deadline_from,
            "attempt_limit": self.attempt_limit_async if asynchronous else self.attempt_limit,
            "idle_limit": self.idle_limit_async if asynchronous else self.idle_limit,
        }
        if self.threads is not None:
            names |= {"in_thread": self.threads.in_thread, "left_running": self.threads.left_running}
        return names

    def deadline_from(self, this: Call) -> float | None:
        """When the call must end, on `clock.now`: by its own limit or by that of a guarded call further out."""
        own = None if self.total is None else this.started + self.total
        return _earlier(own, ambient_deadline())

    def attempt_limit(self, this: Call, deadline: float | None) -> _Limit:
        """What goes around one attempt of a plain function."""
        limit = _Limit if self.threads is None else _ThreadLimit
        return limit(self, this, deadline, self.attempt, self.attempt_name)

    def idle_limit(self, this: Call, deadline: float | None) -> _Limit:
        """What goes around each further item of a generator.

        Its own deadline has moved on with its consumer's time by now; that of a guarded call around it has not.
        """
        return _Limit(self, this, _earlier(deadline, ambient_deadline()), self.idle, "idle")

    def attempt_limit_async(self, this: Call, deadline: float | None) -> _AsyncLimit:
        return _AsyncLimit(self, this, deadline, self.attempt, self.attempt_name)

    def idle_limit_async(self, this: Call, deadline: float | None) -> _AsyncLimit:
        return _AsyncLimit(self, this, _earlier(deadline, ambient_deadline()), self.idle, "idle")

    def explain(self) -> list[str]:
        said = []
        if self.total is not None:
            said.append(f"The call may take {clock.duration_text(self.total)} in all, waits and pauses included.")
        if self.attempt is not None:
            to = "to its first item " if self.target.kind.stream else ""
            said.append(f"Each attempt may take {clock.duration_text(self.attempt)} {to}({self.attempt_name}).")
        if self.idle is not None:
            said.append(f"The next item must come within {clock.duration_text(self.idle)}.")
        if self.target.kind.asynchronous:
            said.append("What takes longer is cancelled.")
        elif self.threads is None:
            said.append(
                "What takes longer is not interrupted; its result counts as late, and no further attempt starts."
            )
        else:
            said.append(
                "Each attempt runs in a thread. What takes longer is left behind there, with its slot and memory, and "
                f"its result dropped; while {MOST_LEFT} are left behind, calls are refused."
            )
        return said

    def stats(self) -> dict[str, Any]:
        """Attempts that were cancelled, ended late, or were not started because the time was up.

        With threads also: those left behind so far and now, how they ended in the end, and calls refused for them.
        """
        with self._lock:
            counts = dict(self._counts)
        return counts if self.threads is None else {**counts, "threads": self.threads.stats()}

    def metrics(self) -> Iterator[metrics.Figure]:
        counts = dict(self._counts)
        if self.threads is not None:
            counts["left"] = self.threads.counts["left"]
            yield metrics.THREADS_LEFT, (), self.threads.left_now
        for outcome, number in counts.items():
            yield metrics.TIMEOUTS, (outcome,), number

    def reset(self) -> None:
        with self._lock:
            self._counts = {"cancelled": 0, "late": 0, "not_started": 0}
        if self.threads is not None:
            self.threads.reset()

    def after_fork(self) -> None:
        self._lock = threading.RLock()

    def count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def __reduce__(self) -> tuple[Any, ...]:
        return Deadlines, (self.target, self._section)


class _Limit:
    """One attempt, or the wait for one item, of plain code."""

    __slots__ = ("_deadline", "_name", "_owner", "_seconds", "_this", "_until")

    def __init__(self, owner: Deadlines, this: Call, deadline: float | None, seconds: float | None, name: str) -> None:
        self._owner = owner
        self._this = this
        self._deadline = deadline
        self._seconds = seconds
        self._name = name

    def __enter__(self) -> None:
        self._start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, frames: Any) -> None:
        self._end(kind)

    def _start(self) -> float | None:
        """Seconds until the limit; None: there is none."""
        until, seconds = self._deadline, self._seconds
        now = clock.now()
        if until is not None and now >= until:
            raise self._not_started()
        if seconds is not None and (until is None or now + seconds < until):
            until = now + seconds
        self._until = self._this.deadline = until
        return None if until is None else until - now

    def _end(self, kind: type[BaseException] | None) -> None:
        # Between attempts the call has no limit of its own: pauses and waits know their deadline.
        self._this.deadline = None
        if kind is None and self._until is not None and clock.now() > self._until:
            self._this.late = True
            self._owner.count("late")

    def _not_started(self) -> DeadlineExceededError:
        self._owner.count("not_started")
        waited = clock.duration_text(self._this.waited)
        error = DeadlineExceededError(
            f"{self._owner.target.name}: not started, because {self._limit_passed()} before it could "
            f"(waits and pauses took {waited}). Fix: allow more time, or see what it waited for."
        )
        error.started = False  # so that it counts as refused here, not as a failure of the function
        return error

    def _interrupted(self, how: str) -> DeadlineExceededError:
        if self._until == self._deadline:
            passed = self._limit_passed()
        else:
            what = "no item came" if self._name == "idle" else "the attempt did not end"
            passed = f"{what} within timeout.{self._name} = {clock.duration_text(self._seconds or 0)}"
        return DeadlineExceededError(
            f"{self._owner.target.name}: {how}, because {passed}. Fix: allow more time, or do less in it."
        )

    def _limit_passed(self) -> str:
        total = self._owner.total
        # A stream's deadline moves on while its consumer works, so it may be later than it was at the start.
        if total is not None and self._deadline is not None and self._deadline >= self._this.started + total:
            return f"the limit of the whole call (timeout.total = {clock.duration_text(total)}) passed"
        request = outside.get()
        if request is not None and request.at == self._deadline:
            return "the deadline of the request passed"
        return "the deadline of the guarded call around it passed"


class _ThreadLimit(_Limit):
    """The same for plain code in a thread, which is left behind when its time is up."""

    __slots__ = ()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, frames: Any) -> None:
        self._end(kind)
        if kind is TimeIsUpError:
            self._this.tell(mlguard__timeout__left_running=True)
            raise self._interrupted("left running in its thread") from None


class _AsyncLimit(_Limit):
    """The same for async code, which is cancelled when its time is up."""

    __slots__ = ("_timer",)

    async def __aenter__(self) -> None:
        left = self._start()
        self._timer = None if left is None else alarms.timeout(left)
        if self._timer is not None:
            await self._timer.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, frames: TracebackType | None
    ) -> None:
        self._end(kind)
        if self._timer is None:
            return
        try:
            # Raises only where its own expiry cancelled the code: anyone else's TimeoutError or cancellation passes.
            await self._timer.__aexit__(kind, error, frames)
        except TimeoutError:
            self._owner.count("cancelled")
            raise self._interrupted("cancelled") from None


def _earlier(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _seconds(value: float | str | None) -> float | None:
    return None if value is None else clock.seconds(value)
