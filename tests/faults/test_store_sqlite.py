"""One SQLite file under real processes: killed at random moments, forked, locked, full, damaged, replaced."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from mlguard.cache.stores import Item, Label, StoreError, open_store
from mlguard.cache.stores.sqlite import SqliteStore

LABEL = Label("f", "1", "t")


@pytest.fixture
def store(tmp_path):
    """`store(options, **bounds)` is a store of its own in a file they all share."""

    def open_(options="", **bounds):
        bounds = {"max_entries": 10_000, "max_bytes": 64 << 20, **bounds}
        return SqliteStore(f"sqlite:///{tmp_path}/cache.db{options}", **bounds)

    open_.path = tmp_path / "cache.db"
    return open_


def key(number=None):
    return os.urandom(32) if number is None else b"%032d" % number


def reason_of(call):
    try:
        call()
    except StoreError as error:
        return error.reason
    return "ok"


WORKER = """
import os, random, sys
from mlguard.cache.stores import Item, Label, StoreError, open_store
store = open_store(sys.argv[1] + "?timeout=2s", max_entries=500, max_bytes=2 << 20)
numbers = random.Random(int(sys.argv[2]))
print("ready", flush=True)
while True:
    keys = [b"%032d" % numbers.randrange(300) for _ in range(numbers.randrange(1, 20))]
    for key, found in zip(keys, store.get_many(keys)):
        if found is not None and found.payload != key * (len(found.payload) // 32):
            print("wrong value", flush=True)
            sys.exit(3)
    store.put_many([Item(key, key * numbers.randrange(1, 400), numbers.choice([None, 0.05, 60])) for key in keys],
                   Label("f", str(numbers.randrange(3)), ""))
    token = store.lease(keys[0], 0.3)
    if token and numbers.random() < 0.5:
        store.release(keys[0], token)
    if numbers.random() < 0.05:
        store.discard(model_version="1")
"""


def test_kill_9_at_random_moments(store):
    """Processes killed while they read, write, evict and lease leave a whole file, right values and no stuck lease."""
    url, numbers = f"sqlite:///{store.path}", random.Random(7)
    workers = []

    def start(seed):
        worker = subprocess.Popen([sys.executable, "-c", WORKER, url, str(seed)], stdout=subprocess.PIPE, text=True)
        workers.append(worker)
        return worker

    running = [start(0), start(1)]  # both make the file, at the same time
    for worker in running:
        assert worker.stdout.readline() == "ready\n"
    for turn in range(5):
        time.sleep(numbers.uniform(0.02, 0.25))
        victim = running.pop(0)
        assert victim.poll() is None
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        assert victim.stdout.read() == ""
        running.append(start(turn + 2))
        assert running[-1].stdout.readline() == "ready\n"
    for worker in running:
        worker.kill()
        worker.wait()
    for worker in workers:
        worker.stdout.close()
    mine = store()
    with contextlib.closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = connection.execute("SELECT count(*) FROM entries").fetchone()[0]
        assert connection.execute("SELECT entries FROM totals").fetchone()[0] == rows <= 500
    for name, found in zip(map(key, range(300)), mine.get_many([key(n) for n in range(300)]), strict=True):
        assert found is None or found.payload == name * (len(found.payload) // 32)
    time.sleep(0.35)
    tokens = [mine.lease(key(number), 60) for number in range(300)]
    assert None not in tokens  # what the dead had leased has run out


def test_a_writer_that_never_ends_delays_nobody_beyond_the_timeout(store):
    """While another process holds the file, readers read, and writers fail as "busy" in time, then at once."""
    mine, name = store("?timeout=60ms"), key()
    mine.put_many([Item(name, b"x", None)], LABEL)
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        assert reason_of(lambda: mine.put_many([Item(name, b"y", None)], LABEL)) == "busy"
        assert 0.05 < time.monotonic() - started < 0.8
        started = time.monotonic()
        assert {reason_of(lambda: mine.lease(name, 1)) for _ in range(100)} <= {"backing_off", "busy"}
        assert mine.get_many([name])[0].payload == b"x"
        assert time.monotonic() - started < 0.5
        other.execute("ROLLBACK")
    time.sleep(0.6)
    mine.put_many([Item(name, b"y", None)], LABEL)
    assert mine.get_many([name])[0].payload == b"y"


def test_bounds_hold(store):
    """Entries and bytes of the file stay within their bounds, and what was used lately stays."""
    mine = store(max_bytes=2 << 20, max_entries=300)
    kept = key()
    mine.put_many([Item(kept, b"k" * 100, None)], LABEL)
    for _ in range(60):
        with contextlib.closing(sqlite3.connect(store.path)) as connection:
            connection.execute("UPDATE entries SET used = used - 2")  # as if two seconds had passed
            connection.commit()
        assert mine.get_many([kept])[0] is not None
        mine.put_many([Item(key(), os.urandom(random.randrange(50_000)), None) for _ in range(5)], LABEL)
        assert store.path.stat().st_size <= 1.05 * (2 << 20)
    info = mine.info()
    assert info.bytes <= 2 << 20
    assert info.bytes > 1 << 20
    small = store(max_bytes=2 << 20, max_entries=100)
    small.put_many([Item(key(), b"x", None) for _ in range(250)], LABEL)
    assert small.info().entries <= 100
    for path in store.path.parent.iterdir():
        assert path.stat().st_size < 2.5 * (1 << 20)


def test_what_is_too_large_is_left_out(store):
    """An entry larger than the file may be drops nothing else; the largest that is offered fits."""
    mine = store(max_bytes=1 << 20)
    name, large = key(), key()
    mine.put_many([Item(name, b"x", None), Item(large, b"x" * (mine.largest + 1), None)], LABEL)
    assert [item is None for item in mine.get_many([name, large])] == [False, True]
    mine.put_many([Item(large, b"x" * mine.largest, None)], LABEL)
    assert len(mine.get_many([large])[0].payload) == mine.largest


def test_expired_entries_go(store):
    """What nobody asks for any more is dropped by those who store."""
    mine = store()
    mine.put_many([Item(key(), b"x", 0.05) for _ in range(100)], LABEL)
    time.sleep(0.1)
    mine.put_many([Item(key(), b"x", None)], LABEL)
    assert mine.info().entries == 1


def test_use_is_noted_now_and_then(store, monkeypatch):
    """A read long after the last one is noted with the next write, so that it counts when something has to go."""
    mine, (old, other) = store(max_entries=10), (key(), key())
    mine.put_many([Item(old, b"x", None)], LABEL)
    real = time.time
    monkeypatch.setattr("mlguard.cache.stores.sqlite.time.time", lambda: real() + 100)
    mine.put_many([Item(other, b"x", None)], LABEL)
    monkeypatch.setattr("mlguard.cache.stores.sqlite.time.time", lambda: real() + 200)
    assert mine.get_many([old])[0] is not None
    mine.put_many([Item(key(), b"x", None) for _ in range(9)], LABEL)
    assert [item is None for item in mine.get_many([old, other])] == [False, True]


def test_a_clock_that_was_set_back(store, monkeypatch):
    """Entries and leases from the future are none: nothing is served or held longer than it may be."""
    mine, name = store(), key()
    real = time.time
    monkeypatch.setattr("mlguard.cache.stores.sqlite.time.time", lambda: real() + 3600)
    mine.put_many([Item(name, b"x", 60)], LABEL)
    assert mine.lease(name, 60) is not None
    monkeypatch.setattr("mlguard.cache.stores.sqlite.time.time", real)
    assert mine.get_many([name]) == [None]
    assert mine.lease(name, 60) is not None


def test_a_damaged_file_is_told_and_left_alone(store):
    """Pages overwritten with noise are StoreErrors with the fix; deleted while it runs, the file starts anew."""
    mine = store("?timeout=50ms")
    keys = [key() for _ in range(200)]
    mine.put_many([Item(name, b"x" * 3000, None) for name in keys], LABEL)
    mine.close()
    content = bytearray(store.path.read_bytes())
    for place in range(4096, len(content), 3):
        content[place] = 0xA5
    store.path.write_bytes(content)
    reasons = {reason_of(lambda name=name: mine.get_many([name])) for name in keys[:20]}
    assert "corrupt" in reasons
    assert reasons <= {"corrupt", "backing_off"}
    with pytest.raises(StoreError, match=r"damaged .* Fix: delete"):
        mine.info()
    assert store.path.read_bytes()[4096:] == bytes(content)[4096:]
    for path in store.path.parent.glob("cache.db*"):
        path.unlink()
    time.sleep(0.6)
    mine.put_many([Item(keys[0], b"y", None)], LABEL)
    assert mine.get_many(keys[:1])[0].payload == b"y"
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_flipped_bytes_are_no_wrong_values(store):
    """With single bytes of the file changed, what is read under a key passes its seal or is no value at all."""
    from mlguard.cache.codec import Codec, DecodeError

    mine, codec, numbers = store("?timeout=50ms"), Codec(dict), random.Random(3)
    keys = [key() for _ in range(40)]
    mine.put_many([Item(name, codec.encode({"n": n}, name), None) for n, name in enumerate(keys)], LABEL)
    mine.close()
    content = store.path.read_bytes()
    outcomes = set()
    for _ in range(60):
        changed = bytearray(content)
        for _ in range(30):
            changed[numbers.randrange(100, len(changed))] ^= 1 << numbers.randrange(8)
        for path in store.path.parent.glob("cache.db*"):
            path.unlink()
        store.path.write_bytes(changed)
        mine._reading.worked()
        try:
            for n, (name, found) in enumerate(zip(keys, mine.get_many(keys), strict=True)):
                if found is not None:
                    with contextlib.suppress(DecodeError):
                        assert codec.decode(found.payload, name).value == {"n": n}
                        outcomes.add("value")
        except StoreError as error:
            outcomes.add(error.reason)
        mine.close()
    assert "value" in outcomes


def test_a_deleted_file_is_made_again(store):
    """Removed under a running service, the file is made anew, for all who use it."""
    one, two, name = store(), store(), key()
    one.put_many([Item(name, b"x", None)], LABEL)
    two.get_many([name])
    for path in store.path.parent.glob("cache.db*"):
        path.unlink()
    assert one.get_many([name]) == [None]
    one.put_many([Item(name, b"y", None)], LABEL)
    assert two.get_many([name])[0].payload == b"y"


def test_a_swapped_file_is_refused_while_it_runs(store):
    """Where another program's database takes the name, it is neither read nor written to."""
    mine = store()
    mine.put_many([Item(key(), b"x", None)], LABEL)
    mine.close()
    for path in store.path.parent.glob("cache.db*"):
        path.unlink()
    with contextlib.closing(sqlite3.connect(store.path)) as other:
        other.execute("CREATE TABLE theirs (a)")
        other.commit()
    assert reason_of(lambda: mine.get_many([key()])) == "refused"
    before = store.path.read_bytes()
    assert reason_of(lambda: mine.put_many([Item(key(), b"x", None)], LABEL)) == "refused"
    assert store.path.read_bytes() == before


FULL = """
import resource, sys
from mlguard.cache.stores import Item, Label, StoreError, open_store
store = open_store(sys.argv[1])
name = b"n" * 32
store.put_many([Item(name, b"x", None)], Label("f"))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
reasons = []
for number in range(5):
    try:
        store.put_many([Item(b"%032d" % number, b"x" * 200_000, None)], Label("f"))
    except StoreError as error:
        reasons.append(error.reason)
    store._reading.worked(), store._writing.worked()
assert reasons and set(reasons) <= {"full", "failed"}, reasons
assert store.get_many([name])[0].payload == b"x"
print("right")
"""


def test_a_full_disk_fails_what_is_written_only(store):
    """Where the system refuses more bytes, storing is a StoreError, and what is there is read on."""
    pytest.importorskip("resource", reason="this system has no limit for file sizes")
    done = subprocess.run(
        [sys.executable, "-c", FULL, f"sqlite:///{store.path}"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "right\n", done.stderr


def test_forks_in_the_middle_of_calls(store):
    """Children forked while other threads use the file read right, or refuse to use it; the parent goes on."""
    mine, keys = store("?timeout=2s"), [key() for _ in range(20)]
    mine.put_many([Item(name, name * 10, None) for name in keys], LABEL)
    ended = threading.Event()
    failures = []

    def work():
        while not ended.is_set():
            try:
                mine.put_many([Item(name, name * 10, None) for name in keys], LABEL)
                assert all(found.payload == name * 10 for name, found in zip(keys, mine.get_many(keys), strict=True))
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        child = os.fork()
        if child == 0:
            try:
                right = all(found.payload == name * 10 for name, found in zip(keys, mine.get_many(keys), strict=True))
                mine.put_many([Item(keys[0], keys[0] * 10, None)], LABEL)
                os._exit(0 if right else 1)
            except BaseException as error:
                os.write(2, repr(error).encode())
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
    ended.set()
    for thread in threads:
        thread.join()
    assert failures == []
    with contextlib.closing(sqlite3.connect(store.path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_fork_that_could_not_wait(store, monkeypatch):
    """Forked while a call hangs in the file, the child refuses to use it, with the fix, instead of harming it."""
    monkeypatch.setattr("mlguard.cache.stores.sqlite_pool._FORK_WAITS", 0.05)
    mine = store()
    mine.get_many([key()])
    inside, go_on = threading.Event(), threading.Event()

    def hang(connection):
        inside.set()
        go_on.wait(10)

    thread = threading.Thread(target=lambda: mine._run(hang, None))
    thread.start()
    inside.wait()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            mine.get_many([key()])
        except StoreError as error:
            os.write(write, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    go_on.set()
    thread.join()
    assert b"Fix: fork before the first call" in os.read(read, 1000)
    os.close(read)
    os.close(write)
    assert mine.get_many([key()]) == [None]


def test_one_url_is_one_store_and_private(tmp_path):
    """Everybody in a process who asks for a URL gets the same store; its files are the owner's alone."""
    url = f"sqlite:///{tmp_path}/cache.db"
    store = open_store(url)
    assert open_store(url) is store
    assert open_store(url, max_entries=5) is not store
    store.put_many([Item(key(), b"x", None)], LABEL)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("cache.db*")} == {0o600}
