"""Claim: a hit costs no more than nopanic's though its key is exact; known rows of a batch, a fraction of computing."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import cache_peers, peers
from benchmarks.case import OURS, Budget, Case
from benchmarks.subject import CALL, score, score_async
from mlguard import Cache, guarded

__all__ = ["cases"]

Features = npt.NDArray[np.float32]
_HIT = (Budget("nopanic", 1.0), Budget("cachetools", 1.0))
_SECRET = bytes(range(64))
_ROWS = 1000
_COLUMNS = 30
_COST = 20e-6  # seconds a row, as the budget says


def total(x: Features) -> float:
    """What is cached for an array."""
    return float(x.sum())


def raw_hash(x: Features) -> bytes:
    """The hash that a key of an array can't do without: keyed blake2b over its bytes."""
    return hashlib.blake2b(x.data.cast("B"), digest_size=32, key=_SECRET).digest()


def model(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Takes 20 µs a row."""
    until = perf_counter() + _COST * len(x)
    while perf_counter() < until:
        pass
    sums: npt.NDArray[np.float64] = x.sum(axis=1)
    return sums


def free(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The same without the time."""
    sums: npt.NDArray[np.float64] = x.sum(axis=1)
    return sums


def batches(new: int) -> Iterator[npt.NDArray[np.float64]]:
    """For ever batches of 1,000 rows, of which so many are new; the same for every contestant."""
    random = np.random.default_rng(0)
    known = random.random((_ROWS, _COLUMNS))
    yield known
    while True:
        yield np.concatenate([known[new:], random.random((new, _COLUMNS))])


def timed(function: Callable[..., Any], new: int) -> Callable[[], float]:
    """Seconds that the function takes for the next batch, the making of the batch left out."""
    stream = batches(new)
    function(next(stream))

    def call() -> float:
        batch = next(stream)
        started = perf_counter()
        function(batch)
        return perf_counter() - started

    return call


def row_cases() -> list[Case]:
    """Batches of 1,000 rows of 30 numbers, 90 % and all of them known."""
    rows = guarded(cache=Cache(ttl="1h", rows=True, max_entries=10**6), rows="x", validation=False)
    seen = Case(
        name="cache-rows-90",
        claim="1,000 rows of 30 numbers, 900 seen before, at 20 µs a row",
        contestants={
            OURS: timed(rows(model), 100),
            "computing all rows": timed(model, 100),
            "a dict by hand": timed(cache_peers.by_hand(model), 100),
        },
        budgets=(Budget("computing all rows", 0.2), Budget("a dict by hand", None)),
        self_timed=True,
        most_rounds=31,
    )
    per_row = itertools.repeat(1.5e-6 * _ROWS)
    overhead = Case(
        name="cache-rows-overhead",
        claim="the same rows of a function that takes no time, against 1.5 µs a row",
        contestants={
            OURS: timed(restless(rows(free)), 100),
            "1.5 µs a row": lambda: next(per_row),
        },
        budgets=(Budget("1.5 µs a row", 1.0),),
        self_timed=True,
        most_rounds=31,
    )
    return [seen, overhead]


def restless(function: Any) -> Callable[..., Any]:
    """A cached function that never rests, although here it loses: the budget is about its overhead."""
    cache = function.guard._wrapper.rooms["cache"]

    def call(x: npt.NDArray[np.float64]) -> Any:
        cache.worth.forget()
        return function(x)

    return call


def cases() -> list[Case]:
    """Hits on two scalars, with and without validation, awaited, on arrays, and on rows."""
    cached = guarded(cache=Cache(ttl="1h"), validation=False)
    others = {name: decorate(score) for name, decorate in peers.CACHES.items()}
    hits = [
        Case(
            name="cache-hit",
            claim="a hit on two scalars, no validation, as the peers do none",
            arguments=CALL,
            contestants={OURS: cached(score), **others},
            budgets=_HIT,
        ),
        Case(
            name="cache-hit-validated",
            claim="a hit on two scalars that were validated first; the peers validate nothing",
            arguments=CALL,
            contestants={OURS: guarded(cache=Cache(ttl="1h"))(score), **others},
            budgets=_HIT,
        ),
        Case(
            name="cache-hit-async",
            claim="a hit of a coroutine function on two scalars, no validation",
            arguments=CALL,
            contestants={
                OURS: cached(score_async),
                **{name: decorate(score_async) for name, decorate in cache_peers.ASYNCHRONOUS.items()},
            },
            budgets=(Budget("async-lru", None), Budget("cashews, memory", 1.0)),
            asynchronous=True,
        ),
    ]
    arrays = [
        Case(
            name=f"cache-array-{name}",
            claim=f"a hit on a float32 array of {name}, no validation",
            arguments=(np.linspace(0, 1, rows * 8, dtype=np.float32).reshape(rows, 8),),
            contestants={
                OURS: cached(total),
                "raw keyed blake2b": raw_hash,
                "joblib.Memory": cache_peers.on_disk(total),
            },
            budgets=(Budget("raw keyed blake2b", 1.05), Budget("joblib.Memory", None)),
            most_rounds=21,
        )
        for name, rows in (("1mb", 1 << 15), ("32mb", 1 << 20))
    ]
    return hits + arrays + row_cases()
