"""`mlguard demo`, run for real: its counts, its tables, its picture and the code it prints."""

from __future__ import annotations

import ast
import inspect
import io
import json
import xml.etree.ElementTree as ElementTree

import pytest

pytest.importorskip("sklearn", reason="the demo needs the extra 'demo'")
pytest.importorskip("matplotlib", reason="the demo needs the extra 'demo'")
pytest.importorskip("rich", reason="the demo needs the extra 'cli'")

import structlog
from PIL import Image
from rich.console import Console

from mlguard.demo import guarded, unguarded
from mlguard.demo.compare import compare
from mlguard.demo.events import logging_to
from mlguard.demo.picture import draw
from mlguard.demo.report import Report, code
from mlguard.demo.service import UNSEEN

CALLS = 500


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One short run; the events it wrote, and the comparison."""
    file = tmp_path_factory.mktemp("demo") / "events.jsonl"
    phases = []
    with logging_to(file) as written:
        comparison = compare(CALLS, seed=0, watch=lambda done, so_far, phase: phases.append(phase))
    assert len(phases) == CALLS
    assert phases.count("memory is short") == CALLS * 6 // 100
    return comparison, written, [json.loads(line) for line in file.read_text().splitlines()]


def test_every_call_is_counted_once(run):
    """Right, wrong, failed, rejected and shed add up to the calls, on both sides."""
    comparison, _, _ = run
    for side in (comparison.unguarded, comparison.guarded):
        counted = side.right + side.wrong + side.failed.total() + side.rejected.total() + side.shed
        assert counted == len(side.seconds) == CALLS


def test_guards_turn_wrong_and_failed_answers_into_right_ones(run):
    """The claim of the demo, on what really happened."""
    plain, ours = run[0].unguarded, run[0].guarded
    assert ours.wrong < plain.wrong / 2
    assert ours.failed.total() < plain.failed.total() / 5
    assert ours.right + ours.shed_unplanned > plain.right
    assert ours.saved > 0
    assert ours.requests < plain.requests


def test_what_the_guards_let_pass_is_what_no_schema_can_see(run):
    """Every wrong guarded answer has the one cause that the declared ranges can't catch."""
    assert all(UNSEEN in cause for cause in run[0].guarded.wrong_because)


def test_callers_mistakes_are_rejected_by_field(run):
    """A rejection names the argument in which the caller made the mistake, whatever the mistake was."""
    for reason in run[0].guarded.rejected:
        field, _, mistake = reason.partition(": ")
        assert field == ("patient" if mistake == "no such patient" else "measured")
    assert "measured" in (run[0].guarded.told or "")


def test_calls_are_shed_while_memory_is_short(run):
    """Real ballast crosses the threshold, and the calls in that phase that need the model are refused."""
    if not run[0].ballast:
        pytest.skip("less than 256 MiB of memory are free")
    assert run[0].guarded.shed > 0
    assert run[0].unguarded.shed == 0


def test_the_counts_of_the_demo_are_those_of_the_guard(run):
    """The demo counts from outside; the guard's own statistics say the same."""
    ours, stats = run[0].guarded, run[0].stats
    calls = stats["monitor"]["calls"]
    assert calls.get("cache_hit", 0) == ours.from_cache
    assert calls.get("rejected_validation", 0) == ours.rejected.total()
    assert calls.get("rejected_memory", 0) == ours.shed
    assert calls.get("failed", 0) == ours.failed.total()


def test_events_are_json_lines_and_the_configuration_comes_back(run):
    """Every event written is a line, and the demo leaves structlog as it found it."""
    _, written, events = run
    assert written.total() == len(events) > CALLS / 2
    assert {"mlguard.call"} <= {event["event"] for event in events}
    assert not structlog.is_configured()


def test_an_applications_own_configuration_comes_back():
    """Where structlog was configured before, that configuration is in force again."""
    mine = [structlog.processors.KeyValueRenderer()]
    structlog.configure(processors=mine)
    try:
        with logging_to(None):
            assert structlog.get_config()["processors"] is not mine
        assert structlog.get_config()["processors"] is mine
    finally:
        structlog.reset_defaults()


def test_both_runs_have_the_same_code():
    """The unguarded functions are the guarded ones without decorators: nothing else differs."""

    def functions(module):
        tree = ast.parse(inspect.getsource(module))
        found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name != "build"]
        for node in found:
            node.decorator_list = []
        return [ast.dump(node) for node in found]

    assert functions(guarded) == functions(unguarded) != []


def test_the_printed_code_is_the_source_and_fits_a_terminal():
    """What is printed compiles, is part of the file, and has no line above 79 characters."""
    printed = code()
    ast.parse(printed)
    source = inspect.getsource(guarded)
    for line in printed.splitlines():
        assert line in source
        assert len(line) < 80
    assert len([line for line in printed.splitlines() if line]) <= 15


@pytest.mark.parametrize("terminal", [False, True])
def test_the_report_says_what_happened(run, terminal):
    """The tables carry the counts, on a terminal and in a pipe."""
    comparison, written, _ = run
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal, color_system=None)
    report = Report(console)
    report.opening(CALLS)
    with report.live(CALLS) as tell:
        tell(25, comparison, "serving")
        tell(26, comparison, "serving")
    report.result(comparison, written, None)
    said = console.file.getvalue()
    for word in (
        "unguarded",
        "guarded",
        "right",
        "wrong",
        "failed",
        "rejected",
        "shed",
        "validation",
        "retry",
        "cache",
    ):
        assert word in said
    assert f"{comparison.guarded.right:,}" in said
    assert "@guarded(" in said


def test_json_holds_every_count(run):
    """What --json writes is plain data."""
    told = json.loads(json.dumps(run[0].as_dict()))
    assert set(told) == {
        "calls", "seed", "model", "faults", "ballast_bytes", "unguarded", "guarded", "guard_stats", "seconds",
    }  # fmt: skip
    for side in ("unguarded", "guarded"):
        assert {"right", "wrong", "failed", "rejected", "shed", "requests", "p50_ms", "p99_ms"} <= set(told[side])


def test_the_picture_is_svg_and_png(run, tmp_path):
    """Both formats are written, the PNG twice as large as it is shown, and equal runs give equal files."""
    for name in ("one.svg", "two.svg", "one.png"):
        draw(run[0], tmp_path / name)
    assert ElementTree.parse(tmp_path / "one.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert image.size == (1600, 700)
