"""f.guard: what can be asked of a guarded function."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from mlguard import (
    Breaker,
    Cache,
    Concurrency,
    Fallback,
    InvalidInputError,
    Memory,
    Monitor,
    Policy,
    PolicyError,
    Retry,
    Timeout,
    Validation,
    guarded,
    testing,
)

EVERYTHING = Policy(
    name="everything",
    fallback=Fallback(value=-1),
    timeout=Timeout(total="30s", attempt=5),
    cache=Cache(ttl="5m"),
    retry=Retry(max_retries=4, initial_delay=0),
    breaker=Breaker(),
    concurrency=Concurrency(max_concurrent=8),
    memory=Memory(threshold=0.91),
    monitor=Monitor(log=False),
)


def make(policy: Policy = EVERYTHING) -> Any:
    failures = iter([ConnectionError(), None])

    @guarded(policy)
    def f(x: int) -> int:
        if x == 7 and (failure := next(failures)):
            raise failure
        if x < 0:
            raise ConnectionError
        return x * 2

    return f


def test_outcome() -> None:
    """`f.guard.call` says how the call went: executed, cached, retried or degraded."""
    f = make()
    first, second, retried, degraded = (f.guard.call(x) for x in (1, 1, 7, -3))
    assert (first.value, first.disposition, first.cached, first.attempts) == (2, "executed", False, 1)
    assert (second.value, second.disposition, second.cached, second.attempts) == (2, "cache_hit", True, 0)
    assert (retried.value, retried.attempts, retried.degraded) == (14, 2, False)
    assert (degraded.value, degraded.disposition, degraded.degraded, degraded.attempts) == (-1, "fallback", True, 5)
    assert len({outcome.call_id for outcome in (first, second, retried, degraded)}) == 4
    assert all(outcome.duration >= 0 for outcome in (first, second))


def test_outcome_without_a_monitor() -> None:
    """An Outcome needs no section that records."""

    @guarded
    def f(x: int) -> int:
        return x

    assert f.guard.call(1).attempts == 1


def test_outcome_of_a_coroutine() -> None:
    """`acall` is `call` for a coroutine function, and each names the other where it is the wrong one."""

    @guarded(cache=Cache(ttl=9))
    async def later(x: int) -> int:
        return x

    @guarded
    def items() -> Iterator[int]:
        yield 1

    async def twice() -> list[Any]:
        return [await later.guard.acall(1), await later.guard.acall(1)]

    assert [outcome.cached for outcome in asyncio.run(twice())] == [False, True]
    with pytest.raises(PolicyError, match="acall"):
        later.guard.call(1)
    with pytest.raises(PolicyError, match=r"guard\.call"):
        asyncio.run(make().guard.acall(1))
    with pytest.raises(PolicyError, match="iterate it"):
        items.guard.call()


def test_report_mode() -> None:
    """What report mode lets pass is in the Outcome."""

    @guarded(validation=Validation(on_invalid="report"))
    def f(x: int) -> str:
        return f"{x}"

    outcome = f.guard.call("three")  # type: ignore[arg-type]
    assert outcome.value == "three"
    assert outcome.rejected[0]["loc"] == ("x",)


def test_explain_names_every_number() -> None:
    """`explain()` says in order what happens to a call, with every number in force."""
    said = make().guard.explain()
    for figure in ("30s", "5s", "5m", "4", "91%", "8", "50%", "10000", "256MiB"):
        assert figure in said.replace(",", "").replace(" %", "%"), f"{figure} is missing in:\n{said}"
    order = [
        said.index(f". {name}:")
        for name in (
            "monitor",
            "fallback",
            "validation",
            "timeout",
            "cache",
            "retry",
            "breaker",
            "concurrency",
            "memory",
            "function",
        )
    ]
    assert order == sorted(order)


def test_source_is_the_call() -> None:
    """`source` prints the wrapper as it runs: only the concerns of the policy."""

    @guarded(retry=Retry())
    def f(x: int) -> int:
        return x

    assert "again(" in f.guard.source
    assert "breaker_enter" not in f.guard.source
    compile(f.guard.source, "source", "exec")


def test_stats_are_plain_data() -> None:
    """`stats()` tells what each concern did, works without a monitor, and is JSON."""
    f = make(EVERYTHING.merged({"monitor": False}))
    f(1), f(1), f(7)
    with pytest.raises(InvalidInputError):
        f("x")
    stats = json.loads(json.dumps(f.guard.stats()))
    assert stats["cache"]["hits"] == 1
    assert set(stats) == {"validation", "fallback", "timeout", "cache", "retry", "breaker", "concurrency", "memory"}


def test_reset_forgets() -> None:
    """`reset()` brings counts and caches back to the start."""
    f = make()
    f(1), f(1)
    assert f.guard.cache_info().hits == 1
    f.guard.reset()
    assert f.guard.cache_info().hits == 0
    assert f.guard.call(1).cached is False


def test_cache_clear() -> None:
    """`cache_clear()` forgets results, and both cache calls need a cache."""
    f = make()
    f(1)
    f.guard.cache_clear()
    assert f.guard.call(1).cached is False
    plain = make(EVERYTHING.merged({"cache": False}))
    with pytest.raises(PolicyError, match="no cache"):
        plain.guard.cache_info()


def test_warm_runs_outside_statistics() -> None:
    """`warm` runs the function with its schema, and leaves cache, breaker and counts alone."""
    f = make()
    with testing.capture_events() as events:
        assert f.guard.warm("4") == 8
        with pytest.raises(InvalidInputError):
            f.guard.warm("four")
        with pytest.raises(ConnectionError):
            f.guard.warm(-1)
    assert events == []
    assert f.guard.cache_info().entries == 0


def test_repr() -> None:
    """A handle says whose it is."""
    assert "make.<locals>.f" in repr(make().guard)
