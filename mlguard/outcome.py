"""The classification of every outcome, once. Retry, breaker, fallback, cache, concurrency and monitor all ask here.

It decides what kind of failure an exception is; what to do about it is decided by the policy's sections. It runs after
a failure only, never on a successful call, and never raises, whatever the exception's own attributes do.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, cast

from mlguard.errors import (
    CircuitOpenError,
    ConcurrencyLimitError,
    DeadlineExceededError,
    GuardError,
    InvalidInputError,
    InvalidOutputError,
    MemoryPressureError,
    RejectedError,
)

__all__ = ["Disposition", "Failure", "classify", "disposition_of", "from_within", "members_of", "status_of"]


class Failure(StrEnum):
    """What kind of failure an exception is."""

    INVALID_INPUT = "invalid_input"
    """The caller's fault; the function did not run, or said so itself with an HTTPException below 500 of Starlette's or
    FastAPI's. Never retried, never a breaker failure. What a guarded function further in refused is the fault of the
    one around it, so `PERMANENT`."""
    INVALID_OUTPUT = "invalid_output"
    """The function's result breaks its schema. Retried only with ``Retry(on_invalid_output=True)``."""
    TRANSIENT = "transient"
    """A lost connection, a timeout, an HTTP 408, 425 or 5xx (not 501 and 505): the same call may succeed soon."""
    THROTTLED = "throttled"
    """An HTTP 429 or its like elsewhere: the callee asks for fewer calls. Retried like a transient failure."""
    PERMANENT = "permanent"
    """Any other exception of the user's code: the same call would fail again."""
    REJECTED = "rejected"
    """Refused here, before the function ran: memory, breaker, concurrency, no time left. Never a breaker failure."""
    CANCELLED = "cancelled"
    """Cancellation, KeyboardInterrupt, SystemExit, GeneratorExit. No retry, no breaker failure, no fallback."""


class Disposition(StrEnum):
    """How a call ended, as its event and its `Outcome` say it."""

    EXECUTED = "executed"
    CACHE_HIT = "cache_hit"
    COALESCED = "coalesced"
    FALLBACK = "fallback"
    REJECTED_VALIDATION = "rejected_validation"
    REJECTED_MEMORY = "rejected_memory"
    REJECTED_BREAKER = "rejected_breaker"
    REJECTED_CONCURRENCY = "rejected_concurrency"
    FAILED = "failed"
    CANCELLED = "cancelled"


_WITHIN = "__mlguard_within__"
_DEEPEST = 8
_LOST = (
    ConnectionError,
    TimeoutError,
    asyncio.IncompleteReadError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)
_UNREACHABLE = {errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN}
_TRANSIENT_STATUS = {408, 425, *range(500, 600)} - {501, 505}

# What other libraries raise when the connection or the answer did not come, by module and class. A library that is not
# imported can't have raised anything, so none is imported to look. What comes after "not" would fail again.
_LOST_ELSEWHERE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "aiohttp": (("ClientConnectionError", "ClientPayloadError"), ("ClientSSLError",)),
    "anthropic": (("APIConnectionError",), ()),
    "botocore": (("exceptions.ConnectionError", "exceptions.HTTPClientError"), ("exceptions.SSLError",)),
    "http.client": (("RemoteDisconnected", "IncompleteRead"), ()),
    "httpcore": (("NetworkError", "TimeoutException", "RemoteProtocolError"), ()),
    "httpx": (("NetworkError", "TimeoutException", "RemoteProtocolError", "ProxyError"), ()),
    "openai": (("APIConnectionError",), ()),
    "ray": (("exceptions.ActorUnavailableError",), ()),
    "redis": (("exceptions.ConnectionError", "exceptions.TimeoutError"), ("exceptions.AuthenticationError",)),
    "requests": (("ConnectionError", "Timeout", "exceptions.ChunkedEncodingError"), ("exceptions.SSLError",)),
    "sqlalchemy": (("exc.TimeoutError",), ()),
    "urllib3": (("exceptions.TimeoutError", "exceptions.ProtocolError", "exceptions.NewConnectionError"), ()),
}
_GRPC = {
    "UNAVAILABLE": Failure.TRANSIENT,
    "DEADLINE_EXCEEDED": Failure.TRANSIENT,
    "ABORTED": Failure.TRANSIENT,
    "RESOURCE_EXHAUSTED": Failure.THROTTLED,
}
# AWS throttles with an HTTP 400 and one of these codes (botocore, `retries/standard.py`).
_AWS_THROTTLED = {
    "BandwidthLimitExceeded",
    "EC2ThrottledException",
    "LimitExceededException",
    "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "TransactionInProgressException",
}


def classify(error: BaseException) -> Failure:
    """The kind of failure an exception is. A group, as `asyncio.TaskGroup` raises it, is what its worst member is."""
    if not isinstance(error, Exception) or issubclass(type(error), asyncio.CancelledError):
        return Failure.CANCELLED
    try:
        if issubclass(type(error), ExceptionGroup):
            return _worst([classify(member) for member in members_of(error)])
        return _kind_of(error)
    except Exception:  # an exception whose own class or attributes fail
        return Failure.PERMANENT


def members_of(error: Exception) -> Iterator[Exception]:
    """The exceptions in a group, and in the groups in it; any other exception is alone."""
    if issubclass(type(error), ExceptionGroup):  # not isinstance: an exception's own __class__ may fail
        for member in cast("ExceptionGroup[Exception]", error).exceptions:
            yield from members_of(member)
    else:
        yield error


def _worst(kinds: list[Failure]) -> Failure:
    """What the same call would fail with again, before what may pass."""
    if set(kinds) <= {Failure.TRANSIENT, Failure.THROTTLED}:
        return Failure.THROTTLED if Failure.THROTTLED in kinds else Failure.TRANSIENT
    return kinds[0] if len(set(kinds)) == 1 and kinds[0] is not Failure.INVALID_INPUT else Failure.PERMANENT


def _kind_of(error: Exception) -> Failure:
    if isinstance(error, GuardError):
        return _own(error)
    status = status_of(error)
    if status is not None and status < 500 and _answers_client(error):
        return Failure.INVALID_INPUT
    if status == 429 or _aws_code(error) in _AWS_THROTTLED:
        return Failure.THROTTLED
    if status is not None:
        return Failure.TRANSIENT if status in _TRANSIENT_STATUS else Failure.PERMANENT
    if _lost_connection(error):
        return Failure.TRANSIENT
    return _GRPC.get(_grpc_code(error), Failure.PERMANENT)


def status_of(error: BaseException) -> int | None:
    """The HTTP status an exception carries; None: it has none.

    Found where urllib, httpx, requests, aiohttp, botocore, openai and google.api_core keep it.
    """
    response = _attribute(error, "response")
    candidates = [
        _attribute(response, "status_code"),
        _attribute(response, "status"),
        _attribute(error, "status_code"),
        _attribute(error, "status"),
        _attribute(error, "code"),
        _nested(response, "ResponseMetadata", "HTTPStatusCode"),
    ]
    return next((int(status) for status in candidates if isinstance(status, int) and 100 <= status <= 599), None)


def from_within(error: BaseException, entered: Any = True) -> None:
    """Notes that a guard's refusal came out of a guarded function: for the guards around it the function failed.

    Args:
        error: What an attempt ended with.
        entered: None where the function may not have been entered. Invalid input is from within all the same, because
            the function's own was refused before the attempt.
    """
    kind = type(error)  # not isinstance: an exception's own __class__ may fail
    if issubclass(kind, InvalidInputError) or (entered is not None and issubclass(kind, GuardError)):
        object.__setattr__(error, _WITHIN, True)


def disposition_of(error: BaseException) -> Disposition:
    """How a call that ended with this exception ended. What another guard, further in, refused is a failure here."""
    if classify(error) is Failure.CANCELLED:
        return Disposition.CANCELLED
    if _attribute(error, _WITHIN):
        return Disposition.FAILED
    for cls, disposition in _DISPOSITIONS.items():
        if issubclass(type(error), cls):
            return disposition
    return Disposition.FAILED


_DISPOSITIONS: dict[type[Exception], Disposition] = {
    InvalidInputError: Disposition.REJECTED_VALIDATION,
    MemoryPressureError: Disposition.REJECTED_MEMORY,
    CircuitOpenError: Disposition.REJECTED_BREAKER,
    ConcurrencyLimitError: Disposition.REJECTED_CONCURRENCY,
}


def _own(error: GuardError) -> Failure:
    if isinstance(error, InvalidInputError):
        return Failure.PERMANENT if _attribute(error, _WITHIN) else Failure.INVALID_INPUT
    if isinstance(error, InvalidOutputError):
        return Failure.INVALID_OUTPUT
    if isinstance(error, RejectedError):
        return Failure.REJECTED
    if isinstance(error, DeadlineExceededError):
        return Failure.TRANSIENT if error.started else Failure.REJECTED
    return Failure.PERMANENT


def _lost_connection(error: Exception) -> bool:
    if any(issubclass(type(each), ssl.SSLCertVerificationError) for each in _causes(error)):
        return False  # httpx raises the same for it as for a lost connection
    reason = _attribute(error, "reason")  # urllib.error.URLError wraps the socket's error
    return any(_lost(each) for each in (error, reason) if isinstance(each, Exception))


def _causes(error: Any) -> Iterator[Any]:
    """The exception, and what it was raised from."""
    for _ in range(_DEEPEST):
        if error is None:
            return
        yield error
        by_httpcore = type(error).__module__.startswith("httpcore")  # which names no cause
        error = _attribute(error, "__context__" if by_httpcore else "__cause__")


def _lost(error: Exception) -> bool:
    if isinstance(error, _LOST):
        return True
    for module, (lost, not_lost) in _LOST_ELSEWHERE.items():
        if module in sys.modules and isinstance(error, _classes_of(module, lost)):
            return not isinstance(error, _classes_of(module, not_lost))
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return True
    return _attribute(error, "connection_invalidated") is True  # sqlalchemy's way to say it


def _grpc_code(error: Exception) -> Any:
    if "grpc" not in sys.modules or not isinstance(error, _classes_of("grpc", ("RpcError",))):
        return None
    code = _attribute(error, "code")
    try:
        return code().name
    except Exception:
        return None


def _answers_client(error: Exception) -> bool:
    """True for what a path operation raises to answer its client: the function's own word, no callee's status."""
    return "starlette.exceptions" in sys.modules and isinstance(
        error, _classes_of("starlette.exceptions", ("HTTPException",))
    )


def _aws_code(error: Exception) -> Any:
    return _nested(_attribute(error, "response"), "Error", "Code")


def _nested(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str | int) else None


def _attribute(owner: Any, name: str) -> Any:
    """Like getattr with None as default, for properties that raise as well: httpx's do."""
    try:
        return getattr(owner, name, None)
    except Exception:
        return None


def _classes_of(module: str, names: tuple[str, ...]) -> tuple[type[Exception], ...]:
    found = []
    for name in names:
        owner: Any = sys.modules[module]
        for part in name.split("."):
            owner = _attribute(owner, part)
        if isinstance(owner, type) and issubclass(owner, Exception):
            found.append(owner)
    return tuple(found)
