"""The hand-written limit: what an expert would write for one function, once, with nothing left to configure.

`fused` takes over these duties for `subject.score`, two scalars in and one out:

- binding and validating: a plain function puts the arguments into a tuple, pydantic-core's `validate_python` checks the
  tuple; that is the fastest binding known. Bad input raises pydantic's error and the function does not run;
- a memory check: psutil is asked at most every 0.1 s, other calls compare two numbers; over 85 % the call is refused;
- a retry: the function is called directly, and only a connection error enters the retry path (pauses double);
- an output check: a type comparison, and pydantic-core where that fails;
- with a line: one structlog event on success, its fields precomputed but for the duration and the call id.

It does not do what a library must: configuration, statistics, cgroups, reservations, retry budgets, deadlines, keyword
reports, redaction, typed errors, sampling, or another kind of function than a plain one.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import psutil
from pydantic_core import SchemaValidator, core_schema

__all__ = ["fused", "fused_signature"]

_THRESHOLD = 85.0
_SAMPLE_SERVES = 0.1
_PAUSES = (0.1, 0.2, 0.4)

_bind = SchemaValidator(
    core_schema.tuple_positional_schema([core_schema.float_schema(), core_schema.int_schema()])
).validate_python
_check = SchemaValidator(core_schema.float_schema(strict=True)).validate_python


def _shape(amount: Any, count: Any) -> tuple[Any, Any]:
    return amount, count


def fused(function: Callable[..., float], line: Callable[..., None] | None = None) -> Callable[..., float]:
    """The limit as a decorator that keeps any way of passing arguments.

    Args:
        function: `subject.score`.
        line: Writes the event of a successful call, given its duration and call id; None: no line.
    """
    monotonic, bind, shape = time.monotonic, _bind, _shape
    fresh_until = 0.0
    calls = itertools.count(1)

    def silent(*args: Any, **kwargs: Any) -> float:
        nonlocal fresh_until
        args = bind(shape(*args, **kwargs))
        now = monotonic()
        if now >= fresh_until:
            _refuse_under_pressure()
            fresh_until = now + _SAMPLE_SERVES
        try:
            result = function(*args)
        except Exception as error:
            result = _retried(function, args, error)
        if type(result) is not float:
            result = _check(result)
        return result

    def telling(*args: Any, **kwargs: Any) -> float:
        nonlocal fresh_until
        started = monotonic()
        args = bind(shape(*args, **kwargs))
        if started >= fresh_until:
            _refuse_under_pressure()
            fresh_until = started + _SAMPLE_SERVES
        try:
            result = function(*args)
        except Exception as error:
            result = _retried(function, args, error)
        if type(result) is not float:
            result = _check(result)
        line(round(monotonic() - started, 6), f"c0ffee{next(calls):08x}")  # type: ignore[misc]
        return result

    return silent if line is None else telling


def fused_signature(function: Callable[..., float]) -> Callable[..., float]:
    """`fused` without a line, written for the very signature: no `*args`, no shape, no decorator."""
    monotonic, bind = time.monotonic, _bind
    fresh_until = 0.0

    def score(amount: float, count: int) -> float:
        nonlocal fresh_until
        amount, count = bind((amount, count))
        now = monotonic()
        if now >= fresh_until:
            _refuse_under_pressure()
            fresh_until = now + _SAMPLE_SERVES
        try:
            result = function(amount, count)
        except Exception as error:
            result = _retried(function, (amount, count), error)
        if type(result) is not float:
            result = _check(result)
        return result

    return score


def _refuse_under_pressure() -> None:
    used = psutil.virtual_memory().percent
    if used > _THRESHOLD:
        raise MemoryError(f"{used} % of the memory are used, {_THRESHOLD} % are allowed")


def _retried(function: Callable[..., float], args: tuple[Any, ...], error: Exception) -> float:
    for pause in _PAUSES:
        if not isinstance(error, ConnectionError | TimeoutError):
            break
        time.sleep(pause * random.random())  # noqa: S311 - jitter
        try:
            return function(*args)
        except Exception as again:
            error = again
    raise error
