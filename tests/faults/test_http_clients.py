"""Real clients against a real server that refuses, stalls, resets, throttles and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import urlopen

import pytest

from mlguard import Breaker, Monitor, Retry, Timeout, guarded, testing
from mlguard.outcome import Failure, classify, status_of
from mlguard.resilience.retry_after import retry_after


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests.append(self.path)  # type: ignore[attr-defined]
        what = self.path.partition("?")[0].strip("/")
        if what == "flaky":
            what = "ok" if len(self.server.requests) > 2 else "reset"  # type: ignore[attr-defined]
        if what == "throttled-once":
            what = "ok" if len(self.server.requests) > 1 else "429"  # type: ignore[attr-defined]
        if what == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        elif what == "stall":
            time.sleep(1)
        elif what == "half":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"half an answer")
        else:
            self.send_response(200 if what == "ok" else int(what))
            if what == "429":
                self.send_header("Retry-After", "2")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

    do_POST = do_PUT = do_GET

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # it was reset
            super().finish()

    def log_message(self, *args: Any) -> None: ...


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, *args: Any) -> None: ...

    def shutdown_request(self, request: Any) -> None:
        with contextlib.suppress(OSError):
            super().shutdown_request(request)


@pytest.fixture
def server() -> Iterator[Any]:
    server: Any = Server(("127.0.0.1", 0), Handler)
    server.requests = []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def with_urllib(url: str) -> None:
    with urlopen(url, timeout=0.2) as answer:
        answer.read()


def with_httpx(url: str) -> None:
    import httpx

    with httpx.Client(timeout=0.2, trust_env=False) as client:
        client.get(url).raise_for_status()


def with_requests(url: str) -> None:
    import requests

    with requests.Session() as session:
        session.trust_env = False
        session.get(url, timeout=0.2).raise_for_status()


def with_urllib3(url: str) -> None:
    import urllib3

    with urllib3.PoolManager(retries=False) as pool:
        answer = pool.request("GET", url, timeout=0.2)
        if answer.status >= 400:
            pytest.skip("urllib3 raises nothing for a status")


def with_urllib3_retries(url: str) -> None:
    import urllib3

    with urllib3.PoolManager(retries=urllib3.Retry(total=0)) as pool:
        if pool.request("GET", url, timeout=0.2).status >= 400:
            pytest.skip("urllib3 raises nothing for a status")


def with_aiohttp(url: str) -> None:
    import aiohttp

    async def get() -> None:
        timeout = aiohttp.ClientTimeout(total=0.2)
        async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session, session.get(url) as answer:
            await answer.read()

    asyncio.run(get())


def with_async_httpx(url: str) -> None:
    import httpx

    async def get() -> None:
        async with httpx.AsyncClient(timeout=0.2, trust_env=False) as client:
            (await client.get(url)).raise_for_status()

    asyncio.run(get())


def with_botocore(url: str) -> None:
    import botocore.config
    import botocore.session

    base, _, what = url.rpartition("/")
    session = botocore.session.Session()
    session.set_credentials("key", "secret")
    config = botocore.config.Config(
        read_timeout=0.2, connect_timeout=0.2, retries={"max_attempts": 0}, s3={"addressing_style": "path"}
    )
    client = session.create_client("s3", region_name="us-east-1", endpoint_url=base, config=config)
    client.list_objects_v2(Bucket=what)


CLIENTS = [
    with_urllib, with_httpx, with_async_httpx, with_requests, with_urllib3, with_urllib3_retries, with_aiohttp,
    with_botocore,
]  # fmt: skip


def failure_of(client: Callable[[str], None], url: str) -> BaseException:
    module = {"async": "httpx"}.get(client.__name__.split("_")[1], client.__name__.split("_")[1])
    pytest.importorskip(module)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        client(url)
    return caught.value


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets that clients leave to the GC
@pytest.mark.parametrize("client", CLIENTS)
class TestEveryClient:
    @pytest.mark.parametrize("what", ["reset", "stall", "half"])
    def test_lost(self, client: Any, what: str, server: Any) -> None:
        """A reset connection, a stalled and a cut answer are transient in every client."""
        error = failure_of(client, f"{server.url}/{what}")
        assert classify(error) is Failure.TRANSIENT, repr(error)

    def test_refused(self, client: Any) -> None:
        """So is a port where nobody listens."""
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            error = failure_of(client, f"http://127.0.0.1:{nobody.getsockname()[1]}/ok")
        assert classify(error) is Failure.TRANSIENT, repr(error)

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (408, Failure.TRANSIENT), (429, Failure.THROTTLED), (500, Failure.TRANSIENT), (503, Failure.TRANSIENT),
            (404, Failure.PERMANENT), (501, Failure.PERMANENT),
        ],
    )  # fmt: skip
    def test_status(self, client: Any, status: int, kind: Failure, server: Any) -> None:
        """A status says it, and a Retry-After is found wherever the client keeps the headers."""
        error = failure_of(client, f"{server.url}/{status}")
        assert classify(error) is kind, repr(error)
        assert status_of(error) == status
        assert retry_after(error) == (2 if status == 429 else None)


class TestGuarded:
    def test_recovers(self, server: Any) -> None:
        """Two resets and an answer are one successful call."""
        fetch = guarded(retry=Retry(initial_delay="1ms"), monitor=Monitor(log=False))(with_httpx)
        assert fetch.guard.call(f"{server.url}/flaky").attempts == 3

    def test_waits_as_long_as_it_is_asked_to(self, server: Any) -> None:
        """A 429 with Retry-After: 2 is waited for, plus the backoff."""
        fetch = guarded(retry=Retry(initial_delay="1ms", jitter=False))(with_httpx)
        with testing.FakeClock() as clock:
            fetch(f"{server.url}/throttled-once")
        assert clock.sleeps == [pytest.approx(2.001)]

    def test_never_past_the_deadline(self, server: Any) -> None:
        """Where the time does not allow it, the 429 is raised at once."""
        import httpx

        fetch = guarded(retry=Retry(), timeout=Timeout(total="1s"))(with_httpx)
        started = time.monotonic()
        with pytest.raises(httpx.HTTPStatusError):
            fetch(f"{server.url}/429")
        assert time.monotonic() - started < 0.8
        assert fetch.guard.stats()["retry"]["gave_up"]["deadline"] == 1

    async def test_a_stall_is_cancelled(self, server: Any) -> None:
        """An attempt limit cancels a client that has none, and the connection with it."""
        import httpx

        async with httpx.AsyncClient(timeout=None, trust_env=False) as client:

            @guarded(timeout=Timeout(attempt="100ms"), retry=Retry(max_retries=1, initial_delay=0))
            async def fetch(path: str) -> int:
                return (await client.get(f"{server.url}/{path}")).status_code

            with pytest.raises(TimeoutError):
                await fetch("stall")
            assert server.requests == ["/stall", "/stall"]
            assert await fetch("ok") == 200

    def test_a_stall_is_left_behind(self, server: Any) -> None:
        """A plain client that hangs is left in its thread, and its end is seen."""
        import httpx

        @guarded(timeout=Timeout(attempt="50ms", sync_mode="thread"))
        def fetch() -> None:
            httpx.get(f"{server.url}/stall", timeout=0.3, trust_env=False)

        with pytest.raises(TimeoutError):
            fetch()
        deadline = time.monotonic() + 5
        while fetch.guard.stats()["timeout"]["threads"]["left_now"] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert fetch.guard.stats()["timeout"]["threads"]["late_errors"] == 1

    def test_a_client_error_is_no_failure_of_the_service(self, server: Any) -> None:
        """404s neither open the breaker nor are retried."""
        import httpx

        fetch = guarded(retry=Retry(), breaker=Breaker(minimum_calls=2))(with_httpx)
        for _ in range(4):
            with pytest.raises(httpx.HTTPStatusError):
                fetch(f"{server.url}/404")
        assert len(server.requests) == 4
        assert fetch.guard.stats()["breaker"]["state"] == "closed"


class TestGrpc:
    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            ("UNAVAILABLE", Failure.TRANSIENT), ("RESOURCE_EXHAUSTED", Failure.THROTTLED),
            ("ABORTED", Failure.TRANSIENT), ("INVALID_ARGUMENT", Failure.PERMANENT),
        ],
    )  # fmt: skip
    def test_codes(self, code: str, kind: Failure) -> None:
        """What a real server answers is classified by its code."""
        grpc = pytest.importorskip("grpc")

        def fail(request: bytes, context: Any) -> bytes:
            context.abort(grpc.StatusCode[code], "told to")
            return b""

        handler = grpc.method_handlers_generic_handler("Model", {"Predict": grpc.unary_unary_rpc_method_handler(fail)})
        server = grpc.server(futures.ThreadPoolExecutor(1))
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                with pytest.raises(grpc.RpcError) as caught:
                    channel.unary_unary("/Model/Predict")(b"", timeout=5)
                assert classify(caught.value) is kind
        finally:
            server.stop(None)

    def test_nobody_there_and_too_late(self) -> None:
        """A port where nobody listens, and a deadline that passes, are transient."""
        grpc = pytest.importorskip("grpc")
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            with grpc.insecure_channel(f"127.0.0.1:{silent.getsockname()[1]}") as channel:
                with pytest.raises(grpc.RpcError) as caught:
                    channel.unary_unary("/Model/Predict")(b"", timeout=0.2)
                assert classify(caught.value) is Failure.TRANSIENT


class TestRedis:
    def test_refused_and_stalled(self) -> None:
        """A redis that is away, or answers nothing, is a transient failure; a wrong password is not."""
        redis = pytest.importorskip("redis")
        no_retries = {"socket_timeout": 0.2, "retry": None}
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            port = silent.getsockname()[1]
            for listens in (False, True):
                if listens:
                    silent.listen()
                client = redis.Redis(port=port, **no_retries)
                with pytest.raises(redis.RedisError) as caught:
                    client.get("x")
                client.close()
                assert classify(caught.value) is Failure.TRANSIENT, repr(caught.value)
        assert classify(redis.AuthenticationError()) is Failure.PERMANENT
        assert classify(redis.ResponseError()) is Failure.PERMANENT


def test_no_client_is_imported_to_look() -> None:
    """Classifying an exception imports none of the libraries it knows."""
    code = (
        "import sys\n"
        "from mlguard.outcome import classify\n"
        "classify(RuntimeError()), classify(ConnectionResetError())\n"
        "print(sorted(set(sys.modules) & {'httpx', 'requests', 'urllib3', 'grpc', 'redis', 'botocore', 'aiohttp'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
