"""Single flight: of concurrent calls with one key, one computes and the others wait for what it finds.

The first call leads; those that come while it runs follow. What the leader returns it keeps to itself, untouched;
followers get copies. A failure is everybody's failure. A leader that was cancelled, or that died because its own time
was up, says nothing about the others, so one of them leads next. Every follower waits no longer than its own deadline,
and the leader's own call inside the call never waits for itself, nor do two leaders wait for each other: whoever would
close such a circle computes alone. A thread that a leading thread waits for is seen as part of it where it runs in a
copy of the leader's context, as `asyncio.to_thread` and web frameworks arrange it.

No lock is taken: claiming a key is one `dict.setdefault`. `ThreadFlights` and `TaskFlights` are the same text twice,
because a thread leads itself while a task must not: a caller that gives up may not take the computation along.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from mlguard import clock
from mlguard.cache.circles import (
    Leader,
    flown,
    led,
    opened,
    over,
    task_waits_for_itself,
    thread_waits,
    thread_waits_for_itself,
)
from mlguard.cache.copies import Kept
from mlguard.context import Call, ambient_deadline
from mlguard.errors import DeadlineExceededError
from mlguard.forks import renew_in_children
from mlguard.outcome import Failure, classify

if TYPE_CHECKING:
    from types import TracebackType

    from mlguard.cache.result import ResultCache

__all__ = ["Fetched", "TaskFlights", "ThreadFlights"]

_HURRIED: Final = 0.05  # seconds around its deadline in which a leader's DeadlineExceededError is its own affair


class _Flight:
    """One computation in progress. While it is in its table, what it finds may be stored."""

    __slots__ = (
        "context", "deadline", "error", "kept", "latch", "leader", "orphaned", "promote", "started", "task", "trace",
        "waiters",
    )  # fmt: skip

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline
        self.started = clock.now()
        self.leader: object = None
        """The number of the thread that leads, or the `Leader` that the context of the leading task carries."""
        self.latch: Any = None
        """A lock that opens when the leading thread is done."""
        self.task: Any = None
        """The task that leads."""
        self.context: Any = None
        """What it runs in."""
        self.orphaned = False
        """True where the caller whose arguments the task works on has gone."""
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


class Fetched(NamedTuple):
    """What `produce` answers where it found the result in a shared store instead of computing it."""

    kept: Kept
    fresh: float
    """Until when it counts as fresh, on `clock.now`."""
    cost: float
    """Seconds it took to compute."""


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
            thread_waits[me] = flight
            try:
                circular = thread_waits_for_itself(me, flown.get())
                while not circular and not opened(flight.latch, until):
                    if until is not None and clock.now() >= until:
                        since, flight = flight.started, None
                        raise cache.too_late(since)
            finally:
                thread_waits.pop(me, None)
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
        token = flown.set((*flown.get(), mine.latch))
        try:
            result = cache.lookup(key)  # whoever led before may have stored it since this call looked
            if result is cache.MISS:
                cache.missed(this)
                if cache.remote is not None:
                    produce = cache.through(key, produce, asynchronous=False)
                result = produce(this, args, kwargs, deadline, dims)
                if type(result) is Fetched:
                    kept, fresh, cost = result
                    result = kept.fresh()
                else:
                    kept, fresh, cost = cache.kept(key, this, result), None, clock.now() - started
                if kept is not None and table.get(key) is mine:
                    cache.store(key, kept, cost, fresh)
            else:
                mine.promote = True  # it is in the store, where the next one finds it
                cache.hit_late(this)
        except BaseException as error:
            mine.fails(error)
            raise
        finally:
            flown.reset(token)
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

    def forget(self, key: Any) -> None:
        """`clear`, for one key."""
        self.table.pop(key, None)

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
                flight.leader = Leader()
                # A task of its own, in a copy of this caller's context: callers come and go without stopping it.
                flight.context = copy_context()
                flight.task = loop.create_task(
                    self._lead(flight, table, key, produce, this, args, kwargs, deadline, dims), context=flight.context
                )
                flight.task.add_done_callback(_retrieved)
            elif task_waits_for_itself(flight):
                cache.bypassing(this, "reentrant")
                flight = None
                return await produce(this, args, kwargs, deadline, dims)
            task = flight.task
            flight.waiters += 1
            outer = led.get()
            for leader in outer:
                leader.waits.append(flight)
            try:
                while not task.done():
                    # A leader's own deadline is kept by what it runs.
                    await over(task, None if leading else until)
                    if not (leading or until is None or task.done()) and clock.now() >= until:
                        raise cache.too_late(flight.started)
                if table.get(key) is flight:
                    table.pop(key, None)  # a task that was cancelled before it started left it there
                if leading:
                    _adopt(flight.context)
                    return task.result()
                if flight.kept is not None:
                    return cache.followed(this, flight.kept)
                if flight.error is not None:
                    cache.coalesced += 1
                    raise flight.error.with_traceback(flight.trace)
                promote = flight.promote or task.cancelled()
            finally:
                for leader in outer:
                    leader.waits.remove(flight)
                flight.waiters -= 1
                flight.orphaned = flight.orphaned or leading
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
        led.set((*led.get(), flight.leader))
        cache = self.cache
        try:
            if cache.remote is not None:
                produce = cache.through(key, produce, asynchronous=True)
            result = await produce(this, args, kwargs, deadline, dims)
            fresh, cost = None, clock.now() - flight.started
            if type(result) is Fetched:
                flight.kept, fresh, cost = result
                result = flight.kept.fresh()
            elif cache.key_of(args, kwargs) != key:
                # Other tasks ran meanwhile, and one has filled the arrays anew: this is the result of another call.
                cache.not_stored["model_version_changed" if cache.version_changed(key) else "arguments_changed"] += 1
                flight.promote = flight.orphaned
                return result
            else:
                flight.kept = cache.kept(key, this, result)
            if flight.kept is not None and table.get(key) is flight:
                cache.store(key, flight.kept, cost, fresh)
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

    def forget(self, key: Any) -> None:
        """`clear`, for one key."""
        for table in list(self.tables.values()):
            table.pop(key, None)

    def leads(self, key: Any) -> bool:
        """Whether the running loop computes a key."""
        return key in self.tables.get(asyncio.get_running_loop(), ())

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


def _adopt(context: Context) -> None:
    """Gives the caller what its function set in context variables, as if it had run in the caller's own task."""
    for variable, value in context.items():
        if variable is not led and variable.get(None) is not value:
            variable.set(value)
