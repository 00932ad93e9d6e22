"""The installed wheel with nothing but the core's dependencies: in a zip, compiled only, optimised, under pytest."""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import Python

pytestmark = pytest.mark.long

USE = """
import asyncio, sys
from typing import Annotated
import numpy as np, numpy.typing as npt
import mlguard
from mlguard import Array, Breaker, Cache, Concurrency, Memory, Monitor, Retry, Timeout, guarded, policies, testing

@guarded("mlguard:realtime", timeout=Timeout(total="30s"), cache=Cache(ttl="1m"), retry=Retry(max_retries=2),
         breaker=Breaker(), concurrency=Concurrency(max_concurrent=2), memory=Memory(threshold=0.99), monitor=Monitor())
def score(features: Annotated[npt.NDArray[np.float64], Array("batch", 2, ge=0)]) -> list[float]:
    if len(failures) < 2:
        failures.append(1)
        raise ConnectionError
    return features.sum(axis=1).tolist()

@guarded(retry=Retry())
async def ask(x: int) -> int:
    return x + 1

failures = []
with testing.instant(), testing.capture_events() as events:
    found = score(np.ones((1, 2))), score(np.ones((1, 2)))
try:
    score(np.array([[1.0, -1.0]]))
except mlguard.InvalidInputError as error:
    refused = "must be >= 0" in str(error) and "Fix" not in str(error.errors()[0])
attempts = [event["mlguard.attempts"] for event in events]
print(found, len(failures), asyncio.run(ask("1")), refused, attempts, "again(" in score.guard.source,
      "retry" in score.guard.explain(), policies.get("mlguard:realtime").timeout is not None, mlguard.__file__)
"""
EXPECTED = "([2.0], [2.0]) 2 2 True [3, 0] True True True "


def printed(result: subprocess.CompletedProcess[str]) -> str:
    """The last line, behind those of the log."""
    return (result.stdout.splitlines() or [""])[-1] or result.stderr


@pytest.mark.parametrize("option", ["-O", "-OO"])
def test_it_works_optimised(python: Python, installed: Path, option: str) -> None:
    """Without assertions, and without docstrings, mlguard does the same: nothing it decides hangs on either."""
    result = python(installed, USE, option)
    assert printed(result).startswith(f"{EXPECTED}{installed}")


def test_it_works_from_a_zip_archive(python: Python, wheel: Path) -> None:
    """The wheel as it is, imported from without being unpacked."""
    result = python(wheel, USE)
    assert printed(result).startswith(f"{EXPECTED}{wheel}")


def test_it_works_without_source_files(python: Python, wheel: Path, tmp_path: Path) -> None:
    """Where only compiled files were shipped, by call.txt, the same text as data; without that it says what to ship."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    compileall.compile_dir(tmp_path, legacy=True, quiet=1)
    for source in tmp_path.rglob("*.py"):
        source.unlink()
    result = python(tmp_path, USE)
    assert printed(result).startswith(f"{EXPECTED}{tmp_path}")
    (tmp_path / "mlguard" / "call.txt").unlink()
    assert "Fix: ship mlguard/call.py" in python(tmp_path, USE).stderr


def test_it_works_where_pytest_rewrites_assertions(installed: Path, tmp_path: Path) -> None:
    """pytest loads all of a package that has a plugin by a loader of its own; tracebacks and source are the same."""
    (tmp_path / "test_it.py").write_text(
        "import mlguard, sys\n"
        "def test_it(mlguard_events):\n"
        "    @mlguard.guarded(retry=mlguard.Retry(), monitor=mlguard.Monitor())\n"
        "    def f(x: int) -> int: return x + 1\n"
        f"    assert mlguard.__file__.startswith({str(installed)!r})\n"
        "    assert type(sys.modules['mlguard.call'].__loader__).__name__ == 'AssertionRewritingHook'\n"
        "    assert f('1') == 2 and 'again(' in f.guard.source and len(mlguard_events) == 1\n"
        "    try:\n"
        "        f('a')\n"
        "    except mlguard.InvalidInputError as error:\n"
        "        import traceback\n"
        "        assert 'mlguard/call.py' in ''.join(traceback.format_exception(error))\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
    )
    assert "1 passed" in result.stdout, result.stdout + result.stderr
