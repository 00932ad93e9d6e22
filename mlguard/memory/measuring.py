"""`LearningGuard`: the memory guard of a function whose need is learned from what its calls take.

Until enough was measured, each call runs alone in the container; so does one whose input is far bigger than any
measured. From then on calls are promised what `learned.py` says, and one that happens to be alone is measured again now
and then, so that what is known follows the function when its model changes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from mlguard import clock
from mlguard.batch import Batch
from mlguard.context import Call
from mlguard.errors import PolicyError
from mlguard.memory import meter, nested
from mlguard.memory.guard import SMALL, MemoryGuard
from mlguard.memory.learned import Learned
from mlguard.memory.ledger import Claim, Look
from mlguard.memory.line import Waiter
from mlguard.memory.meter import Measurement
from mlguard.memory.need import LEARNED
from mlguard.memory.section import Memory
from mlguard.target import Target

__all__ = ["LearningGuard", "guard_for"]

MEASURE_EVERY = 0.25
"""Seconds between two measurements of a function that is known already."""

SHARE_OF_TIME = 0.05
"""Of the time, at most so much goes into measuring: to see all that a call takes, the heaps are trimmed before."""


def guard_for(
    target: Target,
    section: Memory,
    *,
    need: int | str | Callable[..., Any] | None = None,
    batch: Batch | None = None,
) -> MemoryGuard:
    """The guard of one function: one that learns where its need is to be learned.

    Args:
        target: The function.
        section: Its settings.
        need: What one call needs, in place of the section's.
        batch: Which arguments have the rows, where batches are to be split.

    Raises:
        PolicyError: `need` can't be honoured for this function, or on this machine.
    """
    learns = (section.need if need is None else need) == LEARNED
    return (LearningGuard if learns else MemoryGuard)(target, section, need=need, batch=batch)


class Unknown(int):
    """At least so many bytes, and nobody knows how many more: the call runs alone."""

    size: int
    """Bytes of its input."""

    @classmethod
    def of(cls, least: int, size: int) -> Unknown:
        unknown = cls(least)
        unknown.size = size
        return unknown


class _Note(NamedTuple):
    """What is remembered of a call that is being measured."""

    size: int
    measured: Measurement
    handled: int
    """Which exception was being handled around the call."""


class LearningGuard(MemoryGuard):
    """The memory check of one function whose need is learned.

    Raises:
        PolicyError: The peak of a call can't be measured on this machine.
    """

    def __init__(self, target: Target, section: Memory, **given: Any) -> None:
        self._learned = Learned()
        super().__init__(target, section, **given)
        if (reason := meter.of_this_process.why_not) is not None:
            raise PolicyError(
                f'{target.name}: need="learned" measures what calls take, and that is not possible here: {reason}. '
                'Fix: declare it, such as need="3x" or need="500MiB".'
            )

    def enter(self, args: Any, kwargs: Any) -> Any:
        size = self._size_of(args, kwargs, counted=True)
        need = self._need_at(size)
        known, now = type(need) is int, clock.now()
        if known and need <= SMALL and now < self._good_until:
            return True
        shared = nested.share(need if known else None)
        if shared is not None:
            return shared  # what the outer call takes is measured, and this one with it
        if known and need <= SMALL and now >= self._measure_at:
            need = SMALL + 1  # so that it has a claim, and can be measured
        return self._noted(self._entered(self._ask(need)[0]), size)

    def wait(self, this: Call | None, args: Any, kwargs: Any, deadline: float | None) -> Any:
        return self._noted(super().wait(this, args, kwargs, deadline), self._size_of(args, kwargs))

    async def wait_async(self, this: Call | None, args: Any, kwargs: Any, deadline: float | None) -> Any:
        return self._noted(await super().wait_async(this, args, kwargs, deadline), self._size_of(args, kwargs))

    def exit(self, claim: Any) -> None:
        try:
            if type(claim) is Claim and claim.note is not None:
                self._learn(claim.note)
        finally:
            super().exit(claim)

    def facts(self) -> dict[str, Any]:
        return super().facts() | self._facts

    def stats(self) -> dict[str, Any]:
        return super().stats() | {"need": self._learned.stats()}

    def reset(self) -> None:
        super().reset()
        self._learned.reset()
        self._facts: dict[str, Any] = {}
        self._measure_at = float("-inf")

    def _ask(self, need: int, waiter: Waiter | None = None, *, alone: bool = False) -> tuple[Claim | bool | None, Look]:
        if type(need) is Unknown:
            known = self._learned.need(need.size)  # perhaps by now, where it waited
            if known is None and self._only_logs:
                need = max(int(need), SMALL + 1)  # nothing waits in log mode, not even to be alone
            elif known is None:
                alone = True
            else:
                need = known
                if waiter is not None:
                    waiter.need = known
        return super()._ask(need, waiter, alone=alone)

    def _need_of(self, args: Any, kwargs: Any, *, counted: bool = True) -> int:
        return self._need_at(self._size_of(args, kwargs, counted=counted))

    def _need_at(self, size: int) -> int:
        need = self._learned.need(size)
        return Unknown.of(self._learned.expected(size), size) if need is None else need

    def _size_of(self, args: Any, kwargs: Any, *, counted: bool = False) -> int:
        return super()._need_of(args, kwargs, counted=counted)

    def _refusal(self, need: int, look: Look, waited: float, why_not: str | None) -> Exception:
        if type(need) is Unknown and not look.permanent and why_not is None:
            why_not = f"It waited {clock.duration_text(round(waited, 3))} to run alone, as its need is {self._learned}."
        return super()._refusal(int(need), look, waited, why_not)

    def _noted(self, claim: Any, size: int) -> Any:
        """The claim, with a note where its call is to be measured."""
        if type(claim) is not Claim or claim.note is not None:
            return claim
        started = clock.now()
        if started < self._measure_at and self._learned.need(size) is not None:
            return claim
        measured = meter.of_this_process.start(claim.need)
        if measured is not None:
            claim.note = _Note(size, measured, id(sys.exception()))
            if self._learned.ready:
                took = clock.now() - started
                self._measure_at = started + max(MEASURE_EVERY, took / SHARE_OF_TIME)
        return claim

    def _learn(self, note: _Note) -> None:
        peak = meter.of_this_process.stop(note.measured)
        if peak is None:
            return
        failed = id(sys.exception()) != note.handled
        if failed and not (self._learned.ready and peak > self._learned.expected(note.size)):
            return  # it failed, perhaps before it took much: that says nothing of the others
        self._learned.learn(note.size, peak, note.measured.reusable)
        self._facts = {f"mlguard.memory.need_{key}": value for key, value in self._learned.facts().items()}

    def _need_text(self) -> str:
        return str(self._learned)
