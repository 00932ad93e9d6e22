"""Claim: finding calls in a record is no slower than DuckDB by hand over the same files.

Everybody finds the failures of one policy that broke one field among 100,000 calls, and how long the slowest took, in
the files that the recorder wrote, most of them packed. Five million, with a cold page cache, are another matter:
``python -m benchmarks.proof.query`` takes minutes.
"""

from __future__ import annotations

import atexit
import gzip
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import duckdb

from benchmarks.case import OURS, Budget, Case
from benchmarks.recorded_calls import events
from mlguard.record import Record, Recorder, open_calls
from mlguard.record.filters import Filters

__all__ = ["cases"]

CALLS = 100_000

_BY_HAND = "DuckDB by hand, the same files"

Answer = tuple[int, float]


def cases() -> list[Case]:
    """One search."""
    folder = Path(tempfile.mkdtemp(prefix="mlguard-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return [_search(folder)]


def _search(folder: Path) -> Case:
    record = folder / "record"
    recorder = Recorder(Record(path=str(record)))
    for number, event in enumerate(events(CALLS)):
        recorder.put(event)
        if number % 5_000 == 0:
            assert recorder.flush(60)
    recorder.close()
    unpacked = folder / "unpacked.jsonl"
    with unpacked.open("wb") as file:
        for path in sorted(record.iterdir()):
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
                shutil.copyfileobj(lines, file)
    contestants: dict[str, Callable[[], Answer]] = {
        OURS: lambda: _ours(record),
        _BY_HAND: lambda: _duckdb(record / "*"),
        "DuckDB by hand, unpacked before": lambda: _duckdb(unpacked),
        "jq, unpacked before": lambda: _jq(unpacked),
        "json.loads, unpacked before": lambda: _loop(unpacked),
    }
    if shutil.which("jq") is None:
        del contestants["jq, unpacked before"]
    found = {name: contestant() for name, contestant in contestants.items()}
    assert len(set(found.values())) == 1, found
    return Case(
        name="query-search",
        claim=f"Count the failures of a policy that broke a field among {CALLS:,} calls, opening the files included.",
        contestants=contestants,
        budgets=(Budget(peer=_BY_HAND, at_most=1.0), Budget(peer="json.loads, unpacked before", at_most=0.5)),
        most_rounds=7,
    )


def _ours(folder: Path) -> Answer:
    condition, values = Filters(policy="realtime", outcome="failure", field="patient.features").where()
    with open_calls(folder) as calls:
        (row,) = calls.sql(f"SELECT count(*), max(duration) FROM calls WHERE {condition}", values).rows  # noqa: S608 - our own
    return row[0], row[1]


def _duckdb(lines: Path) -> Answer:
    columns = {
        "event.outcome": "VARCHAR",
        "mlguard.policy": "VARCHAR",
        "mlguard.duration": "DOUBLE",
        "mlguard.violations": "STRUCT(loc VARCHAR)[]",
    }
    with duckdb.connect() as connection:
        row = connection.execute(
            'SELECT count(*), max("mlguard.duration") '  # noqa: S608 - our own
            f"FROM read_json(?, format = 'newline_delimited', columns = {columns}) "
            "WHERE \"event.outcome\" = 'failure' AND \"mlguard.policy\" = 'realtime' "
            "AND len(list_filter(\"mlguard.violations\", lambda v: v.loc = 'patient.features')) > 0",
            [str(lines)],
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def _jq(lines: Path) -> Answer:
    program = (
        'select(."event.outcome" == "failure" and ."mlguard.policy" == "realtime" and '
        'any(."mlguard.violations"[]; .loc == "patient.features")) | ."mlguard.duration"'
    )
    done = subprocess.run(["jq", program, lines], capture_output=True, text=True, check=True)  # noqa: S603, S607 - jq of the machine
    durations = [float(line) for line in done.stdout.split()]
    return len(durations), max(durations)


def _loop(lines: Path) -> Answer:
    durations = []
    with lines.open() as file:
        for line in file:
            event = json.loads(line)
            if event["event.outcome"] != "failure" or event["mlguard.policy"] != "realtime":
                continue
            if any(violation["loc"] == "patient.features" for violation in event["mlguard.violations"]):
                durations.append(event["mlguard.duration"])
    return len(durations), max(durations)
