"""The cases on a real Ray, each told here, all run in one process of their own.

Ray's threads, and its handler of SIGTERM, outlive `ray.shutdown()`; other tests fork and send signals.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

FILE = Path(__file__).with_name("ray_cases.py")
CASES = re.findall(r"^ *(?:async )?def (test_\w+)", FILE.read_text(), re.MULTILINE)

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
    pytest.mark.timeout(300),
]


class Run(NamedTuple):
    """What became of the cases."""

    ended: dict[str, list[str]]
    """By name: what went wrong with each time it ran, or ""."""
    output: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    report = tmp_path_factory.mktemp("ray") / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(FILE)]
    done = subprocess.run(
        command,
        cwd=FILE.parents[3],
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV", "MLGUARD"))},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    output = done.stdout + done.stderr
    assert report.exists(), output
    ended: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        trouble = [
            str(each.text or each.get("message")) for each in case if each.tag in ("failure", "error", "skipped")
        ]
        ended.setdefault(case.attrib["name"].partition("[")[0], []).append("\n".join(trouble))
    return Run(ended, output)


@pytest.mark.parametrize("case", CASES)
def test_on_ray(case: str, run: Run) -> None:
    """The promise is in the docstring of the case."""
    assert case in run.ended, run.output
    assert [trouble for trouble in run.ended[case] if trouble] == []


def test_the_names_are_all_there() -> None:
    """Two cases of one name would be told as one."""
    assert len(CASES) == len(set(CASES)) > 20
