"""How many calls run at once. `Concurrency` is what a policy says, `Slots` counts for one function.

One count for all threads, tasks and event loops of the process. Whoever finds no slot waits in one line, first come,
first served, in a thread or in a task alike; a slot that comes back is handed to the head of the line.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from mlguard import clock
from mlguard.clock import Duration
from mlguard.context import Call, ambient_deadline
from mlguard.errors import ConcurrencyLimitError
from mlguard.forks import renew_in_children
from mlguard.monitor import metrics
from mlguard.resilience import alarms
from mlguard.section import Section
from mlguard.target import Target

__all__ = ["Concurrency", "Slots"]


class Concurrency(Section):
    """Runs a limited number of calls at once; a few more wait, the rest are refused.

    Counted in each process: with four workers, four times as many calls run.

    Raises:
        PolicyError: A value is impossible.
    """

    max_concurrent: int = Field(ge=1)
    """Calls that run at once. No default: only a measurement of the model knows."""
    max_waiting: int | None = Field(default=None, ge=0)
    """Calls that wait for one to end, at most; more are refused at once. None: twice `max_concurrent`, because those
    further back would mostly wait in vain."""
    max_wait: Duration = 1.0
    """How long a call waits at most; a deadline that comes sooner ends the wait. 1: who waits longer has given up."""
    scope: str | None = None
    """Functions that name the same scope share the slots: those that use the same device. None: each its own."""
    per: str | None = None
    """The argument of whose values each has its own slots, such as "host" or "request.tenant"; 1,000 values are kept
    apart at most. None: all calls have it together."""


class Slots:
    """The slots of one function, and the line of those who wait for one.

    Args:
        target: The function.
        section: What its policy says.
    """

    def __init__(self, target: Target, section: Concurrency) -> None:
        self._target = target
        self._section = section
        self._max_wait = clock.seconds(section.max_wait)
        self._max_waiting = 2 * section.max_concurrent if section.max_waiting is None else section.max_waiting
        self._process = 0
        self.after_fork()
        self.reset()
        renew_in_children(self)

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        return {
            "slot_enter": self.slot_enter,
            "slot_wait": self.slot_wait_async if asynchronous else self.slot_wait,
            "slot_exit": self.slot_exit,
        }

    @property
    def in_use(self) -> int:
        """Slots taken at this moment."""
        return self._section.max_concurrent - len(self._free)

    @property
    def waiting(self) -> int:
        """Calls that wait for a slot at this moment."""
        return len(self._waiting)

    def slot_enter(self) -> int | None:
        """A slot, if one is free and nobody waits for it."""
        if not self._waiting:
            try:
                return self._free.pop()
            except IndexError:
                pass
        return None

    def slot_exit(self, token: int) -> None:
        """Takes a slot back, and hands it to whoever waits longest."""
        if token == self._process:  # not one that was taken before a fork
            self._free.append(token)
            if self._waiting:
                self._hand_over()

    def slot_wait(self, this: Call | None, deadline: float | None) -> int:
        """Blocks the thread until there is a slot.

        Raises:
            ConcurrencyLimitError: The line is full, or `max_wait` or the deadline is over.
        """
        started = clock.now()
        limit = self._limit(started, deadline)
        waiter = _Thread()
        try:
            self._line_up(waiter, limit)
            waiter.wait(limit)
        except BaseException:
            self._abandon(waiter)
            raise
        finally:
            self._tell(this, started)
        return self._slot_of(waiter, limit)

    async def slot_wait_async(self, this: Call | None, deadline: float | None) -> int:
        """The same for a task; the event loop goes on. A waiter that is cancelled hands on what it was given."""
        started = clock.now()
        limit = self._limit(started, deadline)
        waiter = _Task()
        try:
            self._line_up(waiter, limit)
            await waiter.wait(limit)
        except BaseException:
            self._abandon(waiter)
            raise
        finally:
            self._tell(this, started)
        return self._slot_of(waiter, limit)

    def facts(self) -> dict[str, Any]:
        """What an event says of the slots."""
        return {"mlguard.concurrency.in_use": self.in_use, "mlguard.concurrency.waiting": self.waiting}

    def explain(self) -> list[str]:
        return [
            f"At most {self._section.max_concurrent} run at once in each process; up to {self._max_waiting} more wait, "
            f"first come, first served, for at most {clock.duration_text(self._max_wait)}; the rest are refused."
        ]

    def stats(self) -> dict[str, Any]:
        """Slots in use and calls waiting now, and how many calls had to wait, or were refused, so far."""
        with self._lock:
            return {
                "in_use": self.in_use,
                "waiting": self.waiting,
                **self._counts,
                "waited_seconds": round(self._waited, 6),
            }

    def metrics(self) -> Iterator[metrics.Figure]:
        yield metrics.CONCURRENCY_LIMIT, (), self._section.max_concurrent
        yield metrics.CONCURRENCY_IN_USE, (), self.in_use
        yield metrics.CONCURRENCY_WAITING, (), self.waiting
        counts = dict(self._counts)
        yield metrics.CONCURRENCY_REJECTIONS, ("queue_full",), counts["refused_queue_full"]
        yield metrics.CONCURRENCY_REJECTIONS, ("after_wait",), counts["refused_after_wait"]
        yield metrics.WAITED, ("concurrency",), self._waited

    def reset(self) -> None:
        """Forgets the counts. Slots in use stay in use: forgetting them would let more calls run than allowed."""
        with self._lock:
            self._waited = 0.0
            self._counts: dict[str, int] = {"waited": 0, "refused_queue_full": 0, "refused_after_wait": 0}

    def after_fork(self) -> None:
        # Re-entrant: a stream that the garbage collector closes gives its slot back wherever it happens to run.
        self._lock = threading.RLock()
        self._process += 1
        self._free = [self._process] * self._section.max_concurrent
        self._waiting: deque[_Thread | _Task] = deque()

    def __reduce__(self) -> tuple[Any, ...]:
        return Slots, (self._target, self._section)

    def _limit(self, now: float, deadline: float | None) -> float:
        """How long a call may wait, in seconds."""
        last = deadline if deadline is not None else ambient_deadline()
        return self._max_wait if last is None else max(0.0, min(self._max_wait, last - now))

    def _line_up(self, waiter: _Thread | _Task, limit: float) -> None:
        with self._lock:
            self._counts["waited"] += 1
            if limit > 0 and len(self._waiting) < self._max_waiting:
                self._waiting.append(waiter)
                self._hand_over()
                return
        raise self._refused("refused_queue_full" if limit > 0 else "refused_after_wait", limit)

    def _hand_over(self) -> None:
        with self._lock:
            while self._waiting:
                try:
                    token = self._free.pop()
                except IndexError:
                    return
                try:
                    waiter = self._waiting.popleft()
                except IndexError:
                    self._free.append(token)
                    return
                if not waiter.give(token):
                    self._free.append(token)

    def _leave_line(self, waiter: _Thread | _Task) -> int | None:
        """The slot that the waiter was given; None: it was given none, and no longer will be."""
        with self._lock:
            if waiter.token is None and waiter in self._waiting:
                self._waiting.remove(waiter)
            return waiter.token

    def _abandon(self, waiter: _Thread | _Task) -> None:
        token = self._leave_line(waiter)
        if token is not None:
            self.slot_exit(token)

    def _slot_of(self, waiter: _Thread | _Task, limit: float) -> int:
        token = self._leave_line(waiter)
        if token is None:
            raise self._refused("refused_after_wait", limit)
        return token

    def _tell(self, this: Call | None, started: float) -> None:
        waited = clock.now() - started
        with self._lock:
            self._waited += waited
        if this is not None:
            this.waited += waited
            facts = this.facts or {}
            this.tell(mlguard__concurrency__waited=facts.get("mlguard.concurrency.waited", 0.0) + waited)

    def _refused(self, why: str, limit: float) -> ConcurrencyLimitError:
        with self._lock:
            self._counts[why] += 1
        slots = f"all {self._section.max_concurrent} slots are taken"
        if why == "refused_queue_full":
            happened = f"{slots} and {self._max_waiting} calls wait already (max_waiting)"
        else:
            shorter = "its deadline left no more" if limit < self._max_wait else "max_wait"
            happened = f"{slots}, and none came back within {clock.duration_text(round(limit, 3))} ({shorter})"
        return ConcurrencyLimitError(
            f"{self._target.name}: not called, because {happened}. Fix: call it less at once or elsewhere, or raise "
            "concurrency.max_concurrent if the machine can bear it.",
            retry_after=self._max_wait or None,
        )


class _Thread:
    """A thread that waits for a slot."""

    __slots__ = ("_bell", "token")

    def __init__(self) -> None:
        self.token: int | None = None
        self._bell = threading.Lock()
        self._bell.acquire()

    def wait(self, limit: float) -> None:
        alarms.acquire(self._bell, limit)

    def give(self, token: int) -> bool:
        """Hands a slot to it; False: it can't be reached any more."""
        self.token = token
        self._bell.release()
        return True


class _Task:
    """A task that waits for a slot, on whatever event loop it runs."""

    __slots__ = ("_loop", "_rung", "token")

    def __init__(self) -> None:
        self.token: int | None = None
        self._loop = asyncio.get_running_loop()
        self._rung = self._loop.create_future()

    async def wait(self, limit: float) -> None:
        alarm = alarms.call_later(self._loop, limit, self._ring)
        try:
            await self._rung
        finally:
            alarm.cancel()

    def give(self, token: int) -> bool:
        """Hands a slot to it; False: its event loop is closed."""
        try:
            self._loop.call_soon_threadsafe(self._ring)
        except RuntimeError:
            return False
        self.token = token
        return True

    def _ring(self) -> None:
        if not self._rung.done():
            self._rung.set_result(None)
