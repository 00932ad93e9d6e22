"""A real Redis that is killed, paused, full, slow, replaced by something else or fed what nobody should read."""

import asyncio
import concurrent.futures
import contextlib
import itertools
import os
import pickle
import shutil
import socket
import subprocess
import threading
import time

import numpy as np
import pytest

from mlguard import clock
from mlguard.cache.codec import Codec, DecodeError, Secret
from mlguard.cache.stores import Front, Item, Label, StoreError, async_of, open_store
from mlguard.cache.stores.conformance import StoreConformance

LABEL = Label("f", "1", "t")


class TestRedisStore(StoreConformance):
    @pytest.fixture(autouse=True)
    def server(self, class_server):
        self.url = f"{class_server.url}?timeout=2s"  # the machine that runs the tests may be busy

    def open(self):
        self.store = open_store(self.url)
        return self.store


class TestFrontBeforeRedis(TestRedisStore):
    def open(self):
        self.store = open_store(f"{self.url}&front=100ms")
        return self.store


@pytest.fixture
def store(redis_server):
    """`store(options)` is a store before a server of its own, which is `store.server`."""

    def open_(options="", *server_options):
        open_.server = redis_server(*server_options)
        return open_store(f"{open_.server.url}?{options}")

    return open_


def key():
    return os.urandom(32)


def outcome(call):
    """ "ok", or the reason of the StoreError, and the seconds it took; any other exception fails the test."""
    started = time.monotonic()
    try:
        call()
    except StoreError as error:
        return error.reason, time.monotonic() - started
    return "ok", time.monotonic() - started


def test_a_killed_server_costs_one_failure_and_then_nothing(store):
    """Calls go on failing at once and cheaply while the server is dead, and it is used again once it is back."""
    redis = store("timeout=200ms")
    name = key()
    redis.put_many([Item(name, b"x", 60.0)], LABEL)
    store.server.kill()
    assert outcome(lambda: redis.get_many([name]))[0] == "unreachable"
    reasons = [outcome(lambda: redis.get_many([name])) for _ in range(1000)]
    assert {reason for reason, _ in reasons} <= {"backing_off", "unreachable"}
    assert sum(reason == "unreachable" for reason, _ in reasons) <= 2
    assert sum(seconds for _, seconds in reasons) < 1
    store.server.start()
    time.sleep(0.6)
    assert redis.get_many([name]) == [None]
    redis.put_many([Item(name, b"y", 60.0)], LABEL)
    assert redis.get_many([name])[0].payload == b"y"


def test_a_restarted_server_is_no_failure(store):
    """Connections that the server closed while nobody used them are replaced without a word."""
    redis = store("timeout=500ms")
    redis.get_many([key()])
    store.server.kill()
    store.server.start()
    assert redis.get_many([key()]) == [None]


def test_a_paused_server_delays_no_call_beyond_the_budget(store):
    """With the server stopped in its tracks, threads wait their 100ms once, then not at all; resumed, it serves."""
    redis = store("timeout=100ms")
    name = key()
    redis.put_many([Item(name, b"x", 60.0)], LABEL)
    store.server.pause()
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: outcome(lambda: redis.get_many([name])), range(200)))
    assert {reason for reason, _ in found} <= {"timeout", "backing_off"}
    assert max(seconds for _, seconds in found) < 0.6
    assert sum(reason == "timeout" for reason, _ in found) <= 9
    store.server.resume()
    time.sleep(0.7)
    assert redis.get_many([name])[0].payload == b"x"


async def test_a_paused_server_delays_no_coroutine_beyond_the_budget(store):
    """The same for coroutines, and the event loop goes on turning meanwhile."""
    redis = store("timeout=100ms")
    twin, name = async_of(redis), key()
    await twin.put_many([Item(name, b"x", 60.0)], LABEL)
    store.server.pause()
    turns = 0

    async def watch():
        nonlocal turns
        while True:
            await asyncio.sleep(0.005)
            turns += 1

    async def ask():
        started = time.monotonic()
        try:
            await twin.get_many([name])
        except StoreError as error:
            return error.reason, time.monotonic() - started
        return "ok", time.monotonic() - started

    watching = asyncio.ensure_future(watch())
    found = await asyncio.gather(*(ask() for _ in range(20)))
    found += [await ask() for _ in range(100)]
    watching.cancel()
    assert {reason for reason, _ in found} <= {"timeout", "backing_off"}
    assert max(seconds for _, seconds in found) < 0.6
    assert turns >= 5
    store.server.resume()
    await asyncio.sleep(0.7)
    assert (await twin.get_many([name]))[0].payload == b"x"


def test_a_full_server_still_answers(store):
    """At maxmemory without eviction, storing fails as "full" at once; what is there is read on, and no pause begins."""
    redis = store("timeout=500ms", "--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    first = key()
    redis.put_many([Item(first, b"x" * 1000, 60.0)], LABEL)
    reasons = {outcome(lambda: redis.put_many([Item(key(), os.urandom(200_000), 60.0)], LABEL))[0] for _ in range(20)}
    assert reasons == {"ok", "full"}
    assert redis.get_many([first])[0].payload == b"x" * 1000
    with pytest.raises(StoreError, match="maxmemory"):
        redis.put_many([Item(key(), os.urandom(900_000), 60.0)], LABEL)
    assert redis.discard() > 0
    redis.put_many([Item(key(), b"x", 60.0)], LABEL)


def test_hostile_values_are_no_answers(store):
    """Whatever lies under a key, of whatever type, length or content, nothing raises and no wrong value comes out."""
    redis = store("timeout=2s&largest=64KiB")
    raw = __import__("redis").Redis(port=store.server.port)
    codec = Codec(object, secret=Secret("s" * 16))
    name, value = key(), {"score": 0.5, "rows": np.arange(6.0)}
    redis.put_many([Item(name, codec.encode(value, name), 60.0)], LABEL)
    under = b"mlguard:e:" + name
    good = raw.get(under)
    hostile = [
        b"",
        b"\x00",
        good[:39],
        good[:40],
        good[:-1],
        good[:-20],
        good + b"x",
        b"\xff" * 200,
        b"\x00" * 200,
        pickle.dumps({"score": 1.0}),
        good[:40] + pickle.dumps({"score": 1.0}),
        b"x" * (1 << 20),
        good[:40] + good[40:].replace(b"mlgC\x01", b"mlgC\x02"),
        *(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :] for place in range(len(good))),
    ]
    for other in ("list", "set", "hash", "stream"):
        raw.delete(under)
        {"list": lambda: raw.rpush(under, "x"), "set": lambda: raw.sadd(under, "x"),
         "hash": lambda: raw.hset(under, "x", "y"), "stream": lambda: raw.xadd(under, {"x": "y"})}[other]()  # fmt: skip
        assert redis.get_many([name]) == [None]
        assert redis.get_many([name, key()]) == [None, None]
        raw.delete(b"mlguard:l:" + name)
        raw.rpush(b"mlguard:l:" + name, "x")
        assert redis.lease(name, 1.0) is None
        redis.release(name, b"x")
    wrong = 0
    for content in hostile:
        raw.set(under, content)
        for names in ([name], [name, key()]):
            stored = redis.get_many(names)[0]
            if stored is None:
                continue
            assert stored.age >= 0
            try:
                decoded = codec.decode(stored.payload, name)
            except DecodeError:
                continue
            assert set(decoded.value) == {"score", "rows"}  # a flip in the store's own head: the value is sealed
            assert decoded.value["score"] == 0.5
            assert (decoded.value["rows"] == np.arange(6.0)).all()
            wrong += content not in {good} and content[40:] != good[40:]
    assert wrong == 0
    other = key()
    raw.set(b"mlguard:e:" + other, good)  # a good entry, moved to another key
    with pytest.raises(DecodeError, match="another key"):
        codec.decode(redis.get_many([other])[0].payload, other)
    assert redis.discard(function="no such function") == 0
    assert redis.discard() >= 1


class Fake:
    """A TCP server that answers every connection with what a function makes of it."""

    def __init__(self, behave):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}/0"
        self.behave = behave
        self.ended = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while not self.ended.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.guarded, args=(connection,), daemon=True).start()

    def guarded(self, connection):
        with connection, contextlib.suppress(OSError):
            self.behave(connection, self.ended)

    def close(self):
        self.ended.set()
        self.listener.close()


def trickle(connection, ended):
    while not ended.is_set():  # a byte of an endless reply now and then: no single read ever times out
        connection.sendall(b"$")
        while not ended.wait(0.01):
            connection.sendall(b"9")


def garbage(connection, ended):
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3)
    ended.wait(1)


def huge(connection, ended):
    while connection.recv(4096):
        connection.sendall(b"$4000000000\r\nabc")


def silent(connection, ended):
    ended.wait(5)


def wrong_replies(connection, ended):
    while connection.recv(4096):
        connection.sendall(b"+OK\r\n" * 4)


@pytest.mark.parametrize("behave", [trickle, garbage, huge, silent, wrong_replies, lambda *_: None])
async def test_what_is_no_redis_costs_no_more_than_the_budget(behave):
    """Whatever answers on the port, and however slowly, a call ends within its time with a StoreError."""
    fake = Fake(behave)
    try:
        redis = open_store(f"{fake.url}?timeout=150ms")
        for call in (
            lambda: redis.get_many([key()]),
            lambda: redis.put_many([Item(key(), b"x" * 100_000, 1.0)], LABEL),
            lambda: redis.lease(key(), 1.0),
        ):
            redis.circuit.worked()
            reason, seconds = await asyncio.to_thread(outcome, call)
            assert reason != "ok" or behave is wrong_replies
            assert seconds < 0.8
        twin = async_of(redis)
        for name in ([key()], [key(), key()]):
            redis.circuit.worked()
            started = time.monotonic()
            with pytest.raises(StoreError):
                await twin.get_many(name)
            assert time.monotonic() - started < 0.8
    finally:
        fake.close()


def test_a_slow_server_is_slow_only_once(redis_server):
    """Behind a link that delays every answer by more than the budget, calls fail in time, and one in a while tries."""
    server = redis_server()

    def delayed(connection, ended):
        with socket.create_connection(("127.0.0.1", server.port)) as behind:
            while sent := connection.recv(65536):
                behind.sendall(sent)
                time.sleep(0.3)
                connection.sendall(behind.recv(65536))

    fake = Fake(delayed)
    try:
        redis = open_store(f"{fake.url}?timeout=60ms")
        found = [outcome(lambda: redis.get_many([key()])) for _ in range(500)]
        assert {reason for reason, _ in found} == {"timeout", "backing_off"}
        assert sum(reason == "timeout" for reason, _ in found) <= 3
        assert sum(seconds for _, seconds in found) < 1.5
    finally:
        fake.close()


def test_a_wrong_password_is_told_without_the_right_one(store):
    """A refused login is a StoreError and a pause; neither message nor repr shows a password."""
    store("", "--requirepass", "correct horse")
    port = store.server.port
    wrong = open_store(f"redis://:battery-staple@127.0.0.1:{port}/0")
    with pytest.raises(StoreError) as caught:
        wrong.get_many([key()])
    assert caught.value.reason == "refused"
    assert "battery" not in f"{caught.value}{wrong!r}{wrong.where}{wrong.circuit.state}"
    none = open_store(f"redis://127.0.0.1:{port}/0?timeout=1s")
    assert outcome(lambda: none.get_many([key()]))[0] == "refused"
    right = open_store(f"redis://:correct%20horse@127.0.0.1:{port}/0?timeout=1s")
    assert right.get_many([key()]) == [None]


def test_a_password_from_the_environment(store, monkeypatch):
    """`password_env` keeps the password out of the policy."""
    store("", "--requirepass", "correct horse")
    monkeypatch.setenv("CACHE_PASSWORD", "correct horse")
    redis = open_store(f"{store.server.url}?timeout=1s&password_env=CACHE_PASSWORD")
    assert redis.get_many([key()]) == [None]
    monkeypatch.delenv("CACHE_PASSWORD")
    redis.close()
    assert outcome(lambda: redis.get_many([key()]))[0] == "failed"


def test_many_threads_share_few_connections(store):
    """Two hundred threads at once are served over at most 32 connections."""
    redis = store("timeout=5s")
    with concurrent.futures.ThreadPoolExecutor(200) as threads:
        found = list(threads.map(lambda _: outcome(lambda: redis.get_many([key()]))[0], range(1000)))
    assert set(found) == {"ok"}
    assert len(redis._idle) <= 32


def test_a_forked_child_has_connections_of_its_own(store):
    """Parent and child, forked after the store was used, both read right answers."""
    redis = store("timeout=1s")
    name = key()
    redis.put_many([Item(name, b"x", 60.0)], LABEL)
    child = os.fork()
    if child == 0:
        right = all(redis.get_many([name])[0].payload == b"x" for _ in range(200))
        os._exit(0 if right else 1)
    assert all(redis.get_many([name])[0].payload == b"x" for _ in range(200))
    assert os.waitpid(child, 0)[1] == 0


def test_ages_count_on_the_servers_clock(store, monkeypatch):
    """An entry's age is right although the writer's machine started its clock at another time."""
    redis = store("timeout=1s")
    name = key()
    redis.put_many([Item(name, b"x", 60.0)], LABEL)
    other = open_store(f"{store.server.url}?timeout=900ms")
    monkeypatch.setattr("mlguard.cache.stores.redis_commands.time.monotonic", lambda real=time.monotonic: real() + 1e6)
    time.sleep(0.2)
    (found,) = other.get_many([name])
    assert 0.2 <= found.age < 1.0
    assert 59.0 < found.left <= 59.8


def test_a_front_answers_while_the_server_is_down(store):
    """What was read a moment ago needs no server; once the front's time is up, it is a StoreError again."""
    front = Front(store("timeout=100ms"), ttl=0.5)
    name = key()
    front.put_many([Item(name, b"x", 60.0)], LABEL)
    store.server.kill()
    assert front.get_many([name])[0].payload == b"x"
    assert front.hits == 1
    time.sleep(0.6)
    assert outcome(lambda: front.get_many([name]))[0] == "unreachable"


def test_pauses_grow_and_end(store, monkeypatch):
    """After each failed attempt the pause doubles, up to 15 seconds; a success ends it."""
    redis = store("timeout=100ms")
    store.server.kill()
    now = [0.0]
    monkeypatch.setattr(clock, "now", lambda: now[0])
    attempts = []
    for _ in range(120):
        if outcome(lambda: redis.get_many([key()]))[0] == "unreachable":
            attempts.append(now[0])
        now[0] += 0.5
    gaps = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert gaps[:5] == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert set(gaps[5:]) == {15.0}
    store.server.start()
    now[0] += 15
    assert redis.get_many([key()]) == [None]
    assert redis.circuit.state is None


def test_tls(redis_server, tmp_path):
    """rediss:// checks the certificate against `ca`, and serves the same entries."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed here, to make a certificate with")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        capture_output=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = redis_server("--tls-port", str(port), "--tls-cert-file", str(tmp_path / "cert.pem"), "--tls-key-file",
                          str(tmp_path / "key.pem"), "--tls-auth-clients", "no")  # fmt: skip
    if server.process.poll() is not None:
        pytest.skip("this server was built without TLS")
    name = key()
    redis = open_store(f"rediss://127.0.0.1:{port}/0?timeout=3s&ca={tmp_path}/cert.pem")
    redis.put_many([Item(name, b"x" * 100_000, 60.0)], LABEL)
    assert redis.get_many([name])[0].payload == b"x" * 100_000
    assert asyncio.run(async_of(redis).get_many([name]))[0].payload == b"x" * 100_000
    unknown = open_store(f"rediss://127.0.0.1:{port}/0?timeout=3s")
    with pytest.raises(StoreError, match=r"(?i)certificate"):
        unknown.get_many([name])
    server.pause()
    paused = open_store(f"rediss://127.0.0.1:{port}/0?timeout=100ms&ca={tmp_path}/cert.pem")
    assert outcome(lambda: paused.get_many([name]))[1] < 0.8


@pytest.mark.skipif(shutil.which("valkey-server") is None, reason="valkey-server is not installed here")
def test_valkey(redis_server):
    """Valkey serves the same."""
    server = redis_server(binary=shutil.which("valkey-server"))
    store, name = open_store(server.url.replace("redis:", "valkey:")), key()
    store.put_many([Item(name, b"x", 60.0)], LABEL)
    assert store.get_many([name])[0].payload == b"x"
    assert store.lease(name, 1.0) is not None
