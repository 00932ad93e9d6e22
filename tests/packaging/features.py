"""What each extra is for, tried for real: prints by extra "works", or what mlguard said instead.

Run in an environment without some of the extras, by tests/packaging/test_extras.py and by `nox -s extras`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlguard import Cache, Monitor, guarded, policies
from mlguard.record import Record, recorder_for


def run(*arguments: str) -> None:
    """The console script in this process; what it says on its way out becomes an exception."""
    from mlguard.cli import main

    sys.argv = ["mlguard", *arguments]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            main()
    except SystemExit as ended:
        if ended.code not in (0, None):
            raise RuntimeError(ended.code if isinstance(ended.code, str) else said.getvalue()) from None


def cli() -> None:
    run("policies", "list")


def datadog() -> None:
    importlib.import_module("mlguard.sinks.datadog")


def demo() -> None:
    run("demo", "--calls", "100", "--no-progress")


def fastapi() -> None:
    from mlguard.integrations.fastapi import install

    from fastapi import FastAPI  # isort: skip  # mlguard's word about its absence comes first

    install(FastAPI())


def opentelemetry() -> None:
    @guarded(monitor=Monitor(spans=True))
    def predict(x: int) -> int:
        return x

    predict(1)


def prometheus() -> None:
    from mlguard.sinks.prometheus import exposition

    assert callable(exposition)


def query() -> None:
    @guarded(monitor=Monitor(record="calls"))
    def predict(x: int) -> int:
        return x

    predict(1)
    recorder_for(Record(path="calls")).flush()
    run("query", "calls")


def redis() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        store = f"redis://127.0.0.1:{free.getsockname()[1]}/0"  # nobody answers there, so that results are computed

    @guarded(cache=Cache(ttl="1m", store=store), model_version="1")
    def embed(text: str) -> list[float]:
        return [1.0]

    assert embed("a") == [1.0]


def yaml() -> None:
    Path("mlguard.yaml").write_text("policies:\n  batch:\n    retry: {max_retries: 2}\n")
    policies.load("mlguard.yaml")
    assert policies.names() == ["batch"]


FEATURES: dict[str, Callable[[], Any]] = {
    each.__name__: each for each in (cli, datadog, demo, fastapi, opentelemetry, prometheus, query, redis, yaml)
}


def main() -> None:
    wanted = sys.argv[1:] or list(FEATURES)
    told = {}
    for name in wanted:
        try:
            FEATURES[name]()
            told[name] = "works"
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(told))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        main()
