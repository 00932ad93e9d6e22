"""Guarded functions in joblib's loky workers, run as scripts, so that functions of `__main__` are really there."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("joblib") is None, reason="joblib is not installed")

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "ray_scoring" / "with_joblib.py"
SCRIPT = """
import json, os, sys, time
from pathlib import Path
from typing import Annotated
import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from mlguard import Array, Cache, Memory, MemoryPressureError, Monitor, Policy, PolicyError, Retry, InvalidInputError
from mlguard import GuardError, errors, guarded, memory, policies, testing

def in_workers(function, *arguments):
    return Parallel(n_jobs=2)(delayed(function)(argument) for argument in arguments)

def say(topic, value):
    with open("said.jsonl", "a") as said:  # standard output has mlguard's warnings as well
        said.write(json.dumps([topic, value]) + "\\n")

import service

@guarded(retry=Retry(), memory=Memory(), cache=Cache(ttl="1m"), monitor=Monitor(log=False))
def tripled(x: float) -> float:
    return 3 * x

class Model:
    def __init__(self, weight: float): self.weight = weight
    @guarded(memory=Memory())
    def predict(self, x: float) -> float:
        return self.weight * x

Features = Annotated[npt.NDArray[np.float64], Array("batch", 30, finite=True)]

@guarded(memory=Memory(need="3x"), cache=Cache(ttl="1m"))
def summed(features: Features) -> float:
    return float(features.sum())

def large(features):
    return [type(features).__name__, summed(features), summed(features), summed.guard.cache_info().hits]

say("large", in_workers(large, np.ones((50_000, 30))))
say("results", in_workers(tripled, 1.0, 2.0))
say("results", in_workers(service.doubled, 1.0, 2.0))
say("results", in_workers(Model(4.0).predict, 1.0, 2.0))
tripled(1.0)  # from here on it has been called on this side as well
say("results", in_workers(tripled, 1.0, 2.0))

@guarded(cache=Cache(ttl="1m", store=sys.argv[1]), model_version="1")
def embed(text: str) -> int:
    with open(text, "a") as runs: runs.write("x")
    time.sleep(0.1)  # what takes less than 5 ms nobody waits for
    return len(text)

say("cache", in_workers(embed, *["one", "two", "three"] * 20))
say("cache", [embed("one"), Path("one").read_text(), Path("two").read_text(), Path("three").read_text()])

loky = get_reusable_executor(2)  # joblib's pool without joblib, which starts it anew after each error

def failing(error):
    raise error

for function in (tripled, service.doubled, Model(4.0).predict):
    try:
        loky.submit(function, "many").result()
    except InvalidInputError as error:
        say("refused", [error.errors()[0]["loc"], error.permanent])
tight = MemoryPressureError("tight", used=9, limit=10, need=2, source="host", retry_after=4.5)
for error in (tight, errors.CircuitOpenError("open", retry_after=3.0), errors.DeadlineExceededError("late")):
    try:
        loky.submit(failing, error).result()
    except GuardError as found:
        say("errors", [type(found) is type(error), found.__dict__ == error.__dict__, str(found)])

@guarded("scoring")
def scored(x: float) -> float:
    return x

say("policy", loky.submit(lambda: scored.guard.policy.retry.max_retries).result())
policies.define("notebook", Policy(retry=Retry(max_retries=7)))

@guarded("notebook")
def noted(x: float) -> float:
    return x

try:
    loky.submit(noted, 1.0).result()
except PolicyError as error:
    say("unknown", str(error))
noted.guard.explain()
say("carried", loky.submit(lambda: noted.guard.policy.retry.max_retries).result())

def told():
    with testing.capture_events() as events:
        guarded(monitor=Monitor())(service.doubled.__wrapped__)(1.0)
    return [events[0]["process.pid"], os.getpid()]

say("event", [*loky.submit(told).result(), os.getpid()])

reading = memory.read()
need = int(0.6 * (0.95 * reading.limit - reading.used))

def wait_for(name):
    for _ in range(6000):
        if Path(name).exists(): return
        time.sleep(0.01)
    raise TimeoutError(name)

@guarded(memory=Memory(threshold=0.95, max_wait=0, need=need))
def hold() -> str:
    Path("held").touch()
    wait_for("refused")
    return "held"

@guarded(memory=Memory(threshold=0.95, max_wait=0, need=need))
def predict() -> str:
    return "served"

def tried(role):
    if role == "holder":
        return [os.getpid(), hold()]
    wait_for("held")
    try:
        return [os.getpid(), predict()]
    except MemoryPressureError as error:
        return [os.getpid(), "refused", error.need == need, error.permanent]
    finally:
        Path("refused").touch()

say("memory", [each.result() for each in [loky.submit(tried, "holder"), loky.submit(tried, "other")]])
say("memory", predict())

loky.shutdown()
try:
    in_workers(tripled, 1.0, "many", 2.0)
except InvalidInputError as error:
    say("from joblib", error.errors()[0]["loc"])
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> dict[str, list[Any]]:
    """What the script said, by topic; it runs once, as its processes take seconds to start."""
    folder: Path = tmp_path_factory.mktemp("joblib")
    (folder / "mlguard.toml").write_text("[policies.scoring]\nretry = { max_retries = 2 }\n")
    (folder / "service.py").write_text(
        "from mlguard import guarded\n\n\n@guarded\ndef doubled(x: float) -> float:\n    return 2 * x\n"
    )
    (folder / "script.py").write_text(SCRIPT)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLGUARD")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "script.py", redis_url],
        cwd=folder,
        env={**clean, "MLGUARD_MEMORY_LEDGER": str(folder), "MLGUARD__SCORING__RETRY__MAX_RETRIES": "6"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[Any]] = {}
    for line in (folder / "said.jsonl").read_text().splitlines():
        topic, value = json.loads(line)
        found.setdefault(topic, []).append(value)
    return found


def test_functions_and_methods(said: dict[str, list[Any]]) -> None:
    """By value from the script, by name from a module, methods of an object: before and after a call on this side."""
    assert said["results"] == [[3.0, 6.0], [2.0, 4.0], [4.0, 8.0], [3.0, 6.0]]


def test_an_array_in_a_file(said: dict[str, list[Any]]) -> None:
    """A large array comes memory-mapped and read-only; it is checked, measured and keyed like any other."""
    assert said["large"] == [[["memmap", 1_500_000.0, 1_500_000.0, 1]]]


def test_errors_arrive_as_what_they_are(said: dict[str, list[Any]]) -> None:
    """Each by its class, with its message and every figure; through joblib as through its pool."""
    assert said["refused"] == [[["x"], True]] * 3
    assert said["errors"] == [[True, True, "tight"], [True, True, "open"], [True, True, "late"]]
    assert said["from joblib"] == [["x"]]


def test_policies_by_name(said: dict[str, list[Any]]) -> None:
    """Workers have the folder and the variables of the script; what code defined there comes with a bound function."""
    assert said["policy"] == [6]
    (unknown,) = said["unknown"]
    assert "there is no policy named 'notebook'" in unknown
    assert " This is LokyProcess-" in unknown
    assert "Fix: hand it the file as well, by MLGUARD_POLICIES" in unknown
    assert said["carried"] == [7]


def test_events_name_the_worker(said: dict[str, list[Any]]) -> None:
    """An event has the id of the worker's process."""
    ((told, worker, script),) = said["event"]
    assert told == worker != script


def test_promises_count_in_the_whole_container(said: dict[str, list[Any]]) -> None:
    """While one worker's call holds a promise, the other worker's is refused; when it ended, the script's is served."""
    ((holder, held), (other, *refused)), afterwards = said["memory"]
    assert holder != other
    assert (held, refused, afterwards) == ("held", ["refused", True, False], "served")


def test_one_cache_for_all(said: dict[str, list[Any]]) -> None:
    """Two workers and the script compute each text once between them, through Redis."""
    results, (again, *runs) = said["cache"]
    assert results == [3, 3, 5] * 20
    assert (again, runs) == (3, ["x", "x", "x"])


def test_the_example(tmp_path: Path) -> None:
    """docs/examples/ray_scoring/with_joblib.py says what the page says."""
    done = subprocess.run(
        [sys.executable, EXAMPLE], cwd=tmp_path, capture_output=True, text=True, timeout=110, check=True
    )
    assert done.stdout == (
        "[0.0, 6.0, 12.0, 18.0]\nmust be >= 0: 6 of 6 values are not, the first at [0, 0]; min -2.0, max -2.0\n"
    )
