"""Retry(on_result=...): results that are retried."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mlguard import Breaker, Cache, Monitor, PolicyError, Retry, Timeout, guarded, policies, testing


def pending(answer: Any) -> bool:
    return answer == "pending"


def job_of(*answers: Any, on_result: Any = pending, **sections: Any) -> Any:
    left = list(answers)

    @guarded(retry=Retry(max_retries=2, on_result=on_result, budget=None), **sections)
    def job(x: int) -> str:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    return job


def test_retried_until_it_is_wanted() -> None:
    """Unwanted results and failures share one count of attempts."""
    job = job_of("pending", ConnectionError(), "done", monitor=Monitor())
    with testing.instant(), testing.capture_events() as events:
        assert job(1) == "done"
    assert events[0]["mlguard.attempts"] == 3
    assert job.guard.stats()["retry"]["retries"] == 2
    assert "pending() says True" in job.guard.explain()


def test_the_last_result_is_the_callers() -> None:
    """When there are no attempts left the caller gets what there is, and the event says why."""
    job = job_of(*["pending"] * 9, monitor=Monitor(), breaker=Breaker(minimum_calls=2))
    with testing.instant(), testing.capture_events() as events:
        outcome = job.guard.call(1)
    assert (outcome.value, outcome.attempts, outcome.stopped) == ("pending", 3, "max_retries")
    assert events[0]["mlguard.retry.unwanted"] is True
    assert job.guard.stats()["breaker"]["state"] == "closed"
    assert job.guard.stats()["breaker"]["calls"] == 3


@pytest.mark.parametrize("sections", [{}, {"monitor": Monitor(log=False)}], ids=["bare", "recorded"])
def test_an_unwanted_result_is_not_cached(sections: Any) -> None:
    """A cache keeps only what was wanted."""
    job = job_of("pending", "pending", "pending", "done", "never", cache=Cache(ttl=60), **sections)
    with testing.instant():
        assert [job(1), job(1), job(1)] == ["pending", "done", "done"]


async def test_coroutines() -> None:
    """Coroutine functions alike."""
    answers = ["pending", "done"]

    @guarded(retry=Retry(on_result=pending))
    async def job() -> str:
        return answers.pop(0)

    with testing.instant():
        assert await job() == "done"


def test_never_past_the_deadline() -> None:
    """No pause that would pass the deadline is slept."""
    job = job_of(*["pending"] * 9, timeout=Timeout(total="1s"))
    slow = guarded(retry=Retry(on_result=pending, initial_delay=5, jitter=False), timeout=Timeout(total="1s"))(
        lambda: "pending"
    )
    with testing.FakeClock() as time:
        assert slow() == "pending"
        assert time.sleeps == []
        assert job(1) == "pending"


def test_a_predicate_that_fails() -> None:
    """What the predicate raises is raised, and one attempt counts once for the breaker."""
    job = job_of("a", "b", "c", on_result=lambda answer: 1 / 0, breaker=Breaker())
    with pytest.raises(ZeroDivisionError):
        job(1)
    assert job.guard.stats()["breaker"]["calls"] == 1
    ambiguous = guarded(retry=Retry(on_result=lambda rows: rows > 0))(lambda: np.ones(3))
    with pytest.raises(ValueError, match="ambiguous"):
        ambiguous()


def test_an_unwanted_result_is_gone_before_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody keeps gigabytes through a backoff."""

    class Batch:
        pass

    gone: list[Any] = []
    seen: list[Any] = []

    @guarded(retry=Retry(max_retries=1, on_result=lambda batch: True), validation=False)
    def job() -> Any:
        batch = Batch()
        gone.append(weakref.ref(batch))
        return batch

    monkeypatch.setattr("mlguard.clock.sleep", lambda seconds: seen.append(gone[0]()))
    gc.disable()
    try:
        job()
    finally:
        gc.enable()
    assert seen == [None]


def test_refused() -> None:
    """Files can't hold it, streams can't honour it, coroutines and classes can't decide it."""
    with pytest.raises(PolicyError, match=r"on_result.*a file can't hold one. Fix: give it in Python"):
        Retry(on_result="service.pending")  # type: ignore[arg-type]

    async def decide(answer: Any) -> bool:
        return True

    with pytest.raises(PolicyError, match="must be a plain function"):
        Retry(on_result=decide)
    with pytest.raises(PolicyError, match="on_result is set, but a stream has items"):

        @guarded(retry=Retry(on_result=pending))
        def items() -> Iterator[int]:
            yield 1

    assert "on_result" not in str(policies.Policy.model_json_schema()) if hasattr(policies, "Policy") else True
    assert Retry(on_result=pending) != Retry()
