"""What becomes of events on their way into a folder."""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlguard.record import Record, Recorder, recorder_for
from tests.record.calls import event, stored


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A Python of its own, from the folder of the tests."""
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True, cwd=Path(__file__).parents[2])


def test_calls_come_back(recorder, tmp_path) -> None:
    """What is put is a line of JSON, with the time first, in a file that only its owner may read."""
    one = recorder()
    for number in range(1_200):
        one.put(event(number, text="Grüße\n\x1b[31m"))
    assert one.flush()
    found = stored(tmp_path / "record")
    assert [each["mlguard.call_id"] for each in found] == [f"id{number:06d}" for number in range(1_200)]
    assert next(iter(found[0])) == "timestamp"
    assert found[0]["timestamp"] <= found[-1]["timestamp"]
    assert found[0]["timestamp"].endswith("Z")
    assert found[7] == {"timestamp": found[7]["timestamp"], **event(7, text="Grüße\n\x1b[31m")}
    (file,) = (tmp_path / "record").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "record").stat().st_mode) == 0o700
    assert one.stats() == {
        "written": 1_200, "dropped": 0, "waiting": 0, "bytes": file.stat().st_size, "removed": 0, "last_error": None,
    }  # fmt: skip


def test_an_event_keeps_its_own_time(recorder, tmp_path) -> None:
    """A timestamp that is there already stays."""
    one = recorder()
    one.put(event(timestamp="2026-01-01T00:00:00Z"))
    assert one.flush()
    assert stored(tmp_path / "record")[0]["timestamp"] == "2026-01-01T00:00:00Z"


def test_a_full_queue_drops_and_counts(recorder, monkeypatch) -> None:
    """When the disk hangs, a call goes on at once, and what finds no room is counted."""
    one: Recorder = recorder(max_waiting=10)
    hangs, goes_on = threading.Event(), threading.Event()
    append = one._segments.append

    def hanging(lines: list[bytes]) -> None:
        hangs.set()
        assert goes_on.wait(30)
        append(lines)

    monkeypatch.setattr(one._segments, "append", hanging)
    one.put(event(0))
    assert hangs.wait(30)
    for number in range(1, 31):
        one.put(event(number))
    assert not one.flush(0.01)
    assert one.stats()["dropped"] == 20
    assert one.stats()["waiting"] >= 10
    goes_on.set()
    assert one.flush()
    assert one.stats()["written"] == 11


def test_threads_share_one(recorder, tmp_path) -> None:
    """Calls of many threads lose nothing and break no line."""
    one = recorder()
    threads = [
        threading.Thread(target=lambda start=start: [one.put(event(start + number)) for number in range(200)])
        for start in range(0, 1_600, 200)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one.flush()
    assert {each["mlguard.call_id"] for each in stored(tmp_path / "record")} == {f"id{n:06d}" for n in range(1_600)}


def test_one_recorder_for_equal_settings(tmp_path) -> None:
    """Functions with the same Record share its recorder, also after pickling; other settings have another."""
    path = str(tmp_path / "record")
    one = recorder_for(Record(path=path))
    assert recorder_for(Record(path=path)) is one
    assert pickle.loads(pickle.dumps(one)) is one
    assert recorder_for(Record(path=path, max_bytes="2GiB")) is not one


def test_the_end_of_a_process_writes_what_waits(tmp_path) -> None:
    """A process that ends on its own loses no call."""
    run(
        "import sys\n"
        "from mlguard.record import Record, recorder_for\n"
        "from tests.record.calls import event\n"
        "for number in range(500): recorder_for(Record(path=sys.argv[1])).put(event(number))\n",
        tmp_path / "record",
    )
    assert len(stored(tmp_path / "record")) == 500


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_writes_a_file_of_its_own(tmp_path) -> None:
    """After a fork parent and child both go on, in files of their own, and count for themselves."""
    done = run(
        "import os, sys\n"
        "from mlguard.record import Record, recorder_for\n"
        "from tests.record.calls import event\n"
        "one = recorder_for(Record(path=sys.argv[1]))\n"
        "[one.put(event(number)) for number in range(100)]\n"
        "assert one.flush()\n"
        "if not (child := os.fork()):\n"
        "    [one.put(event(number)) for number in range(1_000, 1_050)]\n"
        "    assert one.flush()\n"
        "    print(one.stats()['written'], flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "[one.put(event(number)) for number in range(100, 200)]\n"
        "assert one.flush()\n"
        "print(one.stats()['written'])\n",
        tmp_path / "record",
    )
    assert done.stdout.split() == ["50", "200"]
    assert len(list((tmp_path / "record").iterdir())) == 2
    expected = {f"id{number:06d}" for number in [*range(200), *range(1_000, 1_050)]}
    assert {each["mlguard.call_id"] for each in stored(tmp_path / "record")} == expected
    assert len(stored(tmp_path / "record")) == 250


def test_nothing_starts_before_the_first_call(tmp_path) -> None:
    """A recorder that nobody uses has no thread, no folder and no file."""
    before = threading.active_count()
    recorder_for(Record(path=str(tmp_path / "unused")))
    assert threading.active_count() == before
    assert not (tmp_path / "unused").exists()
