"""Guarded functions in joblib's loky workers, run as scripts, so that functions of `__main__` are really there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("joblib", reason="joblib is not installed")

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "ray_scoring" / "with_joblib.py"
PRELUDE = """
import json, os, sys, time
import numpy as np
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from mlguard import Array, Cache, Memory, MemoryPressureError, Monitor, Policy, PolicyError, Retry, InvalidInputError
from mlguard import GuardError, errors, guarded, memory, policies

def in_workers(function, *arguments):
    return Parallel(n_jobs=2)(delayed(function)(argument) for argument in arguments)

def say(value):
    with open("said.jsonl", "a") as said:  # standard output has mlguard's warnings as well
        said.write(json.dumps(value) + "\\n")
"""


def run(folder: Path, script: str, **variables: str) -> list[Any]:
    """What a script said, as JSON, line by line."""
    (folder / "script.py").write_text(PRELUDE + textwrap.dedent(script))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLGUARD")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "script.py"],
        cwd=folder,
        env={**clean, "MLGUARD_MEMORY_LEDGER": str(folder), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (folder / "said.jsonl").read_text().splitlines()]


def test_functions_methods_and_errors(tmp_path: Path) -> None:
    """By value from the script and by name from a module; every error arrives as what it is, with its figures."""
    (tmp_path / "service.py").write_text(
        "from mlguard import guarded\n\n\n@guarded\ndef doubled(x: float) -> float:\n    return 2 * x\n"
    )
    said = run(
        tmp_path,
        """
        import service

        @guarded(retry=Retry(), memory=Memory(), cache=Cache(ttl="1m"), monitor=Monitor(log=False))
        def tripled(x: float) -> float:
            return 3 * x

        class Model:
            def __init__(self, weight: float): self.weight = weight
            @guarded(memory=Memory())
            def predict(self, x: float) -> float:
                return self.weight * x

        def failing(error):
            raise error

        say(in_workers(tripled, 1.0, 2.0))
        say(in_workers(service.doubled, 1.0, 2.0))
        say(in_workers(Model(4.0).predict, 1.0, 2.0))
        tripled(1.0)  # from here on it has been called on this side as well
        say(in_workers(tripled, 1.0, 2.0))
        try:
            in_workers(tripled, "many")
        except InvalidInputError as error:
            say([error.errors()[0]["loc"], error.permanent])
        loky = get_reusable_executor(2)  # joblib's own pool, which joblib starts anew after each error
        for function in (service.doubled, Model(4.0).predict):
            try:
                loky.submit(function, "many").result()
            except InvalidInputError as error:
                say([error.errors()[0]["loc"], error.permanent])
        tight = MemoryPressureError("tight", used=9, limit=10, need=2, source="host", retry_after=4.5)
        for error in (tight, errors.CircuitOpenError("open", retry_after=3.0), errors.DeadlineExceededError("late")):
            try:
                loky.submit(failing, error).result()
            except GuardError as found:
                say([type(found) is type(error), found.__dict__ == error.__dict__, str(found)])
        """,
    )
    assert said == [
        [3.0, 6.0], [2.0, 4.0], [4.0, 8.0], [3.0, 6.0],
        [["x"], True], [["x"], True], [["x"], True],
        [True, True, "tight"], [True, True, "open"], [True, True, "late"],
    ]  # fmt: skip


def test_the_example(tmp_path: Path) -> None:
    """docs/examples/ray_scoring/with_joblib.py says what the page says."""
    done = subprocess.run(
        [sys.executable, EXAMPLE], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == (
        "[0.0, 6.0, 12.0, 18.0]\nmust be >= 0: 6 of 6 values are not, the first at [0, 0]; min -1.0, max -1.0\n"
    )


def test_policies_by_name(tmp_path: Path) -> None:
    """Workers have the folder and the variables of the script; a policy that code defined there is not with them."""
    (tmp_path / "mlguard.toml").write_text("[policies.scoring]\nretry = { max_retries = 2 }\n")
    said = run(
        tmp_path,
        """
        @guarded("scoring")
        def predict(x: float) -> float:
            return x

        def retries(_):
            return predict.guard.policy.retry.max_retries

        say(in_workers(retries, 1))

        policies.define("notebook", Policy(retry=Retry(max_retries=7)))

        @guarded("notebook")
        def other(x: float) -> float:
            return x

        try:
            in_workers(other, 1.0)
        except PolicyError as error:
            say(str(error))
        other.guard.explain()
        say(in_workers(other, 1.0))
        """,
        MLGUARD__SCORING__RETRY__MAX_RETRIES="6",
    )
    assert said[0] == [6]
    assert "there is no policy named 'notebook'" in said[1]
    assert " This is LokyProcess-" in said[1]
    assert "Fix: hand it the file as well, by MLGUARD_POLICIES" in said[1]
    assert said[2] == [1.0]


def test_promises_count_in_the_whole_container(tmp_path: Path) -> None:
    """While one worker's call holds a promise, the other worker's is refused; the driver's is as well."""
    said = run(
        tmp_path,
        """
        from pathlib import Path

        reading = memory.read()
        need = int(0.6 * (0.95 * reading.limit - reading.used))

        def wait_for(name):
            for _ in range(6000):
                if Path(name).exists(): return
                time.sleep(0.01)
            raise TimeoutError(name)

        @guarded(memory=Memory(threshold=0.95, max_wait=0, need=need))
        def hold(_) -> str:
            Path("held").touch()
            wait_for("refused")
            return "held"

        @guarded(memory=Memory(threshold=0.95, max_wait=0, need=need))
        def predict(_) -> str:
            return "served"

        def tried(role):
            if role == "holder":
                return [os.getpid(), hold(role)]
            wait_for("held")
            try:
                return [os.getpid(), predict(role)]
            except MemoryPressureError as error:
                return [os.getpid(), "refused", error.need == need, error.permanent]
            finally:
                Path("refused").touch()

        say(in_workers(tried, "holder", "other"))
        say(predict(0))
        """,
    )
    (holder, held), (other, *refused) = said[0]
    assert holder != other
    assert (held, refused, said[1]) == ("held", ["refused", True, False], "served")


def test_one_cache_for_all(tmp_path: Path, redis_url: str) -> None:
    """Two workers and the script compute each text once between them, through Redis."""
    said = run(
        tmp_path,
        f"""
        @guarded(cache=Cache(ttl="1m", store="{redis_url}"), model_version="1")
        def embed(text: str) -> int:
            with open(text, "a") as runs: runs.write("x")
            return len(text)

        say(in_workers(embed, *["one", "two", "three"] * 20))
        say([embed("one"), open("one").read(), open("two").read(), open("three").read()])
        """,
    )
    assert said[0] == [3, 3, 5] * 20
    assert said[1] == [3, "x", "x", "x"]
