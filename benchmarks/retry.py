"""Claim: a retry policy costs no more than nopanic's on a call that succeeds, and a fortieth of tenacity's."""

from __future__ import annotations

from benchmarks import peers
from benchmarks.case import OURS, Budget, Case
from benchmarks.subject import CALL, score, score_async
from mlguard import Breaker, Retry, guarded

__all__ = ["cases"]


def cases() -> list[Case]:
    """Retry in plain and async functions, and with a circuit breaker."""
    retried = guarded(retry=Retry(max_retries=3), validation=False)
    broken = guarded(retry=Retry(max_retries=3), breaker=Breaker(), validation=False)
    return [
        Case(
            name="retry",
            claim="three retries, the call succeeds; no validation",
            arguments=CALL,
            contestants={
                "no guard": score,
                OURS: retried(score),
                **{name: decorate(score) for name, decorate in peers.RETRIES.items()},
            },
            budgets=(Budget("nopanic", 1.0), Budget("tenacity", 1 / 40)),
        ),
        Case(
            name="retry-async",
            claim="the same for a coroutine function",
            arguments=CALL,
            asynchronous=True,
            contestants={
                "no guard": score_async,
                OURS: retried(score_async),
                **{name: decorate(score_async) for name, decorate in peers.RETRIES.items()},
            },
            budgets=(Budget("nopanic", 1.0), Budget("tenacity", 1 / 40)),
        ),
        Case(
            name="retry-breaker",
            claim="retry and a closed circuit breaker over a sliding window; no validation",
            arguments=CALL,
            contestants={
                "no guard": score,
                OURS: broken(score),
                "nopanic": peers.retried_and_broken_by_nopanic(score),
                "pyresilience": peers.retried_and_broken_by_pyresilience(score),
            },
            budgets=(Budget("nopanic", 0.6),),
        ),
    ]
