"""Entries in Redis or Valkey, for functions on many machines.

No call waits for it longer than `timeout` in all: finding a connection, connecting, sending and reading count together,
however slowly the bytes trickle. After a failure nobody asks for a while. The package is redis-py, imported when the
first store of this kind is opened.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from mlguard.cache.stores.circuit import Circuit
from mlguard.cache.stores.protocol import AsyncStore, Item, Label, Stored, StoreError, StoreInfo
from mlguard.cache.stores.redis_commands import Commands, Trip
from mlguard.cache.stores.urls import Address, duration, parsed, size
from mlguard.errors import PolicyError
from mlguard.forks import renew_in_children

__all__ = ["OPTIONS", "RedisStore"]

_Result = TypeVar("_Result")
_CONNECTIONS: Final = 32  # at once, of one process or of one event loop
_PATIENT: Final = 20  # times the timeout, for each step of what an operator asks

OPTIONS: Final[dict[str, Callable[[str], Any]]] = {
    "timeout": duration,
    "prefix": str,
    "largest": size,
    "password_env": str,
    "ca": str,
    "cert": str,
    "key": str,
}
"""The options of the URL, and how each is read."""


class RedisStore:
    """Entries on a Redis or Valkey server.

    Args:
        url: ``redis://``, ``rediss://``, ``valkey://`` or ``valkeys://``, then ``user:password@host:port/database``
            and options: `timeout` (100ms: what a call may wait for the store in all), `prefix` (``mlguard``), `largest`
            (16MiB: the largest entry), `password_env` (the environment variable that holds the password), and for TLS
            `ca`, `cert` and `key` (files).

    Raises:
        PolicyError: The URL can't be honoured, or redis-py is not installed.
    """

    def __init__(self, url: str) -> None:
        address = parsed(url, OPTIONS)
        self._url = url
        self._settings = _settings(address)
        self._tls = address.scheme in ("rediss", "valkeys")
        self.where = address.shown
        self.timeout: float = address.options.get("timeout", 0.1)
        self.largest: int = address.options.get("largest", 16 << 20)
        self.commands = Commands(self.where, address.options.get("prefix", "mlguard"), self.largest)
        self.circuit = Circuit(self.where)
        self._sockets = _sockets(self.where)
        self._twin: Any = None
        self.after_fork()
        renew_in_children(self)

    def get_many(self, keys: Sequence[bytes]) -> list[Stored | None]:
        return self._run(self.commands.get_many(keys)) if keys else []

    def put_many(self, items: Sequence[Item], label: Label) -> None:
        if items:
            self._run(self.commands.put_many(items, label))

    def lease(self, key: bytes, seconds: float) -> bytes | None:
        return self._run(self.commands.lease(key, seconds))

    def release(self, key: bytes, token: bytes) -> None:
        self._run(self.commands.release(key, token))

    def discard(
        self,
        *,
        key: bytes | None = None,
        function: str | None = None,
        model_version: str | None = None,
        tenant: str | None = None,
    ) -> int:
        return self._run(self.commands.discard(key, function, model_version, tenant), patient=True)

    def info(self) -> StoreInfo:
        self._run(self.commands.info(), patient=True)
        return StoreInfo(self.where, None, None)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().disconnect()
        if self._twin is not None:
            self._twin.close()

    def asynchronous(self) -> AsyncStore:
        if self._twin is None:
            from mlguard.cache.stores.redis_async import AsyncRedisStore

            self._twin = AsyncRedisStore(self)
        return self._twin  # type: ignore[no-any-return]

    def connection_settings(self, timeout: float | None) -> dict[str, Any]:
        """What redis-py's connections are made with, sync and async."""
        settings = self._settings.copy()
        if "password_env" in settings:
            settings["password"] = _from_environment(settings.pop("password_env"), self.where)
        return settings | {"socket_timeout": timeout, "socket_connect_timeout": timeout, "protocol": 2}

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self._tls

    def failed(self, error: BaseException, elapsed: float, entered: int | None) -> StoreError:
        """What went wrong, in words without a password; where it took time, nobody asks for a while."""
        reason, slow = self._sockets.reason_of(error)
        said = str(error) or type(error).__name__
        password = self._settings.get("password") or os.environ.get(self._settings.get("password_env", ""))
        if password:
            said = said.replace(password, "***")
        if reason == "timeout":
            said = f"no answer within {elapsed * 1000:.0f}ms"
        if slow and entered is not None:
            self.circuit.failed(said, entered)
        return StoreError(f"{self.where}: {said}", reason)

    def after_fork(self) -> None:
        """In the child: the parent's connections are the parent's."""
        self._idle: deque[Any] = deque()
        self._slots = threading.BoundedSemaphore(_CONNECTIONS)

    def __reduce__(self) -> tuple[Any, ...]:
        return RedisStore, (self._url,)

    def __repr__(self) -> str:
        return f"<RedisStore {self.where}>"

    def _run(self, trip: Trip[_Result], *, patient: bool = False) -> _Result:
        entered = None if patient else self.circuit.enter()
        patience = self.timeout * (_PATIENT if patient else 1)
        started = time.monotonic()
        deadline = started + patience
        try:
            commands = next(trip)
            while True:
                replies = self._travel(commands, deadline)
                deadline = time.monotonic() + patience if patient else deadline
                commands = trip.send(replies)
        except StopIteration as done:
            self.circuit.worked()
            return done.value  # type: ignore[no-any-return]
        except StoreError:
            raise
        except Exception as error:
            raise self.failed(error, time.monotonic() - started, entered) from None

    def _travel(self, commands: list[tuple[Any, ...]], deadline: float) -> list[Any]:
        """One round trip; a second one where the connection turns out to have been closed while nobody used it."""
        if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise StoreError(f"{self.where}: all {_CONNECTIONS} connections of this process are in use", "busy")
        try:
            while self._idle:
                try:
                    connection = self._idle.pop()
                except IndexError:  # another thread was faster
                    break
                try:
                    return self._exchange(connection, commands, deadline)
                except self._sockets.CLOSED:
                    continue
            return self._exchange(self._sockets.connection(self), commands, deadline)
        finally:
            self._slots.release()

    def _exchange(self, connection: Any, commands: list[tuple[Any, ...]], deadline: float) -> list[Any]:
        try:
            with self._sockets.until(deadline):
                connection.send_packed_command(connection.pack_commands(commands))
                replies = [self._sockets.reply(connection) for _ in commands]
        except BaseException:
            connection.disconnect()  # replies may be under way that nobody would wait for
            raise
        self._idle.append(connection)
        return replies


def _settings(address: Address) -> dict[str, Any]:
    shown, options = address.shown, address.options
    database = address.path.strip("/") or "0"
    if not address.host:
        raise PolicyError(f"cache.store = {shown!r} has no host. Fix: write redis://host:6379/0.")
    if not (database.isascii() and database.isdecimal()):
        raise PolicyError(f"cache.store = {shown!r}: '{database}' is no database. Fix: write its number, or nothing.")
    settings: dict[str, Any] = {"host": address.host, "port": address.port or 6379, "db": int(database)}
    settings |= {"username": address.user or None, "password": address.password or None}
    if "password_env" in options:
        if address.password:
            raise PolicyError(f"cache.store = {shown!r} has a password and password_env. Fix: leave one of them out.")
        del settings["password"]
        settings["password_env"] = options["password_env"]
        _from_environment(options["password_env"], shown)
    files = {"ca": "ssl_ca_certs", "cert": "ssl_certfile", "key": "ssl_keyfile"}
    for name in files.keys() & options.keys():
        if address.scheme not in ("rediss", "valkeys"):
            raise PolicyError(f"cache.store = {shown!r}: '{name}' is for TLS. Fix: write rediss:// or valkeys://.")
        if not os.path.isfile(options[name]):
            raise PolicyError(f"cache.store = {shown!r}: {name} = {options[name]!r} is no file. Fix: name a PEM file.")
        settings[files[name]] = options[name]
    return settings


def _from_environment(name: str, shown: str) -> str:
    found = os.environ.get(name)
    if not found:
        raise PolicyError(f"cache.store = {shown!r}: the environment variable {name} is not set. Fix: set it.")
    return found


def _sockets(shown: str) -> Any:
    try:
        from mlguard.cache.stores import redis_sockets
    except ModuleNotFoundError as missing:
        if (missing.name or "mlguard").partition(".")[0] == "mlguard":
            raise
        raise PolicyError(
            f"cache.store = {shown!r} needs {missing.name}, which is not installed. Fix: pip install 'redis>=5.3'."
        ) from None
    return redis_sockets
