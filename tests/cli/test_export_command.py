"""`mlguard export`, run as a user runs it."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

pytest.importorskip("typer", reason="the command line needs the extra 'cli'")

from typer.testing import CliRunner

from mlguard.cli.app import app
from mlguard.errors import PolicyError


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["export", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_grafana(tmp_path) -> None:
    """A dashboard on standard output or in a file, for the services that are selected."""
    made = json.loads(run("grafana", "--selector", 'namespace="ml"', "--title", "Fraud"))
    assert made["title"] == "Fraud"
    assert 'namespace=\\"ml\\"' in json.dumps(made)
    path = tmp_path / "dashboard.json"
    assert run("grafana", "-o", str(path), "--no-rules") == ""
    assert "job_guard" not in path.read_text()


def test_alerts(tmp_path) -> None:
    """A rule file that promtool accepts, with the limits that were given."""
    path = tmp_path / "rules.yml"
    run("alerts", "-o", str(path), "--job", "api", "--objective", "0.999", "--p99", "0.25")
    text = path.read_text()
    assert "> 0.0144" in text
    assert "p99_5m" in text
    assert "> 0.25" in text
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian package prometheus) is not on this machine")
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_defaults_are_those_of_the_library() -> None:
    """Without options the command says what `rules()` says; it does not load it to know the defaults."""
    from mlguard.export.alerts import as_yaml, rules

    assert run("alerts") == as_yaml(rules()) + "\n"


def test_schemas() -> None:
    """What is printed is what the repository ships, which other tests hold to be current."""
    from mlguard.monitor.event import json_schema
    from mlguard.policies.schema import policy_schema

    assert json.loads(run("json-schema", "event")) == json_schema()
    assert json.loads(run("json-schema", "policy")) == policy_schema()


def test_the_drift_event() -> None:
    """It describes the record of a change."""
    made = json.loads(run("json-schema", "drift-event"))
    assert made["$schema"].endswith("2020-12/schema")
    assert "mlguard.drift.field" in made["properties"]


def test_mistakes(tmp_path) -> None:
    """Each is one line that says what to write instead, and no file is touched."""
    for arguments in (["alerts", "--selector", "a=b"], ["alerts", "--objective", "99"], ["grafana", "--selector", "{"]):
        with pytest.raises(PolicyError, match="Fix:"):
            run(*arguments)
    result = CliRunner().invoke(app, ["export", "grafana", "-o", str(tmp_path / "nowhere" / "x.json")])
    assert result.exit_code == 2
    assert "does not exist" in " ".join(result.output.replace("│", " ").split())  # in a box, wrapped where it is full
    assert not list(tmp_path.iterdir())
