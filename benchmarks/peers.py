"""The peers, each set up as its documentation says, for the same duty."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import backoff
import cachebox
import cachetools
import cachetools.keys
import nopanic
import psutil
import pydantic
import pyresilience
import stamina
import tenacity

from benchmarks.lines import monitored

__all__ = [
    "CACHES", "RETRIES", "memory_checked", "retried_and_broken_by_nopanic", "retried_and_broken_by_pyresilience",
    "stacked", "validated",
]  # fmt: skip

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_ATTEMPTS = 4
_PAUSE = 0.1
_ON = (ConnectionError, TimeoutError)
_TTL = 3600.0
_ENTRIES = 10_000

_pyresilience_retry = pyresilience.RetryConfig(max_attempts=_ATTEMPTS, delay=_PAUSE, retry_on=_ON)

RETRIES: dict[str, Decorator] = {
    "nopanic": nopanic.retry(attempts=_ATTEMPTS, on=_ON),
    "pyresilience": pyresilience.resilient(retry=_pyresilience_retry),
    "backoff": backoff.on_exception(backoff.expo, _ON, max_tries=_ATTEMPTS),
    "stamina": stamina.retry(on=_ON, attempts=_ATTEMPTS),
    "tenacity": tenacity.retry(
        retry=tenacity.retry_if_exception_type(_ON),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_random_exponential(_PAUSE),
        reraise=True,
    ),
}
"""Three retries of connection errors."""

CACHES: dict[str, Decorator] = {
    "nopanic": nopanic.cache(_TTL, maxsize=_ENTRIES),
    "pyresilience": pyresilience.resilient(cache=pyresilience.CacheConfig(max_size=_ENTRIES, ttl=_TTL)),
    "cachetools": cachetools.cached(cachetools.TTLCache(_ENTRIES, _TTL), lock=threading.RLock()),
    "cachetools, typed key": cachetools.cached(
        cachetools.TTLCache(_ENTRIES, _TTL), key=cachetools.keys.typedkey, lock=threading.RLock()
    ),
    "cachebox": cachebox.cached(cachebox.TTLCache(_ENTRIES, _TTL)),
    "lru_cache, typed, no expiry": functools.lru_cache(_ENTRIES, typed=True),
}
"""Results kept for an hour. Only those that say so tell 1 from 1.0 and True."""


def retried_and_broken_by_nopanic(function: Callable[..., Any]) -> Callable[..., Any]:
    """Retry around a breaker that sees every attempt, as nopanic recommends."""
    breaker = nopanic.circuit_breaker(failure_threshold=0.5, min_calls=20, window=30.0, reset_timeout=30.0)
    return RETRIES["nopanic"](breaker(function))


def retried_and_broken_by_pyresilience(function: Callable[..., Any]) -> Callable[..., Any]:
    """Retry and a breaker with a sliding window."""
    breaker = pyresilience.CircuitBreakerConfig(sliding_window_size=20, failure_rate_threshold=0.5)
    decorate: Decorator = pyresilience.resilient(retry=_pyresilience_retry, circuit_breaker=breaker)
    return decorate(function)


def validated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Input and output, as a guarded function checks both."""
    return pydantic.validate_call(validate_return=True)(function)


def memory_checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The decorator that is everywhere: asks psutil before every call."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        used = psutil.virtual_memory().percent
        if used > 85.0:
            raise MemoryError(f"{used} % of the memory are used")
        return function(*args, **kwargs)

    return wrapper


def stacked(function: Callable[..., Any]) -> Callable[..., Any]:
    """One decorator per duty: structlog by hand, validate_call, psutil by hand, tenacity."""
    return monitored(validated(memory_checked(RETRIES["tenacity"](function))))
