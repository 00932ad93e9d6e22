"""The file of the container's ledger: whatever is wrong with it, calls go on, and somebody is told how to mend it."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from mlguard import clock
from mlguard.memory import Memory, MemoryGuard, levels, locks, shared_file
from mlguard.memory.container import ContainerLedger
from mlguard.memory.line import ThreadWaiter
from mlguard.memory.shared_file import BusyError, GoneError, SharedFile, UnusableError
from mlguard.target import Target

MIB = 1 << 20
GROUP = "a container"


def predict(batch=None):
    return batch


@pytest.fixture
def path():
    """Where the file will be; nothing is there yet."""
    return shared_file.path_for(GROUP)


@pytest.fixture
def one():
    ledger = ContainerLedger(SimpleNamespace(group=GROUP))
    yield ledger
    ledger.renew()


@pytest.fixture
def other():
    """The ledger of another process of the same container."""
    ledger = ContainerLedger(SimpleNamespace(group=GROUP))
    yield ledger
    ledger.renew()


def served(ledger, gauge, need=2):
    """The guard of one call that was served, with what was logged."""
    guard = MemoryGuard(Target(predict), Memory(), need=need * MIB, gauge=gauge, ledger=ledger)
    names = guard.names(asynchronous=False)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            claim = names["memory_enter"]((), {})
            assert claim.need == need * MIB
            names["memory_exit"](claim)
    return guard, logs


def falls_back(ledger, gauge, says):
    """Calls are served by this process's own count, which is visible, counted, and warned of once with the fix."""
    guard, logs = served(ledger, gauge)
    assert [(entry["event"], entry["action"]) for entry in logs] == [
        ("mlguard.memory.ledger", "promises count per process")
    ]
    assert says in logs[0]["reason"]
    assert "Fix: " in logs[0]["reason"]
    stats = guard.stats()
    assert (stats["scope"], stats["file"], stats["failures"]) == ("process", None, 1)
    assert stats["trouble"] == logs[0]["reason"]
    assert stats["trouble"] in guard.explain()[2]


def test_a_file_of_our_own(one, gauge, path):
    """The file is made at the first call that needs much, readable and writable by its owner alone."""
    guard, logs = served(one, gauge)
    assert logs == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    stats = guard.stats()
    assert (stats["scope"], stats["file"], stats["processes"], stats["trouble"]) == ("container", str(path), 1, None)
    assert str(path) in guard.explain()[2]


@pytest.mark.parametrize("content", [b"not a ledger", b"x" * 640, b"\0" * 1000, b"mlguard1" + b"\0" * 575])
def test_a_file_of_somebody_else(one, gauge, path, content):
    """A file that is no ledger is left as it is."""
    path.write_bytes(content)
    path.chmod(0o600)
    falls_back(one, gauge, "is not a ledger of mlguard")
    assert path.read_bytes() == content


def test_a_file_that_is_spoilt_while_in_use(one, other, gauge, path):
    """Absurd numbers in the slot of another process are no promises of that many bytes."""
    claim = other.reserve(5 * MIB, gauge, 1.0).claim
    with open(path, "r+b") as file:
        file.seek(other._file._at + 8)
        file.write(b"\xff" * 8)
    falls_back(one, gauge, "is not a ledger of mlguard")
    claim.release()


def test_a_file_that_others_may_write(one, gauge, path):
    """A file that others may write to, or that belongs to somebody else, is not trusted."""
    path.touch(0o666)
    path.chmod(0o666)
    falls_back(one, gauge, "is not a file that this user, and nobody else, may read and write")


def test_a_file_of_another_user(one, gauge, path):
    """The file of another user's processes is not used, not even by root, who could."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a file of another user's")
    path.touch(0o600)
    os.chown(path, 12345, 12345)
    falls_back(one, gauge, "is not a file that this user")


def test_other_users_keep_books_of_their_own(one, gauge, path):
    """Processes of another user in the same container have another file, and explain() and stats() say so."""
    path.with_name(path.name.rpartition("-")[0] + "-12345").touch()
    path.with_name(path.name.rpartition("-")[0] + "-x").touch()
    guard, logs = served(one, gauge)
    assert logs == []
    assert guard.stats()["other_users"] == [12345]
    assert "Processes of other users (user id 12345) keep books of their own." in guard.explain()[2]


def test_a_link_is_not_followed(one, gauge, path, tmp_path):
    """A link in a folder that anybody may write to could point anywhere."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    path.symlink_to(victim)
    falls_back(one, gauge, "Too many levels of symbolic links")
    assert victim.read_bytes() == b""


def test_a_pipe_does_not_block(one, gauge, path):
    """A pipe in its place is refused, and nobody waits for its other end."""
    os.mkfifo(path, 0o600)
    falls_back(one, gauge, f"{path} is not a file")


def test_a_folder_that_is_not_there(one, gauge, monkeypatch):
    """A folder named by the environment that does not exist is said to be the problem."""
    monkeypatch.setenv(shared_file.FOLDER_VARIABLE, "/no/such/folder")
    falls_back(one, gauge, "MLGUARD_MEMORY_LEDGER = /no/such/folder is no folder")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_file_that_can_t_be_opened(one, gauge, monkeypatch, number):
    """A read-only file system, a forbidden folder, a full disk."""

    def refused(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(shared_file.os, "open", refused)
    falls_back(one, gauge, os.strerror(number))


def test_a_disk_that_is_full_later(one, gauge, monkeypatch):
    """A file that can no longer be written is given up, slot and all, so that nobody counts what may be old."""
    claim = one.reserve(5 * MIB, gauge, 1.0).claim
    real = os.pwrite

    def full(fd, data, at):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shared_file.os, "pwrite", full)
    falls_back(one, gauge, "No space left on device. Fix: name a folder")
    monkeypatch.setattr(shared_file.os, "pwrite", real)
    assert one.reserved == 5 * MIB
    claim.release()
    assert one.reserved == 0


def test_it_is_tried_again(one, gauge, path, time_stands_still):
    """A file that was mended is used again within seconds, with what was promised meanwhile."""
    path.write_bytes(b"not a ledger")
    path.chmod(0o600)
    held = one.reserve(7 * MIB, gauge, 1.0).claim
    assert one.state()["scope"] == "process"
    path.unlink()
    time_stands_still.now += 4.9
    assert one.reserve(MIB, gauge, 1.0).claim
    assert not path.exists()
    time_stands_still.now += 0.2
    more = one.reserve(MIB, gauge, 1.0).claim
    assert (one.state()["scope"], one.trouble) == ("container", None)
    late = ContainerLedger(SimpleNamespace(group=GROUP))
    assert late.reserve(MIB, gauge, 1.0).reserved == 9 * MIB
    late.renew()
    for claim in (held, more):
        claim.release()


def test_a_container_that_can_t_be_told_apart(gauge):
    """Where /proc says nothing, promises count per process."""
    falls_back(ContainerLedger(SimpleNamespace(group=None)), gauge, "nothing tells this container from others")


def test_platforms_without_such_locks_say_so(gauge, monkeypatch):
    """On macOS and Windows promises count per process: told by explain() and stats(), without a warning."""
    monkeypatch.setattr("mlguard.memory.container.UNAVAILABLE", "sharing them needs 64-bit Linux.")
    guard, logs = served(ContainerLedger(SimpleNamespace(group=GROUP)), gauge)
    assert logs == []
    assert guard.stats()["trouble"] == "sharing them needs 64-bit Linux."
    assert guard.explain()[2].endswith("not those of other processes: sharing them needs 64-bit Linux.")


def test_a_deleted_file_is_made_anew(one, other, gauge, path):
    """Whoever finds the file deleted makes it anew and writes down what it promised; nobody is warned."""
    first = one.reserve(5 * MIB, gauge, 1.0).claim
    path.unlink()
    second = one.reserve(5 * MIB, gauge, 1.0).claim
    assert other.reserve(MIB, gauge, 1.0).reserved == 10 * MIB
    assert (one.failures, other.failures) == (0, 0)
    path.unlink()
    first.release()
    assert other.reserve(MIB, gauge, 1.0).reserved == 6 * MIB
    second.release()


def test_an_emptied_file_fills_again(one, other, gauge, path):
    """A file that somebody truncated crashes nobody, and each process writes its slot again at its next call."""
    first = one.reserve(5 * MIB, gauge, 1.0).claim
    os.truncate(path, 0)
    assert other.reserve(MIB, gauge, 1.0).claim
    assert one.reserve(2 * MIB, gauge, 1.0).reserved == 6 * MIB
    assert other.reserve(MIB, gauge, 1.0).reserved == 8 * MIB
    first.release()


def test_a_descriptor_closed_by_somebody_else(one, gauge, tmp_path):
    """A daemon that closes every descriptor costs the slot, not the call; the file that took its number is spared."""
    one.reserve(5 * MIB, gauge, 1.0)
    number = one._file._fd
    os.close(number)
    victim = os.open(tmp_path / "victim", os.O_RDWR | os.O_CREAT)
    assert victim == number
    claim = one.reserve(MIB, gauge, 1.0).claim
    assert one.state()["scope"] == "container"
    assert os.fstat(victim).st_size == 0
    os.close(victim)
    os.close(one._file._fd)  # and nothing in its place
    claim.release()
    assert one.reserved == 5 * MIB
    assert one.failures == 0


def test_a_lock_that_is_held_too_long(one, gauge, path, time_stands_still):
    """Who can't have the lock waits for it as for memory; after three seconds it goes on without, and says so."""
    holder = SharedFile(path)
    holder.lock()
    look = one.reserve(MIB, gauge, 1.0)
    assert look.claim is None
    assert (look.room, one.failures) == (1000 * MIB, 0)
    time_stands_still.now += 2.9
    assert one.reserve(MIB, gauge, 1.0).claim is None
    time_stands_still.now += 0.2
    assert one.reserve(MIB, gauge, 1.0).claim
    assert "Fix: look for a stopped process" in one.trouble
    holder.unlock()
    time_stands_still.now += 5
    assert one.reserve(MIB, gauge, 1.0).claim
    assert one.trouble is None
    holder.lock()
    assert one.reserve(MIB, gauge, 1.0).claim is None  # it has a slot by now
    holder.unlock()
    assert one.reserve(MIB, gauge, 1.0).claim
    holder.close()


def test_bytes_come_back_without_the_lock(one, other, gauge, path):
    """A call that ends gives its bytes back even while another process holds the lock."""
    claim = one.reserve(5 * MIB, gauge, 1.0).claim
    holder = SharedFile(path)
    holder.lock()
    claim.release()
    holder.unlock()
    assert other.reserve(MIB, gauge, 1.0).reserved == 0
    holder.close()


def test_a_release_before_there_is_a_slot(one, gauge, path):
    """A call that went on regardless, while the file could not be opened, ends quietly."""
    holder = SharedFile(path)
    holder.lock()
    claim = one.promise(5)
    assert "Promises to calls of this process count, but not" in one.explain()
    claim.release()
    holder.close()
    assert one.reserved == 0


def test_what_goes_on_regardless_is_written_down(one, other, gauge):
    """A promise that was not asked for, as on_pressure="log" makes, counts for other processes as well."""
    claim = one.promise(5 * MIB)
    assert other.reserve(MIB, gauge, 1.0).reserved == 5 * MIB
    claim.release()
    assert other.reserved == MIB


def test_files_of_containers_that_are_gone_are_removed(one, gauge, path):
    """Who makes a new file deletes old ones that no process has a slot in, and no others."""
    kept = SharedFile(path.with_name("mlguard-memory-1-kept"))
    kept.lock()
    kept.unlock()
    gone, young, foreign = (path.with_name(f"mlguard-memory-1-{end}") for end in ("gone", "young", "foreign"))
    for file in (gone, young, foreign):
        file.touch(0o600)
    long_ago = time.time() - 100
    for file in (kept.path, gone, foreign):
        os.utime(file, (long_ago, long_ago))
    if os.geteuid() == 0:
        os.chown(foreign, 12345, 12345)
    served(one, gauge)
    assert kept.path.exists()
    assert young.exists()
    assert not gone.exists()
    assert foreign.exists() == (os.geteuid() == 0)
    kept.close()


def test_more_processes_than_slots(gauge, path, monkeypatch):
    """The process that finds no slot counts for itself."""
    monkeypatch.setattr(shared_file, "_MOST_BYTES", shared_file._HEADER + 2 * 64)
    files = [SharedFile(path), SharedFile(path)]
    late = ContainerLedger(SimpleNamespace(group=GROUP))
    assert late.reserve(MIB, gauge, 1.0).claim
    assert "has no room for more than" in late.trouble
    for file in files:
        file.close()


def test_where_the_file_is(monkeypatch, tmp_path):
    """In /dev/shm, in the folder for temporary files where that can't be written, or where the environment says."""
    assert shared_file.path_for("x").parent == Path(os.environ[shared_file.FOLDER_VARIABLE])
    monkeypatch.delenv(shared_file.FOLDER_VARIABLE)
    writable = os.access("/dev/shm", os.W_OK)
    assert (str(shared_file.path_for("x").parent) == "/dev/shm") == writable
    monkeypatch.setattr(shared_file.os, "access", lambda *_: False)
    monkeypatch.setattr(shared_file.tempfile, "gettempdir", lambda: str(tmp_path))
    assert shared_file.path_for("x").parent == tmp_path
    assert shared_file.path_for("x") != shared_file.path_for("y")


def test_files_say_what_happened(path):
    """A file that was deleted is told from one that is locked, and from one that is none."""
    file = SharedFile(path)
    path.unlink()
    with pytest.raises(GoneError):
        file.lock()
    file.close()
    file = SharedFile(path)
    file.lock()
    with pytest.raises(BusyError):
        SharedFile(path)
    file.close()
    path.write_bytes(b"?")
    with pytest.raises(UnusableError):
        SharedFile(path)


def test_a_lock_the_kernel_refuses(path, monkeypatch, one, gauge):
    """A file system without such locks is a reason to count per process."""

    def refused(*_args):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(locks.fcntl, "fcntl", refused)
    falls_back(one, gauge, "Invalid argument. Fix: ")


def test_who_waits_is_on_file(one, path):
    """What is written down is what is read again: times, needs and shares included."""
    file, reader = SharedFile(path), SharedFile(path)
    now = clock.now()
    books = shared_file.Books(passed=(now, 5))
    books.levels[7] = levels.Level(1, 2, now)
    mine = shared_file.Mine(11, 12, now, 13, now, 0.85)
    file.lock()
    file.write(books, mine)
    file.unlock()
    read = reader.read()
    assert (read.promised, read.ended, read.processes) == (11, 12, 1)
    assert read.levels[7][:2] == (1, 2)
    assert read.passed == (pytest.approx(now), 5)
    (waiting, looked) = read.waiting[0]
    assert waiting == pytest.approx((now, 13, 0.85))
    assert looked == pytest.approx(now)
    assert not file.read().promised
    for each in (file, reader):
        each.close()


def test_a_waiting_call_that_can_t_be_written_down(one, gauge):
    """Negative times and endless needs of odd clocks and callers are cut, and crash nobody."""
    waiter = ThreadWaiter(1 << 70, 1.0)
    waiter.since, waiter.looked = -5.0, -5.0
    one.line.join(waiter)
    assert one.reserve(1 << 70, gauge, 1.0, waiter).permanent
    one.leave(waiter)
    assert one.trouble is None


def test_a_file_that_is_deleted_all_the_time(one, gauge, path, monkeypatch):
    """Where the file is gone again whenever it was made anew, the call is counted here, and served."""
    real = SharedFile._check

    def gone(file, *, deleted=False):
        if deleted:
            return real(file, deleted=True)
        raise GoneError

    one.reserve(MIB, gauge, 1.0)
    monkeypatch.setattr(SharedFile, "_check", gone)
    claim = one.reserve(MIB, gauge, 1.0).claim
    assert claim
    claim.release()
    assert one.reserved_here == MIB


def test_a_file_that_can_t_be_written_when_a_call_ends(one, gauge, monkeypatch):
    """A call that ends while the disk is full ends quietly; the slot is given up, so that its bytes come back."""
    claim = one.reserve(5 * MIB, gauge, 1.0).claim

    def full(fd, data, at):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shared_file.os, "pwrite", full)
    claim.release()
    assert (one.reserved, one.failures) == (0, 1)
    assert "No space left on device" in one.trouble


def test_stats_of_a_file_that_was_spoilt(one, gauge, path):
    """stats() and explain() of a ledger whose file was spoilt meanwhile fail nobody."""
    claim = one.reserve(5 * MIB, gauge, 1.0).claim
    path.write_bytes(b"?")
    assert one.reserved == 5 * MIB
    assert one.state()["processes"] == 1
    claim.release()


def test_a_level_too_many(path):
    """The file has room for the bases of sixteen levels; the latest are kept."""
    file = SharedFile(path)
    books = shared_file.Books()
    for key in range(1, 30):
        books.levels[key] = levels.Level(key, 0, 0.0)
    file.lock()
    file.write(books, shared_file.Mine(1, 0))
    file.unlock()
    assert list(file.read().levels) == list(range(14, 30))
    file.close()


def test_numbers_of_an_odd_probe(one, a_host, monkeypatch, gauge):
    """A probe that reads negative or endless numbers spoils neither the file nor the call."""
    monkeypatch.setattr(gauge, "readings", lambda: [a_host(-5, 1 << 80).read()])
    claim = one.reserve(1 << 70, gauge, 1.0).claim
    claim.release()
    assert one.trouble is None


@pytest.mark.parametrize("instead", ["nothing", "a link", "a folder", "a file"])
def test_a_file_that_is_moved_away(one, other, gauge, path, tmp_path, instead):
    """Whoever moves the file away, or puts something else in its place, does not part old processes from new ones."""
    served(one, gauge)
    os.rename(path, tmp_path / "elsewhere")
    if instead == "a link":
        path.symlink_to(tmp_path / "elsewhere")
    elif instead == "a folder":
        path.mkdir()
    elif instead == "a file":
        path.write_bytes(b"garbage")
        path.chmod(0o600)
    time.sleep(0.11)  # it is looked at ten times a second
    if instead == "nothing":
        served(one, gauge)
        claim = one.promise(5 * MIB)
        assert other.reserve(MIB, gauge, 1.0).reserved == 5 * MIB
        claim.release()
    else:
        falls_back(one, gauge, str(path))
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
