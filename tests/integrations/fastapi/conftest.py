"""Applications as their users write them, served by real servers on loopback where a test client is not enough."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from mlguard.monitor import readings


@pytest.fixture(autouse=True)
def _only_own_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The health page and a scrape show every guarded function of the process: here, those of the test."""
    monkeypatch.setattr("mlguard.wrapper._wrappers", weakref.WeakSet())
    readings.of_this_process.after_fork()


@pytest.fixture
def client() -> Callable[..., TestClient]:
    """``client(app)``: requests without a network; what the application raises becomes a 500, as in a server."""

    def make(app: Any, **options: Any) -> TestClient:
        return TestClient(app, raise_server_exceptions=False, **options)

    return make


@pytest.fixture
def module() -> Iterator[Callable[..., types.ModuleType]]:
    """``module(source, **names)``: a module of that text, as if it stood in a file of its own."""
    made: list[str] = []

    def make(source: str, **names: Any) -> types.ModuleType:
        found = types.ModuleType(f"service_{len(made)}")
        made.append(found.__name__)
        sys.modules[found.__name__] = found
        vars(found).update(names)
        exec(compile(source, found.__name__, "exec"), vars(found))
        return found

    yield make
    for name in made:
        del sys.modules[name]


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """``serve(app)``: the URL of a uvicorn server that runs it in this process."""
    with contextlib.ExitStack() as running:

        def start(app: Any, **options: Any) -> str:
            config = uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=2, **options)
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, daemon=True)
            thread.start()

            def stop() -> None:
                server.should_exit = True
                thread.join(20)
                assert not thread.is_alive()

            running.callback(stop)
            wait_until(lambda: server.started or not thread.is_alive())
            return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

        yield start


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A client that asks no proxy, with a connection for each request: a server may close one after an error."""
    with httpx.Client(trust_env=False, timeout=20, limits=httpx.Limits(max_keepalive_connections=0)) as found:
        yield found


@pytest.fixture
def until() -> Callable[[Callable[[], Any]], None]:
    """``until(condition)``: waits for it, at most half a minute."""
    return wait_until


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.01)
