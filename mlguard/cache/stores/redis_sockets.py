"""redis-py's connections, with one deadline for everything a call does with them.

redis-py's own timeout is one for each `recv`: a server that sends a byte now and then keeps a caller for ever.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from redis import Connection, SSLConnection, exceptions

if TYPE_CHECKING:
    from mlguard.cache.stores.redis import RedisStore

__all__ = ["CLOSED", "REFUSED", "connection", "reason_of", "reply", "until"]

CLOSED: Final = (exceptions.ConnectionError,)
"""What an idle connection raises that the server has closed; a timeout is something else."""

REFUSED: Final = exceptions.ResponseError
"""An error that is the server's reply, after which the connection is as good as before."""

_call = threading.local()


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Whatever this thread's connections do inside ends at that moment, on `time.monotonic`."""
    _call.deadline = deadline
    try:
        yield
    finally:
        _call.deadline = None


def connection(store: RedisStore) -> Any:
    """A connection that is made when it is first used."""
    return (_TimedTls if store.tls else _Timed)(**store.connection_settings(store.timeout))


def reply(connection: Any) -> Any:
    """The next reply, an error reply as an exception."""
    try:
        return connection.read_response()
    except REFUSED as error:
        return error.with_traceback(None)


def reason_of(error: BaseException) -> tuple[str, bool]:
    """The reason for `StoreError`, and whether the next call would have to wait for the same failure."""
    if isinstance(error, exceptions.OutOfMemoryError):
        return "full", False
    if isinstance(error, exceptions.AuthenticationError | exceptions.BusyLoadingError):
        return "refused", True
    if isinstance(error, exceptions.ResponseError):
        return "refused", False
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return "timeout", True
    if isinstance(error, exceptions.ConnectionError | OSError):
        return "unreachable", True
    return "failed", True


def _left() -> float:
    deadline = getattr(_call, "deadline", None)
    if deadline is None:
        return 1.0  # outside a call: closing
    left = float(deadline - time.monotonic())
    if left <= 0:
        raise TimeoutError("the time of the call is up")
    return left


class _Timed(Connection):
    def _connect(self) -> Any:
        failure: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(self.host, self.port, 0, socket.SOCK_STREAM):
            made = None
            try:
                made = socket.socket(family, kind, protocol)
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                made.settimeout(_left())
                made.connect(address)
                return self._timed(made)
            except OSError as error:
                failure = error
                if made is not None:
                    made.close()
        raise failure or OSError("no address")

    def _timed(self, made: socket.socket) -> Any:
        return _Socket(made)


class _TimedTls(SSLConnection, _Timed):
    def _connect(self) -> Any:
        return _Socket(super()._connect())  # type: ignore[no-untyped-call]  # TLS takes the timeout from `_timed`

    def _timed(self, made: socket.socket) -> Any:
        made.settimeout(_left())
        return made


class _Socket:
    """A socket whose reads and writes end with the call."""

    def __init__(self, made: Any) -> None:
        self._socket = made

    def recv(self, *arguments: Any) -> Any:
        self._socket.settimeout(_left())
        return self._socket.recv(*arguments)

    def recv_into(self, *arguments: Any) -> Any:
        self._socket.settimeout(_left())
        return self._socket.recv_into(*arguments)

    def sendall(self, content: Any) -> None:
        self._socket.settimeout(_left())
        self._socket.sendall(content)

    def settimeout(self, seconds: float | None) -> None:
        """Not heard: the call's deadline counts."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)
