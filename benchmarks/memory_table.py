"""The table of the memory guard: the same service in a real cgroup, guarded in one way after the other.

Every row is a process of its own in a box of its own. What is asked for is under `SPOKEN`; what came out is in `Row`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from benchmarks.memory_box import MIB, Box, Ran, box, why_not

__all__ = ["LIMIT", "ROWS", "SMOKED", "Plan", "Row", "markdown", "run", "smoked", "table", "text"]

LIMIT = 400 * MIB
CALLS = 200

TUNED = {"MALLOC_MMAP_THRESHOLD_": str(MIB)}
"""What `return_freed_memory` sets, for those that are not guarded: without it they only look worse."""


@dataclass(frozen=True)
class Plan:
    """One row to be."""

    name: str
    guard: str
    shape: str = "threads"
    calls: int = CALLS
    limit: int = LIMIT
    environment: Mapping[str, str] = field(default_factory=dict)
    sibling: int = 0
    """MiB that a process beside it takes, below the same parent, step by step."""
    relimited: tuple[float, int] | None = None
    """After so many seconds the limit becomes that."""


@dataclass
class Row:
    """What came out."""

    name: str
    calls: int
    served: int
    shed: int
    failed: int
    killed: bool
    workers_killed: int
    seconds: float | None
    p50: float | None
    p99: float | None
    peak: int
    limit: int
    stats: dict[str, Any] = field(default_factory=dict)
    timeline: list[tuple[float, int]] = field(default_factory=list, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """JSON-serialisable, without the timeline."""
        return {key: value for key, value in asdict(self).items() if key != "timeline"}


ROWS = (
    Plan("no guard", "none", environment=TUNED),
    Plan("psutil check at 85 %", "psutil", environment=TUNED),
    Plan("right check at 85 %, no promises", "check"),
    Plan('mlguard, need="3x"', "declared"),
    Plan('mlguard, need="learned"', "learned"),
    Plan('mlguard, need="3x", glibc as it comes', "kept"),
    Plan("semaphore of 3", "semaphore-3", environment=TUNED),
    Plan("semaphore of 4", "semaphore-4", environment=TUNED),
    Plan("semaphore of 8", "semaphore-8", environment=TUNED),
    Plan("semaphore of 10", "semaphore-10", environment=TUNED),
    Plan("batches, every tenth too big, no split", "declared", "batches", 60),
    Plan("batches, every tenth too big, split", "split", "batches", 60),
    Plan("noisy sibling below one parent, no guard", "none", sibling=100, environment=TUNED),
    Plan("noisy sibling below one parent", "declared", sibling=100),
    Plan("beside a loader that fills the page cache", "declared", "loader"),
    Plan("limit lowered 600 -> 520 MiB meanwhile", "declared", limit=600 * MIB, relimited=(0.8, 520 * MIB)),
    Plan("8 workers, promises per process", "process", "prefork"),
    Plan("8 workers, promises per container", "declared", "prefork"),
    Plan("asyncio, no guard", "none", "async", environment=TUNED),
    Plan("asyncio", "declared", "async"),
    Plan("generators", "declared", "streams"),
)

SMOKED = ("no guard", 'mlguard, need="3x"', 'mlguard, need="learned"', "batches, every tenth too big, split")
"""The rows of a smoke run."""


def smoked() -> list[Plan]:
    """A few rows, with fewer calls: whether everything runs shows all the same."""
    return [replace(plan, calls=40) for plan in ROWS if plan.name in SMOKED]


def table(rows: Iterable[Plan] = ROWS, tell: Any = lambda row: None) -> list[Row]:
    """Runs the rows one after the other.

    Raises:
        OSError: No cgroup can be made here.
    """
    if (reason := why_not()) is not None:
        raise OSError(reason)
    done = []
    for plan in rows:
        done.append(run(plan))
        tell(done[-1])
    return done


def run(plan: Plan) -> Row:
    """One row, in a box of its own."""
    with box(plan.limit) as outer:
        if not plan.sibling:
            return _row(plan, _ran(plan, outer, outer))
        with outer.below("sibling") as beside, outer.below("service") as inner:
            sibling = beside.start(("benchmarks.memory_service", "sibling", "-", str(plan.sibling)), {})
            try:
                return _row(plan, _ran(plan, inner, outer))
            finally:
                sibling.kill()
                sibling.communicate()


def _ran(plan: Plan, inside: Box, limited: Box) -> Ran:
    pending = [plan.relimited] if plan.relimited else []

    def meanwhile(since: float) -> None:
        if pending and since >= pending[0][0]:
            limited.limit(pending.pop()[1])

    with tempfile.TemporaryDirectory() as ledger:
        return inside.run(
            ("benchmarks.memory_service", plan.guard, plan.shape, str(plan.calls)),
            {**plan.environment, "MLGUARD_MEMORY_LEDGER": ledger},
            meanwhile=meanwhile,
            watched=limited,
        )


def _row(plan: Plan, ran: Ran) -> Row:
    dots, _, rest = ran.out.partition("\n")
    if not ran.killed and not rest:
        raise RuntimeError(f"{plan.name}: ended with {ran.code} and said {ran.err[-2000:]}")
    told: dict[str, Any] = json.loads(rest) if rest else {}
    ended = told.get("ended", {})
    shed = ended.get("MemoryPressureError", 0)
    workers_killed = ended.get("workers killed", 0)
    served = ended.get("served", dots.count("."))
    failed = sum(ended.values()) - served - shed - workers_killed if told else 0
    return Row(
        name=plan.name,
        calls=plan.calls,
        served=served,
        shed=shed,
        failed=failed,
        killed=ran.killed or workers_killed > 0,
        workers_killed=workers_killed,
        seconds=told.get("seconds"),
        p50=told.get("p50"),
        p99=told.get("p99"),
        peak=ran.peak,
        limit=plan.limit,
        stats=told.get("stats", {}),
        timeline=ran.timeline,
    )


_HEAD = ("", "served", "shed", "failed", "killed", "seconds", "p50", "p99", "peak MiB")


def _cells(row: Row) -> tuple[str, ...]:
    killed = f"{row.workers_killed} of 8" if row.workers_killed else "killed" if row.killed else "no"
    times = ("-" if value is None else f"{value:.2f}" for value in (row.seconds, row.p50, row.p99))
    return (
        row.name,
        f"{row.served} of {row.calls}",
        str(row.shed),
        str(row.failed),
        killed,
        *times,
        str(row.peak // MIB),
    )


def text(rows: Iterable[Row]) -> str:
    """As aligned text."""
    lines = [_HEAD, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return "\n".join(
        (
            line[0].ljust(widths[0])
            + "".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        )
        for line in lines
    )


def markdown(rows: Iterable[Row]) -> str:
    """As a table of Markdown."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|---" * len(_HEAD) + "|"]
    for row in rows:
        cells = _cells(row)
        lines.append("| " + " | ".join(f"**{cell}**" if cell.startswith("killed") else cell for cell in cells) + " |")
    return "\n".join(lines)
