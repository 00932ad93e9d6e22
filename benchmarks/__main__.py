"""`python -m benchmarks`: measures, prints a table, and says which budgets are missed."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.case import Case
from benchmarks.machine import machine, versions
from benchmarks.measure import FULL, SMOKE, measure
from benchmarks.record import record
from benchmarks.table import summary, table
from benchmarks.verdicts import judge

__all__ = ["main"]

CLAIMS = (
    "retry", "failing", "validation", "arrays", "rows", "cache", "memory", "drift", "metrics", "everything",
    "monitoring", "query", "imports",
)  # fmt: skip
"""The modules that hold cases, in the order of the table."""

NOT_BUILT: tuple[str, ...] = ()


SMOKED = "Everything ran. A smoke run is too short to judge: its numbers mean nothing."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmarks; 1 where a budget is missed and `--strict` is given, else 0."""
    options = _parser().parse_args(arguments)
    effort = SMOKE if options.smoke else FULL
    if options.rounds is not None:
        effort = dataclasses.replace(effort, rounds=options.rounds)
    started = machine()
    print(_headline(started))
    results = []
    wanted = [*options.names, *(options.only or ())]
    for case in _chosen(wanted):
        result = judge(case, measure(case, effort, _progress(case)))
        results.append(result)
        print("\n" + table(result), flush=True)
    print("\n" + (SMOKED if options.smoke else summary(results, NOT_BUILT)))
    written = record(results, effort, NOT_BUILT)
    if "memory" in wanted:  # only where it is asked for by name: it takes a minute, and kills processes
        written["memory_table"] = _memory_table(smoke=options.smoke)
    if options.json:
        options.json.write_text(json.dumps(written, indent=2) + "\n")
    missed = any(comparison.missed for result in results for comparison in result.comparisons)
    return 1 if missed and options.strict else 0


def _memory_table(*, smoke: bool) -> list[dict[str, object]] | None:
    """The same service in a real cgroup, guarded in one way after the other; None where no cgroup can be made."""
    from benchmarks import memory_table

    plans = memory_table.smoked() if smoke else memory_table.ROWS
    try:
        rows = memory_table.table(plans, lambda row: print(f"{row.name}: done", file=sys.stderr, flush=True))
    except OSError as error:
        print(f"\nmemory table: skipped, as it needs a real cgroup with a limit, and {error}")
        return None
    print("\nmemory table: calls on inputs of 10 to 30 MiB that need three times as much, in a cgroup of 400 MiB\n")
    print(memory_table.text(rows))
    return [row.as_dict() for row in rows]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a claim or a case; all unless given")
    parser.add_argument("--only", action="append", metavar="NAME", help="a claim or a case; may be given again")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--smoke", action="store_true", help="only see that everything runs; the numbers mean nothing")
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"rounds per case (default {FULL.rounds})")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a budget is missed")
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _chosen(only: Sequence[str] | None) -> list[Case]:
    """Every case, or those whose claim or own name is asked for; a claim that is not needed is not imported."""
    wanted = set(only or ())
    claims = [claim for claim in CLAIMS if not wanted or any(name.split("-")[0] == claim for name in wanted)]
    cases = [(claim, case) for claim in claims for case in importlib.import_module(f"benchmarks.{claim}").cases()]
    unknown = wanted - {claim for claim, _ in cases} - {case.name for _, case in cases}
    if unknown:
        known = ", ".join([*CLAIMS, *(case.name for _, case in cases if case.name not in CLAIMS)])
        raise SystemExit(f"no benchmark is called {', '.join(sorted(unknown))}; there are: {known}")
    return [case for claim, case in cases if not wanted or wanted & {claim, case.name}]


def _progress(case: Case) -> Callable[[int, int], None]:
    def show(done: int, rounds: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{case.name}: round {done} of {rounds}   ", end="\r" if done < rounds else "\n", file=sys.stderr)
        elif done == 0:
            print(f"{case.name}: {rounds} rounds", file=sys.stderr, flush=True)

    return show


def _headline(on: dict[str, object]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in versions().items() if version)
    return (
        f"{on['processor']}, {on['cores']} cores, load {on['load_average']}; {on['implementation']} {on['python']}\n"
        f"{packages}\n"
        "Times are seconds per call, medians of interleaved rounds; ratios are paired per round; "
        "below 1, mlguard is faster."
    )


if __name__ == "__main__":
    sys.exit(main())
