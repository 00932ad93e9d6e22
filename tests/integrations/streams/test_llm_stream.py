"""Streams of tokens through a real server: deadlines, retries, slots and events, for three ways to write a client."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import aiohttp
import httpx
import pytest
import pytest_asyncio

from mlguard import ConcurrencyLimitError, DeadlineExceededError, InvalidInputError, guarded, note, testing
from mlguard.outcome import Failure, classify

PATIENCE = 30
PATH = "/v1/chat/completions"


class Client(NamedTuple):
    """A guarded function that streams, and how it is called."""

    guarded: Any
    call: Callable[[], Any]

    async def pieces(self) -> Any:
        """Its items, however the function gives them."""
        stream = self.call()
        return await stream if inspect.isawaitable(stream) else stream

    @property
    def slots(self) -> int:
        in_use: int = self.guarded.guard.stats()["concurrency"]["in_use"]
        return in_use


class Stream:
    """What SDKs return: an object that is iterated, and closed, in the caller's own time."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[str]:
        async for line in self._response.aiter_lines():
            if line == "data: [DONE]":
                return
            if line.startswith("data:"):
                chunk = json.loads(line.removeprefix("data:"))
                if "error" in chunk:
                    raise httpx.RemoteProtocolError(chunk["error"]["code"])
                for choice in chunk["choices"]:
                    yield choice["delta"]["content"]
        raise httpx.RemoteProtocolError("the answer ended before [DONE]")

    async def close(self) -> None:
        await self._response.aclose()


class SDK:
    """The part of a client for language models that matters here, on a real connection."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def create(self, messages: list[dict[str, str]]) -> Stream:
        request = self._http.build_request("POST", PATH, json={"messages": messages, "stream": True})
        response = await self._http.send(request, stream=True)
        if response.is_error:
            await response.aclose()
        response.raise_for_status()
        return Stream(response)


@pytest_asyncio.fixture(params=["httpx", "aiohttp", "sdk"])
async def client(request: pytest.FixtureRequest, server: Any, example: ModuleType) -> AsyncIterator[Client]:
    """The same question, asked by an async generator on httpx or aiohttp, and by a coroutine that returns a stream."""
    messages = [{"role": "user", "content": "Which question?"}]
    http = httpx.AsyncClient(base_url=server.url, timeout=httpx.Timeout(None), trust_env=False)
    session = aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(total=None))

    @guarded("chat")
    async def with_aiohttp(messages: list[dict[str, str]]) -> AsyncIterator[str]:
        async with session.post(PATH, json={"messages": messages}, raise_for_status=True) as answer:
            async for line in answer.content:
                data = line.removeprefix(b"data:").strip()
                if data == b"[DONE]":
                    return
                if line.startswith(b"data:"):
                    chunk = json.loads(data)
                    if "error" in chunk:
                        raise aiohttp.ClientPayloadError(chunk["error"]["code"])
                    if chunk.get("usage"):
                        note(tokens=chunk["usage"]["completion_tokens"])
                    for choice in chunk["choices"]:
                        yield choice["delta"]["content"]
        raise aiohttp.ClientPayloadError("the answer ended before [DONE]")

    sdk = SDK(http)

    @guarded("chat")
    async def with_sdk(messages: list[dict[str, str]]) -> AsyncIterator[str]:
        return aiter(await sdk.create(messages))

    yield {
        "httpx": Client(example.chat, lambda: example.chat(http, messages)),
        "aiohttp": Client(with_aiohttp, lambda: with_aiohttp(messages)),
        "sdk": Client(with_sdk, lambda: with_sdk(messages)),
    }[request.param]
    await http.aclose()
    await session.close()


async def everything(pieces: Any) -> tuple[list[str], Exception | None]:
    """The pieces that came, and the error that ended them."""
    came = []
    try:
        async for piece in pieces:
            came.append(piece)  # noqa: PERF401 - an error must leave what came
    except Exception as error:
        return came, error
    return came, None


async def within(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, PATIENCE)


async def test_a_whole_answer(client: Client, server: Any) -> None:
    """Every piece arrives; the slot is held to the last one; the event counts items, times the first, has the notes."""
    with testing.capture_events() as events:
        pieces = await client.pieces()
        first = await anext(pieces)
        assert client.slots == 1
        rest, error = await everything(pieces)
    assert ([first, *rest], error) == (server.words, None)
    assert client.slots == 0
    (event,) = events
    assert (event["event.outcome"], event["mlguard.items"], event["mlguard.attempts"]) == ("success", 5, 1)
    assert 0 < event["mlguard.first_item"] <= event["mlguard.duration"]
    if "with_sdk" not in event["code.function.name"]:  # whose function has returned long before the usage comes
        assert event["tokens"] == 5


@pytest.mark.parametrize(("status", "pause"), [("503", (0, 0.2)), ("429", (1, 1.2))])
async def test_a_refusal_before_the_first_token(client: Client, server: Any, status: str, pause: Any) -> None:
    """A 503, and a 429 with its Retry-After, are tried again after the pause that is due; the caller sees no more."""
    server.plan = [status]
    with testing.capture_events() as events, testing.FakeClock() as clock:
        came, error = await within(everything(await client.pieces()))
    assert (came, error) == (server.words, None)
    (slept,) = clock.sleeps
    assert pause[0] <= slept <= pause[1]
    assert (events[0]["mlguard.attempts"], len(server.requests)) == (2, 2)
    assert client.slots == 0


async def test_refused_for_good(client: Client, server: Any) -> None:
    """After the last attempt the client's own error is raised, and nothing is held."""
    server.plan = ["503"] * 3
    with testing.FakeClock(), pytest.raises((httpx.HTTPStatusError, aiohttp.ClientResponseError)) as caught:
        await within(everything_or_raise(client))
    assert classify(caught.value) is Failure.TRANSIENT
    assert (len(server.requests), client.slots) == (3, 0)


async def everything_or_raise(client: Client) -> list[str]:
    return [piece async for piece in await client.pieces()]


async def test_a_first_token_that_does_not_come(client: Client, server: Any) -> None:
    """`first_item` ends the attempt, its connection is closed, and the next attempt streams."""
    server.plan = ["slow"]
    with testing.capture_events() as events, testing.FakeClock() as clock:
        asking = asyncio.create_task(everything_or_raise(client))
        await within(server.waiting.wait())
        clock.advance("10s")
        assert await within(asking) == server.words
    await within(server.gone.wait())
    assert (events[0]["mlguard.attempts"], events[0]["mlguard.items"]) == (2, 5)
    assert client.slots == 0


async def test_a_stall_between_tokens(client: Client, server: Any) -> None:
    """`idle` ends the stream after what came, without another attempt; slot and connection are given back."""
    server.plan = ["stall"]
    with testing.capture_events() as events, testing.FakeClock() as clock:
        asking = asyncio.create_task(everything(await client.pieces()))
        await within(server.waiting.wait())
        while client.guarded.guard.stats()["concurrency"]["in_use"] and not asking.done():
            await asyncio.sleep(0.01)  # until the second token is through and the third waited for
            clock.advance("1s")
        came, error = await within(asking)
    assert came == server.words[:2]
    assert isinstance(error, DeadlineExceededError)
    assert "idle = 5s" in str(error)
    await within(server.gone.wait())
    assert (client.slots, len(server.requests)) == (0, 1)
    assert (events[0]["event.outcome"], events[0]["mlguard.items"]) == ("failure", 2)


@pytest.mark.parametrize("how", ["cut", "short", "error"])
async def test_an_answer_that_ends_midway(client: Client, server: Any, how: str) -> None:
    """Half an answer is never taken for a whole one, nor started again; the breaker counts it as a failure."""
    server.plan = [how]
    with testing.capture_events() as events:
        came, error = await within(everything(await client.pieces()))
    assert came == server.words[: 5 if how == "short" else 3]
    assert error is not None
    assert classify(error) is Failure.TRANSIENT
    assert (client.slots, len(server.requests)) == (0, 1)
    assert events[0]["mlguard.items"] == len(came)
    assert client.guarded.guard.stats()["breaker"]["failures"] == 1


async def test_a_consumer_that_has_enough(client: Client, server: Any) -> None:
    """Closing the stream early closes the connection and gives the slot back; no failure of anybody's."""
    server.plan = ["stall"]
    with testing.capture_events() as events:
        async with aclosing(await client.pieces()) as pieces:
            assert await anext(pieces) == server.words[0]
            assert client.slots == 1
    assert client.slots == 0
    await within(server.gone.wait())
    assert (events[0]["mlguard.disposition"], events[0]["mlguard.items"]) == ("cancelled", 1)
    assert client.guarded.guard.stats()["breaker"]["failures"] == 0


async def test_a_consumer_that_just_stops(client: Client, server: Any) -> None:
    """A `break` without `aclosing` leaves the closing to Python's collector: CPython does it at once."""
    server.plan = ["stall"]

    async for piece in await client.pieces():
        assert piece == server.words[0]
        break
    await within(server.gone.wait())
    while client.slots:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("what", ["slow", "stall"])
async def test_a_task_that_is_cancelled(client: Client, server: Any, what: str) -> None:
    """Before the first token or between two: cancellation passes through, and nothing stays behind."""
    server.plan = [what]
    asking = asyncio.create_task(everything_or_raise(client))
    await within(server.waiting.wait())
    assert client.slots == 1
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(asking)
    assert client.slots == 0
    await within(server.gone.wait())


async def test_two_streams_at_a_time(client: Client, server: Any) -> None:
    """A third one waits for a slot and starts when one of the two ends; who waits too long is refused."""
    server.plan = ["stall", "stall"]
    one, two = await client.pieces(), await client.pieces()
    await anext(one), await anext(two)
    assert client.slots == 2
    third = asyncio.create_task(everything_or_raise(client))
    while not client.guarded.guard.stats()["concurrency"]["waiting"]:
        await asyncio.sleep(0.01)
    assert len(server.requests) == 2
    await one.aclose()
    assert await within(third) == server.words
    server.plan = ["stall"]
    four = await client.pieces()
    await anext(four)
    with testing.FakeClock() as clock:
        late = asyncio.create_task(everything_or_raise(client))
        while not client.guarded.guard.stats()["concurrency"]["waiting"]:
            await asyncio.sleep(0.01)
        clock.advance("2s")
        with pytest.raises(ConcurrencyLimitError) as refusal:
            await within(late)
    assert refusal.value.retry_after is not None
    await two.aclose()
    await four.aclose()
    assert client.slots == 0


async def test_a_browser_that_goes_away(client: Client, server: Any) -> None:
    """A service that hands the stream on: when its own client disconnects, slot and upstream connection come back."""
    from aiohttp import web

    async def relay(request: Any) -> Any:
        answer = web.StreamResponse()
        await answer.prepare(request)
        async with aclosing(await client.pieces()) as pieces:
            async for piece in pieces:
                await answer.write(piece.encode())
        return answer

    server.plan = ["stall"]
    runner, url = await server.served([web.get("/", relay)])
    async with aiohttp.ClientSession() as browser:
        answer = await browser.get(url)
        assert await within(answer.content.readexactly(5)) == "".join(server.words[:2]).encode()
        assert client.slots == 1
        answer.close()
        await within(server.gone.wait())
        while client.slots:
            await asyncio.sleep(0.01)
    await runner.cleanup()


@pytest.mark.parametrize("length", [1, 1 << 22], ids=["while a token is waited for", "while one is written"])
async def test_a_browser_that_leaves_starlette(client: Client, server: Any, length: int) -> None:
    """The same with Starlette on uvicorn, whose response iterates the stream."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    server.plan = ["stall"]

    async def relay(_: Any) -> Any:
        pieces = await client.pieces()
        return StreamingResponse(piece * length async for piece in pieces)

    app = Starlette(routes=[Route("/", relay)])
    web = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    serving = asyncio.create_task(web.serve())
    while not web.started:
        await asyncio.sleep(0.01)
    url = f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"
    with testing.capture_events() as events:
        async with aiohttp.ClientSession() as browser:
            answer = await browser.get(url)
            await within(answer.content.readexactly(5))
            answer.close()
            while client.slots or not events:
                await asyncio.sleep(0.01)
    assert events[0]["mlguard.disposition"] == "cancelled"
    web.should_exit = True
    await within(serving)


async def test_bad_input_asks_nobody(server: Any, example: ModuleType) -> None:
    """A conversation that breaks its schema is refused at the first item, before any request."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        with pytest.raises(InvalidInputError, match="role"):
            await anext(example.chat(http, [{"role": "robot", "content": "hello"}]))
        with pytest.raises(InvalidInputError, match="at least 1 item"):
            await anext(example.chat(http, []))
    assert server.requests == []


async def test_the_example_as_a_script(server: Any, example: ModuleType) -> None:
    """Its reader runs it with one question and sees the answer."""
    folder = Path(example.__file__ or "").parent
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLGUARD")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "chat.py", "Which question?",
        cwd=folder, env={**clean, "LLM_URL": server.url, "NO_PROXY": "127.0.0.1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, trouble = await within(process.communicate())
    assert process.returncode == 0, trouble.decode()
    assert out.decode().startswith("To be, or not")
