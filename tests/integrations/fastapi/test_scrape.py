"""Metrics for Prometheus: at the path that was asked for, and nowhere unless it was."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from mlguard import Monitor, PolicyError, guarded
from mlguard.integrations.fastapi import install


def test_a_scrape(client: Callable[..., TestClient]) -> None:
    """Text or OpenMetrics, as the scraper asks, with the calls of guarded functions; not in the OpenAPI document."""
    app = FastAPI()
    install(app, metrics="/metrics")

    @app.get("/scraped")
    @guarded(monitor=Monitor(log=False))
    def scraped() -> int:
        return 1

    asked = client(app)
    for _ in range(3):
        asked.get("/scraped")
    answer = asked.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "test_a_scrape.<locals>.scraped" in answer.text
    answer = asked.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=")
    samples = [each for family in text_string_to_metric_families(answer.text) for each in family.samples]
    ours = [each.value for each in samples if "scraped" in str(each.labels) and each.name.endswith("_count")]
    assert 3 in ours
    assert set(app.openapi()["paths"]) == {"/scraped"}


def test_not_unless_asked_for(client: Callable[..., TestClient]) -> None:
    """An application's own /metrics stays its own, and is never shadowed."""
    app = FastAPI()
    app.get("/metrics")(lambda: "mine")
    install(app)
    assert client(app).get("/metrics").json() == "mine"
    taken = FastAPI()
    taken.get("/metrics")(lambda: "mine")
    with pytest.raises(PolicyError, match=r"GET /metrics is answered by .* already\. Fix: metrics= with another path"):
        install(taken, metrics="/metrics")
    with pytest.raises(PolicyError, match="both '/x'"):
        install(FastAPI(), metrics="/x", health="/x")


def run(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_without_the_extra() -> None:
    """install() says at once what is missing, and how to install it."""
    told = run("""
        import sys
        sys.modules["prometheus_client"] = None
        from fastapi import FastAPI
        from mlguard.integrations.fastapi import install
        install(FastAPI())
        try:
            install(FastAPI(), metrics="/metrics")
        except ModuleNotFoundError as error:
            print(error)
    """)
    assert "Fix: pip install prometheus-client" in told


def test_with_several_workers(tmp_path: Path) -> None:
    """Each process that serves keeps its counts in a file from its start; importing the application starts nothing."""
    told = run(
        """
        import os, threading, time
        from fastapi import FastAPI
        from fastapi.testclient import TestClient
        from mlguard import Monitor, guarded
        from mlguard.integrations.fastapi import install

        app = FastAPI()
        install(app, metrics="/metrics")

        @app.get("/work")
        @guarded(monitor=Monitor(log=False))
        def counted() -> int:
            return 1

        print(threading.active_count(), os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
        with TestClient(app) as client:
            client.get("/work")
            end = time.monotonic() + 30
            while not os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"]) and time.monotonic() < end:
                time.sleep(0.01)  # the file comes without any scrape
            print(len(os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"])) > 0)
            print("counted" in client.get("/metrics").text)
        """,
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
    )
    assert told.split("\n") == ["1 []", "True", "True", ""]
