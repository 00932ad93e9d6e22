"""promtool, as the tests of rules and dashboards run it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool (Debian package prometheus) is not on this machine")
    return found


@pytest.fixture
def check(promtool: str, tmp_path: Path) -> Callable[[str], None]:
    """Whether a rule file is one."""

    def check(text: str) -> None:
        path = tmp_path / "rules.yml"
        path.write_text(text, encoding="utf-8")
        done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    return check


@pytest.fixture
def tried(promtool: str, tmp_path: Path) -> Callable[[dict[str, Any], list[dict[str, Any]]], None]:
    """Runs rules against series that promtool makes up, and compares what comes of them."""

    def tried(rules: dict[str, Any], tests: list[dict[str, Any]]) -> None:
        (tmp_path / "rules.yml").write_text(json.dumps(rules), encoding="utf-8")  # JSON is YAML
        document = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
        (tmp_path / "tests.yml").write_text(json.dumps(document), encoding="utf-8")
        done = subprocess.run(
            [promtool, "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return tried
