"""Attempts in threads, which their callers can leave behind. Only ``Timeout(sync_mode="thread")`` uses this.

Nothing stops a thread. What can be promised is that the caller goes on in time, and that nothing is forgotten: the slot
and the memory of an attempt that was left behind are given back when its thread really ends, what it returns or raises
then is dropped, and while too many of them run no further call starts.

Threads are used again. Starting one costs little more than waking one, but what libraries keep for each thread (OpenMP
teams, connections) does not. One that is idle ends after `IDLE` seconds.
"""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from mlguard import clock
from mlguard.context import Call, current
from mlguard.errors import ConcurrencyLimitError
from mlguard.forks import in_children, renew_in_children
from mlguard.resilience import alarms

if TYPE_CHECKING:
    from mlguard.resilience.deadline import Deadlines

__all__ = ["MOST_LEFT", "Threads", "TimeIsUpError"]

MOST_LEFT: Final = 32
"""Threads of one function that run on after their callers went, at which no further call starts: something hangs, and
each would only add a thread and its arguments. Calls that run already may still add theirs."""
IDLE: Final = 10.0
"""Seconds after which a thread without work ends."""


class Threads:
    """Runs the attempts of one function in threads, and knows which of them were left behind.

    Args:
        owner: The limits of the function, whose `threads` this is.
    """

    def __init__(self, owner: Deadlines) -> None:
        self._owner = owner
        self.left_now = 0
        """Threads that run on without their caller at this moment."""
        self.after_fork()
        self.reset()
        renew_in_children(self)

    def in_thread(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """What runs the function in a thread, and gives its result if it comes before the attempt's deadline.

        Raises:
            ConcurrencyLimitError: Too many threads were left behind.
        """
        if self.left_now >= MOST_LEFT:
            with self._lock:
                self.counts["refused"] += 1
            raise ConcurrencyLimitError(
                f"{self._owner.target.name}: not called, because {self.left_now} threads of earlier calls still run "
                f"although their time was up, and from {MOST_LEFT} on no further one starts. Fix: find what hangs "
                "there, and give the client it calls a timeout (mlguard.time_left()).",
                retry_after=1.0,
            )
        return functools.partial(self._run, run)

    def left_running(self, this: Call, slot: Any, claim: Any, slot_exit: Any, memory_exit: Any) -> tuple[Any, Any]:
        """Hands slot and claim to a thread that was left behind; what it gives back is for the caller to free."""
        attempt, this.left = this.left, None
        held = [] if claim is True else [(memory_exit, claim)]
        if slot is not None:
            held.append((slot_exit, slot))
        if attempt is None or not attempt.inherits(held):
            return slot, claim
        if claim is not True:
            claim.detach()
        return None, True

    def stats(self) -> dict[str, int]:
        with self._lock:
            return {**self.counts, "left_now": self.left_now}

    def reset(self) -> None:
        """Forgets the counts, but not the threads that still run."""
        with self._lock:
            self.counts = {"left": 0, "refused": 0, "late_results": 0, "late_errors": 0}

    def after_fork(self) -> None:
        self._lock = threading.RLock()
        self.left_now = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._owner, "threads")

    def leaves(self) -> None:
        """A caller went before its thread ended."""
        with self._lock:
            self.left_now += 1
            self.counts["left"] += 1

    def ended(self, *, failed: bool) -> None:
        """A thread that was left behind ended."""
        with self._lock:
            self.left_now -= 1
            self.counts["late_errors" if failed else "late_results"] += 1

    def _run(self, run: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        this = current.get()
        assert this is not None and this.deadline is not None  # noqa: S101, PT018 - a policy of threads has a limit
        attempt = _Attempt(self, this, run, args, kwargs)
        _start(attempt)  # which may fail, at the machine's limit of threads: then nothing runs, and nothing is left
        try:
            ended = alarms.acquire(attempt.done, this.deadline - clock.now())
        except BaseException:  # Ctrl-C
            if attempt.is_left():
                this.left = attempt
            raise
        if not ended and attempt.is_left():
            this.left = attempt
            raise TimeIsUpError
        return attempt.outcome(this)


class TimeIsUpError(Exception):
    """Says to `Deadlines` that an attempt was left behind."""


class _Attempt:
    """One attempt on its way through a thread."""

    def __init__(self, owner: Threads, this: Call, run: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self.done = threading.Lock()
        """Opens when it has ended."""
        self.done.acquire()
        self._owner = owner
        self._work: Any = (run, args, kwargs)
        self._call = _own_record(this)
        self._context: Any = contextvars.copy_context()
        self._context.run(current.set, self._call)
        self._result: Any = None
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._ended = self._left = False
        self._held: list[tuple[Callable[[Any], None], Any]] = []

    def work(self) -> None:
        """In the thread: runs the function."""
        (run, args, kwargs), self._work = self._work, None
        try:
            self._result = self._context.run(run, *args, **kwargs)
        except BaseException as error:
            frames = error.__traceback__
            # Without this frame, which would keep the arguments, and this attempt, in a circle.
            self._error = error.with_traceback(frames and frames.tb_next)
            frames = None
        finally:
            run = args = kwargs = None
            self._context = None

    def end(self) -> None:
        """In the thread: tells the caller, or cleans up after one that has gone."""
        with self._lock:
            self._ended = True
            left = self._left
        if left:
            failed, self._error, self._result = self._error is not None, None, None
            self._owner.ended(failed=failed)
            for exits, what in self._held:
                exits(what)
        else:
            self.done.release()

    def is_left(self) -> bool:
        """The caller goes; False: it has ended in this moment."""
        with self._lock:
            if self._ended:
                return False
            self._left = True
        self._owner.leaves()
        return True

    def inherits(self, held: list[tuple[Callable[[Any], None], Any]]) -> bool:
        """Takes what is to be given back when it ends; False: it has ended."""
        with self._lock:
            if not self._ended:
                self._held = held
            return not self._ended

    def outcome(self, this: Call) -> Any:
        """What the function returned or raised, and what it told its call."""
        told = self._call
        if told.notes:
            this.notes = {**(this.notes or {}), **told.notes}
        if told.facts:
            this.facts = {**(this.facts or {}), **told.facts}
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                error = None  # its traceback holds this frame
        return self._result


class _Thread:
    """A thread that takes one attempt after the other."""

    def __init__(self, attempt: _Attempt) -> None:
        self._attempt: _Attempt | None = attempt
        self._bell = threading.Lock()
        self._bell.acquire()
        threading.Thread(target=self._go, name="mlguard-attempt", daemon=True).start()

    def take(self, attempt: _Attempt) -> None:
        self._attempt = attempt
        self._bell.release()

    def _go(self) -> None:
        while True:
            attempt, self._attempt = self._attempt, None
            assert attempt is not None  # noqa: S101 - for the type checker
            attempt.work()
            _idle.append(self)  # before its caller goes on, whose next attempt finds this thread idle
            attempt.end()
            attempt = None
            if not self._bell.acquire(timeout=IDLE):
                try:
                    _idle.remove(self)
                    return
                except ValueError:  # it was given an attempt in this moment
                    self._bell.acquire()


_idle: list[_Thread] = []
in_children(_idle.clear)


def _start(attempt: _Attempt) -> None:
    try:
        thread = _idle.pop()
    except IndexError:
        _Thread(attempt)
    else:
        thread.take(attempt)


def _own_record(this: Call) -> Call:
    """The call as the thread knows it: its deadline stays, and what it tells is not told after the call has ended."""
    own = Call.__new__(Call)
    vars(own).update(vars(this), _id=this.id, notes=None, facts=None)
    return own
