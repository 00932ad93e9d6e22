"""The example of the docs under the servers that people run: uvicorn, and gunicorn with several workers."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "fastapi_service"
ROWS = {"content": json.dumps([[1, 2, 3], [0, 1, 0]]), "headers": {"content-type": "application/json"}}


class Server:
    """A server in a process of its own."""

    def __init__(self, *command: str, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        with log.open("w") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *(part.replace("PORT", str(self.port)) for part in command)],
                cwd=EXAMPLE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "HOME": str(log.parent)},
            )

    def running(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        return True

    def stop(self) -> int:
        self._process.terminate()
        try:
            return self._process.wait(30)
        finally:
            self._process.kill()


@pytest.fixture
def started(tmp_path: Path, http: httpx.Client, until: Callable[..., None]) -> Iterator[Callable[..., Server]]:
    """``started(module, *arguments)``: a server that answers."""
    with contextlib.ExitStack() as running:

        def start(*command: str) -> Server:
            server = Server(*command, log=tmp_path / "log")
            running.callback(server.stop)
            until(lambda: server.running() and answers(http, server.url))
            return server

        yield start


def answers(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(f"{url}/mlguard/live").status_code == 200
    except httpx.TransportError:
        return False


def calls_of(http: httpx.Client, url: str, pid: int) -> int:
    """How many calls of `risk` that worker has answered; 0 where another one tells."""
    report = http.get(f"{url}/mlguard").json()
    (risk,) = [each for each in report["functions"] if each["name"] == "service.risk"]
    assert report["status"] == "ready"
    return sum(risk["stats"]["monitor"]["calls"].values()) if report["process"]["pid"] == pid else 0


def test_uvicorn(started: Callable[..., Server], http: httpx.Client) -> None:
    """The example, run as its docstring says: predictions, a stream, errors, the page; it ends when told to."""
    server = started("uvicorn", "service:app", "--port", "PORT")
    assert http.post(f"{server.url}/risk", **ROWS).json() == pytest.approx([0.3775, 0.5250], abs=1e-4)
    assert http.get(f"{server.url}/explain/2").text == '{"word":0}\n{"word":1}\n'
    assert http.post(f"{server.url}/risk", json=[[1, 2]]).status_code == 422
    page = http.get(f"{server.url}/mlguard", headers={"accept": "text/html"})
    assert "service.risk" in page.text
    assert server.stop() == -signal.SIGTERM  # uvicorn ends its work and then passes the signal on


def test_gunicorn_and_a_worker_that_is_killed(
    started: Callable[..., Server], http: httpx.Client, until: Callable[..., None]
) -> None:
    """One of two preloaded workers is killed under load: the other goes on, and a new one takes its place."""
    workers = ("-k", "uvicorn.workers.UvicornWorker", "-w", "2", "--preload")
    server = started("gunicorn", *workers, "-b", "127.0.0.1:PORT", "service:app")
    seen: set[int] = set()

    def meet() -> int:
        with contextlib.suppress(httpx.TransportError):
            seen.add(http.get(f"{server.url}/mlguard/live").json()["pid"])
        return len(seen)

    until(lambda: meet() == 2)
    done = threading.Event()
    statuses: list[int | str] = []

    def load() -> None:
        once = httpx.Limits(max_keepalive_connections=0)  # so that both workers get their share
        with httpx.Client(trust_env=False, verify=False, timeout=20, limits=once) as client:
            while not done.wait(0.005):
                try:
                    statuses.append(client.post(f"{server.url}/risk", **ROWS).status_code)
                except httpx.TransportError as error:
                    statuses.append(type(error).__name__)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(statuses) >= 40)
        killed = min(seen)
        first = set(seen)
        os.kill(killed, signal.SIGKILL)
        until(lambda: meet() == 3)
        (new,) = seen - first
        until(lambda: calls_of(http, server.url, new) > 0)
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    broken = [status for status in statuses if status != 200]
    assert len(broken) <= 3 * len(threads), broken  # those in flight, and those that were in its line
    assert all(isinstance(status, str) for status in broken)
    assert server.stop() == 0
