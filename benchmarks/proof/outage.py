"""A dependency dies and comes back under load: what its callers do to it, with and without budget and breaker.

64 threads with sync httpx clients, or 1,000 tasks with an async one, call it at a steady rate, whatever becomes of
their calls. The dependency counts what really arrives.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from benchmarks.proof.dependency import Dependency
from mlguard import Breaker, CircuitOpenError, Concurrency, Retry, guarded

__all__ = ["OPEN_FOR", "VARIANTS", "Outage", "Plan", "with_tasks", "with_threads"]

OPEN_FOR: Final = 1.0
_RETRY: Final[dict[str, Any]] = {"max_retries": 3, "initial_delay": "50ms", "max_delay": "1s"}
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "3 retries, no budget": {"retry": Retry(**_RETRY, budget=None)},
    "with the budget": {"retry": Retry(**_RETRY)},
    "with budget and breaker": {
        "retry": Retry(**_RETRY),
        "breaker": Breaker(minimum_calls=20, window="2s", open_for=OPEN_FOR),
    },
}
"""Sections of the three policies, by what the picture calls them."""


@dataclass(frozen=True)
class Plan:
    """How long the dependency is up, dead and up again, and how often it is called."""

    dies_at: float = 2.0
    back_at: float = 6.0
    ends_at: float = 10.0
    calls_per_second: float = 160.0


@dataclass
class Outage:
    """What was seen of one run."""

    requests: list[float] = field(default_factory=list)
    """When the dependency was asked."""
    answered: list[float] = field(default_factory=list)
    """When a call succeeded."""
    failed: int = 0
    refused: int = 0
    """Calls that the open breaker refused at once."""
    stats: dict[str, Any] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    """What was still held when all calls had ended; every count should be 0."""

    def peak(self, plan: Plan) -> float:
        """The most requests a second during the outage, over any second of it."""
        return max(self.rate(plan.dies_at + step / 10, 1.0) for step in range(int(10 * (_dead(plan) - 1)) + 1))

    def rate(self, start: float, length: float) -> float:
        """Requests a second from a moment on."""
        return sum(start <= moment < start + length for moment in self.requests) / length

    def recovered_after(self, plan: Plan) -> float:
        """Seconds from when the dependency was back to the first call that succeeded."""
        return min((moment for moment in self.answered if moment >= plan.back_at), default=float("inf")) - plan.back_at


def _dead(plan: Plan) -> float:
    return plan.back_at - plan.dies_at


def with_threads(sections: Mapping[str, Any], plan: Plan, threads: int = 64) -> Outage:
    """Each thread calls at its own steady beat."""
    seen = Outage()
    before = threading.active_count()
    with Dependency(plan.dies_at, plan.back_at) as dependency, httpx.Client(trust_env=False, limits=_LIMITS) as client:

        @guarded(**sections, concurrency=Concurrency(max_concurrent=threads), validation=False)
        def fetch() -> None:
            client.get(dependency.url, timeout=2).raise_for_status()

        began = dependency.begin()

        def call_steadily(number: int) -> None:
            for moment in _beats(number, threads, plan):
                time.sleep(max(0.0, began + moment - time.monotonic()))
                try:
                    fetch()
                except CircuitOpenError:
                    seen.refused += 1
                except (httpx.HTTPError, OSError):
                    seen.failed += 1
                else:
                    seen.answered.append(time.monotonic() - began)

        callers = [threading.Thread(target=call_steadily, args=(number,)) for number in range(threads)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        seen.requests = dependency.requests()
    seen.stats = fetch.guard.stats()
    seen.left = {**_held(fetch), "threads": threading.active_count() - before}
    return seen


def with_tasks(sections: Mapping[str, Any], plan: Plan, tasks: int = 1000) -> Outage:
    """Each task calls at its own steady beat, all on one event loop."""
    return asyncio.run(_with_tasks(sections, plan, tasks))


async def _with_tasks(sections: Mapping[str, Any], plan: Plan, tasks: int) -> Outage:
    seen = Outage()
    with Dependency(plan.dies_at, plan.back_at) as dependency:
        async with httpx.AsyncClient(trust_env=False, limits=_LIMITS) as client:

            @guarded(**sections, concurrency=Concurrency(max_concurrent=tasks), validation=False)
            async def fetch() -> None:
                (await client.get(dependency.url, timeout=2)).raise_for_status()

            began = dependency.begin()

            async def call_steadily(number: int) -> None:
                for moment in _beats(number, tasks, plan):
                    await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
                    try:
                        await fetch()
                    except CircuitOpenError:
                        seen.refused += 1
                    except (httpx.HTTPError, OSError):
                        seen.failed += 1
                    else:
                        seen.answered.append(time.monotonic() - began)

            await asyncio.gather(*map(call_steadily, range(tasks)))
            seen.requests = await asyncio.to_thread(dependency.requests)
            seen.left = {"tasks": len(asyncio.all_tasks()) - 1}
    seen.stats = fetch.guard.stats()
    seen.left |= _held(fetch)
    return seen


_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=200)


def _beats(number: int, callers: int, plan: Plan) -> list[float]:
    """When one of the callers calls, spread evenly among them."""
    period = callers / plan.calls_per_second
    first = number / plan.calls_per_second
    return [first + turn * period for turn in range(int((plan.ends_at - first) / period) + 1)]


def _held(function: Any) -> dict[str, int]:
    stats = function.guard.stats()
    slots = stats["concurrency"]
    open_now = "breaker" in stats and stats["breaker"]["state"] != "closed"
    return {"slots": slots["in_use"], "waiting": slots["waiting"], "open": int(open_now)}
