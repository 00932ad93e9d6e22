"""The drift table: false alarms, delays and misses of every contestant on every stream. Never one score of them.

``python -m benchmarks.drift_table`` takes about a minute, ``--long`` half an hour: more runs, longer streams, and the
contestants that take 0.4 ms a value.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.drift_detectors import DETECTORS, SLOW, absent
from benchmarks.drift_streams import SCENARIOS, Scenario

__all__ = ["LONG", "SHORT", "Plan", "Row", "main", "table", "text"]


@dataclass(frozen=True)
class Plan:
    """How much is run."""

    runs: int
    reference: int
    rows: int
    slow_runs: int
    """Of the contestants that take far longer."""


SHORT = Plan(runs=2, reference=4_000, rows=8_000, slow_runs=0)
LONG = Plan(runs=5, reference=5_000, rows=16_000, slow_runs=1)


@dataclass(frozen=True)
class Row:
    """One contestant on one scenario."""

    scenario: str
    detector: str
    calm_rows: int
    """Rows without drift, before the change or in all."""
    false_alarms: int
    changes: int
    missed: int
    """Changes without an alarm in half of the stream's rows."""
    delay: float | None
    """Median rows from the change to the first alarm."""
    microseconds: float
    """Per row of all columns."""

    @property
    def run_length(self) -> float | None:
        """Mean rows between two false alarms; None: there was none."""
        return self.calm_rows / self.false_alarms if self.false_alarms else None


def table(plan: Plan, scenarios: Iterable[Scenario] = SCENARIOS, names: Iterable[str] = DETECTORS) -> list[Row]:
    """Runs everything that is installed."""
    rows = []
    wanted = [name for name in names if absent(name) is None and (plan.slow_runs or name not in SLOW)]
    for scenario in scenarios:
        streams = list(scenario.streams(plan.runs, plan.reference, plan.rows))
        for name in wanted:
            calm = false = missed = changes = served = 0
            delays = []
            spent = 0.0
            for stream in streams[: plan.slow_runs if name in SLOW else plan.runs]:
                update = DETECTORS[name](stream.reference)
                started = time.process_time()
                alarms = [number for number, row in enumerate(stream.rows) if update(row)]
                spent += time.process_time() - started
                served += len(stream.rows)
                end = len(stream.rows) if stream.changed is None else stream.changed
                calm += end
                false += sum(alarm < end for alarm in alarms)
                if stream.changed is not None:
                    changes += 1
                    first = next((alarm for alarm in alarms if alarm >= stream.changed), None)
                    missed += first is None
                    if first is not None:
                        delays.append(first - stream.changed + 1)
            delay = statistics.median(delays) if delays else None
            rows.append(Row(scenario.name, name, calm, false, changes, missed, delay, spent / served * 1e6))
        print(f"{scenario.name}: done", file=sys.stderr, flush=True)
    return rows


def text(rows: Iterable[Row]) -> str:
    """Scenarios down, contestants across: false alarms in 10,000 rows; then median delay, and misses."""
    rows = list(rows)
    names = list(dict.fromkeys(row.detector for row in rows))
    by_place = {(row.scenario, row.detector): row for row in rows}
    lines = ["| stream | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for scenario in dict.fromkeys(row.scenario for row in rows):
        cells = [_cell(by_place[scenario, name]) for name in names]
        lines.append(f"| {scenario} | " + " | ".join(cells) + " |")
    costs = []
    for name in names:
        own = [row.microseconds for row in rows if row.detector == name]
        costs.append(f"{statistics.fmean(own):.3g} µs")
    lines.append("| **time for a row** | " + " | ".join(costs) + " |")
    lines.append("| **false alarms in 10,000 calm rows** | " + " | ".join(_total(rows, name) for name in names) + " |")
    lines.append("| **changes missed** | " + " | ".join(_missed(rows, name) for name in names) + " |")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    calm = f"{row.false_alarms / row.calm_rows * 10_000:.3g}"
    if not row.changes:
        return calm
    seen = "missed" if row.delay is None else f"{row.delay:,.0f}"
    some = f", {row.missed} of {row.changes} missed" if row.missed and row.delay is not None else ""
    return f"{calm}; {seen}{some}"


def _total(rows: Iterable[Row], name: str) -> str:
    own = [row for row in rows if row.detector == name]
    return f"{sum(row.false_alarms for row in own) / sum(row.calm_rows for row in own) * 10_000:.3g}"


def _missed(rows: Iterable[Row], name: str) -> str:
    own = [row for row in rows if row.detector == name]
    return f"{sum(row.missed for row in own)} of {sum(row.changes for row in own)}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drift_table", description=__doc__)
    parser.add_argument("--long", action="store_true", help="more runs, longer streams, the slow contestants too")
    parser.add_argument("--only", action="append", metavar="TEXT", help="scenarios whose name has it; may be repeated")
    parser.add_argument("--with", dest="names", action="append", metavar="NAME", help="only these contestants")
    parser.add_argument("--runs", type=int, help="runs of each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()
    plan = LONG if options.long else SHORT
    if options.runs:
        plan = replace(plan, runs=options.runs)
    scenarios = [one for one in SCENARIOS if not options.only or any(part in one.name for part in options.only)]
    names = options.names or DETECTORS
    for name in names:
        if (package := absent(name)) is not None:
            print(f"{name} is left out: {package} is not installed.", file=sys.stderr)
    rows = table(plan, scenarios, names)
    print("False alarms in 10,000 rows without drift; then median rows from the change to the alarm.\n")
    print(text(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
