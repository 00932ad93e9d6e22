"""Runs the outage with and without budget and breaker, prints what arrived, and draws it.

``python -m benchmarks.proof [FILE.svg]``: a minute; exit status 1 where a promise was broken.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.proof.outage import OPEN_FOR, VARIANTS, Outage, Plan, with_tasks, with_threads
from benchmarks.proof.picture import draw
from mlguard import testing

_SLACK = 0.4  # seconds for the beat of the callers and a busy machine


def main() -> int:
    """Every variant with threads, the full one with tasks as well."""
    plan = Plan()
    print(f"{plan.calls_per_second:g} calls a second; the dependency is dead from {plan.dies_at:g} to "
          f"{plan.back_at:g} s of {plan.ends_at:g}\n")  # fmt: skip
    print(f"{'':42}{'requests':>9}{'a second,':>11}{'at most':>9}{'calls':>9}{'':>7}{'':>8}{'back':>9}")
    print(f"{'':42}{'in all':>9}{'dead':>11}{'':>9}{'answered':>9}{'failed':>7}{'refused':>8}{'after':>9}")
    seen = {}
    full = list(VARIANTS)[-1]
    with testing.capture_events() as events:
        for name, sections in VARIANTS.items():
            seen[name] = with_threads(sections, plan)
            _row(f"64 threads, {name}", seen[name], plan)
        tasks = with_tasks(VARIANTS[full], plan)
    _row(f"1,000 tasks, {full}", tasks, plan)
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "docs" / "outage.svg"
    draw(seen, plan, target)
    print(f"\n{len(events)} changes of the breakers' state were logged; drawn to {target}")
    broken = [
        problem
        for name, outage in {**seen, "tasks": tasks}.items()
        for problem in _broken(name, outage, plan, protected=name in (full, "tasks"))
    ]
    print("\n".join(broken) or "no slot, permit, thread or task was left; the protected callers recovered in time")
    return 1 if broken else 0


def _row(name: str, outage: Outage, plan: Plan) -> None:
    dead = outage.rate(plan.dies_at, plan.back_at - plan.dies_at)
    print(
        f"{name:42}{len(outage.requests):9,}{dead:11.0f}{outage.peak(plan):9.0f}{len(outage.answered):9,}"
        f"{outage.failed:7,}{outage.refused:8,}{outage.recovered_after(plan) * 1000:6.0f} ms"
    )


def _broken(name: str, outage: Outage, plan: Plan, *, protected: bool) -> list[str]:
    found = [f"BROKEN: {name}: {count} {what} left" for what, count in outage.left.items() if count]
    if protected and outage.recovered_after(plan) > OPEN_FOR + _SLACK:
        found.append(f"BROKEN: {name}: back after {outage.recovered_after(plan):.2f} s, open_for is {OPEN_FOR:g} s")
    if protected and outage.rate(plan.dies_at + 1, 2) > plan.calls_per_second / 5:
        found.append(f"BROKEN: {name}: {outage.rate(plan.dies_at + 1, 2):.0f} requests a second on a dead dependency")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
