"""A bounded queue and the one thread that empties it, for what must not happen on the path of a call.

What is put here is plain data that has been made already: a reference to an argument would keep it alive unseen by the
memory guard, and race with whoever changes it. Each consumer has a drain of its own, so that one that hangs holds up
nobody else. Time is the real one, whatever clock tests put in place: real threads wait here.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Final

from mlguard.forks import in_children, renew_in_children
from mlguard.monitor import readings
from mlguard.monitor.metrics import EVENTS_DROPPED, Figure

__all__ = ["CAPACITY", "EXIT_WAIT", "Drain", "drains"]

CAPACITY: Final = 10_000
"""Items that may wait. At a kilobyte an event that is ten megabytes, and a second or two of a very busy service."""

EXIT_WAIT: Final = 5.0
"""Seconds for which the end of the interpreter waits for all drains together."""

_FORK_WAIT: Final = 1.0  # seconds; a consumer that hangs must not hold up a fork for longer
_LINGER: Final = (
    0.05  # seconds for which the thread lets a batch gather: it wakes 20 times a second, not for every call
)
_BATCH: Final = 512


class Drain:
    """Hands items to a consumer, in order and in batches, from a thread that starts with the first of them.

    `put` takes no lock that its own thread could hold already, so that a signal handler or a finalizer may make guarded
    calls at any point of it. A child process starts with an empty queue and a thread of its own.

    Args:
        name: Says in statistics and thread lists whose it is: ``log``, ``record``, ``datadog``.
        consume: Given a list of items; what it raises is counted, and the batch with it.
        capacity: Items that may wait; what comes beyond is dropped and counted. Threads that put at the very same
            moment may exceed it by one each.
    """

    def __init__(self, name: str, consume: Callable[[list[Any]], None], *, capacity: int = CAPACITY) -> None:
        self.name = name
        self._consume = consume
        self._capacity = capacity
        self.after_fork()
        renew_in_children(self)
        _drains.add(self)

    def put(self, item: Any) -> bool:
        """Takes an item, or counts it as dropped; never blocks and never raises."""
        queue = self._queue
        if queue.qsize() >= self._capacity:
            self.dropped += 1
            return False
        queue.put(item)
        if self._unstarted:
            self._start()
        return True

    def flush(self, timeout: float = EXIT_WAIT) -> bool:
        """Waits until what was put before is consumed; False: it was not in time."""
        if self._thread == threading.get_ident():
            return False  # asked by the consumer itself
        if self._unstarted:
            if not self._queue.qsize():
                return True
            self._start()
        latch = threading.Lock()
        latch.acquire()
        self._queue.put(_Latch(latch))
        self._hurry()
        return latch.acquire(timeout=max(0.0, timeout))

    def close(self, timeout: float = EXIT_WAIT) -> bool:
        """`flush`, and the thread ends; a later item starts another one."""
        flushed = self.flush(timeout)
        if not self._unstarted:
            self._queue.put(_END)
            self._hurry()
        return flushed

    def stats(self) -> dict[str, Any]:
        """Items so far, as plain data.

        ``delivered`` were consumed, ``dropped`` came while the queue was full, ``failed`` were in a batch at which the
        consumer raised, with the class of the ``last_error``; ``waiting`` are still in the queue, and ``busy_for`` are
        the seconds that the consumer has been at its batch.
        """
        since = self._busy_since
        return {
            "delivered": self.delivered,
            "dropped": self.dropped,
            "failed": self.failed,
            "last_error": self.last_error,
            "waiting": self._queue.qsize(),
            "busy_for": 0.0 if since is None else round(time.monotonic() - since, 3),
        }

    def after_fork(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._unstarted = [True]  # whoever takes it out starts the thread: one list operation, no lock
        self._thread: int | None = None
        self._bell = threading.Lock()
        self._bell.acquire()
        self._at_work = threading.RLock()  # held while the consumer works, and while the process forks
        self._busy_since: float | None = None
        self.delivered = self.dropped = self.failed = 0
        self.last_error: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Drain._again, (self.name, self._consume, self._capacity)

    @staticmethod
    def _again(name: str, consume: Callable[[list[Any]], None], capacity: int) -> Drain:
        return Drain(name, consume, capacity=capacity)

    def _start(self) -> None:
        try:
            self._unstarted.pop()
        except IndexError:  # another thread, or a signal handler in this one, is just doing it
            return
        try:
            _at_exit()
            # Not `threading.Thread`: its start takes a lock and waits, which a signal handler in its midst would too.
            _thread.start_new_thread(self._run, (self._queue,))
        except RuntimeError as error:  # no thread to be had, or the interpreter is about to end: the next put tries
            self._unstarted.append(True)
            self.last_error = type(error).__name__
        except BaseException:  # Ctrl-C
            self._unstarted.append(True)
            raise

    def _hurry(self) -> None:
        with contextlib.suppress(RuntimeError):  # the bell rings already
            self._bell.release()

    def _run(self, queue: SimpleQueue[Any]) -> None:
        sys.settrace(threading.gettrace())  # debuggers see this thread as they see those of `threading`
        self._empty(queue)

    def _empty(self, queue: SimpleQueue[Any]) -> None:
        """In the thread: until it is closed."""
        self._thread = threading.get_ident()
        threading.current_thread().name = f"mlguard-{self.name}"
        item = None
        while item is not _END:
            item = queue.get()
            if type(item) is not _Latch and queue.qsize() < self._capacity // 2:
                self._bell.acquire(timeout=_LINGER)
            item = self._deliver(item, queue)
        self._thread = None
        self._unstarted.append(True)

    def _deliver(self, item: Any, queue: SimpleQueue[Any]) -> Any:
        """Consumes the item and all that waits behind it; returns `_END` where that was among it."""
        while True:
            batch: list[Any] = []
            latches: list[_Latch] = []
            try:
                while len(batch) < _BATCH and item is not _END:
                    (latches if type(item) is _Latch else batch).append(item)
                    item = queue.get_nowait()
            except Empty:
                item = None
            if batch:
                self._hand_over(batch)
            for latch in latches:  # some of the batch came after them, which is as well
                latch.open()
            if item is None or item is _END:
                return item

    def _hand_over(self, batch: list[Any]) -> None:
        self._busy_since = time.monotonic()
        try:
            with self._at_work:
                self._consume(batch)
        except BaseException as error:  # SystemExit in a log handler must not end the thread either
            self.failed += len(batch)
            self.last_error = type(error).__name__
        else:
            self.delivered += len(batch)
        finally:
            self._busy_since = None


class _Latch:
    """Stands in the queue where somebody waits for what is before it."""

    __slots__ = ("_lock",)

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def open(self) -> None:
        self._lock.release()


_END: Final = object()


class _Lost:
    """What the drains of this process lost, for the metrics."""

    def metrics(self) -> Iterator[Figure]:
        """One figure for each consumer."""
        for drain in drains():
            yield EVENTS_DROPPED, (drain.name,), drain.dropped + drain.failed


def drains() -> list[Drain]:
    """Those that are alive in this process."""
    return sorted(_drains, key=lambda drain: drain.name)


_drains: weakref.WeakSet[Drain] = weakref.WeakSet()
readings.also(_Lost())
_registered = False


def _at_exit() -> None:
    """Sees to it that the process ends with empty queues; from the first item on, not at import."""
    global _registered
    if _registered:
        return
    _registered = True
    atexit.register(_flush_all)
    workers: Any = sys.modules.get("multiprocessing.util")
    if workers is not None and sys.modules["multiprocessing.process"].parent_process() is not None:
        workers.Finalize(None, _flush_all, exitpriority=10)  # its children don't all run what atexit knows


def _flush_all() -> None:
    until = time.monotonic() + EXIT_WAIT
    for drain in drains():
        drain.flush(until - time.monotonic())


def _before_fork() -> None:
    """Waits until no consumer is in the midst of something: a child would inherit the locks that it holds, for ever."""
    until = time.monotonic() + _FORK_WAIT
    _held.extend(
        drain._at_work
        for drain in drains()
        if drain._thread is not None and drain._at_work.acquire(timeout=max(0.0, until - time.monotonic()))
    )


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().release()


def _renew() -> None:
    global _registered
    _registered = False
    _held.clear()


_held: list[Any] = []
in_children(_renew)
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
