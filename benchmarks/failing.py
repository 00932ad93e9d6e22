"""Claim: two failures and a success cost at most one and a half times what tenacity takes for them.

No peer pauses: what is timed is the deciding, not the waiting. Each call fails twice and succeeds at its third attempt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import backoff
import circuitbreaker
import nopanic
import pybreaker
import pyresilience
import stamina
import tenacity

from benchmarks.case import OURS, Budget, Case
from benchmarks.subject import CALL, score
from mlguard import Breaker, Retry, guarded

__all__ = ["cases"]

_ATTEMPTS = 4
_ON = (ConnectionError, TimeoutError)
_RETRIES: dict[str, Any] = {
    OURS: guarded(retry=Retry(max_retries=_ATTEMPTS - 1, initial_delay=0, budget=None), validation=False),
    "nopanic": nopanic.retry(attempts=_ATTEMPTS, on=_ON, backoff=0.0),
    "pyresilience": pyresilience.resilient(
        retry=pyresilience.RetryConfig(max_attempts=_ATTEMPTS, delay=0.0, jitter=False, retry_on=_ON)
    ),
    "backoff": backoff.on_exception(backoff.constant, _ON, max_tries=_ATTEMPTS, interval=0, jitter=None),
    "stamina": stamina.retry(on=_ON, attempts=_ATTEMPTS, timeout=None, wait_initial=0, wait_max=0, wait_jitter=0),
    "tenacity": tenacity.retry(
        retry=tenacity.retry_if_exception_type(_ON),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_none(),
        reraise=True,
    ),
    "tenacity that does not sleep": tenacity.retry(
        retry=tenacity.retry_if_exception_type(_ON),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_none(),
        sleep=lambda seconds: None,
        reraise=True,
    ),
}


def cases() -> list[Case]:
    """Retried failures in plain and async functions, and a closed breaker alone."""
    stamina.instrumentation.set_on_retry_hooks([])  # it logs each retry otherwise
    plain, awaited = _RETRIES, {name: each for name, each in _RETRIES.items() if "does not" not in name}
    breakers: dict[str, Any] = {
        "no guard": score,
        OURS: guarded(breaker=Breaker(), validation=False)(score),
        "nopanic": nopanic.circuit_breaker(failure_threshold=0.5, min_calls=20)(score),
        "pyresilience": pyresilience.resilient(
            circuit_breaker=pyresilience.CircuitBreakerConfig(sliding_window_size=20, failure_rate_threshold=0.5)
        )(score),
        "pybreaker": pybreaker.CircuitBreaker()(score),
        "circuitbreaker": circuitbreaker.circuit()(score),
    }
    return [
        Case(
            name="failing",
            claim="fails twice, then succeeds; no pauses, no validation",
            arguments=CALL,
            contestants={name: decorate(_flaky()) for name, decorate in plain.items()},
            budgets=(Budget("tenacity that does not sleep", 1.5), Budget("tenacity", 1.0)),
        ),
        Case(
            name="failing-async",
            claim="the same for a coroutine function",
            arguments=CALL,
            asynchronous=True,
            contestants={name: decorate(_flaky_async()) for name, decorate in awaited.items()},
            budgets=(Budget("tenacity", 1.5),),
        ),
        Case(
            name="failing-breaker",
            claim="a closed circuit breaker alone; the last two count failures in a row, the others a share of calls",
            arguments=CALL,
            contestants=breakers,
            budgets=(Budget("nopanic", 1.0), Budget("circuitbreaker", None), Budget("pybreaker", None)),
        ),
    ]


def _flaky() -> Callable[[float, int], float]:
    failures = 0

    def flaky(amount: float, count: int) -> float:
        nonlocal failures
        failures = (failures + 1) % 3
        if failures:
            raise ConnectionError
        return amount * count

    return flaky


def _flaky_async() -> Callable[[float, int], Any]:
    flaky = _flaky()

    async def flaky_async(amount: float, count: int) -> float:
        return flaky(amount, count)

    return flaky_async
