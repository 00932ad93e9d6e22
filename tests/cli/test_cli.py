"""The command line, run as a user runs it: what works, and how what does not work reads."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the command line needs the extra 'cli'")

import mlguard
from mlguard.cli import absent, main


def mlguard_command(capsys, monkeypatch, *arguments):
    """Exit status, standard output and standard error of one command."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["mlguard", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    status = ended.value.code
    if isinstance(status, str):  # the interpreter prints it and exits with 1
        return 1, said.out, said.err + status
    return status or 0, said.out, said.err


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    mlguard.policies.reset()
    yield lambda *arguments: mlguard_command(capsys, monkeypatch, *arguments)
    mlguard.policies.reset()


def unimported(monkeypatch, *packages):
    """Makes the modules below some packages be imported anew."""
    for name in list(sys.modules):
        parent, _, child = name.rpartition(".")
        if any(name.startswith(f"{package}.") for package in packages):
            monkeypatch.delitem(sys.modules, name)
            if parent in packages:
                monkeypatch.delattr(importlib.import_module(parent), child, raising=False)


def test_version(command):
    """--version says which mlguard this is."""
    assert command("--version") == (0, f"mlguard {mlguard.__version__}\n", "")


def test_help_lists_the_commands(command):
    """--help names every command."""
    status, said, _ = command("--help")
    assert status == 0
    assert "demo" in said
    assert "policies" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--calls", "0"], ["--calls", "100"]),
        (["demo", "--calls", "many"], ["--calls", "integer"]),
        (["demo", "--picture", "out.pdf"], ["--picture", "out.pdf is neither .svg nor .png"]),
        (["demo", "--json", "no/such/out.json"], ["--json", "does not exist"]),
        (["demo", "--events", "."], ["--events", "is a folder"]),
        (["demo", "--report", "."], ["--report", "Fix:"]),
        (["demo", "--cals", "5"], ["No such option", "--cals"]),
        (["policies", "shw"], ["No such command", "shw"]),
        (["policies", "show"], ["Missing argument"]),
    ],
)
def test_a_bad_option_is_refused_with_its_name_and_value(command, arguments, words):
    """A wrong command line ends with status 2 before anything runs, and says what is wrong with it."""
    status, _, said = command(*arguments)
    assert status == 2
    for word in words:
        assert word in said
    assert "Traceback" not in said


POLICIES = """
[policies.realtime]
description = "Answer [quickly]."
retry = { max_retries = 2 }
"""


def test_policies_list_shows_ones_own_and_the_presets(command, tmp_path):
    """list has the names that a decorator in this folder could use."""
    (tmp_path / "mlguard.toml").write_text(POLICIES)
    status, said, _ = command("policies", "list")
    assert status == 0
    assert "Answer [quickly]." in said
    assert "mlguard:realtime" in said


def test_policies_list_without_any_says_how_to_get_some(command):
    """An empty folder is no error."""
    status, said, _ = command("policies", "list")
    assert status == 0
    assert "mlguard.toml" in said


def test_policies_show_is_json(command, tmp_path):
    """show can be piped into other programs."""
    (tmp_path / "mlguard.toml").write_text(POLICIES)
    status, said, _ = command("policies", "show", "realtime")
    assert status == 0
    assert json.loads(said)["retry"]["max_retries"] == 2


@pytest.mark.parametrize("preset", ["mlguard:realtime", "mlguard:batch", "mlguard:llm", "mlguard:feature_store"])
def test_policies_show_knows_the_presets(command, preset):
    """Every preset can be shown."""
    status, said, _ = command("policies", "show", preset)
    assert status == 0
    assert json.loads(said)["retry"]


def test_policies_explain_says_where_a_value_comes_from(command, tmp_path):
    """explain names the file and line of a value."""
    (tmp_path / "mlguard.toml").write_text(POLICIES)
    status, said, _ = command("policies", "explain", "realtime")
    assert status == 0
    assert "retry.max_retries = 2" in said
    assert "mlguard.toml:4" in said


def test_one_policy_that_cannot_be_used_does_not_hide_the_others(command, tmp_path):
    """list shows it with the reason, and what check() refuses follows as a warning."""
    (tmp_path / "mlguard.toml").write_text(f'{POLICIES}[policies.later]\nextends = "of_code"\n')
    status, said, error = command("policies", "list")
    assert status == 0
    assert "Answer [quickly]." in said
    assert re.search(r"later +- +", said)
    assert "of_code" in said
    assert error.startswith("Warning, unless your code defines what is missing: ")
    assert "'later' extends 'of_code'" in error


@pytest.mark.parametrize("arguments", [["list"], ["explain", "realtime"]])
def test_a_variable_for_no_policy_is_warned_of(command, monkeypatch, tmp_path, arguments):
    """What check() would refuse at the start of a service shows on the command line too; the status stays 0."""
    (tmp_path / "mlguard.toml").write_text(POLICIES)
    assert command("policies", *arguments)[2] == ""
    mlguard.policies.reset()
    monkeypatch.setenv("MLGUARD__REALTME__RETRY__MAX_RETRIES", "5")
    status, said, error = command("policies", *arguments)
    assert status == 0
    assert "realtime" in said
    assert "MLGUARD__REALTME__RETRY__MAX_RETRIES: there is no policy 'realtme'. Did you mean 'realtime'?" in error


@pytest.mark.parametrize("word", ["show", "explain"])
def test_an_unknown_policy_is_one_line_with_the_nearest_name(command, tmp_path, word):
    """A misspelt name is answered with the one that was meant, without a traceback."""
    (tmp_path / "mlguard.toml").write_text(POLICIES)
    status, said, error = command("policies", word, "realtme")
    assert status == 1
    assert "realtime" in error
    assert "Traceback" not in said + error


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_without_the_extra_the_install_line_is_named(command, monkeypatch, module):
    """Where the extra `cli` is not installed, one line says what to install."""
    unimported(monkeypatch, "mlguard.cli", module)
    monkeypatch.setitem(sys.modules, module, None)
    status, _, said = command("--version")
    assert status == 1
    assert said.count("\n") <= 1
    assert f"needs {module}" in said
    assert "Fix: pip install typer rich (mlguard's extra 'cli')." in said


def test_the_demo_without_its_extra_names_the_install_line(command, monkeypatch):
    """Where scikit-learn is missing, the demo says so before it starts."""
    unimported(monkeypatch, "mlguard.demo", "sklearn")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    status, said, error = command("demo", "--quick")
    assert status == 1
    assert "Fix: pip install scikit-learn matplotlib (mlguard's extra 'demo')." in error
    assert "Traceback" not in said + error


@pytest.mark.parametrize("extra", ["cli", "demo"])
def test_the_install_line_names_what_the_extra_brings(extra):
    """A package added to an extra is named where it is missing."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    packages = {re.split("[<>=]", need)[0] for need in project["optional-dependencies"][extra] if "mlguard" not in need}
    said = absent("It", ModuleNotFoundError("", name="other"), extra)
    assert set(re.search(r"pip install ([\w -]+) \(", said)[1].split()) == packages


def test_a_missing_module_of_our_own_is_no_missing_extra(command, monkeypatch):
    """A broken installation is not mistaken for an absent extra."""
    unimported(monkeypatch, "mlguard.cli")
    monkeypatch.setitem(sys.modules, "mlguard.cli.policies", None)
    monkeypatch.setattr(sys, "argv", ["mlguard", "--version"])
    with pytest.raises(ModuleNotFoundError):
        main()


def test_demo_writes_what_it_was_asked_for(command, tmp_path):
    """Tables on standard output, counts, picture and report in files, and the files named at the end."""
    files = ["--json", "out.json", "--picture", "out.svg", "--report", "out.html"]
    status, said, error = command("demo", "--calls", 100, *files)
    assert (status, error) == (0, "")
    assert "Written: out.json, out.svg, out.html" in said
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["calls"] == 100
    assert "malignant" in (tmp_path / "out.html").read_text()
    assert f"{told['guarded']['right']}" in said


def test_demo_from_an_empty_directory(tmp_path):
    """The whole command, in a process of its own: exit status, output, and the files it was asked for."""
    ended = subprocess.run(
        [
            *[sys.executable, "-m", "mlguard.cli", "demo", "--quick", "--no-progress", "--seed", "3"],
            *["--json", "out.json", "--picture", "out.svg", "--picture", "out.png", "--events", "events.jsonl"],
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "http_proxy": "http://127.0.0.1:9", "COLUMNS": "80"},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "@guarded(" in ended.stdout
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["guarded"]["wrong"] < told["unguarded"]["wrong"]
    assert told["guarded"]["failed"] < told["unguarded"]["failed"]
    assert {path.name for path in tmp_path.iterdir()} == {"out.json", "out.svg", "out.png", "events.jsonl"}
