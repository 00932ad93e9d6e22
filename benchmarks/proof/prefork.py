"""The real things around a prefork service: gunicorn with several workers, callers that know the truth, Prometheus."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Answer", "Callers", "Gunicorn", "Prometheus", "prometheus_binary"]

_ROOT = Path(__file__).parents[2]
_CONFIGURATION = """
import prometheus_client.multiprocess

def child_exit(server, worker):
    prometheus_client.multiprocess.mark_process_dead(worker.pid)
"""


def prometheus_binary() -> str | None:
    """Where Prometheus is on this machine; None: nowhere."""
    return shutil.which("prometheus")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Waits for something to become true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException, KeyError):
            found = condition()
            if found:
                return found
        time.sleep(0.05)
    raise TimeoutError(f"{what} did not come in {seconds:g} s")


class Process:
    """A server that is always stopped."""

    def __init__(self, command: list[str], folder: Path, log: str, **environment: str) -> None:
        self.log = folder / log
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(  # noqa: S603 - servers of this proof
                command, cwd=folder, stdout=out, stderr=out, env={**os.environ, **environment}
            )

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Gunicorn(Process):
    """The service of `metrics_service.py` in several worker processes."""

    def __init__(self, folder: Path, profile: Path, *options: str, workers: int = 3) -> None:
        self.files = folder / "multiproc"
        self.files.mkdir()
        (folder / "gunicorn.conf.py").write_text(_CONFIGURATION)
        self.port = free_port()
        command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{self.port}", "--workers", str(workers)]
        command += ["--pythonpath", str(_ROOT), *options, "benchmarks.proof.metrics_service:app"]
        variables = {"PROMETHEUS_MULTIPROC_DIR": str(self.files), "PROOF_PROFILE": str(profile)}
        super().__init__(command, folder, "gunicorn.log", **variables)

    def scrape(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def ready(self) -> None:
        until(self.scrape, 60, "the service")

    def reload(self) -> None:
        """Gracefully: workers end what they are at."""
        self.process.send_signal(signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller saw of one call."""

    at: float
    value: float | None
    """What was asked about; None: nonsense on purpose."""
    how: str
    """The disposition; ``"unknown"`` where no answer came."""
    took: float = 0.0
    process: int = 0


@dataclass
class Callers:
    """Threads that call until they are told to stop, and remember every answer."""

    port: int
    threads: int = 4
    mean: float = 0.6
    answers: list[Answer] = field(default_factory=list)

    @contextlib.contextmanager
    def calling(self) -> Iterator[None]:
        """Calls are made while the block runs."""
        stop = threading.Event()
        threads = [threading.Thread(target=self._call, args=(stop, seed)) for seed in range(self.threads)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _call(self, stop: threading.Event, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - what is asked about
        while not stop.is_set():
            value = None if chance.random() < 0.05 else round(chance.gauss(self.mean, 1.0), 2)
            self.answers.append(self._one(value))

    def _one(self, value: float | None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", f"/predict?{'nonsense' if value is None else value}")
            said = connection.getresponse()
            said.read()
            how, took, process = said.headers["X-How"], said.headers["X-Took"], said.headers["X-Process"]
            return Answer(time.time(), value, str(how), float(took or 0), int(process or 0))
        except (OSError, http.client.HTTPException):
            return Answer(time.time(), value, "unknown")
        finally:
            connection.close()


class Prometheus(Process):
    """A Prometheus server that scrapes the service once a second and evaluates the rules as often."""

    def __init__(self, folder: Path, target: int, rules: str) -> None:
        self.port = free_port()
        (folder / "rules.yml").write_text(rules)
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": "proof", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(configuration))
        binary = prometheus_binary()
        assert binary is not None
        command = [binary, "--config.file=prometheus.yml", "--storage.tsdb.path=tsdb"]
        super().__init__([*command, f"--web.listen-address=127.0.0.1:{self.port}"], folder, "prometheus.log")

    def ask(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """What an expression gives now, by labels."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query?{query}", timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
        return {
            tuple(
                sorted((key, value) for key, value in each["metric"].items() if key not in ("__name__", "job"))
            ): float(each["value"][1])
            for each in found
        }

    def alerts(self) -> set[str]:
        """The names of those that fire or are about to."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/alerts", timeout=10) as answer:
            return {each["labels"]["alertname"] for each in json.load(answer)["data"]["alerts"]}
