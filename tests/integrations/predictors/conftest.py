"""The examples of docs/examples/predictors with real artifacts, and the feature service they depend on."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlguard import policies

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples" / "predictors"
MODULES = ("features", "train", "tumours_sklearn", "tumours_xgboost", "digits_onnx", "texts_wordllama")


class Service(ThreadingHTTPServer):
    """Answers GET with what it knows; before that, with what is planned: a status, or a stall."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.known: dict[str, Any] = {}
        self.plan: list[str] = []
        self.asked: list[str] = []
        self.over = threading.Event()

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        what = self.server.plan.pop(0) if self.server.plan else "200"
        if what == "stall":
            self.server.over.wait(30)
            return
        body = json.dumps(self.server.known.get(self.path.strip("/"))).encode()
        self.send_response(int(what))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models, trained once."""
    folder: Path = tmp_path_factory.mktemp("artifacts")
    with imported("train") as found:
        found.train.train(folder)
    return folder


@contextlib.contextmanager
def imported(*names: str) -> Iterator[SimpleNamespace]:
    """Modules of the examples, as a service in their folder has them."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(EXAMPLES))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture
def feature_service() -> Iterator[Service]:
    service = Service()
    thread = threading.Thread(target=service.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield service
    service.over.set()
    service.shutdown()
    service.server_close()
    thread.join()


@pytest.fixture
def service(
    artifacts: Path, feature_service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[SimpleNamespace]:
    """The example modules in a service of their own: its policy file, its artifacts, its feature service."""
    for name in [name for name in os.environ if name.startswith("MLGUARD")]:
        monkeypatch.delenv(name)
    for proxy in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setenv("MLGUARD_POLICIES", str(EXAMPLES / "mlguard.toml"))
    monkeypatch.setenv("MLGUARD_MEMORY_LEDGER", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ARTIFACTS", str(artifacts))
    monkeypatch.setenv("FEATURES_URL", f"http://127.0.0.1:{feature_service.server_port}")
    policies.reset()
    with imported(*(name for name in MODULES if name != "train")) as found:
        found.remote = feature_service
        yield found
        found.features.client().close()
    policies.reset()
