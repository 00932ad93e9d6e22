"""`mlguard report`: a page from the command line, with errors that name the fix."""

from __future__ import annotations

import builtins
import json
import os
import pty
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mlguard.cli.app import app
from tests.report import odd
from tests.report.shop import keep


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record with a profile beside it."""
    file = tmp_path_factory.mktemp("record") / "day.jsonl"
    keep(file, 300, span=timedelta(minutes=20))
    return file


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_a_record_becomes_a_page(day: Path, here: Path) -> None:
    """One command, one file, and a line that says what is in it."""
    result = run(day)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("report.html: ")
    assert "records, functions: 5" in result.stdout
    assert [file.name for file in here.iterdir()] == ["report.html"]
    assert Path("report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_every_option_reaches_the_page(day: Path, here: Path) -> None:
    """Title, filters, profile and JSON."""
    result = run(
        day, "-o", "a.html", "--json", "a.json", "--title", "The <day>", "--function", "credit",
        "--since", "2026-11-23T00:01", "--until", "2026-11-23T00:15:00+00:00", "--profile", day.parent / "profile.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("a.html and a.json: ")
    text = Path("a.html").read_text(encoding="utf-8")
    assert "The &lt;day&gt;" in text
    assert "since 2026-11-23 00:01:00 UTC" in text
    told = json.loads(Path("a.json").read_text())
    assert [one["name"].rpartition(".")[2] for one in told["functions"]] == ["credit"]
    assert told["title"] == "The <day>"
    assert {one["source"] for one in told["reference"]["shifts"]} >= {"profile"}
    assert run(day, "-o", "a.html", "--policy", "nobody").exit_code == 0
    assert "This record has no calls" in Path("a.html").read_text(encoding="utf-8")


def test_damaged_lines_are_told(here: Path, day: Path) -> None:
    """Nobody takes a part for the whole."""
    lines = odd.damaged(here / "damaged.jsonl", day)
    assert f"; {lines} damaged lines left out" in run("damaged.jsonl").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent"], "there is no absent. Fix: "),
        (["{day}", "-o", "."], ". is a folder. Fix: name a file in it"),
        (["{day}", "-o", "absent/a.html"], "does not exist. Fix: make it"),
        (["{day}", "-o", "{day}"], "exists and is no report, so it was not overwritten. Fix: name another file"),
        (["{day}", "--json", "{day}"], "exists and is no report, so it was not overwritten. Fix: name another file"),
        (["{day}", "-o", "a", "--json", "a"], "--output and --json both name a. Fix: name two files."),
        (["{day}", "--profile", "absent.json"], "absent.json: the profile does not exist"),
    ],
)
def test_errors_name_the_fix_and_lose_nothing(day: Path, here: Path, arguments: list[str], said: str) -> None:
    """Status 2, one line, before any work, and every file as it was."""
    before = day.read_bytes()
    result = run(*(argument.replace("{day}", str(day)) for argument in arguments))
    assert result.exit_code == 2
    assert result.stderr.startswith("mlguard: ")
    assert said in result.stderr
    assert day.read_bytes() == before
    assert list(here.iterdir()) == []


def test_a_time_that_is_none_is_refused(day: Path, here: Path) -> None:
    """With what a time looks like."""
    result = run(day, "--since", "yesterday")
    assert result.exit_code == 2
    assert "'yesterday' is no time" in result.stderr
    assert run(day, "--since", "1d").exit_code == 0


def test_without_duckdb_one_line_says_what_to_install(day: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "duckdb":
            raise ModuleNotFoundError("No module named 'duckdb'", name="duckdb")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    result = run(day)
    assert result.exit_code == 2
    assert "mlguard report needs duckdb, which is not installed. Fix: pip install duckdb" in result.stderr


def test_the_page_is_shown_on_demand(day: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--open hands the file's address to the browser that the system has."""
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    assert run(day, "--open").exit_code == 0
    assert shown == [(here / "report.html").as_uri()]


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal is a thing of Unix")
def test_a_terminal_gets_a_bar(day: Path, here: Path) -> None:
    """On the error stream, so that the output can be piped; --no-progress leaves it out."""
    for more, barred in ((), True), (("--no-progress",), False):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "mlguard.cli", "report", str(day), *more]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True, timeout=120)
        os.write(theirs, b"\n")
        said = os.read(ours, 100_000).decode()
        os.close(ours)
        os.close(theirs)
        assert done.stdout.startswith("report.html: ")
        assert ("reading" in said) is barred
