"""A real dependency dies under the load of 64 threads and of 1,000 tasks, and comes back."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.proof.outage import OPEN_FOR, VARIANTS, Outage, Plan, with_tasks, with_threads
from mlguard import testing

PLAN = Plan(dies_at=0.6, back_at=1.7, ends_at=3.3, calls_per_second=120.0)


pytestmark = pytest.mark.long


@pytest.mark.parametrize("run", [with_threads, with_tasks])
def test_budget_and_breaker(run: Any) -> None:
    """The dependency is spared while it is dead, calls succeed within one open_for, and nothing is left held."""
    with testing.capture_events() as events:
        seen: Outage = run(VARIANTS["with budget and breaker"], PLAN)
    assert not any(seen.left.values()), seen.left
    assert seen.recovered_after(PLAN) <= OPEN_FOR + 0.5
    assert seen.refused > 0
    assert seen.rate(PLAN.back_at - 0.5, 0.5) < PLAN.calls_per_second / 5
    breaker = seen.stats["breaker"]
    assert breaker["state"] == "closed"
    assert breaker["opened"] == breaker["half_opened"] >= 1
    assert breaker["closed"] == 1
    assert len(events) == breaker["opened"] + breaker["half_opened"] + breaker["closed"]


def test_the_budget_alone() -> None:
    """Without a breaker the budget keeps retries to a share; without either, every failed call comes four times."""
    budget = with_threads(VARIANTS["with the budget"], PLAN)
    bare = with_threads(VARIANTS["3 retries, no budget"], PLAN)
    dead = PLAN.back_at - PLAN.dies_at
    assert budget.rate(PLAN.dies_at, dead) < 1.6 * PLAN.calls_per_second
    assert bare.rate(PLAN.dies_at + 0.4, dead - 0.4) > 2.5 * PLAN.calls_per_second
    assert not any(budget.left.values())
    assert not any(bare.left.values())
