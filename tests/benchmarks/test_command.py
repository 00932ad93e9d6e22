"""`python -m benchmarks` as continuous integration runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import CLAIMS
from benchmarks.imports import core_dependencies
from benchmarks.memory_box import why_not
from benchmarks.memory_table import SMOKED

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], dict]:
    """The whole suite, once, as short as it gets."""
    path = tmp_path_factory.mktemp("smoke") / "results.json"
    ran = run("--smoke", "--json", str(path))
    assert ran.returncode == 0, ran.stderr
    return ran, json.loads(path.read_text())


@pytest.mark.long
def test_every_claim_runs(smoke) -> None:
    """No case has rotted, and every claim has one."""
    names = {case["name"].split("-")[0] for case in smoke[1]["cases"]}
    assert names == set(CLAIMS)


@pytest.mark.long
def test_the_record_says_where_and_with_what(smoke) -> None:
    """Two records can be compared: machine, versions, effort."""
    record = smoke[1]
    assert record["format"] == 1
    assert record["machine"]["python"] == sys.version.split()[0]
    assert record["machine"]["cores"] >= 1
    assert record["versions"]["pydantic"]
    assert record["effort"] == {"rounds": 2, "sample": 0.0002}


@pytest.mark.long
def test_the_record_holds_times_ratios_and_verdicts(smoke) -> None:
    """Every case has times of every contestant, and a verdict exactly where it has a budget."""
    for case in smoke[1]["cases"]:
        assert case["rounds"] == 2
        for seconds in case["seconds"].values():
            assert 0 < seconds["minimum"] <= seconds["lower_quartile"] <= seconds["median"] <= seconds["upper_quartile"]
        assert case["ratios"]
        for ratio in case["ratios"]:
            assert {ratio["of"], ratio["peer"]} <= set(case["seconds"])
            assert ratio["verdict"] in ((None,) if ratio["at_most"] is None else ("kept", "missed"))


@pytest.mark.long
def test_the_table_shows_every_case_and_progress_stays_out_of_it(smoke) -> None:
    """Standard output can be kept as a report; progress goes to standard error."""
    ran, record = smoke
    for case in record["cases"]:
        assert f"{case['name']}: {case['claim']}" in ran.stdout
        assert f"{case['name']}: 2 rounds" in ran.stderr
    assert "its numbers mean nothing" in ran.stdout
    assert "rounds" not in ran.stdout.replace("interleaved rounds", "")


def test_one_case_can_be_chosen_and_a_wrong_name_lists_the_right_ones() -> None:
    """`--only` takes claims and cases."""
    ran = run("--smoke", "--only", "validation-dict")
    assert ran.returncode == 0
    assert "validation-dict: " in ran.stdout
    assert "validation-scalars: " not in ran.stdout
    wrong = run("--only", "validation-dictionary")
    assert wrong.returncode == 1
    assert "validation-dict" in wrong.stderr


def test_the_core_dependencies_are_those_of_the_project() -> None:
    """The import is held against what mlguard really requires, without extras."""
    assert core_dependencies() == ["numpy", "psutil", "pydantic", "structlog", "tenacity"]


@pytest.mark.long
@pytest.mark.skipif(why_not() is not None, reason=f"no cgroup with a limit can be made here: {why_not()}")
def test_the_memory_table_is_measured_when_asked_for_by_name(tmp_path: Path) -> None:
    """Unguarded, the service is killed by the kernel; guarded in any way, every call is served."""
    path = tmp_path / "memory.json"
    ran = run("memory", "--smoke", "--json", str(path))
    assert ran.returncode == 0, ran.stderr
    rows = {row["name"]: row for row in json.loads(path.read_text())["memory_table"]}
    assert set(rows) == set(SMOKED)
    assert rows.pop("no guard")["killed"]
    for row in rows.values():
        assert (row["served"], row["killed"], row["failed"]) == (row["calls"], False, 0)
        assert row["peak"] < row["limit"]
