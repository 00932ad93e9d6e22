"""Times the contestants of a case in rounds, A B C A B C, so that a busy moment of the machine meets all of them.

The garbage collector is off while a sample is taken and runs between rounds: a contestant that makes cyclic garbage
(tenacity does) is spared what it would cost, which favours the peers.
"""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from time import perf_counter
from typing import Any, TypeAlias

from benchmarks.case import Case

__all__ = ["FULL", "SMOKE", "Effort", "Samples", "measure"]

Samples: TypeAlias = dict[str, list[float]]
"""Seconds per call by contestant; the same index is the same round."""

Loop: TypeAlias = Callable[[int], float]
"""Calls the contestant that many times and returns the seconds it took."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure."""

    rounds: int
    sample: float
    """Seconds that one sample lasts at least: calls are repeated in an inner loop until it does."""


FULL = Effort(rounds=101, sample=0.002)
SMOKE = Effort(rounds=2, sample=0.0002)


def measure(case: Case, effort: Effort, progress: Callable[[int, int], None] = lambda done, rounds: None) -> Samples:
    """Seconds per call of every contestant in every round.

    Args:
        case: Who is timed, on which call.
        effort: Rounds and the length of a sample.
        progress: Told (rounds done, rounds) after the warm-up and after each round.
    """
    rounds = min(effort.rounds, case.most_rounds or effort.rounds)
    sample = max(effort.sample, case.least_sample)
    samples: Samples = {name: [] for name in case.contestants}
    with asyncio.Runner() as runner, _collector_off():
        loops = {name: _loop(case, contestant, runner) for name, contestant in case.contestants.items()}
        calls = {name: 1 if case.self_timed else _calls_per_sample(loop, sample) for name, loop in loops.items()}
        progress(0, rounds)
        for done in range(1, rounds + 1):
            gc.collect()
            for name, loop in loops.items():
                samples[name].append(loop(calls[name]) / calls[name])
            progress(done, rounds)
    return samples


def _calls_per_sample(loop: Loop, sample: float) -> int:
    """Finds the inner loop's length by doubling at least, which warms the contestant up on the way."""
    calls = 1
    while (took := loop(calls)) < sample:
        calls = max(2 * calls, min(10 * calls, math.ceil(1.1 * calls * sample / max(took, 1e-9))))
    return calls


def _loop(case: Case, contestant: Callable[..., Any], runner: asyncio.Runner) -> Loop:
    if case.self_timed:
        return lambda calls: math.fsum(contestant(*case.arguments) for _ in range(calls))
    timed = _timed_loop(len(case.arguments), asynchronous=case.asynchronous)
    if case.asynchronous:
        return lambda calls: runner.run(timed(calls, contestant, *case.arguments))
    return lambda calls: timed(calls, contestant, *case.arguments)


def _timed_loop(arity: int, *, asynchronous: bool) -> Callable[..., Any]:
    """Compiles a loop around a direct call, as timeit does, and anew for every contestant.

    `f(*arguments)` would hand each wrapper a ready tuple, which no caller does; a loop shared by contestants would let
    CPython specialise its call for one of them only.
    """
    names = ", ".join(f"argument_{index}" for index in range(arity))
    text = f"""
{"async " if asynchronous else ""}def timed(calls, contestant, {names}):
    times = repeat(None, calls)
    started = now()
    for _ in times:
        {"await " if asynchronous else ""}contestant({names})
    return now() - started
"""
    namespace: dict[str, Any] = {"repeat": repeat, "now": perf_counter}
    exec(text, namespace)  # noqa: S102 - the text is made of this function's own words
    loop: Callable[..., Any] = namespace["timed"]
    return loop


@contextmanager
def _collector_off() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()  # so that the collections between rounds look at what the rounds made, and are short
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
