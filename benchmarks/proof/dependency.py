"""A real HTTP server in a process of its own that answers, dies, and comes back, and remembers when it was asked."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

__all__ = ["Dependency"]

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_BROKEN = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\ndead"
_TAKES = 0.005


class Dependency:
    """Answers after 5 ms while it is up. While it is dead, it answers 503 to some and resets the connection of others.

    Args:
        dies_at: Seconds after `begin` when it dies.
        back_at: Seconds after `begin` when it is back.
    """

    def __init__(self, dies_at: float, back_at: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, dies_at, back_at), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self.url = f"http://127.0.0.1:{self._ours.recv()}/"
        return self

    def begin(self) -> float:
        """Starts its time; returns the moment on this process's `time.monotonic`."""
        self._ours.send("begin")
        self._ours.recv()
        return time.monotonic()

    def requests(self) -> list[float]:
        """When it was asked, in seconds since `begin`."""
        self._ours.send("requests")
        times: list[float] = self._ours.recv()
        return times

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.join()


def _serve(pipe: Connection, dies_at: float, back_at: float) -> None:
    asyncio.run(_Server(dies_at, back_at).run(pipe))


class _Server:
    def __init__(self, dies_at: float, back_at: float) -> None:
        self._dead = dies_at, back_at
        self._began = time.monotonic()
        self._requests: list[float] = []

    async def run(self, pipe: Connection) -> None:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0, backlog=2048)
        pipe.send(server.sockets[0].getsockname()[1])
        loop = asyncio.get_running_loop()
        while True:
            asked = await loop.run_in_executor(None, pipe.recv)
            if asked == "begin":
                self._began, self._requests = time.monotonic(), []
                pipe.send("begun")
            else:
                pipe.send(self._requests)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                now = time.monotonic() - self._began
                self._requests.append(now)
                if self._dead[0] <= now < self._dead[1]:
                    if len(self._requests) % 4 == 0:
                        writer.transport.abort()
                        return
                    writer.write(_BROKEN)
                else:
                    await asyncio.sleep(_TAKES)
                    writer.write(_ANSWER)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
