"""The twin of `RedisStore` for async functions: the same commands over redis-py's asyncio connections.

Connections belong to the event loop that made them, and are closed with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakKeyDictionary

from redis.asyncio import Connection, SSLConnection

from mlguard.cache.stores import redis_sockets
from mlguard.cache.stores.protocol import Item, Label, Stored, StoreError
from mlguard.cache.stores.redis_commands import Trip

if TYPE_CHECKING:
    from mlguard.cache.stores.redis import RedisStore

__all__ = ["AsyncRedisStore"]

_Result = TypeVar("_Result")
_CONNECTIONS: Final = 32
_PATIENT: Final = 20
_GOODBYE: Final = 0.5  # seconds that closing may hold up the end of a loop
_STALLED: Final = 2  # times the timeout: then it was this loop that had no time, and says nothing about the server


class AsyncRedisStore:
    """The entries of a `RedisStore`.

    Args:
        store: The store; settings and the pause after failures are shared with it.
    """

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop] = WeakKeyDictionary()

    async def get_many(self, keys: Sequence[bytes]) -> list[Stored | None]:
        return await self._run(self._store.commands.get_many(keys)) if keys else []

    async def put_many(self, items: Sequence[Item], label: Label) -> None:
        if items:
            await self._run(self._store.commands.put_many(items, label))

    async def lease(self, key: bytes, seconds: float) -> bytes | None:
        return await self._run(self._store.commands.lease(key, seconds))

    async def release(self, key: bytes, token: bytes) -> None:
        await self._run(self._store.commands.release(key, token))

    async def discard(
        self,
        *,
        key: bytes | None = None,
        function: str | None = None,
        model_version: str | None = None,
        tenant: str | None = None,
    ) -> int:
        trip = self._store.commands.discard(key, function, model_version, tenant)
        return await self._run(trip, patient=True)

    def close(self) -> None:
        """Nothing to do: connections are closed with their event loop, and only it may close them."""

    async def _run(self, trip: Trip[_Result], *, patient: bool = False) -> _Result:
        store = self._store
        entered = None if patient else store.circuit.enter()
        here = await self._here()
        started = time.monotonic()
        try:
            async with asyncio.timeout(store.timeout * (1 if not patient else _PATIENT)) as limit:
                commands = next(trip)
                while True:
                    replies = await here.travel(commands)
                    if patient:
                        limit.reschedule(asyncio.get_running_loop().time() + store.timeout * _PATIENT)
                    commands = trip.send(replies)
        except StopIteration as done:
            store.circuit.worked()
            return done.value  # type: ignore[no-any-return]
        except StoreError:
            raise
        except Exception as error:
            elapsed = time.monotonic() - started
            if isinstance(error, TimeoutError) and not patient and elapsed > store.timeout * _STALLED:
                raise StoreError(
                    f"{store.where}: the event loop was busy for {elapsed * 1000:.0f}ms. "
                    f"Fix: run what computes in a thread (asyncio.to_thread)",
                    "timeout",
                ) from None
            raise store.failed(error, elapsed, entered) from None

    async def _here(self) -> _OfLoop:
        loop = asyncio.get_running_loop()
        here = self._of_loop.get(loop)
        if here is None:
            here = self._of_loop[loop] = _OfLoop(self._store)
            await anext(here.closing)  # from now on the loop closes it before it ends
        return here


class _OfLoop:
    """The connections of one event loop."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._idle: list[Any] = []
        self._slots = asyncio.Semaphore(_CONNECTIONS)
        self.closing = self._close_at_the_end()

    async def travel(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """One round trip; a second one where the connection turns out to have been closed while nobody used it."""
        async with self._slots:
            while self._idle:
                try:
                    return await self._exchange(self._idle.pop(), commands)
                except redis_sockets.CLOSED:
                    continue
            made = (SSLConnection if self._store.tls else Connection)(**self._store.connection_settings(timeout=None))
            return await self._exchange(made, commands)

    async def _exchange(self, connection: Any, commands: list[tuple[Any, ...]]) -> list[Any]:
        try:
            await connection.connect()
            await connection.send_packed_command(connection.pack_commands(commands))
            replies = [await _reply(connection) for _ in commands]
        except BaseException:  # replies may be under way that nobody would wait for
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        return replies

    async def _close_at_the_end(self) -> AsyncGenerator[None, None]:
        """An asynchronous generator that never ends by itself: event loops close those before they are closed."""
        try:
            yield
        finally:
            with contextlib.suppress(Exception):  # the loop is ending; nobody is left to be told
                async with asyncio.timeout(_GOODBYE):
                    while self._idle:
                        await self._idle.pop().disconnect()


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except redis_sockets.REFUSED as error:
        return error.with_traceback(None)
