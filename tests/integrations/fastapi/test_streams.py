"""Streams: a status while there is one to give, a broken answer after it, and slots that come back."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from fastapi.testclient import TestClient

from mlguard import CircuitOpenError, Concurrency, Fallback, Timeout, guarded, testing
from mlguard.integrations.fastapi import install

ALONE = Concurrency(max_concurrent=1, max_waiting=0)


def application(**settings: Any) -> FastAPI:
    """Streams of every kind that fail after `n` items."""
    app = FastAPI()
    install(app, health="/h", **settings)

    @app.get("/async")
    @guarded
    async def asynchronous(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number
        raise CircuitOpenError("open", retry_after=1.5)

    @app.get("/plain")
    @guarded
    def plain(n: int) -> Iterator[int]:
        yield from range(n)
        raise CircuitOpenError("open", retry_after=1.5)

    @app.get("/raw", response_class=StreamingResponse)
    @guarded
    async def raw(n: int) -> AsyncIterator[str]:
        for number in range(n):
            yield f"{number}\n"
        raise CircuitOpenError("open", retry_after=1.5)

    @app.get("/response")
    async def response(n: int) -> StreamingResponse:
        return StreamingResponse(asynchronous_text(n))

    @guarded
    async def asynchronous_text(n: int) -> AsyncIterator[str]:
        for number in range(n):
            yield f"{number}\n"
        raise CircuitOpenError("open", retry_after=1.5)

    @app.get("/sse", response_class=EventSourceResponse)
    @guarded
    async def events(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number
        raise CircuitOpenError("open", retry_after=1.5)

    @app.get("/http")
    @guarded
    async def http_error(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number
        raise HTTPException(418, "tea")

    @app.get("/bug")
    @guarded
    async def bug(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number
        raise LookupError("a bug")

    return app


KINDS = ("async", "plain", "raw", "response", "sse")


def test_an_error_before_the_first_item_has_its_status(serve: Callable[..., str], http: httpx.Client) -> None:
    """A guard refuses a stream at its first item; the client gets the status and Retry-After, not a broken 200."""
    url = serve(application())
    for kind in KINDS:
        answer = http.get(f"{url}/{kind}?n=0")
        told = answer.status_code, answer.headers["content-type"], answer.headers["retry-after"]
        assert told == (503, "application/problem+json", "2"), kind
    assert http.get(f"{url}/http?n=0").json() == {"detail": "tea"}
    assert http.get(f"{url}/bug?n=0").status_code == 500
    assert http.get(f"{url}/h").json()["requests"]["broken_streams"] == 0


def test_an_error_after_the_first_item_breaks_the_answer_off(serve: Callable[..., str], http: httpx.Client) -> None:
    """The status is gone by then; the connection ends without the last chunk, so that nobody takes it for complete."""
    url = serve(application())
    for kind in KINDS:
        received: list[bytes] = []
        with http.stream("GET", f"{url}/{kind}?n=2") as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
                received.extend(answer.iter_raw())
        assert b"0" in b"".join(received), kind
    assert http.get(f"{url}/h").json()["requests"]["broken_streams"] == len(KINDS)


def test_streams_that_are_not_held(serve: Callable[..., str], http: httpx.Client) -> None:
    """With `hold_streams=False` the status is sent at once, whatever comes."""
    url = serve(application(hold_streams=False))
    with http.stream("GET", f"{url}/async?n=0") as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            answer.read()


def test_items_come_one_by_one(serve: Callable[..., str], http: httpx.Client) -> None:
    """Nothing on the way collects a stream: the first item arrives while the second waits for the client's word."""
    app = FastAPI()
    install(app)
    seen = threading.Event()

    @app.get("/words")
    @guarded
    async def words() -> AsyncIterator[str]:
        yield "first"
        await asyncio.to_thread(seen.wait, 30)
        yield "second"

    with http.stream("GET", f"{serve(app)}/words") as answer:
        lines = answer.iter_lines()
        assert next(lines) == '"first"'
        seen.set()
        assert next(lines) == '"second"'


@pytest.mark.parametrize("kind", ["waits", "sends", "thread", "response", "sse", "fast-sse"])
def test_a_client_that_leaves_gives_the_slot_back(
    serve: Callable[..., str],
    http: httpx.Client,
    until: Callable[..., None],
    request: pytest.FixtureRequest,
    kind: str,
) -> None:
    """Whether the stream waits for its next item or for the network: it is closed, and the next client is served."""
    app = FastAPI()
    install(app)
    closed: list[str] = []
    go_on = threading.Event()

    @guarded(concurrency=ALONE)
    async def waits() -> AsyncIterator[str]:
        try:
            yield "x"
            await asyncio.sleep(60)
        finally:
            closed.append("waits")

    @guarded(concurrency=ALONE)
    async def sends() -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * 100_000
        finally:
            closed.append("sends")

    @guarded(concurrency=ALONE)
    def thread() -> Iterator[str]:
        try:
            while True:
                yield "x" * 1_000
                go_on.wait(0.02)
        finally:
            closed.append("thread")

    async def response() -> StreamingResponse:
        return StreamingResponse(waits())

    app.get("/waits")(waits)
    app.get("/sends", response_class=StreamingResponse)(sends)
    app.get("/thread")(thread)
    app.get("/response")(response)
    app.get("/sse", response_class=EventSourceResponse)(waits)
    app.get("/fast-sse", response_class=EventSourceResponse)(sends)
    function = {"sends": sends, "fast-sse": sends, "thread": thread}.get(kind, waits)
    url = serve(app)
    gc.collect()
    gc.disable()  # so that it is not Python's collector that happens to close them
    request.addfinalizer(gc.enable)
    for _ in range(3):
        with http.stream("GET", f"{url}/{kind}") as answer:
            assert answer.status_code == 200
            chunks = answer.iter_raw()  # kept: httpx closes the connection with it
            assert next(chunks)
            assert function.guard.stats()["concurrency"]["in_use"] == 1
        until(lambda: function.guard.stats()["concurrency"]["in_use"] == 0)
    assert closed == [function.__name__] * 3


@pytest.mark.parametrize("told", ["2.3", "2.4", "cancelled"])
async def test_clients_that_left_are_counted(told: str) -> None:
    """However a server tells it: by a message, by an error when a chunk is sent, or by cancelling the request."""
    app = FastAPI()
    install(app)

    @app.get("/words")
    @guarded(concurrency=ALONE)
    async def words() -> AsyncIterator[str]:
        yield "first"
        while True:
            await asyncio.sleep(0.001)
            yield "more"

    begun = asyncio.Event()

    async def receive() -> Any:
        await begun.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if begun.is_set() and told == "2.4":
            raise OSError("the client left")
        if message["type"] == "http.response.body":
            begun.set()

    version = "2.3" if told == "2.3" else "2.4"
    scope = {"type": "http", "method": "GET", "path": "/words", "headers": [], "query_string": b""}
    request = asyncio.ensure_future(app({**scope, "asgi": {"spec_version": version}}, receive, send))
    await begun.wait()
    if told == "cancelled":
        request.cancel()
    await asyncio.wait([request], timeout=30)
    assert app.state.mlguard.counts.clients_left == 1
    assert request.cancelled() is (told == "cancelled")


def test_a_full_line_of_streams(serve: Callable[..., str], http: httpx.Client) -> None:
    """While one stream holds the only slot, the next is refused with 429 before any of it is sent."""
    app = FastAPI()
    install(app)

    @app.get("/stream")
    @guarded(concurrency=ALONE)
    async def stream() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(60)

    url = serve(app)
    with http.stream("GET", f"{url}/stream") as first:
        chunks = first.iter_raw()
        assert next(chunks)
        refused = http.get(f"{url}/stream")
        assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")


def test_a_fallback_before_the_first_item(client: Callable[..., TestClient]) -> None:
    """A stream that could not begin is answered by its fallback, with 200."""
    app = FastAPI()
    install(app)

    @app.get("/words")
    @guarded(timeout=Timeout(first_item="20ms"), fallback=Fallback(value="sorry"))
    async def words() -> AsyncIterator[str]:
        await asyncio.sleep(60)
        yield "never"

    answer = client(app).get("/words")
    assert (answer.status_code, answer.text) == (200, '"sorry"\n')


def test_yield_dependencies_hold_their_slot(client: Callable[..., TestClient]) -> None:
    """A guarded dependency that yields is left when the request ends, and sees the path operation's exception."""
    from typing import Annotated

    from fastapi import Depends

    app = FastAPI()
    install(app)
    seen: list[Any] = []

    @guarded(concurrency=ALONE)
    def session() -> Iterator[int]:
        try:
            yield 1
            seen.append("end")
        except LookupError as error:
            seen.append(error)
            raise

    @app.get("/{fails}")
    def operation(fails: bool, one: Annotated[int, Depends(session)]) -> int:
        seen.append(session.guard.stats()["concurrency"]["in_use"])
        if fails:
            raise LookupError("no")
        return one

    assert client(app).get("/false").json() == 1
    assert client(app).get("/true").status_code == 500
    assert seen[:3] == [1, "end", 1]
    assert isinstance(seen[3], LookupError)
    assert session.guard.stats()["concurrency"]["in_use"] == 0


def test_events_of_streams(serve: Callable[..., str], http: httpx.Client, until: Callable[..., None]) -> None:
    """A stream that its client left is told as cancelled or as what closed it, never as a failure of the function."""
    from mlguard import Monitor

    app = FastAPI()
    install(app)

    @app.get("/stream")
    @guarded(monitor=Monitor())
    async def stream() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(60)

    with testing.capture_events() as events:
        with http.stream("GET", f"{serve(app)}/stream") as answer:
            assert next(answer.iter_raw())
        until(lambda: events)
    assert [event["mlguard.disposition"] for event in events] == ["cancelled"]
