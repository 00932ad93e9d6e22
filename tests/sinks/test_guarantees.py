"""The table of guarantees in docs/sinks.md: every cell has a test, and the tests of those that no other room holds."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from mlguard import Monitor, guarded
from mlguard.sinks import prometheus
from tests.record.calls import stored
from tests.sinks.receivers import PATIENCE, Agent, Receiver, points

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "sinks.md"
COLUMNS = ("killed", "full disk", "slow or dead peer", "clean shutdown", "fork", "reload", "clock jump")
ROWS = (
    "log", "log in the background", "record", "Prometheus", "Prometheus, many processes", "OpenTelemetry metrics",
    "OpenTelemetry spans", "Datadog", "drift",
)  # fmt: skip


# The table


def _table() -> dict[tuple[str, str], str]:
    """The cells by row and column."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    start = next(number for number, line in enumerate(lines) if "slow or dead peer" in line)
    header = [cell.strip() for cell in lines[start].strip("|").split("|")]
    cells = {}
    for line in lines[start + 2 :]:
        name, *rest = (cell.strip() for cell in line.strip("|").split("|"))
        if len(rest) != len(header) - 1:
            break
        cells |= {(name, column): cell for column, cell in zip(header[1:], rest, strict=True)}
    return cells


TABLE = _table()


def test_the_table_is_whole() -> None:
    """Every sink has a cell for everything that may happen."""
    assert set(TABLE) == {(row, column) for row in ROWS for column in COLUMNS}


@pytest.mark.parametrize(("row", "column"), sorted(TABLE), ids=lambda text: text.replace(" ", "-"))
def test_a_cell_has_a_test(row: str, column: str) -> None:
    """The test that a cell names exists, and takes the parameter that it names."""
    cell = TABLE[row, column]
    named = re.findall(r"<!-- (tests/\S+\.py)::(\w+)(?:\[([\w-]+)\])? -->", cell)
    assert named, f"{row}, {column}: no test is named"
    assert re.sub(r"<!--.*?-->", "", cell).strip(), f"{row}, {column}: nothing is said"
    for path, name, parameter in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
        assert found, f"{row}, {column}: {path} has no {name}"
        if parameter:
            assert parameter in {name for name, *_ in EXPECTED[name]}, f"{name} has no parameter {parameter}"


# A service that reports everywhere at once


@dataclass
class Seen:
    """What arrived where, in calls."""

    log: int
    background: int
    record: int
    metrics: float
    durations: int
    spans: int
    datadog: float
    reports: list[dict[str, Any]]
    returncode: int
    processes: set[int]


def run(scenario: str, folder: Path) -> Seen:
    """Runs the service through a scenario and counts what arrived."""
    collector, agent = Receiver(), Agent()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.sinks.services", scenario, str(folder), collector.url, str(agent.port)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "MLGUARD_POLICIES": str(folder / "mlguard.toml")},
            timeout=60,
        )
        reports = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        assert reports, done.stderr
        lines = [line for line in map(json.loads, done.stdout.splitlines()) if line["event"] == "mlguard.call"]
        logged = Counter(line["code.function.name"].rpartition(".")[2] for line in lines)
        spans = [
            span for request in collector.received if hasattr(request, "resource_spans") for span in _spans(request)
        ]
        exports = [request for request in collector.received if hasattr(request, "resource_metrics")]
        sent = "guard:__main__.quiet"
        agent.wait_for(lambda: agent.total("mlguard.calls", sent) > 0)
        return Seen(
            log=logged["log"],
            background=logged["background"],
            record=len(stored(folder / "record")) if (folder / "record").exists() else 0,
            metrics=sum(_calls(request) for request in _last_of_each(exports)),
            durations=sum(_durations(request) for request in _last_of_each(exports)),
            spans=len(spans),
            datadog=agent.total("mlguard.calls", sent),
            reports=reports,
            returncode=done.returncode,
            processes={line["process.pid"] for line in lines},
        )
    finally:
        collector.close()
        agent.close()


def _spans(request: Any) -> Iterator[Any]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            yield from scope.spans


def _last_of_each(requests: list[Any]) -> list[Any]:
    """The last export of each process, whose totals include those before."""
    last = {}
    for request in requests:
        (resource,) = request.resource_metrics
        found = [
            points(each) for scope in resource.scope_metrics for each in scope.metrics if each.name == "mlguard.calls"
        ]
        begun = {point.start_time_unix_nano for series in found for point in series.values()}
        last[tuple(begun), resource.resource.SerializeToString()] = request
    return list(last.values())


def _named(request: Any, name: str) -> Any:
    (resource,) = request.resource_metrics
    return next((each for scope in resource.scope_metrics for each in scope.metrics if each.name == name), None)


def _calls(request: Any) -> float:
    found = points(_named(request, "mlguard.calls"))
    return sum(point.as_double for labels, point in found.items() if labels == ("executed", "__main__.quiet"))


def _durations(request: Any) -> int:
    metric = _named(request, "mlguard.call_duration")
    if metric is None:
        return 0
    found = points(metric)
    return sum(point.count for labels, point in found.items() if labels == ("executed", "__main__.quiet"))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Seen]:
    """What came of a scenario, which runs once."""
    known: dict[str, Seen] = {}

    def get(scenario: str) -> Seen:
        if scenario not in known:
            known[scenario] = run(scenario, tmp_path_factory.mktemp(scenario))
        return known[scenario]

    return get


def seen_by(sink: str, seen: Seen) -> float:
    """The calls that a sink has, by the name that the tests below use."""
    if sink in ("prometheus", "drift"):
        return float(sum(report[sink] for report in seen.reports))
    return float(getattr(seen, sink))


EXPECTED: dict[str, list[tuple[str, float, float]]] = {
    "test_shutdown": [(name, 5, 5) for name in ("log", "background", "record", "prometheus", "metrics", "durations",
                                                "spans", "datadog", "drift")],
    "test_reload": [(name, 10, 10) for name in ("log", "background", "record", "prometheus", "metrics", "durations",
                                                "spans", "datadog", "drift")],
    "test_clock": [(name, 15, 15) for name in ("log", "background", "record", "prometheus", "metrics", "durations",
                                               "spans", "datadog", "drift")],
    "test_no_disk": [(name, 5, 5) for name in ("prometheus", "metrics", "durations", "spans", "datadog", "drift")],
    "test_fork": [("log", 7, 7), ("background", 7, 7), ("record", 7, 7), ("prometheus", 7, 7), ("datadog", 7, 7),
                  ("spans", 7, 7), ("drift", 7, 7)],
    # The calls that ended before the kill, and those whose report had not left.
    "test_killed": [("log", 8, 8), ("background", 5, 8), ("record", 5, 8), ("metrics", 5, 5), ("durations", 5, 5),
                    ("spans", 5, 5), ("datadog", 5, 5), ("prometheus", 5, 5), ("drift", 5, 5)],
    "test_a_full_disk": [("log", 0, 0), ("background", 0, 0)],
}  # fmt: skip
"""By test: the sink, the fewest and the most calls that it may have."""


def _cases(test: str) -> Any:
    return pytest.mark.parametrize(("sink", "least", "most"), EXPECTED[test], ids=[name for name, *_ in EXPECTED[test]])


@_cases("test_shutdown")
def test_shutdown(outcome, sink: str, least: float, most: float) -> None:
    """A process that ends in order has reported every call."""
    assert least <= seen_by(sink, outcome("shutdown")) <= most
    assert outcome("shutdown").returncode == 0


@_cases("test_reload")
def test_reload(outcome, sink: str, least: float, most: float) -> None:
    """A policy that is reloaded between two calls loses and doubles none of them."""
    assert least <= seen_by(sink, outcome("reload")) <= most


@_cases("test_clock")
def test_clock(outcome, sink: str, least: float, most: float) -> None:
    """A wall clock that jumps a day back and a year forward loses no call, and no duration shows the jump."""
    seen = outcome("clock")
    assert least <= seen_by(sink, seen) <= most
    assert seen.reports[-1]["longest"] < PATIENCE


@_cases("test_no_disk")
def test_no_disk(outcome, sink: str, least: float, most: float) -> None:
    """A process that can't write a byte to any file reports every call all the same."""
    assert least <= seen_by(sink, outcome("no_disk")) <= most


@_cases("test_fork")
def test_fork(outcome, sink: str, least: float, most: float) -> None:
    """A parent's five calls and a child's two are seven, each reported by the process that made it."""
    seen = outcome("fork")
    assert least <= seen_by(sink, seen) <= most
    assert len(seen.processes) == 2


@_cases("test_killed")
def test_killed(outcome, sink: str, least: float, most: float) -> None:
    """After `kill -9` what had left the process is there, whole, and nothing that never happened."""
    seen = outcome("killed")
    assert seen.returncode == -9
    assert least <= seen_by(sink, seen) <= most


# The log


@_cases("test_a_full_disk")
def test_a_full_disk(sink: str, least: float, most: float) -> None:
    """A log on a full disk fails no call, and each line that is lost is counted."""
    from mlguard.monitor.sink import flush

    with open("/dev/full", "w", buffering=1) as full:
        structlog.configure(
            processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory(full)
        )

        @guarded(monitor=Monitor(log=True if sink == "log" else "background"))
        def predict(x: int) -> int:
            return x

        assert [predict(x) for x in range(5)] == list(range(5))
        assert flush(PATIENCE)
        stats = predict.guard.stats()["monitor"]
        assert stats["instrumentation_errors"] == 5
        assert stats["last_instrumentation_error"] == "log: OSError"
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # so that it can be closed


def test_a_log_that_hangs_holds_up_its_call() -> None:
    """In the call, a line is written before the call returns, however long that takes."""
    opened, entered = threading.Event(), threading.Event()

    def hang(logger: Any, method: str, event: Any) -> Any:
        entered.set()
        opened.wait(PATIENCE)
        raise structlog.DropEvent

    structlog.configure(processors=[hang])
    returned: list[int] = []

    @guarded(monitor=Monitor())
    def predict(x: int) -> int:
        return x

    thread = threading.Thread(target=lambda: returned.append(predict(1)))
    thread.start()
    assert entered.wait(PATIENCE)
    assert not returned
    opened.set()
    thread.join()
    assert returned == [1]


def test_an_alarm_of_drift_waits_in_the_background(tmp_path: Path) -> None:
    """With the log in the background, a log that hangs holds up no call that raises an alarm of drift."""
    from mlguard import drift
    from mlguard.monitor.sink import flush

    drift.profile({"x": [float(x) for x in range(2_000)]}).save(tmp_path / "profile.json")
    watched = drift.Drift(profile=str(tmp_path / "profile.json"), windows=(100,), design_effect=1.0)
    opened = threading.Event()
    names: list[str] = []

    def hang(logger: Any, method: str, event: Any) -> Any:
        opened.wait(PATIENCE)
        names.append(event["event"])
        raise structlog.DropEvent

    structlog.configure(processors=[hang])

    @guarded(monitor=Monitor(log="background", summaries=False, drift=watched))
    def predict(x: float) -> float:
        return x

    for _ in range(1_000):
        predict(5_000.0)
    assert not names
    opened.set()
    assert flush(PATIENCE)
    assert names.count("mlguard.call") == 1_000
    assert "mlguard.drift" in names


def test_a_call_in_progress_at_the_end_of_the_process() -> None:
    """A call that a thread has not ended when the process does fails nothing, and has no line."""
    program = (
        "import threading, time\n"
        "from mlguard import Monitor, guarded\n"
        "@guarded(monitor=Monitor(log='background'))\n"
        "def predict(x):\n"
        "    time.sleep(x)\n"
        "threading.Thread(target=predict, args=(30,), daemon=True).start()\n"
        "predict(0)\n"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("mlguard.call ") == 1
    assert time.monotonic() - began < PATIENCE


# Prometheus


def test_a_scrape_that_takes_its_time() -> None:
    """While a scraper reads on and on, calls go on and are counted."""

    @guarded(monitor=Monitor(log=False))
    def predict() -> None: ...

    collecting = prometheus.Collector()
    from mlguard.monitor import readings

    collecting.reads["here"] = readings.read
    families = collecting.collect()
    next(families)
    for _ in range(100):
        predict()
    assert len(list(families)) > 10
    name = predict.guard._wrapper.target.name
    found = [
        sample.value
        for family in prometheus.Collector.collect(collecting)
        for sample in family.samples
        if sample.name == "mlguard_calls_total" and sample.labels == {"guard": name, "disposition": "executed"}
    ]
    assert found == [100.0]


MULTIPROCESS = """
import os, sys, time
from pathlib import Path
from mlguard import guarded, policies
from mlguard.sinks import prometheus
file = Path(os.environ["MLGUARD_POLICIES"])
file.write_text("[policies.served]\\nmonitor = { log = false }\\n")
policies.reload()

@guarded("served")
def predict(x): return x

def scraped():
    text, _ = prometheus.exposition()
    (line,) = [line for line in text.decode().splitlines()
               if line.startswith("mlguard_calls_total") and '"executed"' in line and "predict" in line]
    return float(line.split()[-1])

prometheus.register()
for x in range(5): predict(x)
"""


@pytest.mark.parametrize(
    "happens",
    [
        'file.write_text("[policies.served]\\nmonitor = { log = false, slow_call = 50 }\\n"); policies.reload()',
        "wall = time.time; time.time = lambda: wall() - 86_400",
        "wall = time.time; time.time = lambda: wall() + 365 * 86_400",
    ],
    ids=["reload", "clock-back", "clock-forward"],
)
def test_many_processes_go_on(happens: str, tmp_path: Path) -> None:
    """Neither a reload nor a clock that jumps loses or doubles a count in the files that the processes share."""
    (tmp_path / "metrics").mkdir()
    environment = {
        **os.environ,
        "MLGUARD_POLICIES": str(tmp_path / "mlguard.toml"),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
    }
    program = MULTIPROCESS + happens + "\nfor x in range(5): predict(x)\nprint(scraped())\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.splitlines()[-1:] == ["10.0"], done.stderr
