"""Files that follow each other, a folder that stays small, and everything that can happen to either."""

from __future__ import annotations

import contextlib
import gzip
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mlguard.record import Record, packing, segments
from mlguard.record.folder import segments_of
from mlguard.record.packing import hold, pack, pack_abandoned
from mlguard.record.segments import Segments
from tests.record.calls import stored

ROOT = Path(__file__).parents[2]
LINE = b'{"mlguard.call_id":"%06d","pad":"' + b"x" * 300 + b'"}\n'
NOISE = os.urandom(150).hex().encode()


def lines(start: int, count: int) -> list[bytes]:
    return [LINE % number for number in range(start, start + count)]


def numbers(folder: Path) -> list[int]:
    return [int(one["mlguard.call_id"]) for one in stored(folder)]


@pytest.fixture
def small(tmp_path) -> Segments:
    """Segments of 256 KiB in a folder of 1 MiB."""
    return Segments(Record(path=str(tmp_path / "record"), max_bytes="1MiB"))


def test_full_files_are_packed(small, tmp_path) -> None:
    """A file that is full is packed, the next one begins, and names in order are lines in order."""
    for start in range(0, 3_000, 100):
        small.append(lines(start, 100))
    names = [one.path.name for one in segments_of(tmp_path / "record")]
    assert len(names) == 4
    assert [name.endswith(".gz") for name in names] == [True, True, True, False]
    assert numbers(tmp_path / "record") == list(range(3_000))
    assert small.stats() | {"bytes": 0} == {"written": 3_000, "lost": 0, "bytes": 0, "removed": 0, "last_error": None}


def test_the_oldest_go(small, tmp_path) -> None:
    """When the folder is full, the oldest calls make room for the newest, whole files at a time."""
    record = tmp_path / "record"
    for start in range(0, 200_000, 1_000):
        small.append([line.replace(b"x" * 300, os.urandom(150).hex().encode()) for line in lines(start, 50)])
        assert sum(path.stat().st_size for path in record.iterdir()) <= 2**20
    found = numbers(record)
    assert found == sorted(found)
    assert found[-1] == 199_049
    assert len(found) > 1_000
    assert small.stats()["removed"] > 0


def test_many_workers_fill_smaller_files(tmp_path) -> None:
    """Files that are not packed take a quarter of the folder, however many processes there are."""
    record = tmp_path / "record"
    record.mkdir()
    alone = Segments(Record(path=str(tmp_path / "alone"), max_bytes="8MiB"))
    alone.append(lines(0, 4_000))
    assert len(segments_of(tmp_path / "alone")) == 1
    for number in range(6):
        (record / f"calls-{number}.jsonl").write_bytes(b"".join(lines(0, 10)))
    one_of_many = Segments(Record(path=str(record), max_bytes="8MiB"))
    one_of_many.append(lines(0, 4_000))
    assert len([one for one in segments_of(record) if one.path.suffix == ".gz"]) >= 3


def test_other_files_are_left_alone(small, tmp_path) -> None:
    """Nothing but segments is counted or removed."""
    record = tmp_path / "record"
    record.mkdir()
    (record / "notes.txt").write_bytes(b"x" * 2**21)
    (record / "calls-link.jsonl").symlink_to(record / "notes.txt")
    for start in range(0, 20_000, 1_000):
        small.append(lines(start, 1_000))
    assert (record / "notes.txt").stat().st_size == 2**21
    assert (record / "calls-link.jsonl").is_symlink()


def test_what_is_too_old_goes(tmp_path) -> None:
    """max_age removes files last written before it, whatever room there is."""
    record = tmp_path / "record"
    first = Segments(Record(path=str(record)))
    first.append(lines(0, 10))
    (old,) = record.iterdir()
    os.utime(old, (time.time() - 7_200,) * 2)
    Segments(Record(path=str(record))).append(lines(10, 10))
    assert old.exists() or old.with_name(old.name + ".gz").exists()
    Segments(Record(path=str(record), max_age="1h")).append(lines(20, 10))
    assert sorted(numbers(record)) == list(range(10, 30))
    first.append(lines(30, 1))  # its file is gone; it notices
    assert sorted(numbers(record)) == list(range(10, 31))


def size_of(folder: Path) -> int:
    size = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


WRITE_MUCH = """
import os, sys
from mlguard.record import Record
from mlguard.record.segments import Segments
ours = Segments(Record(path=sys.argv[1], max_bytes="4MiB"))
for number in range(int(sys.argv[2])):
    ours.append([b'{"mlguard.call_id":"%06d","who":"%s","pad":"%s"}\\n' % (
        number, sys.argv[3].encode(), os.urandom(150).hex().encode()) for _ in range(25)])
assert ours.stats()["lost"] == 0, ours.stats()
"""


def test_the_bound_holds_over_processes(tmp_path) -> None:
    """Four processes that write as fast as they can never fill the folder beyond its bound, and none loses a line."""
    record = tmp_path / "record"
    record.mkdir()
    workers = [
        subprocess.Popen([sys.executable, "-c", WRITE_MUCH, str(record), "300", f"w{number}"], cwd=ROOT)
        for number in range(4)
    ]
    most = 0
    while any(worker.poll() is None for worker in workers):
        most = max(most, min(size_of(record), size_of(record)))  # a file may be renamed while it is counted
        time.sleep(0.002)
    assert [worker.returncode for worker in workers] == [0, 0, 0, 0]
    assert 2 * 2**20 < most <= 4 * 2**20, most
    assert len({one["who"] for one in stored(record)}) > 1


def test_names_follow_a_clock_that_jumps_back(small, tmp_path, monkeypatch) -> None:
    """A later file sorts after an earlier one, whatever the time of day says meanwhile."""
    now = 1_900_000_000.0
    monkeypatch.setattr(segments.time, "time", lambda: now)
    small.append(lines(0, 900))
    now -= 86_400
    small.append(lines(900, 900))
    small.append(lines(1_800, 900))
    assert numbers(tmp_path / "record") == list(range(2_700))


@pytest.mark.parametrize("what", ["file", "folder", "file with a link"])
def test_what_a_person_removes_begins_anew(small, tmp_path, what: str) -> None:
    """A file or the whole folder that vanishes is made again with the next call, and nothing is raised."""
    record = tmp_path / "record"
    small.append(lines(0, 5))
    for path in record.iterdir():
        if what == "file with a link":  # as a query makes one
            os.link(path, tmp_path / "link")
        path.unlink()
    if what == "folder":
        record.rmdir()
    small.append(lines(5, 5))
    assert numbers(record) == list(range(5, 10))
    assert small.stats()["lost"] == 0


def test_a_folder_that_is_none(tmp_path, monkeypatch) -> None:
    """Where a file stands in the folder's place, calls are counted as lost, with the reason, until it is gone."""
    monkeypatch.setattr(segments, "BACK_OFF", 0.0)
    (tmp_path / "record").write_text("in the way")
    ours = Segments(Record(path=str(tmp_path / "record")))
    ours.append(lines(0, 5))
    assert ours.stats()["lost"] == 5
    assert "FileExistsError" in ours.stats()["last_error"]
    (tmp_path / "record").unlink()
    ours.append(lines(5, 5))
    assert numbers(tmp_path / "record") == list(range(5, 10))


def test_a_refusal_is_not_asked_for_again_at_once(tmp_path, monkeypatch) -> None:
    """After a failed write nothing is tried for a second."""
    now = 100.0
    monkeypatch.setattr(segments.time, "monotonic", lambda: now)
    (tmp_path / "record").write_text("in the way")
    ours = Segments(Record(path=str(tmp_path / "record")))
    ours.append(lines(0, 5))
    (tmp_path / "record").unlink()
    now += 0.9
    ours.append(lines(5, 5))
    assert ours.stats()["lost"] == 10
    now += 0.2
    ours.append(lines(10, 5))
    assert numbers(tmp_path / "record") == list(range(10, 15))


READ_ONLY = """
import os, sys
from mlguard.record import Record, segments
from mlguard.record.segments import Segments
segments.BACK_OFF = 0.0
Segments(Record(path=sys.argv[2])).append([b"{}\\n"])  # imports what there is to import
os.setgid(65534); os.setuid(65534)
ours = Segments(Record(path=sys.argv[1]))
ours.append([b'{"a":1}\\n'])
print(ours.stats()["lost"], ours.stats()["last_error"], flush=True)
sys.stdin.readline()
ours.append([b'{"mlguard.call_id":"000002"}\\n'])
print(ours.stats()["written"], ours.stats()["last_error"])
"""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root, to become somebody else")
def test_a_folder_without_permission() -> None:
    """A folder that may not be written is a reason, not an exception; once it may be, the record goes on."""
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to everybody else
        Path(place).chmod(0o755)
        record = Path(place) / "record"
        record.mkdir(mode=0o755)
        with subprocess.Popen(
            [sys.executable, "-c", READ_ONLY, str(record), str(Path(place) / "other")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        ) as worker:  # fmt: skip
            assert worker.stdout is not None
            said = worker.stdout.readline()
            record.chmod(0o777)
            out, error = worker.communicate("go on\n", timeout=60)
        assert said == "1 PermissionError: Permission denied\n", error
        assert out == "1 PermissionError: Permission denied\n"  # written, and what was the matter before
        assert numbers(record) == [2]


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"needs the right to mount a small file system: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux does")
def test_a_full_disk(tiny_disk, monkeypatch) -> None:
    """On a full disk whole lines stay, the piece of the last one goes, losses are counted; with room it goes on."""
    monkeypatch.setattr(segments, "BACK_OFF", 0.0)
    record = tiny_disk / "record"
    (tiny_disk / "ballast").write_bytes(b"x" * 700_000)
    ours = Segments(Record(path=str(record), max_bytes="64MiB"))
    ours.append(lines(0, 2_000))
    stats = ours.stats()
    assert stats["written"] + stats["lost"] == 2_000
    assert 500 < stats["written"] < 1_200
    assert stats["last_error"] == "OSError: No space left on device"
    (file,) = record.iterdir()
    assert file.read_bytes().endswith(b"\n")
    assert numbers(record) == list(range(stats["written"]))
    ours.append(lines(5_000, 1_000))  # still full
    assert ours.stats()["lost"] >= stats["lost"] + 900
    (tiny_disk / "ballast").unlink()
    ours.append(lines(9_000, 500))
    assert numbers(record)[-500:] == list(range(9_000, 9_500))
    assert ours.stats()["written"] == len(numbers(record))
    ours.close()


@pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux does")
def test_a_disk_too_full_to_pack(tiny_disk) -> None:
    """A segment that can't be packed for want of room stays as it is."""
    path = tiny_disk / "calls-x.jsonl"
    path.write_bytes(b"".join(lines(0, 2_000)))
    (tiny_disk / "ballast").write_bytes(b"x" * (2**20 - path.stat().st_size - 8_192))
    assert not pack(path, bool)
    assert sorted(one.name for one in tiny_disk.iterdir()) == ["ballast", "calls-x.jsonl"]


def test_fsync(tmp_path) -> None:
    """With fsync what is written is as it is without."""
    ours = Segments(Record(path=str(tmp_path / "record"), fsync=True))
    ours.append(lines(0, 100))
    assert numbers(tmp_path / "record") == list(range(100))


def test_packing_says_the_same(tmp_path) -> None:
    """A packed file holds the same bytes, is as old, and as private; what gains nothing stays as it is."""
    path = tmp_path / "calls-a.jsonl"
    path.write_bytes(b"".join(lines(0, 5_000)))
    path.chmod(0o600)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    before = path.read_bytes()
    assert pack(path, bool)
    packed = tmp_path / "calls-a.jsonl.gz"
    assert gzip.decompress(packed.read_bytes()) == before
    assert packed.stat().st_mtime == 1_000_000_000
    assert packed.stat().st_mode & 0o777 == 0o600
    assert packed.stat().st_size < len(before) / 4
    noise = tmp_path / "calls-b.jsonl"
    noise.write_bytes(os.urandom(2**22))
    assert not pack(noise, bool)
    assert not pack(tmp_path / "absent.jsonl", bool)
    assert {one.name for one in tmp_path.iterdir()} == {"calls-a.jsonl.gz", "calls-b.jsonl"}


@pytest.mark.skipif(packing.fcntl is None, reason="needs file locks")
def test_what_a_dead_process_left_is_packed(tmp_path) -> None:
    """A file without an owner is packed by the next process that looks; one that is held, or fresh, is not."""
    old, held, fresh = (tmp_path / f"calls-{name}.jsonl" for name in ("old", "held", "fresh"))
    for path in (old, held, fresh):
        path.write_bytes(b"".join(lines(0, 100)) + b'{"torn')
    for path in (old, held):
        os.utime(path, (time.time() - 600,) * 2)
    part = tmp_path / "calls-older.jsonl.part"
    part.write_bytes(b"half")
    os.utime(part, (time.time() - 7_200,) * 2)
    asked: list[str] = []

    def make_room() -> None:
        asked.extend(path.name for path in tmp_path.glob("*.part"))

    with held.open("rb") as file:
        assert hold(file.fileno())
        assert pack_abandoned(tmp_path, make_room)
        assert not pack_abandoned(tmp_path, make_room)
    assert asked == ["calls-old.jsonl.part"]
    assert {one.name for one in tmp_path.iterdir()} == {"calls-old.jsonl.gz", "calls-held.jsonl", "calls-fresh.jsonl"}
    assert gzip.decompress((tmp_path / "calls-old.jsonl.gz").read_bytes()).endswith(b'{"torn')


def test_a_crash_while_packing_doubles_nothing(tmp_path) -> None:
    """Where both files are there, because the process died in between, packing again ends with the packed one."""
    path = tmp_path / "calls-a.jsonl"
    path.write_bytes(b"".join(lines(0, 100)))
    (tmp_path / "calls-a.jsonl.part").write_bytes(b"half")
    (tmp_path / "calls-a.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert pack(path, bool)
    assert [one.name for one in tmp_path.iterdir()] == ["calls-a.jsonl.gz"]
    assert numbers(tmp_path) == list(range(100))
