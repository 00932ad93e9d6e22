"""A store's twin for async functions, made of the store itself and a few threads.

The loop is never blocked, and nothing piles up: where every thread is busy and the queue is full, a call is a
StoreError at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

from mlguard.cache.stores.protocol import Item, Label, Store, Stored, StoreError
from mlguard.forks import renew_in_children

__all__ = ["InThreads"]

_Result = TypeVar("_Result")
_THREADS: Final = 4
_WAITING: Final = 128


class InThreads:
    """Calls a store in threads of its own, which start when they are first needed.

    Args:
        store: The store. It is called by up to 4 threads at once.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pool: ThreadPoolExecutor | None
        self.after_fork()
        renew_in_children(self)

    async def get_many(self, keys: Sequence[bytes]) -> list[Stored | None]:
        return await self._in_thread(lambda: self._store.get_many(keys))

    async def put_many(self, items: Sequence[Item], label: Label) -> None:
        await self._in_thread(lambda: self._store.put_many(items, label))

    async def lease(self, key: bytes, seconds: float) -> bytes | None:
        return await self._in_thread(lambda: self._store.lease(key, seconds))

    async def release(self, key: bytes, token: bytes) -> None:
        await self._in_thread(lambda: self._store.release(key, token))

    async def discard(self, **conditions: Any) -> int:
        return await self._in_thread(lambda: self._store.discard(**conditions))

    def close(self) -> None:
        """Lets the threads end once they are done."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def after_fork(self) -> None:
        """In the child: threads don't follow."""
        self._lock = threading.Lock()
        self._pool = None
        self._inside = 0

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        with self._lock:
            if self._inside >= _WAITING:
                raise StoreError(
                    f"the store is {_WAITING} calls behind. It is too slow for this load: put a front before it "
                    f"(?front=5s), or cache less",
                    "busy",
                )
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="mlguard-store")
            try:
                future = self._pool.submit(work)
            except RuntimeError:  # the interpreter is shutting down: no new threads
                raise StoreError("the process is ending", "closed") from None
            self._inside += 1
        future.add_done_callback(self._done)
        return await asyncio.wrap_future(future)

    def _done(self, _: Future[Any]) -> None:
        with self._lock:
            self._inside -= 1
