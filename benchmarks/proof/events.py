"""Ten million calls that are logged, written in the background and recorded: the memory stays flat.

``python -m benchmarks.proof.events [CALLS]``: about ten minutes for ten million; exit status 1 where memory grew or a
count is wrong. The log goes to /dev/null, the record to a folder that is bounded and removed at the end.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import tempfile
import time
from dataclasses import dataclass

import psutil
import structlog

from benchmarks import lines
from mlguard import Monitor, guarded
from mlguard.monitor import sink
from mlguard.record import Record, recorder_for

__all__ = ["Run", "main", "run"]

MOST_GROWTH = 16 * 1024**2
"""Bytes by which the process may grow after its first tenth: what allocators and full queues take, and no more."""

_MIX = 20  # of so many calls one fails
_STEPS = 10


@dataclass
class Run:
    """What came of it."""

    calls: int
    seconds: float
    resident: list[int]
    """Bytes, after every tenth of the calls."""
    written: int
    dropped: int

    @property
    def growth(self) -> int:
        """From the first tenth to the largest later value."""
        return max(self.resident[1:]) - self.resident[0]


def run(calls: int, folder: str) -> Run:
    """Calls that log, half of them in the background, and that are recorded; one in twenty fails.

    Args:
        calls: How many.
        folder: For the record.
    """
    record = Record(path=folder, max_bytes="64MiB", segment_bytes="4MiB")

    @guarded(monitor=Monitor(record=record))
    def at_once(x: float, rows: list[float]) -> float:
        if x % _MIX == 0:
            raise LookupError(f"nothing for {x}")
        return x

    @guarded(monitor=Monitor(log="background", record=record))
    def later(x: float, rows: list[float]) -> float:
        return x

    process = psutil.Process()
    resident = []
    rows = [0.5] * 8
    started = time.monotonic()
    for step in range(_STEPS):
        for number in range(step * calls // _STEPS, (step + 1) * calls // _STEPS):
            with contextlib.suppress(LookupError):
                (at_once if number % 2 == 0 else later)(float(number), rows)
        gc.collect()
        resident.append(process.memory_info().rss)
    recorder = recorder_for(record)
    background = later.guard.stats()["monitor"]["log"]
    sink.flush()
    recorder.flush()
    stats = recorder.stats()
    seen = at_once.guard.stats()["monitor"]["calls"], later.guard.stats()["monitor"]["calls"]
    counted = sum(sum(each.values()) for each in seen)
    if counted != calls:
        raise AssertionError(f"{counted} of {calls} calls were counted")
    if stats["written"] + stats["dropped"] != calls:
        raise AssertionError(f"the record knows of {stats['written']} + {stats['dropped']} calls, not {calls}")
    return Run(calls, time.monotonic() - started, resident, stats["written"], stats["dropped"] + background["dropped"])


def main() -> int:
    """Prints the memory after every tenth."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    lines.configure()
    with tempfile.TemporaryDirectory(prefix="mlguard-events-") as folder:
        done = run(calls, folder)
    structlog.reset_defaults()
    for step, resident in enumerate(done.resident, start=1):
        print(f"{step * calls // _STEPS:12,} calls  {resident / 1024**2:7.1f} MiB")
    print(f"{done.seconds:.0f} s; {done.written:,} records written, {done.dropped:,} records and lines dropped")
    if done.growth > MOST_GROWTH:
        print(f"BROKEN: the process grew by {done.growth / 1024**2:.1f} MiB")
        return 1
    print(f"grew by {done.growth / 1024**2:.1f} MiB after the first tenth, of {MOST_GROWTH / 1024**2:.0f} allowed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
