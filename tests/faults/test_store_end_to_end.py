"""Guarded functions on a real store that fails while calls run: no failed prediction, no wrong value."""

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import time

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import BaseModel

from mlguard import Cache, Monitor, guarded
from mlguard.testing import capture_events


class Scores(BaseModel):
    values: list[float]
    label: str


def predictor(url, asynchronous=False, **settings):
    """A guarded function on a store, and the list of numbers its body ran for."""
    ran = []
    options = {"cache": Cache(**{"ttl": 60, "store": url, **settings}), "model_version": "1", "monitor": Monitor()}
    if asynchronous:

        @guarded(**options)
        async def predict(number: int) -> Scores:
            ran.append(number)
            return Scores(values=[number / 2] * 20, label=str(number))
    else:

        @guarded(**options)
        def predict(number: int) -> Scores:
            ran.append(number)
            return Scores(values=[number / 2] * 20, label=str(number))

    return predict, ran


def right(result, number):
    return result == Scores(values=[number / 2] * 20, label=str(number))


OTHER = """
import sys
import numpy as np
import numpy.typing as npt
from mlguard import Cache, guarded

@guarded(cache=Cache(ttl=60, store=sys.argv[1]), model_version="1")
def predict(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    print("computed", flush=True)
    return features * 2

predict(np.arange(1000.0))
array = np.arange(1000.0)
array[500] = -1
predict(array)
assert (predict(np.arange(1000.0)) == np.arange(1000.0) * 2).all()
"""


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_another_process_answers_from_what_this_one_stored(kind, tmp_path, request):
    """Two processes run the body once for each content of an array."""
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path}/cache.db?timeout=2s"
    else:
        url = request.getfixturevalue("redis_server")().url + "?timeout=2s"
    lines = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", OTHER, url], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        lines.append(done.stdout.split())
    assert lines == [["computed"] * 2, []]


def test_a_redis_that_dies_and_comes_back_under_load(redis_server):
    """Killed, paused, restarted while threads predict: every prediction is right, and the events say why it missed."""
    server = redis_server()
    predict, _ = predictor(f"{server.url}?timeout=100ms&front=1ms")
    slowest = 0.0
    ended = time.monotonic() + 2.0

    def work(offset):
        nonlocal slowest
        turns = 0
        while time.monotonic() < ended:
            number = (offset * 7 + turns) % 50
            started = time.monotonic()
            assert right(predict(number), number)
            slowest = max(slowest, time.monotonic() - started)
            turns += 1
        return turns

    with capture_events() as events, concurrent.futures.ThreadPoolExecutor(4) as threads:
        running = [threads.submit(work, offset) for offset in range(4)]
        time.sleep(0.3)
        server.pause()
        time.sleep(0.4)
        server.resume()
        time.sleep(0.2)
        server.kill()
        time.sleep(0.3)
        server.start()
        assert sum(future.result() for future in running) > 100
    assert slowest < 2.0  # a paused server costs a budget or two, on a machine that is busy with the tests
    errors = {event.get("mlguard.cache.error") for event in events} - {None}
    assert errors & {"timeout", "unreachable"}
    assert errors <= {"timeout", "unreachable", "backing_off", "busy"}
    assert {event.get("mlguard.disposition", "executed") for event in events} <= {"executed", "cache_hit", "coalesced"}


async def test_an_async_function_on_a_paused_redis(redis_server):
    """Coroutines are answered in time while the server stands still."""
    server = redis_server()
    predict, _ = predictor(f"{server.url}?timeout=100ms", asynchronous=True)
    assert right(await predict(1), 1)
    server.pause()
    started = time.monotonic()
    results = await asyncio.gather(*(predict(number) for number in range(2, 40)))
    assert time.monotonic() - started < 2.0
    assert all(right(result, number) for number, result in enumerate(results, start=2))


def test_hostile_values_under_the_keys_of_a_function(redis_server):
    """Whatever is put under a function's keys, it predicts right and counts what it could not read."""
    import redis

    server = redis_server()
    raw = redis.Redis(port=server.port)
    predict, _ = predictor(f"{server.url}?timeout=2s&front=1ms")
    assert right(predict(1), 1)
    (name,) = raw.keys("mlguard:e:*")
    good = raw.get(name)
    for bad in (b"", os.urandom(500), good[:-1], good[:60] + bytes([good[60] ^ 4]) + good[61:], b"x" * 10_000_000):
        raw.set(name, bad)
        time.sleep(0.005)
        assert right(predict(1), 1)
    raw.delete(name)
    raw.rpush(name, "x")
    time.sleep(0.005)
    assert right(predict(1), 1)
    assert right(predict(2), 2)
    two = next(key for key in raw.keys("mlguard:e:*") if key != name)
    raw.set(name, raw.get(two))  # the answer to another question
    time.sleep(0.005)
    assert right(predict(1), 1)
    assert predict.guard.stats()["cache"]["undecodable"]


def test_a_full_redis_and_a_full_file(redis_server, tmp_path):
    """Where nothing more can be stored, predictions go on being computed."""
    server = redis_server("--maxmemory", "2mb", "--maxmemory-policy", "noeviction")
    for url in (f"{server.url}?timeout=1s", f"sqlite:///{tmp_path}/cache.db"):

        @guarded(cache=Cache(ttl=60, store=url, max_bytes="1MiB"), model_version="1")
        def predict(size: int) -> npt.NDArray[np.float64]:
            return np.full(size, float(size))

        for size in range(20_000, 20_040):
            result = predict(size)
            assert result.shape == (size,)
            assert (result == size).all()
