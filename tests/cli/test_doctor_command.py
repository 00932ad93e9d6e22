"""`mlguard doctor`, as people run it and as programs read it."""

from __future__ import annotations

import json
import re

from typer.testing import CliRunner

from mlguard.cli import doctor
from mlguard.cli.app import app


def run(*arguments):
    return CliRunner().invoke(app, ["doctor", *arguments])


def test_it_tells_the_limit_the_way_to_it_and_what_to_change():
    """The text has every part, the level that decides is marked, and sizes are readable."""
    ran = run()
    assert ran.exit_code == 0
    for part in (
        "Memory limit",
        "The way to it",
        "Allocator",
        "Promises of this container's processes",
        "worth changing",
    ):
        assert part.lower() in ran.output.lower()
    assert re.search(r"^  .+ \*\s+\d", ran.output, re.MULTILINE)
    assert re.search(r"host.*[GM]iB", ran.output)


def test_json_is_for_programs():
    """--json prints the findings and nothing else."""
    ran = run("--json", "--threshold", "0.5")
    found = json.loads(ran.output)
    assert found["threshold"] == 0.5
    assert {"limit", "levels", "allocator", "ledger", "learning", "advice", "problems"} <= set(found)


def test_an_odd_machine_is_told_and_nothing_fails(monkeypatch):
    """Where hardly anything could be found out, the rest is printed, with the problems."""
    findings = {
        "threshold": 0.85, "limit": {}, "levels": [], "membership": ["0::/"], "allocator": {}, "ledger": {},
        "learning": {"why_not": "there is no /proc"}, "problems": ["limit: OSError: gone"], "advice": [],
    }  # fmt: skip
    monkeypatch.setattr(doctor, "examine", lambda threshold: findings)
    ran = run()
    assert ran.exit_code == 0
    for words in (
        "none can be read",
        "unknown.",
        "not possible: there is no /proc",
        "OSError: gone",
        "Nothing is worth",
    ):
        assert words in ran.output


def test_over_the_threshold_is_told_as_such(monkeypatch):
    """A limit that is passed already is no negative number of bytes left."""
    level = {"source": "host", "limit": 100 << 20, "used": 90 << 20, "working_set": None, "room": -(5 << 20)}
    findings = {
        "threshold": 0.85, "limit": {**level, "why": "it is the only one"}, "levels": [level], "membership": [],
        "allocator": {"name": "musl", "keeps_freed_memory": False, "heaps_at_most": None, "settings": {"A": "1"}},
        "ledger": {"path": "/dev/shm/x", "state": "in use", "processes": 2, "promised": 1 << 20},
        "learning": {"why_not": None}, "problems": [],
        "advice": [{"setting": "more", "because": "it is tight", "costs": "memory"}],
    }  # fmt: skip
    monkeypatch.setattr(doctor, "examine", lambda threshold: findings)
    ran = run()
    assert "90MiB used, 5MiB over below 85%" in ran.output
    assert "2 processes, 1MiB promised" in ran.output
    assert "A=1" in ran.output
    assert "it costs: memory" in ran.output


def test_a_threshold_that_means_nothing_is_refused():
    """The share is above 0 and at most 1."""
    assert run("--threshold", "1.5").exit_code == 2
