"""The example docs/examples/ray_scoring, run as its reader runs it, with a worker killed in the middle."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

MISSING = [name for name in ("ray", "sklearn", "pyarrow") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.timeout(300),
]

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "ray_scoring"
ROWS, BATCH = 6000, 100
PATIENCE = 140


@pytest.fixture
def home() -> Iterator[Path]:
    """Where this run's Ray lives: paths of its sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def start(home: Path, redis_url: str, out: Path, journal: Path) -> subprocess.Popen[str]:
    journal.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLGUARD", "RAY"))}
    return subprocess.Popen(
        [
            sys.executable, EXAMPLE / "score.py", f"--rows={ROWS}", f"--cache={redis_url}?timeout=5s",
            f"--out={out}", f"--journal={journal}",
        ],
        env={
            **clean,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_TMPDIR": str(home),
            "MLGUARD_MEMORY_LEDGER": str(home),
        },
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


def executions(journal: Path) -> dict[int, list[list[int]]]:
    """The rows of each run of the model, by process."""
    return {
        int(file.stem): [list(map(int, line.split())) for line in file.read_text().splitlines(keepends=True)]
        for file in journal.glob("*.txt")
    }


def killed_midway(process: subprocess.Popen[str], journal: Path) -> int:
    """Kills the first worker that is well into its second task; the process id it had."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        for pid, runs in executions(journal).items():
            if len(runs) >= 15:
                os.kill(pid, signal.SIGKILL)
                return pid
        time.sleep(0.005)
    raise AssertionError(f"no worker got far enough:\n{process.communicate()[0]}")


def test_each_row_once_although_a_worker_is_killed(home: Path, redis_url: str, tmp_path: Path) -> None:
    """kill -9 in the middle: every row is in the output once, and nothing but a batch in flight is computed twice."""
    from pyarrow import parquet
    from sklearn.datasets import load_digits

    out, journal = tmp_path / "out", tmp_path / "journal"
    process = start(home, redis_url, out, journal)
    try:
        killed = killed_midway(process, journal)
        said, _ = process.communicate(timeout=PATIENCE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()
    assert process.returncode == 0, said

    rows = sorted((row["row"], row["digit"]) for row in parquet.read_table(out).to_pylist())
    assert [row for row, _ in rows] == list(range(ROWS))
    digits = load_digits(return_X_y=True)[1]
    assert sum(digit == digits[row % len(digits)] for row, digit in rows) == ROWS  # it scores what it was trained on

    runs = executions(journal)
    counts = Counter(row for batches in runs.values() for batch in batches for row in batch)
    again = [row for row, count in counts.items() if count > 1]
    assert set(counts) == set(range(ROWS))
    assert max(counts.values()) <= 2
    assert len(again) <= BATCH, f"{len(again)} rows were computed twice"
    assert set(again) <= set(runs[killed][-1]), "more than the batch in flight was computed again"
    assert len(runs) >= 2, "nobody took over"
