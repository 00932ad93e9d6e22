"""Claim: a cache hit costs no more than nopanic's though its key is exact about types, and hashing rules an array's."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from benchmarks import peers
from benchmarks.case import OURS, Budget, Case
from benchmarks.subject import CALL, score
from mlguard import Cache, guarded

__all__ = ["cases"]

Features = npt.NDArray[np.float32]
_HIT = (Budget("nopanic", 1.0), Budget("cachetools", 1.0))
_SECRET = bytes(range(64))


def total(x: Features) -> float:
    """What is cached for an array."""
    return float(x.sum())


def raw_hash(x: Features) -> bytes:
    """The hash that a key of an array can't do without: keyed blake2b over its bytes."""
    return hashlib.blake2b(x.data.cast("B"), digest_size=32, key=_SECRET).digest()


def cases() -> list[Case]:
    """Hits on two scalars, with and without validation, and on arrays."""
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
    ]
    arrays = [
        Case(
            name=f"cache-array-{name}",
            claim=f"a hit on a float32 array of {name}, no validation",
            arguments=(np.linspace(0, 1, rows * 8, dtype=np.float32).reshape(rows, 8),),
            contestants={OURS: cached(total), "raw keyed blake2b": raw_hash},
            budgets=(Budget("raw keyed blake2b", 1.05),),
            most_rounds=21,
        )
        for name, rows in (("1mb", 1 << 15), ("32mb", 1 << 20))
    ]
    return hits + arrays
