"""The long proof of the memory guard: `python -m benchmarks.memory_proof`.

Twenty runs of the main row beside the best semaphore that a person could tune by hand, run by run in turn, so that a
busy moment of the machine meets all of them; then every other row once. It says which promise is broken, and exits
with 1 where one is. It can write the table into a page, the figures as JSON, and a picture.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import machine
from benchmarks.memory_box import MIB, why_not
from benchmarks.memory_table import LIMIT, ROWS, SMOKED, TUNED, Plan, Row, markdown, run, text

__all__ = ["main"]

RUNS = 20
AT_MOST = 1.6
"""How long the guarded service may take, as a multiple of the best semaphore that never got it killed."""

MAIN = next(plan for plan in ROWS if plan.guard == "declared")
TUNABLE = tuple(Plan(f"semaphore of {most}", f"semaphore-{most}", environment=TUNED) for most in (3, 4, 5, 6))

_BEGIN, _END = "<!-- proof: begin -->", "<!-- proof: end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the proof; 1 where a promise is broken, else 0."""
    options = _parser().parse_args(arguments)
    if (reason := why_not()) is not None:
        print(f"Skipped: the proof needs a real cgroup with a limit, and {reason}.")
        return 0
    on, calls = machine(), 40 if options.smoke else MAIN.calls
    runs = 1 if options.smoke else options.runs
    ours, semaphores = _in_turn(runs, calls, TUNABLE[1:2] if options.smoke else TUNABLE)
    done = {plan.name: plan for plan in (MAIN,)}
    others = [plan for plan in ROWS if plan.name not in done and (not options.smoke or plan.name in SMOKED)]
    rows = [_told(run(replace(plan, calls=min(plan.calls, calls)))) for plan in others]
    verdicts = _verdicts(ours, semaphores)
    table = [_median_of(ours), *rows]
    summary = _summary(ours, semaphores, verdicts)
    print("\n" + text(table) + "\n\n" + "\n".join(summary))
    if options.page:
        _into_page(options.page, f"{_where(on)}\n\n{markdown(table)}\n\n" + "\n".join(f"- {line}" for line in summary))
    if options.json:
        found = {"machine": on, "verdicts": verdicts, "runs": ours, "rows": rows, "semaphores": semaphores}
        options.json.write_text(_figures(found) + "\n")
    if options.plot:
        from benchmarks.memory_plot import draw

        draw(ours[0], next(row for row in rows if row.name == "no guard"), options.plot)
    return 0 if options.smoke or all(verdicts.values()) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory_proof", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help=f"of the main row (default {RUNS})")
    parser.add_argument("--smoke", action="store_true", help="only see that everything runs: one run, few calls")
    parser.add_argument("--page", type=Path, metavar="FILE", help=f"put the table between {_BEGIN} and {_END}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw memory over time there, as .svg")
    return parser


def _in_turn(runs: int, calls: int, tunable: Sequence[Plan]) -> tuple[list[Row], dict[str, list[Row]]]:
    """The main row and the semaphores, run by run; a semaphore that got its service killed is out."""
    ours: list[Row] = []
    semaphores: dict[str, list[Row]] = {plan.name: [] for plan in tunable}
    for _ in range(runs):
        ours.append(_told(run(replace(MAIN, calls=calls))))
        for plan in tunable:
            if not any(row.killed for row in semaphores[plan.name]):
                semaphores[plan.name].append(_told(run(replace(plan, calls=calls))))
    return ours, semaphores


def _told(row: Row) -> Row:
    print(text([row]).splitlines()[1], file=sys.stderr, flush=True)
    return row


def _best(semaphores: dict[str, list[Row]]) -> tuple[str, float] | None:
    """The fastest semaphore that was never killed, and its median."""
    alive = {
        name: median(row.seconds or 0.0 for row in rows)
        for name, rows in semaphores.items()
        if rows and not any(row.killed or row.served < row.calls for row in rows)
    }
    return min(alive.items(), key=lambda item: item[1]) if alive else None


def _verdicts(ours: list[Row], semaphores: dict[str, list[Row]]) -> dict[str, bool]:
    best = _best(semaphores)
    return {
        "never killed": not any(row.killed for row in ours),
        "every call served": all(row.served == row.calls for row in ours),
        "peak below the limit": all(row.peak < LIMIT for row in ours),
        f"within {AT_MOST} x the best semaphore": best is None or _seconds(ours) <= AT_MOST * best[1],
    }


def _seconds(rows: list[Row]) -> float:
    return median(row.seconds if row.seconds is not None else float("inf") for row in rows)


def _median_of(rows: list[Row]) -> Row:
    """The run whose time is the median of all, under a name that says so."""
    middle = sorted(rows, key=lambda row: row.seconds or float("inf"))[len(rows) // 2]
    peak = max(row.peak for row in rows)
    killed = any(row.killed for row in rows)
    served = min(row.served for row in rows)
    name = middle.name if len(rows) == 1 else f"{middle.name} (the middle of {len(rows)} runs)"
    return replace(middle, name=name, peak=peak, killed=killed, served=served)


def _summary(ours: list[Row], semaphores: dict[str, list[Row]], verdicts: dict[str, bool]) -> list[str]:
    killed, best = sum(row.killed for row in ours), _best(semaphores)
    seconds = sorted(row.seconds for row in ours if row.seconds is not None)
    lines = [
        f"{len(ours)} runs of {MAIN.name}: {killed} killed, "
        f"{sum(row.served for row in ours):,} of {sum(row.calls for row in ours):,} calls served, "
        f"peak {max(row.peak for row in ours) // MIB} of {LIMIT // MIB} MiB"
        + (f", {seconds[0]:.2f} to {seconds[-1]:.2f} s, median {median(seconds):.2f} s." if seconds else ".")
    ]
    for name, rows in semaphores.items():
        died = sum(row.killed for row in rows)
        times = [row.seconds for row in rows if row.seconds is not None]
        fate = f"killed in run {len(rows)}" if died else f"{len(rows)} runs, median {median(times):.2f} s"
        lines.append(f"The {name}: {fate}.")
    if best is not None:
        lines.append(f"mlguard takes {_seconds(ours) / best[1]:.2f} x as long as the best of them, the {best[0]}.")
    return lines + [f"{'Kept' if kept else 'BROKEN'}: {promise}." for promise, kept in verdicts.items()]


def _where(on: dict[str, Any]) -> str:
    where = f"{on['processor']}, {on['cores']} cores, {on['system']}, Python {on['python']}"
    load = on["load_average"]
    if load is not None and load > on["cores"] / 2:
        where += f", under load (load average {load:.1f} at the start): compare the rows with each other"
    return f"{where}:"


def _figures(found: dict[str, Any]) -> str:
    """As JSON, a line for each run; what its guard said of itself stays out, but for its waiting."""

    def told(value: Any) -> Any:
        if isinstance(value, Row):
            plain = value.as_dict()
            stats = plain.pop("stats") or {}
            return told(plain | {key: stats[key] for key in ("waited", "waited_seconds") if key in stats})
        if isinstance(value, dict):
            return {key: told(item) for key, item in value.items()}
        if isinstance(value, list):
            return [told(item) for item in value]
        return round(value, 3) if isinstance(value, float) else value

    lines = json.dumps(told(found), default=str)
    return lines.replace('{"name"', '\n{"name"').replace('], "', '],\n"')


def _into_page(page: Path, words: str) -> None:
    before, begin, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise SystemExit(f"{page} has no place for the table. Fix: write {_BEGIN} and {_END} into it.")
    page.write_text(f"{before}{begin}\n{words}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
