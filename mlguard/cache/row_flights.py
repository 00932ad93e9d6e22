"""Single flight for rows: of overlapping batches in progress, each row is computed by one.

A call claims all the rows it misses, computes those it got, opens its latch, and only then waits for the rest. So
nobody who waits holds anything that somebody else waits for, and batches that overlap in any way come to an end. A
batch that fails says nothing about single rows: those who waited for it claim them anew. What is already waited for
further out, by the very call inside which this one runs, is computed without a claim.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
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
from mlguard.forks import renew_in_children

if TYPE_CHECKING:
    from mlguard.cache.result import ResultCache

__all__ = ["RowFlight", "TaskRows", "ThreadRows"]


class RowFlight:
    """The rows that one call computes."""

    __slots__ = ("failed", "found", "latch", "leader", "started")

    def __init__(self, leader: Any, latch: Any) -> None:
        self.leader = leader
        self.latch = latch
        self.started = clock.now()
        self.failed = False
        """True where the function raised: waiting for the next one to try would be waiting for the same."""
        self.found: dict[bytes, Any] | None = None
        """The rows, once they are there; None: the call failed, or its rows can't be shared."""


Table = dict[bytes, RowFlight]


def _claimed(table: Table, keys: list[bytes], flight: RowFlight) -> tuple[list[bytes], dict[RowFlight, list[bytes]]]:
    mine: list[bytes] = []
    others: dict[RowFlight, list[bytes]] = {}
    for key in keys:
        leader = table.setdefault(key, flight)
        if leader is flight:
            mine.append(key)
        else:
            others.setdefault(leader, []).append(key)
    return mine, others


def _released(table: Table, keys: list[bytes], flight: RowFlight) -> None:
    for key in keys:
        if table.get(key) is flight:
            table.pop(key, None)


class ThreadRows:
    """Claims of plain functions, among the threads of the process."""

    def __init__(self, cache: ResultCache) -> None:
        self.cache = cache
        self.table: Table = {}
        renew_in_children(self)

    def claim(self, keys: list[bytes]) -> tuple[RowFlight, list[bytes], dict[RowFlight, list[bytes]]]:
        """A flight, the rows it computes, and the flights that compute the others."""
        flight = RowFlight(threading.get_ident(), threading.Lock())
        flight.latch.acquire()
        return flight, *_claimed(self.table, keys, flight)

    @contextmanager
    def leading(self, flight: RowFlight) -> Iterator[None]:
        """While the function runs on the rows of a flight."""
        token = flown.set((*flown.get(), flight.latch))
        try:
            yield
        finally:
            flown.reset(token)

    def leads(self, flight: RowFlight, keys: list[bytes]) -> list[bytes]:
        """The rows that may still be stored: none after a clear, and not those that were invalidated."""
        return [key for key in keys if self.table.get(key) is flight]

    def release(self, flight: RowFlight, keys: list[bytes]) -> None:
        """Lets those who wait go on."""
        _released(self.table, keys, flight)
        flight.latch.release()

    def wait(self, flight: RowFlight, until: float | None) -> bool:
        """Waits until a flight is over; False where it would wait for this very call.

        Raises:
            DeadlineExceededError: The time was up first.
        """
        if flight.latch.acquire(blocking=False):
            flight.latch.release()
            return True
        me = threading.get_ident()
        thread_waits[me] = flight
        try:
            if thread_waits_for_itself(me, flown.get()):
                return False
            while not opened(flight.latch, until):
                if until is not None and clock.now() >= until:
                    raise self.cache.too_late(flight.started)
        finally:
            thread_waits.pop(me, None)
        flight.latch.release()
        return True

    def forget(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.table.pop(key, None)

    def clear(self) -> None:
        self.table.clear()

    def after_fork(self) -> None:
        self.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.cache, "_thread_rows")


class TaskRows:
    """Claims of coroutine functions, among the tasks of an event loop."""

    def __init__(self, cache: ResultCache) -> None:
        self.cache = cache
        self.tables: WeakKeyDictionary[asyncio.AbstractEventLoop, Table] = WeakKeyDictionary()
        renew_in_children(self)

    def claim(self, keys: list[bytes]) -> tuple[RowFlight, list[bytes], dict[RowFlight, list[bytes]]]:
        loop = asyncio.get_running_loop()
        flight = RowFlight(Leader(), loop.create_future())
        return flight, *_claimed(self.tables.setdefault(loop, {}), keys, flight)

    @contextmanager
    def leading(self, flight: RowFlight) -> Iterator[None]:
        outer = led.get()
        led.set((*outer, flight.leader))
        try:
            yield
        finally:
            led.set(outer)

    def leads(self, flight: RowFlight, keys: list[bytes]) -> list[bytes]:
        table = self.tables[asyncio.get_running_loop()]
        return [key for key in keys if table.get(key) is flight]

    def release(self, flight: RowFlight, keys: list[bytes]) -> None:
        loop = flight.latch.get_loop()
        _released(self.tables.get(loop, {}), keys, flight)
        if not flight.latch.done() and not loop.is_closed():
            flight.latch.set_result(None)

    async def wait(self, flight: RowFlight, until: float | None) -> bool:
        if task_waits_for_itself(flight):
            return False
        outer = led.get()
        for leader in outer:
            leader.waits.append(flight)
        try:
            while not flight.latch.done():
                await over(flight.latch, until)
                if until is not None and not flight.latch.done() and clock.now() >= until:
                    raise self.cache.too_late(flight.started)
        finally:
            for leader in outer:
                leader.waits.remove(flight)
        return True

    def forget(self, keys: Iterable[bytes]) -> None:
        keys = list(keys)
        for table in list(self.tables.values()):
            for key in keys:
                table.pop(key, None)

    def clear(self) -> None:
        for table in list(self.tables.values()):
            table.clear()

    def after_fork(self) -> None:
        self.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.cache, "_task_rows")
