"""Stores from URLs: what is accepted, what is refused with which fix, and what never shows. No server is needed."""

import asyncio
import os
import pickle
import sqlite3
import sys
import threading

import cloudpickle
import pytest

from mlguard import clock
from mlguard.cache.stores import Front, Item, Label, Stored, StoreError, StoreInfo, async_of, open_store, shown_url
from mlguard.cache.stores.redis import RedisStore
from mlguard.cache.stores.sqlite import SqliteStore
from mlguard.errors import PolicyError

LABEL = Label("f")


def refusal(url, **bounds):
    with pytest.raises(PolicyError) as caught:
        open_store(url, **bounds)
    assert "Fix: " in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mongodb://host/0", "names no store"),
        ("reddis://host/0", "Did you mean 'redis'?"),
        ("memory", "names no store"),
        ("", "names no store"),
        ("redis://host:99999/0", "impossible port"),
        ("redis://host:port/0", "impossible port"),
        ("redis://[::1/0", "host can't be read"),
        ("redis:///0", "has no host"),
        ("redis://host/zero", "'zero' is no database"),
        ("redis://host/0#x", "write it as %23"),
        ("redis://host?timout=1s", "unknown option 'timout'. Did you mean 'timeout'?"),
        ("redis://host?timeout=soon", "option 'timeout' = 'soon' must be a duration"),
        ("redis://host?timeout=0", "must be longer than 0"),
        ("redis://host?largest=0", "must be more than 0"),
        ("redis://host?front_bytes=1MiB", "front_bytes and no front"),
        ("redis://host?ca=/etc/passwd", "'ca' is for TLS"),
        ("rediss://host?ca=/no/such.pem", "is no file"),
        ("redis://:pw@host?password_env=X", "a password and password_env"),
        ("redis://host?password_env=NO_SUCH_VARIABLE", "variable NO_SUCH_VARIABLE is not set"),
        ("sqlite://file.db", "Fix: write three slashes"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////no/such/folder/x.db", "folder /no/such/folder does not exist"),
        ("sqlite:///x.db?prefix=a", "unknown option 'prefix'"),
    ],
)
def test_what_cant_be_honoured_is_refused(url, says):
    """Each mistake in a URL is refused at once, with its place and the fix."""
    assert says in refusal(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:hunt@host:1/0?timeout=1s", "redis://user:***@host:1/0?timeout=1s"),
        ("redis://:hunt@host", "redis://:***@host"),
        ("redis://user@host", "redis://user@host"),
        ("redis://host/0", "redis://host/0"),
        ("redis://:h@nt@host/0", "redis://:***@host/0"),
        ("redis://:hu/nt@host/0", "redis://..."),
        ("redis://:hu#nt@host/0", "redis://..."),
        ("redis://:hu]nt@[host/0", "redis://..."),
        ("redis://host/0?password=hunt&timeout=1s", "redis://host/0?password=***&timeout=1s"),
        ("redis://user@host/0?password=hunt", "redis://user@host/0?password=***"),
        ("redis://user:hu?nt@host/0", "redis://..."),
        ("redis:/:hunt@host/0", "redis://..."),
        ("redis::hunt@host/0", "redis://..."),
        ("sqlite:///file.db", "sqlite:///file.db"),
    ],
)
def test_a_password_is_never_shown(url, shown):
    """URLs are shown without their password, whatever characters it has."""
    assert shown_url(url) == shown
    with pytest.raises(PolicyError) as caught:
        open_store(url + ("&" if "?" in url else "?") + "nonsense=1")
    assert "hunt" not in str(caught.value)
    assert "nt@" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch):
    """Without redis-py, a Redis URL is refused with the install line; sqlite needs nothing."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "redis" or "redis_" in name]:
        monkeypatch.delitem(sys.modules, name)
    import mlguard.cache.stores as stores

    monkeypatch.delattr(stores, "redis_sockets", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    assert "needs redis, which is not installed. Fix: pip install 'redis>=5.3'" in refusal("redis://nobody:1/0")


def test_opening_connects_to_nobody():
    """A server that is down stops no service from starting."""
    store = open_store("redis://127.0.0.1:1/0?timeout=50ms")
    with pytest.raises(StoreError) as caught:
        store.get_many([b"k" * 32])
    assert caught.value.reason == "unreachable"
    assert pickle.loads(pickle.dumps(caught.value)).reason == "unreachable"


def test_front_options(tmp_path):
    """?front=5s puts a front before any store, and everything else reaches the store."""
    front = open_store(f"sqlite:///{tmp_path}/a.db?front=5s&front_bytes=1MiB&timeout=50ms")
    assert (type(front), front.ttl, front.max_bytes) == (Front, 5.0, 1 << 20)
    assert front.store.timeout == 0.05
    front = open_store("redis://:pw@host/3?timeout=0.5&front=1&prefix=a%20b")
    assert (front.ttl, front.store.timeout, front.store.commands.prefix) == (1.0, 0.5, b"a b")


def test_stores_are_pickled_as_their_settings(tmp_path):
    """A guarded function travels to other processes with its store; no connection goes along."""
    for store in (
        SqliteStore(f"sqlite:///{tmp_path}/a.db", max_entries=5, max_bytes=1 << 20),
        RedisStore("redis://host/1?timeout=2s"),
        Front(RedisStore("redis://host/1"), 2.0),
    ):
        again = cloudpickle.loads(cloudpickle.dumps(store))
        assert type(again) is type(store)
        assert repr(again) == repr(store) or type(store) is Front
    store = cloudpickle.loads(
        cloudpickle.dumps(SqliteStore(f"sqlite:///{tmp_path}/a.db", max_entries=5, max_bytes=1 << 20))
    )
    assert store.max_entries == 5


# Files


def test_a_file_of_somebody_else_is_refused_and_untouched(tmp_path):
    """Other databases, other formats, other files: refused at decoration, and not a byte is changed."""
    path = tmp_path / "x.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.commit()
    before = path.read_bytes()
    assert "another program's database" in refusal(f"sqlite:///{path}")
    connection.execute("PRAGMA application_id = 77")
    connection.commit()
    assert "another program's database" in refusal(f"sqlite:///{path}")
    connection.execute("PRAGMA application_id = 0x6D6C6743")
    connection.execute("PRAGMA user_version = 99")
    connection.commit()
    connection.close()
    assert "format 99, and this version of mlguard writes 1" in refusal(f"sqlite:///{path}")
    path.write_bytes(before)
    refusal(f"sqlite:///{path}")
    assert path.read_bytes() == before
    path.write_text("a,b\n1,2\n" * 100)
    assert "is no SQLite file" in refusal(f"sqlite:///{path}")
    path.write_bytes(bytes(8192))  # what a power cut leaves
    with pytest.raises(StoreError, match="damaged"):
        open_store(f"sqlite:///{path}").get_many([b"k" * 32])


def test_a_file_that_everybody_may_write_to_is_refused(tmp_path):
    """Whoever can write to the file decides what is predicted."""
    path = tmp_path / "x.db"
    path.touch()
    path.chmod(0o666)
    assert f"chmod o-w {path}" in refusal(f"sqlite:///{path}")


def test_unreadable_places(tmp_path, monkeypatch):
    """Folders without write access, and files that can't be read, are told at decoration."""
    assert "can't be read" in refusal(f"sqlite:///{tmp_path}")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "may not write to" in refusal(f"sqlite:///{tmp_path}/x.db")


def test_too_few_bytes_for_a_file(tmp_path):
    """A file has tables of its own, so a bound that leaves no room is refused."""
    assert 'Fix: write at least "256KiB"' in refusal(f"sqlite:///{tmp_path}/x.db", max_bytes=1000)


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    """The working directory at decoration counts, not the one of the first call; ~ is the home directory."""
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///relative.db")
    monkeypatch.chdir("/")
    store.put_many([Item(b"k" * 32, b"x", None)], LABEL)
    assert (tmp_path / "relative.db").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("sqlite:///~/home.db").file.path == str(tmp_path / "home.db")


def test_a_read_only_file_serves_and_stores_nothing(tmp_path):
    """What a process may not write to is a StoreError for writers."""
    store = open_store(f"sqlite:///{tmp_path}/x.db")
    store.put_many([Item(b"k" * 32, b"x", None)], LABEL)

    def readonly(connection):
        connection.execute("PRAGMA query_only = ON")
        try:
            connection.execute("DELETE FROM entries")
        finally:
            connection.execute("PRAGMA query_only = OFF")

    with pytest.raises(StoreError, match="read-only") as caught:
        store._run(readonly, None)
    assert caught.value.reason == "refused"
    assert store.get_many([b"k" * 32])[0].payload == b"x"


# The front and the threads


class Slow:
    """A user's store that takes its time."""

    largest = 1 << 20

    def __init__(self):
        self.go_on = threading.Event()
        self.asked = 0

    def get_many(self, keys):
        self.asked += 1
        self.go_on.wait(5)
        return [Stored(key, 1.0, 3.0) for key in keys]

    def put_many(self, items, label):
        if items[0].payload == b"refused":
            raise StoreError("no")

    def lease(self, key, seconds):
        return b"t"

    def release(self, key, token):
        pass

    def discard(self, **conditions):
        return 1

    def info(self):
        return StoreInfo("slow", 0, 0)

    def close(self):
        pass


async def test_a_slow_store_neither_blocks_the_loop_nor_piles_up():
    """Beyond 128 calls in waiting, the next is refused at once; the loop turns all the while."""
    store = Slow()
    twin = async_of(store)
    assert async_of(store) is twin
    tasks = [asyncio.ensure_future(twin.get_many([b"k"])) for _ in range(200)]
    await asyncio.sleep(0.05)  # each of them is refused by now, or waits in a thread or in the queue
    refused = [task for task in tasks if task.done()]
    assert len(refused) == 200 - 128
    assert {task.exception().reason for task in refused} == {"busy"}
    for task in tasks[:100]:
        task.cancel()
    await asyncio.sleep(0.01)  # what waited in the queue is taken out of it
    store.go_on.set()
    answers = await asyncio.gather(*tasks[100:128])
    assert all(answer[0].payload == b"k" for answer in answers)
    assert store.asked < 128
    twin.close()
    assert (await twin.get_many([b"k"]))[0].payload == b"k"
    twin.close()
    assert await twin.discard(key=b"k") == 1
    twin.close()


def test_a_front_keeps_to_its_time_and_bounds(monkeypatch):
    """Entries are answered from the front for its ttl, never beyond their own, and grow older there."""
    now = [0.0]
    monkeypatch.setattr(clock, "now", lambda: now[0])
    behind = Slow()
    behind.go_on.set()
    front = Front(behind, ttl=2.0, max_bytes=2000)
    assert front.get_many([b"a"]) == [Stored(b"a", 1.0, 3.0)]
    now[0] = 1.5
    assert front.get_many([b"a"]) == [Stored(b"a", 2.5, 1.5)]
    assert behind.asked == 1
    now[0] = 2.0
    front.get_many([b"a", b"b"])
    assert behind.asked == 2
    front.discard(key=b"a")
    front.get_many([b"a", b"b"])
    assert (behind.asked, front.hits) == (3, 2)
    front.put_many([Item(b"c", b"x" * 5000, None)], LABEL)  # larger than the whole front
    front.put_many([Item(b"d", b"x", 0.5)], LABEL)
    now[0] = 2.6
    assert front.get_many([b"d"])[0].payload == b"d"  # its own time was up before the front's
    for number in range(20):
        front.put_many([Item(b"%d" % number, b"x", None)], LABEL)
    assert front._bytes <= 2000
    with pytest.raises(StoreError):
        front.put_many([Item(b"e", b"refused", None)], LABEL)
    assert front.get_many([b"e"])[0].payload == b"e"
    assert front.info().where == "slow"
    assert front.lease(b"k", 1.0) == b"t"
    front.release(b"k", b"t")
    front.discard(tenant="x")
    assert front._bytes == 0
    front.close()
    front.after_fork()


def test_the_clock_of_a_front_that_goes_back(monkeypatch):
    """A test's clock that was taken away leaves nothing behind that would never expire."""
    now = [1e9]
    monkeypatch.setattr(clock, "now", lambda: now[0])
    behind = Slow()
    behind.go_on.set()
    front = Front(behind, ttl=2.0)
    front.get_many([b"a"])
    now[0] = 5.0
    front.get_many([b"a"])
    assert behind.asked == 2


# Replies of a server that is none, without a server


def replies_to(trip, *replies):
    """What an operation makes of replies, one list for each round trip."""
    next(trip)
    try:
        for reply in replies:
            trip.send(reply)
    except StopIteration as done:
        return done.value
    raise AssertionError("it asks for more")


def test_replies_that_no_redis_gives():
    """Error replies are raised, and replies of the wrong form are StoreErrors; neither is taken for an answer."""
    commands, error = RedisStore("redis://nobody").commands, ValueError("an error reply")
    clock_reply, keys, items = [b"1700000000", b"5"], [b"a", b"b"], [Item(b"a", b"x", None)]
    for trip, *replies in (
        (commands.get_many(keys), [error, []]),
        (commands.get_many(keys), [clock_reply, error]),
        (commands.get_many(keys[:1]), [clock_reply, error]),
        (commands.put_many(items, LABEL), [error]),
        (commands.put_many(items, LABEL), [clock_reply], [error]),
        (commands.lease(b"a", 1.0), [error]),
        (commands.release(b"a", b"t"), [error]),
        (commands.discard(None, None, None, None), [error]),
        (commands.discard(b"a", None, None, None), [error]),
        (commands.info(), [error]),
    ):
        commands._compared = float("-inf")
        with pytest.raises(ValueError, match="an error reply"):
            replies_to(trip, *replies)
    for trip, reply in (
        (commands.get_many(keys), [b"OK", []]),
        (commands.get_many(keys), [[b"1", 2], []]),
        (commands.get_many(keys), [clock_reply, b"OK"]),
        (commands.get_many(keys), [clock_reply, [None]]),
    ):
        with pytest.raises(StoreError, match="is a Redis there"):
            replies_to(trip, reply)
    assert replies_to(commands.get_many(keys), [clock_reply, [bytes(50), 7]]) == [None, None]
    assert replies_to(commands.discard(None, "f", None, None), [[b"0", [b"k"]]], [None]) == 0
    assert replies_to(commands.discard(None, "f", None, None), [[b"5", []]], [[b"0", []]]) == 0


def test_a_password_as_an_option_is_told_where_it_belongs():
    """Redis clients take ?password=...; here the message says how it is written, and not what it was."""
    told = refusal("redis://host/0?password=hunter2")
    assert "redis://user:password@host" in told
    assert "hunter2" not in told
