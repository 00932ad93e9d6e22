"""kill -9 at random moments: what was written before it can be read, and what was torn is counted."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlguard.record import open_calls

WRITER = """
import sys
from mlguard.record import Record, recorder_for
from tests.record.calls import event
one = recorder_for(Record(path=sys.argv[1], max_bytes="64MiB", segment_bytes="256KiB", max_waiting=100_000))
number = 0
while True:
    for _ in range(50):
        one.put(event(number, pad="x" * 200))
        number += 1
    assert one.flush(30)
    print(number, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_killed_at_random_moments(tmp_path) -> None:
    """Every call that was flushed before the kill is there once, whatever the writer was at, packing included."""
    random_moments = random.Random(11)
    for _ in range(6):
        record = tmp_path / f"record{random_moments.random()}"
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(record)],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        ) as worker:  # fmt: skip
            assert worker.stdout is not None
            said = worker.stdout.readline()
            time.sleep(random_moments.uniform(0.0, 0.6))  # the random moment
            worker.kill()
            said += worker.stdout.read()
        flushed = max(int(line) for line in said.split("\n")[:-1])  # the last line may be torn as well
        with open_calls(record) as calls:
            ((found, different),) = calls.sql("SELECT count(*), count(DISTINCT call_id) FROM calls").rows
            assert found == different >= flushed
            ((missing,),) = calls.sql(
                "SELECT count(*) FROM range(?) AS n(number) "
                "WHERE printf('id%06d', number) NOT IN (SELECT call_id FROM calls)",
                [flushed],
            ).rows
            assert missing == 0
            assert calls.damage().lines <= 1
