"""Single flight: of concurrent calls with one key, one computes and the others wait for what it finds.

The first call leads; those that come while it runs follow. What the leader returns it keeps to itself, untouched;
followers get copies. A failure is everybody's failure. A leader that was cancelled, or that died because its own time
was up, says nothing about the others, so one of them leads next. Every follower waits no longer than its own deadline,
and the leader's own call inside the call never waits for itself, nor do two leaders wait for each other: whoever would
close such a circle computes alone. (A thread that a leading thread waits for is not seen as part of it.)

No lock is taken: claiming a key is one `dict.setdefault`. `ThreadFlights` and `TaskFlights` are the same text twice,
because a thread leads itself while a task must not: a caller that gives up may not take the computation along.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from mlguard import clock
from mlguard.cache.copies import Kept
from mlguard.context import Call, ambient_deadline
from mlguard.errors import DeadlineExceededError
from mlguard.forks import renew_in_children
from mlguard.outcome import Failure, classify

if TYPE_CHECKING:
    from types import TracebackType

    from mlguard.cache.result import ResultCache

__all__ = ["TaskFlights", "ThreadFlights"]

_HURRIED: Final = 0.05  # seconds around its deadline in which a leader's DeadlineExceededError is its own affair


class _Flight:
    """One computation in progress. While it is in its table, what it finds may be stored."""

    __slots__ = ("deadline", "error", "kept", "latch", "leader", "promote", "started", "task", "trace", "waiters")

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline
        self.started = clock.now()
        self.leader: object = None
        """The number of the thread that leads, or the `_Leader` that the context of the leading task carries."""
        self.latch: Any = None
        """A lock that opens when the leading thread is done."""
        self.task: Any = None
        """The task that leads."""
        self.kept: Kept | None = None
        """The result, where it can be shared."""
        self.error: BaseException | None = None
        """The failure, where it is everybody's."""
        self.trace: TracebackType | None = None
        """Where it happened, without the frames of those it was handed to since."""
        self.promote = False
        """True where the leader ended without an answer, so that a follower has to lead."""
        self.waiters = 0
        """The calls that a task is computing for."""

    def fails(self, error: BaseException) -> None:
        """Decides whether the leader's failure is everybody's; otherwise a follower leads next."""
        if classify(error) is Failure.CANCELLED:
            self.promote = True
        elif self.deadline is not None and isinstance(error, DeadlineExceededError):
            self.promote = clock.now() >= self.deadline - _HURRIED
        if not self.promote:
            self.error, self.trace = error, error.__traceback__


class _Leader:
    """A task that leads, and what it and the tasks it started wait for."""

    __slots__ = ("waits",)

    def __init__(self) -> None:
        self.waits: list[_Flight] = []


class ThreadFlights:
    """Single flight of plain functions, among the threads of the process."""

    def __init__(self, cache: ResultCache) -> None:
        self.cache = cache
        self.table: dict[Any, _Flight] = {}
        renew_in_children(self)

    def share(
        self, key: Any, produce: Any, this: Call | None, args: Any, kwargs: Any, deadline: float | None, dims: Any
    ) -> Any:
        """Leads or follows the computation of a key, which is None where there is nothing to share."""
        cache, table, me = self.cache, self.table, threading.get_ident()
        if key is None:
            cache.bypassing(this)
            return produce(this, args, kwargs, deadline, dims)
        until = ambient_deadline() if deadline is None else deadline
        mine: Any
        flight: Any
        while True:
            mine = _Flight(until)
            mine.leader, mine.latch = me, threading.Lock()
            mine.latch.acquire()
            flight = table.setdefault(key, mine)
            if flight is mine:
                break
            mine = None
            _waits[me] = flight
            try:
                circular = _thread_waits_for_itself(me)
                while not circular and not flight.latch.acquire(timeout=_patience(until)):
                    if until is not None and clock.now() >= until:
                        since, flight = flight.started, None
                        raise cache.too_late(since)
            finally:
                _waits.pop(me, None)
            if circular:
                cache.bypassing(this, "reentrant")
                flight = None
                return produce(this, args, kwargs, deadline, dims)
            flight.latch.release()  # lets the next one in
            kept, error, trace, promote = flight.kept, flight.error, flight.trace, flight.promote
            flight = None
            if error is not None:
                cache.coalesced += 1
                try:
                    raise error.with_traceback(trace and trace.tb_next)  # this frame stands for the leader's own
                finally:
                    error = trace = None  # kept here, they would keep this frame, and with it the arguments, alive
            if kept is not None:
                return cache.followed(this, kept)
            if not promote:
                cache.bypassing(this, "uncopyable")
                return produce(this, args, kwargs, deadline, dims)
            if until is not None and clock.now() >= until:
                raise cache.too_late(None)
        flight = None
        result = kept = None
        started = mine.started
        try:
            result = cache.lookup(key)  # whoever led before may have stored it since this call looked
            if result is cache.MISS:
                cache.missed(this)
                result = produce(this, args, kwargs, deadline, dims)
                kept = cache.kept(this, result)
                if kept is not None and table.get(key) is mine:
                    cache.store(key, kept, clock.now() - started)
            else:
                mine.promote = True  # it is in the store, where the next one finds it
                cache.hit_late(this)
        except BaseException as error:
            mine.fails(error)
            raise
        finally:
            mine.kept = kept
            if table.get(key) is mine:
                table.pop(key, None)
            mine.latch.release()
            mine = kept = None
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.cache, "threads")

    def clear(self) -> None:
        """Lets nobody join what is in progress, whose results are not stored either."""
        self.table.clear()

    def after_fork(self) -> None:
        self.clear()  # the leaders are threads of the parent


class TaskFlights:
    """Single flight of coroutine functions, among the tasks of an event loop."""

    def __init__(self, cache: ResultCache) -> None:
        self.cache = cache
        self.tables: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, _Flight]] = WeakKeyDictionary()
        renew_in_children(self)

    async def share(
        self, key: Any, produce: Any, this: Call | None, args: Any, kwargs: Any, deadline: float | None, dims: Any
    ) -> Any:
        """Leads or follows the computation of a key, which is None where there is nothing to share."""
        cache = self.cache
        if key is None:
            cache.bypassing(this)
            return await produce(this, args, kwargs, deadline, dims)
        loop = asyncio.get_running_loop()
        table = self.tables.get(loop)
        if table is None:
            table = self.tables.setdefault(loop, {})
        until = ambient_deadline() if deadline is None else deadline
        flight: Any
        task: Any
        while True:
            flight = table.get(key)
            leading = flight is None
            if leading:
                result = cache.lookup(key)
                if result is not cache.MISS:
                    cache.hit_late(this)
                    return result
                cache.missed(this)
                table[key] = flight = _Flight(until)
                flight.leader = _Leader()
                # A task of its own, in a copy of this caller's context: callers come and go without stopping it.
                flight.task = loop.create_task(
                    self._lead(flight, table, key, produce, this, args, kwargs, deadline, dims)
                )
                flight.task.add_done_callback(_retrieved)
            elif _task_waits_for_itself(flight):
                cache.bypassing(this, "reentrant")
                flight = None
                return await produce(this, args, kwargs, deadline, dims)
            task = flight.task
            flight.waiters += 1
            led = _led.get()
            for leader in led:
                leader.waits.append(flight)
            try:
                while not task.done():
                    # A leader's own deadline is kept by what it runs.
                    await asyncio.wait(
                        (task,), timeout=None if leading or until is None else max(0.0, until - clock.now())
                    )
                    if not (leading or until is None or task.done()) and clock.now() >= until:
                        raise cache.too_late(flight.started)
                if table.get(key) is flight:
                    table.pop(key, None)  # a task that was cancelled before it started left it there
                if leading:
                    return task.result()
                if flight.kept is not None:
                    return cache.followed(this, flight.kept)
                if flight.error is not None:
                    cache.coalesced += 1
                    raise flight.error.with_traceback(flight.trace)
                promote = flight.promote or task.cancelled()
            finally:
                for leader in led:
                    leader.waits.remove(flight)
                flight.waiters -= 1
                if not (flight.waiters or task.done()):
                    await _stopped(task, flight, table, key)
                # Kept here, they would keep the failure, this frame and the arguments alive.
                flight = task = None
            if not promote:
                cache.bypassing(this, "uncopyable")
                return await produce(this, args, kwargs, deadline, dims)
            if until is not None and clock.now() >= until:
                raise cache.too_late(None)

    async def _lead(
        self,
        flight: Any,
        table: Any,
        key: Any,
        produce: Any,
        this: Any,
        args: Any,
        kwargs: Any,
        deadline: Any,
        dims: Any,
    ) -> Any:
        _led.set((*_led.get(), flight.leader))
        cache = self.cache
        try:
            result = await produce(this, args, kwargs, deadline, dims)
            flight.kept = cache.kept(this, result)
            if flight.kept is not None and table.get(key) is flight:
                cache.store(key, flight.kept, clock.now() - flight.started)
        except BaseException as error:
            flight.fails(error)
            raise
        finally:
            if table.get(key) is flight:
                table.pop(key, None)
            flight = None
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.cache, "tasks")

    def clear(self) -> None:
        """Lets nobody join what is in progress, whose results are not stored either."""
        for table in list(self.tables.values()):
            table.clear()

    def after_fork(self) -> None:
        self.clear()  # the leaders are tasks of the parent


async def _stopped(task: asyncio.Task[Any], flight: _Flight, table: dict[Any, _Flight], key: Any) -> None:
    """Cancels a computation that nobody waits for any more, and lets it clean up before its last caller goes on."""
    if table.get(key) is flight:
        table.pop(key, None)
    task.cancel()
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            task.cancel()


def _retrieved(task: asyncio.Task[Any]) -> None:
    """Tells asyncio that a failure was seen, also where every caller had gone before."""
    if not task.cancelled():
        task.exception()


def _patience(until: float | None) -> float:
    return -1 if until is None else min(max(0.0, until - clock.now()), threading.TIMEOUT_MAX)


_led: ContextVar[tuple[_Leader, ...]] = ContextVar("mlguard_led", default=())
"""What the running task leads, and what those lead that it runs for."""
_waits: dict[int, _Flight] = {}
"""What each thread waits for."""


def _thread_waits_for_itself(me: int) -> bool:
    # Entered before it is asked: of two threads that close a circle at the same moment, at least one sees it.
    flight: _Flight | None = _waits[me]
    seen = set()
    while flight is not None and flight.leader not in seen:
        if flight.leader == me:
            return True
        seen.add(flight.leader)
        flight = _waits.get(flight.leader)  # type: ignore[call-overload]
    return False


def _task_waits_for_itself(flight: _Flight) -> bool:
    mine = _led.get()
    seen: set[object] = set()
    ahead: list[Any] = [flight.leader]
    while ahead:
        leader = ahead.pop()
        if leader in mine:
            return True
        if leader not in seen:
            seen.add(leader)
            ahead.extend(next_flight.leader for next_flight in leader.waits)
    return False
