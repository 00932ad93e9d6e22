"""A server that streams as language models' do, with their bad days; real, and local."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_asyncio

from mlguard import policies

pytest.importorskip("aiohttp", reason="aiohttp is not installed")

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "llm_stream"
WORDS = ["To", " be", ",", " or", " not"]


class Server:
    """Streams WORDS for each request, or what is planned for it: one entry a request.

    ``"503"``, ``"429"`` (with Retry-After: 1), ``"slow"`` (nothing comes), ``"stall"`` (nothing after two tokens),
    ``"cut"`` (the connection is reset after three tokens), ``"short"`` (it ends politely, but without [DONE]),
    ``"error"`` (it says so after three tokens, as it has answered 200 already).
    """

    def __init__(self) -> None:
        self.plan: list[str] = []
        self.requests: list[Any] = []
        self.streaming = 0
        self.waiting = asyncio.Event()
        """It has said all it had to say for now."""
        self.gone = asyncio.Event()
        """A client went away before its stream was over."""

    async def handle(self, request: Any) -> Any:
        from aiohttp import web

        self.requests.append(await request.json())
        what = self.plan.pop(0) if self.plan else "ok"
        if what.isdigit():
            return web.Response(status=int(what), headers={"Retry-After": "1"} if what == "429" else {})
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        self.streaming += 1
        try:
            await answer.prepare(request)
            if what == "slow":
                await self.nothing()
            await answer.write(b": keep-alive\n\n")
            for number, word in enumerate(WORDS):
                if (what, number) == ("stall", 2):
                    await self.nothing()
                if (what, number) == ("cut", 3):
                    request.transport.abort()
                    return answer
                if (what, number) == ("error", 3):
                    await answer.write(event({"error": {"code": "overloaded", "message": "try again"}}))
                    return answer
                await answer.write(event({"choices": [{"index": 0, "delta": {"content": word}}]}))
            if what != "short":
                await answer.write(event({"choices": [], "usage": {"completion_tokens": len(WORDS)}}))
                await answer.write(b"data: [DONE]\n\n")
        except (asyncio.CancelledError, ConnectionError):
            self.gone.set()
            raise
        finally:
            self.streaming -= 1
        return answer

    async def nothing(self) -> None:
        self.waiting.set()
        await asyncio.sleep(60)


def event(chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


async def served(routes: Any) -> tuple[Any, str]:
    """An application on a free port: what runs it, and its address."""
    from aiohttp import web

    application = web.Application()
    application.add_routes(routes)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Any]:
    from aiohttp import web

    server: Any = Server()
    runner, server.url = await served([web.post("/v1/chat/completions", server.handle)])
    server.served = served
    server.words = WORDS
    yield server
    await runner.cleanup()


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example under its own policy file, with room for two streams; tests move the clock."""
    for name in [name for name in os.environ if name.startswith("MLGUARD")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLGUARD_POLICIES", str(EXAMPLE / "mlguard.toml"))
    monkeypatch.setenv("MLGUARD__CHAT__CONCURRENCY__MAX_CONCURRENT", "2")
    monkeypatch.setenv("MLGUARD__CHAT__BREAKER", "true")
    monkeypatch.syspath_prepend(str(EXAMPLE))
    policies.reset()
    yield importlib.import_module("chat")
    sys.modules.pop("chat", None)
    policies.reset()
