"""The classification: every kind of failure, as the usual libraries raise it."""

from __future__ import annotations

import asyncio
import errno
import http.client
import socket
import ssl
import sys
import types
import urllib.error
from email.message import Message
from typing import Any

import httpcore
import httpx
import pytest

from mlguard.errors import (
    CircuitOpenError,
    ConcurrencyLimitError,
    DeadlineExceededError,
    InvalidInputError,
    InvalidOutputError,
    MemoryPressureError,
    PolicyError,
)
from mlguard.outcome import Disposition, Failure, classify, disposition_of, status_of

VIOLATION = [{"type": "missing", "loc": ("x",), "msg": "Field required"}]
INVALID_INPUT = InvalidInputError.of("f", VIOLATION)
INVALID_OUTPUT = InvalidOutputError.of("f", VIOLATION)
MEMORY = MemoryPressureError("full", used=1, limit=1, need=1, source="host")


def not_started() -> DeadlineExceededError:
    error = DeadlineExceededError("too late to start")
    vars(error)["started"] = False
    return error


def with_attributes(**attributes: Any) -> Exception:
    error = Exception("from a client")
    vars(error).update(attributes)
    return error


def httpx_status(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "http://x")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


def urllib_status(status: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("http://x", status, "no", Message(), None)


def aws(status: int, code: str) -> Exception:
    return with_attributes(response={"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}})


class Prickly(Exception):
    """Its properties raise, as httpx's `request` does."""

    @property
    def response(self) -> Any:
        raise RuntimeError("not set")

    status = code = reason = response


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (INVALID_INPUT, Failure.INVALID_INPUT),
        (INVALID_OUTPUT, Failure.INVALID_OUTPUT),
        (MEMORY, Failure.REJECTED),
        (CircuitOpenError("open"), Failure.REJECTED),
        (ConcurrencyLimitError("full"), Failure.REJECTED),
        (DeadlineExceededError("too long"), Failure.TRANSIENT),
        (not_started(), Failure.REJECTED),
        (PolicyError("wrong"), Failure.PERMANENT),
        (asyncio.CancelledError(), Failure.CANCELLED),
        (KeyboardInterrupt(), Failure.CANCELLED),
        (SystemExit(1), Failure.CANCELLED),
        (GeneratorExit(), Failure.CANCELLED),
        (ValueError("bug"), Failure.PERMANENT),
        (ConnectionResetError(), Failure.TRANSIENT),
        (TimeoutError(), Failure.TRANSIENT),
        (asyncio.IncompleteReadError(b"", 8), Failure.TRANSIENT),
        (http.client.RemoteDisconnected(), Failure.TRANSIENT),
        (http.client.IncompleteRead(b""), Failure.TRANSIENT),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), Failure.TRANSIENT),
        (socket.gaierror(socket.EAI_NONAME, "no such host"), Failure.PERMANENT),
        (OSError(errno.EHOSTUNREACH, "no route"), Failure.TRANSIENT),
        (FileNotFoundError(errno.ENOENT, "no file"), Failure.PERMANENT),
        (ssl.SSLEOFError(), Failure.TRANSIENT),
        (ssl.SSLCertVerificationError(), Failure.PERMANENT),
        (urllib.error.URLError(ConnectionRefusedError()), Failure.TRANSIENT),
        (urllib.error.URLError("unknown url type"), Failure.PERMANENT),
        (urllib_status(503), Failure.TRANSIENT),
        (urllib_status(429), Failure.THROTTLED),
        (urllib_status(404), Failure.PERMANENT),
        (httpx_status(500), Failure.TRANSIENT),
        (httpx_status(501), Failure.PERMANENT),
        (httpx_status(425), Failure.TRANSIENT),
        (httpx.ConnectError("refused"), Failure.TRANSIENT),
        (httpx.ReadTimeout("slow"), Failure.TRANSIENT),
        (httpx.UnsupportedProtocol("ftp"), Failure.PERMANENT),
        (with_attributes(status_code=529), Failure.TRANSIENT),
        (with_attributes(code="insufficient_quota"), Failure.PERMANENT),
        (with_attributes(connection_invalidated=True), Failure.TRANSIENT),
        (aws(400, "ThrottlingException"), Failure.THROTTLED),
        (aws(400, "ValidationException"), Failure.PERMANENT),
        (aws(503, "ServiceUnavailable"), Failure.TRANSIENT),
        (Prickly(), Failure.PERMANENT),
    ],
    ids=lambda value: value.value if isinstance(value, Failure) else type(value).__name__,
)
def test_classification(error: BaseException, kind: Failure) -> None:
    """Every exception has the kind that retry, breaker and fallback rely on."""
    assert classify(error) is kind


def test_libraries_that_are_not_installed_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client is recognised by its module and class, what it could never recover from excepted."""
    redis = types.ModuleType("redis")
    exceptions: Any = types.ModuleType("redis.exceptions")
    exceptions.ConnectionError = type("ConnectionError", (Exception,), {})
    exceptions.AuthenticationError = type("AuthenticationError", (exceptions.ConnectionError,), {})
    redis.exceptions = exceptions  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "redis", redis)
    assert classify(exceptions.ConnectionError()) is Failure.TRANSIENT
    assert classify(exceptions.AuthenticationError()) is Failure.PERMANENT


def test_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC's codes are read where an exception of its own carries one, and nowhere else."""
    grpc: Any = types.ModuleType("grpc")

    class RpcError(Exception):
        def __init__(self, name: str) -> None:
            self.name = name

        def code(self) -> Any:
            if not self.name:
                raise RuntimeError("no code")
            return types.SimpleNamespace(name=self.name)

    grpc.RpcError = RpcError
    monkeypatch.setitem(sys.modules, "grpc", grpc)
    assert classify(RpcError("UNAVAILABLE")) is Failure.TRANSIENT
    assert classify(RpcError("RESOURCE_EXHAUSTED")) is Failure.THROTTLED
    assert classify(RpcError("NOT_FOUND")) is Failure.PERMANENT
    assert classify(RpcError("")) is Failure.PERMANENT
    assert classify(ValueError()) is Failure.PERMANENT


def test_status() -> None:
    """A number that is no HTTP status, such as a database's code, is not taken for one."""
    assert status_of(httpx_status(418)) == 418
    assert status_of(with_attributes(status=502)) == 502
    assert status_of(with_attributes(code=1006)) is None
    assert status_of(ValueError()) is None


@pytest.mark.parametrize(
    ("error", "disposition"),
    [
        (INVALID_INPUT, Disposition.REJECTED_VALIDATION),
        (MEMORY, Disposition.REJECTED_MEMORY),
        (CircuitOpenError("open"), Disposition.REJECTED_BREAKER),
        (ConcurrencyLimitError("full"), Disposition.REJECTED_CONCURRENCY),
        (asyncio.CancelledError(), Disposition.CANCELLED),
        (INVALID_OUTPUT, Disposition.FAILED),
        (ValueError(), Disposition.FAILED),
    ],
    ids=lambda value: value.value if isinstance(value, Disposition) else type(value).__name__,
)
def test_disposition(error: BaseException, disposition: Disposition) -> None:
    """The event tells a refusal from a failure, and a cancellation from both."""
    assert disposition_of(error) is disposition


def test_a_wrong_certificate() -> None:
    """A certificate that can't be verified now can't be verified soon, whatever a client raises for it."""
    error = httpx.ConnectError("certificate verify failed")
    error.__cause__ = httpcore.ConnectError()
    error.__cause__.__context__ = ssl.SSLCertVerificationError()
    assert classify(error) is Failure.PERMANENT
    error.__cause__.__context__ = error  # a circle
    assert classify(error) is Failure.TRANSIENT
    elsewhere = ConnectionError()
    elsewhere.__context__ = ssl.SSLCertVerificationError()  # met before, and dealt with
    assert classify(elsewhere) is Failure.TRANSIENT


class TestGroups:
    """What `asyncio.TaskGroup` raises."""

    @pytest.mark.parametrize(
        ("members", "failure"),
        [
            ([ConnectionError(), TimeoutError()], Failure.TRANSIENT),
            ([ConnectionError(), httpx_status(429)], Failure.THROTTLED),
            ([ConnectionError(), KeyError()], Failure.PERMANENT),
            ([ConnectionError(), ExceptionGroup("inner", [KeyError()])], Failure.PERMANENT),
            ([CircuitOpenError("open")], Failure.REJECTED),
            ([CircuitOpenError("open"), ConnectionError()], Failure.PERMANENT),
            ([INVALID_INPUT], Failure.PERMANENT),
        ],
    )
    def test_worst_member(self, members: list[Exception], failure: Failure) -> None:
        """A group may pass only where each of its members may."""
        assert classify(ExceptionGroup("group", [ExceptionGroup("inner", members)])) is failure

    def test_exits_in_it(self) -> None:
        """A group that holds an exit is one."""
        assert classify(BaseExceptionGroup("group", [ConnectionError(), KeyboardInterrupt()])) is Failure.CANCELLED


class TestHostile:
    def test_class_that_fails(self) -> None:
        """An exception whose own class or attributes raise is a permanent failure of the call, and hides nothing."""

        class Hostile(Exception):
            def __getattribute__(self, name: str) -> Any:
                raise RuntimeError(name)

        assert classify(Hostile()) is Failure.PERMANENT
        assert disposition_of(Hostile()) is Disposition.FAILED
