"""Proof: five million recorded calls are filtered in less than five seconds on two cores, from a cold page cache.

``python -m benchmarks.proof.query [FOLDER]``: writes the calls through a recorder (minutes, and half a gigabyte), drops
the page cache where that is permitted, and runs `mlguard query` as a person would; exit status 1 where it is too slow.
With a FOLDER the record there is asked, or made where there is none, and kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.recorded_calls import events
from mlguard.record import Record, Recorder

CALLS = 5_000_000
CORES = 2
AT_MOST = 5.0
ROUNDS = 3

_QUESTIONS = {
    "quick filters": "--policy realtime --outcome failure --field patient.features --count",
    "quick filters, the newest 20": "--policy realtime --outcome failure --slow 500ms",
    "the newest 20 of all": "",
    "one call by its id": "--call-id 1b8c50b88e831000000005",
}
_SQL = "SELECT policy, outcome, count(*), avg(duration) FROM calls GROUP BY ALL"


def main() -> int:
    """Writes, asks, prints a table."""
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    folder = given or Path(tempfile.mkdtemp(prefix="mlguard-proof-"))
    try:
        if not folder.exists() or not any(folder.iterdir()):
            _write(folder)
        return _ask(folder)
    finally:
        if given is None:
            shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path) -> None:
    started = time.monotonic()
    recorder = Recorder(Record(path=str(folder), max_bytes="16GiB"))
    for number, event in enumerate(events(CALLS)):
        recorder.put(event)
        if number % 1_000 == 0:
            while recorder.stats()["waiting"] > 5_000:
                time.sleep(0.002)
        if number % 500_000 == 0:
            print(f"{number:,} calls written", file=sys.stderr, flush=True)
    assert recorder.flush(60)
    stats = recorder.stats()
    assert stats["written"] == CALLS, stats
    recorder.close()
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(
        f"{CALLS:,} calls of {stats['bytes'] / CALLS:.0f} bytes a line, {size / CALLS:.0f} bytes a line on disk "
        f"({size / 2**20:,.0f} MiB in {len(list(folder.iterdir()))} files), {time.monotonic() - started:.0f} s to write"
    )


def _ask(folder: Path) -> int:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # and with it what is started from here
    slowest = 0.0
    print(f"{'':32}{'seconds cold':>14}{'processor':>12}")
    for name, words in [*_QUESTIONS.items(), ("SQL: a count and a mean by policy", "")]:
        arguments = ["--sql", _SQL] if name.startswith("SQL") else words.split()
        taken, processor = min(_once(folder, arguments) for _ in range(ROUNDS))
        print(f"{name:32}{taken:12.2f} s{processor:10.2f} s", flush=True)
        if not name.startswith("SQL"):
            slowest = max(slowest, taken)
    print(f"the slowest filter took {slowest:.2f} s; at most {AT_MOST:g} s; load {os.getloadavg()[0]:.1f}")
    return 1 if slowest > AT_MOST else 0


def _once(folder: Path, arguments: list[str]) -> tuple[float, float]:
    _drop_page_cache()
    before = os.times()
    started = time.monotonic()
    command = [sys.executable, "-m", "mlguard.cli", "query", str(folder), *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - our own
    after = os.times()
    processor = after.children_user - before.children_user + after.children_system - before.children_system
    return time.monotonic() - started, processor


def _drop_page_cache() -> None:
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError as error:
        print(f"the page cache is warm: it can't be dropped here ({error.strerror})", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
