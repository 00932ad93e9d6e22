"""The benchmarks' stopwatch: what it says about functions whose cost is known."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from benchmarks.case import Budget, Case
from benchmarks.measure import Effort, measure

BRIEF = Effort(rounds=3, sample=0.0005)


def test_a_sleep_is_timed_as_long_as_it_sleeps() -> None:
    """A function that takes 2 ms is said to take 2 ms, whatever machine it is."""
    samples = measure(Case("c", "", {"nap": time.sleep}, (0.002,)), BRIEF)
    assert len(samples["nap"]) == 3
    assert all(0.002 <= seconds < 0.02 for seconds in samples["nap"])


def test_a_coroutine_is_awaited() -> None:
    """An asynchronous contestant's time is the awaited call's, not the making of a coroutine."""
    samples = measure(Case("c", "", {"nap": asyncio.sleep}, (0.002,), asynchronous=True), BRIEF)
    assert min(samples["nap"]) >= 0.0015


def test_a_self_timed_contestant_is_believed() -> None:
    """What a subprocess measured itself is taken as it is, once a round."""
    times = iter((3.0, 5.0, 7.0))
    samples = measure(Case("c", "", {"child": lambda: next(times)}, self_timed=True), BRIEF)
    assert samples == {"child": [3.0, 5.0, 7.0]}


def test_short_calls_are_repeated_until_a_sample_lasts() -> None:
    """The inner loop ranges itself: the clock's own cost must not be what is measured."""
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    samples = measure(Case("c", "", {"count": count}), Effort(rounds=1, sample=0.002))
    assert calls > 1_000
    assert samples["count"][0] < 0.002 / 100


def test_contestants_take_turns() -> None:
    """Rounds are A B A B, so that a busy moment of the machine meets both."""
    order: list[str] = []

    def contestant(name: str) -> float:
        order.append(name)
        return 1.0

    both = {"a": lambda: contestant("a"), "b": lambda: contestant("b")}
    measure(Case("c", "", both, self_timed=True), Effort(rounds=3, sample=0))
    assert order == ["a", "b"] * 3


def test_a_case_may_ask_for_fewer_rounds() -> None:
    """A slow case bounds its rounds, and the progress says how many there are."""
    told: list[tuple[int, int]] = []
    case = Case("c", "", {"a": lambda: 1.0}, self_timed=True, most_rounds=2)
    measure(case, BRIEF, lambda done, rounds: told.append((done, rounds)))
    assert told == [(0, 2), (1, 2), (2, 2)]


def test_the_collector_rests_while_a_sample_is_taken_and_is_back_afterwards() -> None:
    """No contestant pays for garbage that another one made, and the process is left as it was."""
    seen: list[bool] = []

    def look() -> float:
        seen.append(gc.isenabled())
        return 1.0

    measure(Case("c", "", {"look": look}, self_timed=True), BRIEF)
    assert seen == [False] * 3
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_budget_of_nobody_is_refused() -> None:
    """A misspelt contestant in a budget is an error, not a budget that is never judged."""
    with pytest.raises(ValueError, match="nopanik"):
        Case("c", "", {"mlguard": lambda: None}, budgets=(Budget("nopanik", 1.0),))
