"""`MemoryGuard`: what the section `Memory` becomes for one function.

A call is admitted while what is used, what calls in flight were promised and what this call needs stay below a share
of every limit. Small calls share one reading for as long as memory can't have filled up meanwhile; a call that needs
more than `SMALL` always looks anew, and holds a promise until it ends.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator, Iterator
from typing import Any

from mlguard import clock
from mlguard.batch import Batch
from mlguard.context import Call, ambient_deadline
from mlguard.errors import PolicyError
from mlguard.memory import container, gauge, ledger, nested
from mlguard.memory.ledger import Claim, Look
from mlguard.memory.line import MOST_WAITING, TaskWaiter, ThreadWaiter, Waiter
from mlguard.memory.need import checked, estimator
from mlguard.memory.parts import Part, Parts
from mlguard.memory.probe import Reading
from mlguard.memory.refusal import Warnings, allowed_text, refusal
from mlguard.memory.relief import Relief
from mlguard.memory.section import Memory
from mlguard.monitor import metrics
from mlguard.target import Target

__all__ = ["MemoryGuard"]

SMALL = 1 << 20
"""Bytes up to which a call is admitted by a recent reading, without one of its own."""

FILL_RATE = 3e9
"""Bytes per second at which a process can fill memory; 1.6 to 3.2 GB/s were measured."""

SHORTEST, LONGEST = 0.005, 0.25
"""Seconds between which a reading serves small calls; within them, until memory could have filled up."""

BLIND = 1.0
"""Seconds until the next attempt to read where nothing could be read."""

_ON_LOOP = "It did not wait, as that would block the event loop of its thread."
_FULL = f"It did not wait, as {MOST_WAITING} calls of this process do already."


class MemoryGuard:
    """The memory check of one function.

    Args:
        target: The function.
        section: Its settings.
        need: What one call needs, in place of the section's: bytes, a size, a factor, or a function of the arguments
            that returns bytes. A function that fails or returns no number of bytes is counted and means 0.
        batch: Which arguments have the rows; needed where the section says `split`.
        gauge: Where memory is read; the process's own unless given.
        ledger: Where promises are kept; unless given, the one of the section's scope.

    Raises:
        PolicyError: `need` can't be understood, can't be called with the arguments of the function, or does not grow
            with its input where batches are to be split.
    """

    def __init__(
        self,
        target: Target,
        section: Memory,
        *,
        need: int | str | Callable[..., Any] | None = None,
        batch: Batch | None = None,
        gauge: gauge.Gauge = gauge.of_this_process,
        ledger: ledger.Ledger | None = None,
    ) -> None:
        self._target = target
        self._section = section
        self._need = need
        self._batch = batch
        self._gauge = gauge
        self._ledger = ledger or _ledger_of(section)
        self._relief = Relief(section)
        self._threshold = section.threshold
        self._max_wait = clock.seconds(section.max_wait)
        self._only_logs = section.on_pressure == "log"
        self._has_inside = not target.kind.stream  # what runs between two items is the caller's, not the call's
        self._estimator = estimator(section.need if need is None else need, target)
        self._constant = self._estimator if isinstance(self._estimator, int) else None
        self._parts = None
        if section.split:
            if self._constant is not None:
                raise PolicyError(
                    f"{target.name}: memory.split=True, but its need is {self._need_text()}, so that a part would need "
                    'as much as the whole. Fix: a need that grows with the input, such as need="3x", or split=False.'
                )
            self._parts = Parts(target, batch or Batch(target), self._need_of_part)
        self.reset()

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        small = self._constant is not None and self._constant <= SMALL
        parts = self._parts
        in_parts = {} if parts is None else {"in_parts": parts.in_parts_async if asynchronous else parts.in_parts}
        return {
            **in_parts,
            "memory_enter": self.enter_small if small else self.enter,
            "memory_wait": self.wait_async if asynchronous else self.wait,
            "memory_exit": self.exit,
        }

    def enter_small(self, args: Any, kwargs: Any) -> Any:
        """`enter` for a function whose every call is known to need little: most calls read nothing but the clock."""
        if clock.now() < self._good_until:
            return True
        need = self._constant or 0
        return nested.share(need) or self._ask(need)[0]

    def enter(self, args: Any, kwargs: Any) -> Any:
        """A claim to hand to `exit` where the call may start now; None where `wait` must decide."""
        need = self._need_of(args, kwargs)
        if need <= SMALL and clock.now() < self._good_until:
            return True
        return nested.share(need) or self._entered(self._ask(need)[0])

    def wait(self, this: Call | None, args: Any, kwargs: Any, deadline: float | None) -> Any:
        """The claim of a call that `enter` did not admit.

        Raises:
            MemoryPressureError: It waited in vain, or can never fit.
        """
        need = self._need_of(args, kwargs, counted=False)
        waiter = ThreadWaiter(need, self._threshold)
        # A thread that runs an event loop would stop the very calls it waits for.
        why_not = _ON_LOOP if _on_event_loop() else None
        steps = self._steps(this, (args, kwargs), waiter, deadline, why_not=why_not)
        try:
            while True:
                try:
                    pause = next(steps)
                except StopIteration as end:
                    return self._entered(end.value)
                waiter.pause(pause)
        finally:
            steps.close()  # where the wait was interrupted: it leaves the line, and what it waited is told

    async def wait_async(self, this: Call | None, args: Any, kwargs: Any, deadline: float | None) -> Any:
        """`wait` that lets the event loop run."""
        need = self._need_of(args, kwargs, counted=False)
        waiter = TaskWaiter(need, self._threshold)
        steps = self._steps(this, (args, kwargs), waiter, deadline)
        try:
            while True:
                try:
                    pause = next(steps)
                except StopIteration as end:
                    return self._entered(end.value)
                await waiter.pause(pause)
        finally:
            steps.close()

    def exit(self, claim: Any) -> None:
        """Takes back what was promised to a call that has ended."""
        if claim is not True:
            claim.release()

    def facts(self) -> dict[str, Any]:
        """Bytes used and their limit by the last reading, for the call's event."""
        last = self._last
        return {} if last is None else {"mlguard.memory.used": last.used, "mlguard.memory.limit": last.limit}

    def explain(self) -> list[str]:
        try:
            reading = self._gauge.read(self._threshold)
        except OSError as error:
            return [f"Admits every call, as {error}"]
        size, used = clock.size_text(int(self._threshold * reading.limit)), clock.size_text(reading.used)
        if self._only_logs:
            over = "warns, and the call goes on"
        else:
            waits = f"waits up to {clock.duration_text(self._max_wait)}" if self._max_wait else ""
            splits = "" if self._parts is None else f"splits the batch {self._parts.label} and runs it in parts"
            actions = [action for action in (self._relief.explain(), waits, splits) if action]
            over = "".join(f"{action}, " for action in actions) + ("then " if actions else "")
            over += "raises MemoryPressureError"
        allowed = allowed_text(self._threshold, reading.limit, reading.source)
        promises = [] if self._constant is not None and self._constant <= SMALL else [self._ledger.explain()]
        return [
            f"Admits a call while used + its need <= {allowed}, {size}; {used} are used now.",
            f"A call's need is {self._need_text()}.",
            *promises,
            f"Over that, it {over}.",
        ]

    def stats(self) -> dict[str, Any]:
        last = self._last
        return {
            "used": last.used if last else None,
            "limit": last.limit if last else None,
            "source": last.source if last else None,
            "working_set": self._gauge.working_set(),
            **self._ledger.state(),
            "rejected": self.rejected,
            "waited": self.waited,
            "waited_seconds": self.waited_seconds,
            "logged": self.logged,
            "split": self.split,
            "need_failures": self.need_failures,
            "unreadable": self.unreadable,
            "probe_failures": self._gauge.failures,
            "log_failures": self._warnings.failures,
            **self._relief.stats(),
        }

    def metrics(self) -> Iterator[metrics.Figure]:
        yield metrics.MEMORY_THRESHOLD, (), self._threshold
        yield metrics.MEMORY_RESERVED, (), self._ledger.reserved_here
        yield metrics.MEMORY_REJECTIONS, ("raise",), self.rejected
        yield metrics.MEMORY_REJECTIONS, ("log",), self.logged
        yield metrics.MEMORY_SPLITS, (), self.split
        yield metrics.MEMORY_FREED, (), self._relief.shrunk
        yield metrics.MEMORY_UNREADABLE, (), self.unreadable
        yield metrics.WAITED, ("memory",), self.waited_seconds
        yield metrics.INSTRUMENTATION_ERRORS, (), self._warnings.failures

    def reset(self) -> None:
        """Forgets counts and the last reading; what is promised to calls in flight stays promised."""
        self.rejected = 0
        """Calls refused."""
        self.waited = 0
        """Calls that waited, whether admitted in the end or not."""
        self.waited_seconds = 0.0
        self.logged = 0
        """Calls that went on over the threshold, with ``on_pressure="log"``."""
        self.split = 0
        """Calls that ran in parts."""
        self.need_failures = 0
        """Calls whose need could not be told, so that they counted as needing nothing."""
        self.unreadable = 0
        """Readings that failed altogether, so that calls were admitted blindly for a second."""
        self._relief.reset()
        self._last: Reading | None = None
        self._good_until = -math.inf
        self._warnings = Warnings(self._target.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._target, self._section, self._need, self._batch)

    def _entered(self, claim: Any) -> Any:
        """The claim; guarded calls that this one makes may use what it was promised."""
        promised = claim.claim if type(claim) is Part else claim
        if type(promised) is Claim and self._has_inside:
            nested.enter(promised)
        return claim

    def _ask(self, need: int, waiter: Waiter | None = None, *, alone: bool = False) -> tuple[Claim | bool | None, Look]:
        """A claim, or None where the call may not start now, and what decided."""
        try:
            look = self._look(need, waiter, alone=alone)
        except OSError as error:
            self.unreadable += 1
            self._good_until = clock.now() + BLIND
            self._warnings.warn("mlguard.memory.unreadable", "admitted", reason=str(error))
            return True, _NOTHING_SEEN
        self._last = look.reading
        room = look.reading.room(self._threshold)
        lives = min(max(room / FILL_RATE, SHORTEST), LONGEST)
        self._good_until = clock.now() + lives if room >= SMALL else -math.inf
        if look.claim is None:
            return None, look
        self._relief.over()
        return look.claim, look

    def _look(self, need: int, waiter: Waiter | None, *, alone: bool) -> Look:
        if need > SMALL or alone:
            look = self._ledger.reserve(need, self._gauge, self._threshold, waiter, alone=alone)
            if self._ledger.news is not None:
                reason, self._ledger.news = self._ledger.news, None
                self._warnings.warn("mlguard.memory.ledger", "promises count per process", reason=reason)
            return look
        reading = self._gauge.read(self._threshold)
        room = reading.room(self._threshold)
        permanent = need > int(self._threshold * reading.limit)
        return Look(True if need <= room else None, reading, room, room, self._ledger.reserved_here, permanent)

    def _steps(
        self, this: Call | None, call: Any, waiter: Waiter, deadline: float | None, *, why_not: str | None = None
    ) -> Generator[float, None, Any]:
        """Yields the pauses between looks and returns the claim: all that the two kinds of waiting have in common."""
        line, started, joined = self._ledger.line, clock.now(), False
        give_up = started if why_not is not None else started + self._max_wait
        deadline = ambient_deadline() if deadline is None else deadline
        give_up = give_up if deadline is None else min(give_up, deadline)
        left = give_up - started  # counted by the pauses as well, so that it ends where tests make sleeping instant
        whole, looks, cuts = left, True, None
        self._relief.begin()
        try:
            while True:
                now = clock.now()
                ends = left <= 0 or now >= give_up
                if looks or ends:
                    claim, look = self._ask(waiter.need, waiter)
                    need = waiter.need
                    if claim is not None:
                        return claim if cuts is None else self._in_parts(this, Part(claim, cuts))
                    if self._only_logs:
                        return self._let_pass(this, need, look)
                    late = 2 * left <= whole
                    if _lacks(need, look, late=late) and self._relief.act(this, need, look.reading):
                        continue
                    if not (look.permanent or ends or joined or line.join(waiter)):
                        why_not, ends = _FULL, True
                    if self._parts is not None and (look.permanent or (ends and look.room < need)):
                        smaller = self._parts.smaller(call, need, look, self._threshold)
                        if smaller is not None:
                            cuts, waiter.need = smaller
                            continue
                    if look.permanent or ends:
                        self.rejected += 1
                        self._warn_of_pressure("refused", need, look.reading)
                        raise self._refusal(need, look, clock.now() - started, why_not)
                    self._warn_of_pressure("waiting", need, look.reading)
                    joined = True
                    if look.room > 0 and line.first() is waiter:
                        line.ring_those_within(look.room)
                step = min(waiter.step(line.first(self._threshold) is waiter), max(0.0, give_up - clock.now()), left)
                paused = clock.now()
                yield step
                left -= clock.now() - paused if waiter.rung else step  # a bell ends a pause early
                looks = waiter.awake() or line.first(self._threshold) is waiter
        finally:
            if joined:
                self._ledger.leave(waiter)
                waited = clock.now() - started
                self.waited += 1
                self.waited_seconds += waited
                if this is not None:
                    this.waited += waited
                    this.tell(mlguard__memory__waited=waited)

    def _in_parts(self, this: Call | None, part: Part) -> Part:
        self.split += 1
        if this is not None:
            this.tell(mlguard__memory__parts=part.parts)
        return part

    def _let_pass(self, this: Call | None, need: int, look: Look) -> Any:
        if look.room < need:  # and not only another call that waits
            self.logged += 1
            self._warn_of_pressure("admitted", need, look.reading)
            if this is not None:
                this.tell(mlguard__memory__exceeded=True)
        return True if need <= SMALL else self._ledger.promise(need)

    def _need_of(self, args: Any, kwargs: Any, *, counted: bool = True) -> int:
        if self._constant is not None:
            return self._constant
        try:
            return checked(self._estimator(args, kwargs))  # type: ignore[operator]
        except Exception as error:  # the estimate is the user's code: no reason to fail a prediction
            if counted:
                self.need_failures += 1
                # The class only: the message may hold values of the call.
                self._warnings.warn(
                    "mlguard.memory.need_failed", "assumed 0", error=type(error).__name__, need=self._need_text()
                )
            return 0

    def _need_of_part(self, args: Any, kwargs: Any) -> int | None:
        failures = self.need_failures
        need = self._need_of(args, kwargs)
        return need if failures == self.need_failures else None

    def _need_text(self) -> str:
        if self._constant is None:
            return str(self._estimator)
        return clock.size_text(self._constant) if self._constant else "not declared, so that it counts as 0"

    def _refusal(self, need: int, look: Look, waited: float, why_not: str | None) -> Exception:
        return refusal(
            self._target.label,
            look,
            need=need,
            share=self._threshold,
            waited=waited,
            max_wait=self._max_wait,
            why_not=why_not,
        )

    def _warn_of_pressure(self, action: str, need: int, reading: Reading) -> None:
        self._warnings.warn(
            "mlguard.memory.pressure", action, need=need, threshold=self._threshold, **reading._asdict()
        )


_NOTHING_SEEN = Look(None, Reading(0, 0, "nothing"), 0, 0, 0, False)


def _ledger_of(section: Memory) -> ledger.Ledger:
    return ledger.of_this_process if section.scope == "process" else container.of_this_container


def _lacks(need: int, look: Look, *, late: bool) -> bool:
    """True where something must be done, and not just waited for: calls in flight give their memory back anyway.

    In processes forked from one, collecting garbage costs memory at first, as it writes to every object they share.
    """
    return not look.permanent and look.room < need and (late or look.room_when_idle < need)


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _rebuild(
    kind: type[MemoryGuard], target: Target, section: Memory, need: int | str | Callable[..., Any] | None, batch: Any
) -> MemoryGuard:
    return kind(target, section, need=need, batch=batch)
