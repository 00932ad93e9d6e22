"""`Memory`, the section of a policy, and `MemoryGuard`, what it becomes for one function.

A call is admitted while what is used, what calls in flight were promised and what this call needs stay below a share
of the nearest limit. Small calls share one reading for as long as memory can't have filled up meanwhile; a call that
needs more than `SMALL` always looks anew, and holds a promise until it ends.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator
from typing import Any, Literal

import structlog
from pydantic import Field

from mlguard import clock
from mlguard.context import Call
from mlguard.errors import MemoryPressureError
from mlguard.memory import admission, garbage, gauge
from mlguard.memory.need import Need, checked, estimator
from mlguard.memory.probe import Reading
from mlguard.section import Section
from mlguard.target import Target

__all__ = ["Memory", "MemoryGuard"]

SMALL = 1 << 20
"""Bytes up to which a call is admitted by a recent reading, without one of its own."""

FILL_RATE = 3e9
"""Bytes per second at which a process can fill memory; 1.6 to 3.2 GB/s were measured."""

SHORTEST, LONGEST = 0.005, 0.25
"""Seconds between which a reading serves small calls; within them, until memory could have filled up."""

FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.05
"""Seconds between two looks while waiting; they grow by half each time."""

BLIND = 1.0
"""Seconds until the next attempt to read where nothing could be read."""

LOG_EVERY = 10.0
"""Seconds between two warnings of one function; those in between are counted in the next."""

_log = structlog.get_logger("mlguard.memory")


class Memory(Section):
    """When a call may start, measured by the memory that its container or host has left.

    Under pressure a call waits, up to `max_wait` and its deadline, and is then refused with `MemoryPressureError`; one
    that could never fit is refused at once.
    """

    threshold: float = Field(default=0.85, gt=0, le=1)
    """The share of the limit up to which calls are admitted. 0.85 leaves room for what nobody declared, and for what is
    allocated between the look and the call."""
    need: Need = None
    """What one call needs at its peak, on top of what is in use: bytes, a size such as "256MiB", or a factor of the
    input's bytes such as "3x". None: nothing is known, and only the threshold is checked. `guarded(need=...)` takes a
    function of the arguments as well."""
    max_wait: clock.Duration = 5
    """How long a call waits for memory to come back before it is refused; 0: not at all. Five seconds outlast a few
    calls in flight, and most callers' patience."""
    on_pressure: Literal["raise", "log"] = "raise"
    """"raise" waits and refuses. "log" only warns: every call goes on at once, for the first week in production."""
    collect_garbage: bool = True
    """Whether calls under pressure run the garbage collector, once until memory is free again, and have the C library
    hand back what was freed (glibc's malloc_trim); each for at most 5 % of the time. Reference cycles can hold whole
    batches, and glibc keeps freed ones, so that a process with nothing to do could stay over its threshold."""


class MemoryGuard:
    """The memory check of one function.

    Args:
        target: The function.
        section: Its settings.
        need: What one call needs, in place of the section's: bytes, a size, a factor, or a function of the arguments
            that returns bytes. A function that fails or returns no number of bytes is counted and means 0.
        gauge: Where memory is read; the process's own unless given.

    Raises:
        PolicyError: `need` can't be understood, or can't be called with the arguments of the function.
    """

    def __init__(
        self,
        target: Target,
        section: Memory,
        *,
        need: int | str | Callable[..., Any] | None = None,
        gauge: gauge.Gauge = gauge.of_this_process,
    ) -> None:
        self._target = target
        self._section = section
        self._need = need
        self._gauge = gauge
        self._threshold = section.threshold
        self._max_wait = clock.seconds(section.max_wait)
        self._only_logs = section.on_pressure == "log"
        self._estimator = estimator(section.need if need is None else need, target)
        self._constant = self._estimator if isinstance(self._estimator, int) else None
        self.reset()

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        small = self._constant is not None and self._constant <= SMALL
        return {
            "memory_enter": self.enter_small if small else self.enter,
            "memory_wait": self.wait_async if asynchronous else self.wait,
            "memory_exit": self.exit,
        }

    def enter_small(self, args: Any, kwargs: Any) -> Any:
        """`enter` for a function whose every call is known to need little: most calls read nothing but the clock."""
        if clock.now() < self._good_until:
            return True
        return self._ask(self._constant or 0)[0]

    def enter(self, args: Any, kwargs: Any) -> Any:
        """A claim to hand to `exit` where the call may start now; None where `wait` must decide."""
        need = self._need_of(args, kwargs)
        if need <= SMALL and clock.now() < self._good_until:
            return True
        return self._ask(need)[0]

    def wait(self, this: Call | None, args: Any, kwargs: Any, deadline: float | None) -> Any:
        """The claim of a call that `enter` did not admit.

        Raises:
            MemoryPressureError: It waited in vain, or can never fit.
        """
        # A thread that runs an event loop would stop the very calls it waits for.
        steps = self._steps(this, args, kwargs, deadline, patient=not _on_event_loop())
        try:
            while True:
                try:
                    pause = next(steps)
                except StopIteration as end:
                    return end.value
                clock.sleep(pause)
        finally:
            steps.close()  # where the wait was interrupted: what was waited is told now

    async def wait_async(self, this: Call | None, args: Any, kwargs: Any, deadline: float | None) -> Any:
        """`wait` that lets the event loop run."""
        steps = self._steps(this, args, kwargs, deadline, patient=True)
        try:
            while True:
                try:
                    pause = next(steps)
                except StopIteration as end:
                    return end.value
                await clock.sleep_async(pause)
        finally:
            steps.close()

    def exit(self, claim: Any) -> None:
        """Takes back what was promised to a call that has ended."""
        if claim is not True:
            admission.of_this_process.release(claim)

    def facts(self) -> dict[str, Any]:
        """Bytes used and their limit by the last reading, for the call's event."""
        last = self._last
        return {} if last is None else {"mlguard.memory.used": last.used, "mlguard.memory.limit": last.limit}

    def explain(self) -> list[str]:
        try:
            reading = self._gauge.read(self._threshold)
        except OSError as error:
            return [f"Admits every call, as {error}"]
        allowed = f"{self._threshold * 100:.4g}% of the {clock.size_text(reading.limit)} limit of {reading.source}"
        size, used = clock.size_text(int(self._threshold * reading.limit)), clock.size_text(reading.used)
        if self._only_logs:
            over = "warns, and the call goes on"
        else:
            collects = (
                "collects garbage and hands freed memory back (at most 5% of the time), "
                if self._section.collect_garbage
                else ""
            )
            waits = f"waits up to {clock.duration_text(self._max_wait)}, " if self._max_wait else ""
            then = "then " if collects or waits else ""
            over = f"{collects}{waits}{then}raises MemoryPressureError"
        return [
            f"Admits a call while used + its need <= {allowed}, {size}; {used} are used now.",
            f"A call's need is {self._need_text()}.",
            f"Over that, it {over}.",
        ]

    def stats(self) -> dict[str, Any]:
        last = self._last
        return {
            "used": last.used if last else None,
            "limit": last.limit if last else None,
            "source": last.source if last else None,
            "reserved": admission.of_this_process.reserved,
            "rejected": self.rejected,
            "waited": self.waited,
            "waited_seconds": self.waited_seconds,
            "collected": self.collected,
            "logged": self.logged,
            "need_failures": self.need_failures,
            "unreadable": self.unreadable,
            "probe_failures": self._gauge.failures,
            "log_failures": self.log_failures,
        }

    def reset(self) -> None:
        """Forgets counts and the last reading; what is promised to calls in flight stays promised."""
        self.rejected = 0
        """Calls refused."""
        self.waited = 0
        """Calls that waited, whether admitted in the end or not."""
        self.waited_seconds = 0.0
        self.collected = 0
        """Garbage collections run."""
        self.logged = 0
        """Calls that went on over the threshold, with ``on_pressure="log"``."""
        self.need_failures = 0
        """Calls whose need could not be told, so that they counted as needing nothing."""
        self.unreadable = 0
        """Readings that failed altogether, so that calls were admitted blindly for a second."""
        self.log_failures = 0
        """Warnings that the logging set-up failed to write."""
        self._last: Reading | None = None
        self._good_until = -math.inf
        self._collected_in_episode = False
        self._warnings: dict[tuple[str, str], _Warnings] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._target, self._section, self._need)

    def _ask(self, need: int) -> tuple[Any, Reading | None]:
        """A claim, or None where the call does not fit, and the reading that decided."""
        try:
            if need > SMALL:
                reading, fits = admission.of_this_process.reserve(need, self._gauge, self._threshold)
            else:
                reading = self._gauge.read(self._threshold)
                fits = need <= reading.room(self._threshold)
        except OSError as error:
            self.unreadable += 1
            self._good_until = clock.now() + BLIND
            self._warn("mlguard.memory.unreadable", "admitted", reason=str(error))
            return True, None
        self._last = reading
        room = reading.room(self._threshold)
        lives = min(max(room / FILL_RATE, SHORTEST), LONGEST)
        self._good_until = clock.now() + lives if room >= SMALL else -math.inf
        if not fits:
            return None, reading
        self._collected_in_episode = False
        return need if need > SMALL else True, reading

    def _steps(
        self, this: Call | None, args: Any, kwargs: Any, deadline: float | None, *, patient: bool
    ) -> Generator[float, None, Any]:
        """Yields the pauses between looks and returns the claim: all that the two kinds of waiting have in common."""
        need = self._need_of(args, kwargs, counted=False)
        started = clock.now()
        slept = False
        give_up = started + self._max_wait if patient else started
        give_up = give_up if deadline is None else min(give_up, deadline)
        left = give_up - started  # counted by the pauses as well, so that it ends where tests make sleeping instant
        pause = FIRST_PAUSE
        try:
            while True:
                claim, reading = self._ask(need)
                if claim is not None or reading is None:
                    return claim
                if self._only_logs:
                    return self._let_pass(this, need, reading)
                permanent = need > int(self._threshold * reading.limit)
                if not permanent and self._relieve(this):
                    continue
                now = clock.now()
                if permanent or left <= 0 or now >= give_up:
                    self.rejected += 1
                    self._warn_of_pressure("refused", need, reading)
                    raise self._refusal(need, reading, now - started, permanent=permanent, patient=patient)
                self._warn_of_pressure("waiting", need, reading)
                slept = True
                yield (step := min(pause, give_up - now, left))
                left -= step
                pause = min(pause * 1.5, LONGEST_PAUSE)
        finally:
            if slept:
                waited = clock.now() - started
                self.waited += 1
                self.waited_seconds += waited
                if this is not None:
                    this.waited += waited
                    this.tell(mlguard__memory__waited=waited)

    def _relieve(self, this: Call | None) -> bool:
        """True where garbage was collected, so that another look is due before anything else."""
        if not self._section.collect_garbage:
            return False
        if self._collected_in_episode or not garbage.of_this_process.collect():
            garbage.of_this_process.hand_back()  # the next look, after a pause, will see what came back
            return False
        self._collected_in_episode = True
        self.collected += 1
        if this is not None:
            this.tell(mlguard__memory__collected=True)
        return True

    def _let_pass(self, this: Call | None, need: int, reading: Reading) -> Any:
        self.logged += 1
        self._warn_of_pressure("admitted", need, reading)
        if this is not None:
            this.tell(mlguard__memory__exceeded=True)
        if need <= SMALL:
            return True
        admission.of_this_process.promise(need)
        return need

    def _need_of(self, args: Any, kwargs: Any, *, counted: bool = True) -> int:
        if self._constant is not None:
            return self._constant
        try:
            return checked(self._estimator(args, kwargs))  # type: ignore[operator]
        except Exception as error:  # the estimate is the user's code: no reason to fail a prediction
            if counted:
                self.need_failures += 1
                # The class only: the message may hold values of the call.
                self._warn(
                    "mlguard.memory.need_failed", "assumed 0", error=type(error).__name__, need=self._need_text()
                )
            return 0

    def _need_text(self) -> str:
        if self._constant is None:
            return str(self._estimator)
        return clock.size_text(self._constant) if self._constant else "not declared, so that it counts as 0"

    def _refusal(
        self, need: int, reading: Reading, waited: float, *, permanent: bool, patient: bool
    ) -> MemoryPressureError:
        used, limit, source = reading
        size, share = clock.size_text, f"{self._threshold * 100:.4g}% of the {clock.size_text(limit)} limit of {source}"
        allowed = size(int(self._threshold * limit))
        if permanent:
            message = (
                f"{self._target.label} was not run: this call needs {size(need)}, and even with nothing else in "
                f"memory only {allowed} may be used, {share}. Fix: split the input, raise the limit, or correct need."
            )
            retry_after = None
        else:
            reserved = admission.of_this_process.reserved
            needs = f", {size(reserved)} are promised to calls in flight" if reserved else ""
            needs += f", and this call needs {size(need)}" if need else ""
            if not patient:
                wait = "It did not wait, as that would block the event loop of its thread. "
            else:
                wait = f"It waited {clock.duration_text(round(waited, 3))}. "
            message = (
                f"{self._target.label} was not run: {size(used)} are used{needs}; {allowed} may be used, {share}. "
                f"{wait}Fix: retry later or elsewhere, run fewer calls at once, raise the limit, or memory.max_wait."
            )
            retry_after = max(1.0, self._max_wait)
        return MemoryPressureError(
            message, used=used, limit=limit, need=need, source=source, retry_after=retry_after, permanent=permanent
        )

    def _warn_of_pressure(self, action: str, need: int, reading: Reading) -> None:
        self._warn("mlguard.memory.pressure", action, need=need, threshold=self._threshold, **reading._asdict())

    def _warn(self, event: str, action: str, **fields: Any) -> None:
        """One warning of a kind now and then: pressure comes when there are most calls."""
        now = clock.now()
        warnings = self._warnings.setdefault((event, action), _Warnings())
        if now < warnings.next:
            warnings.suppressed += 1
            return
        suppressed, warnings.suppressed, warnings.next = warnings.suppressed, 0, now + LOG_EVERY
        try:
            _log.warning(event, function=self._target.name, action=action, suppressed=suppressed, **fields)
        except Exception:  # a logging set-up that fails must not fail a prediction
            self.log_failures += 1


class _Warnings:
    """Of one kind: when the next may be written, and how many were not."""

    next = -math.inf
    suppressed = 0


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _rebuild(target: Target, section: Memory, need: int | str | Callable[..., Any] | None) -> MemoryGuard:
    return MemoryGuard(target, section, need=need)
