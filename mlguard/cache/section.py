"""The settings of the result cache."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from mlguard import clock
from mlguard.section import Section

__all__ = ["Cache"]


def _expiry(value: float | str | None) -> float | None:
    if value is None:
        return None
    seconds = clock.seconds(value)
    if not seconds:
        raise ValueError("must be longer than 0. Fix: leave the cache out (cache=False) to cache nothing")
    return seconds


def _some_bytes(value: int | str) -> int:
    size = clock.bytes_of(value)
    if not size:
        raise ValueError("must be more than 0. Fix: leave the cache out (cache=False) to cache nothing")
    return size


class Cache(Section):
    """Remembers checked results by their validated arguments, and lets concurrent equal calls share one run.

    ``Cache(ttl="30s")`` answers an equal call from memory for 30 seconds. Keys are exact: two calls share a result only
    where every argument has the same type and the same bits. Results come back as copies or read-only arrays, so that
    no caller can change what another one gets.

    Raises:
        PolicyError: A key is unknown or a value impossible; the message names the field, the value and the fix.
    """

    ttl: Annotated[
        float | str | None,
        BeforeValidator(_expiry),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "number", "exclusiveMinimum": 0},
                    {"type": "string", "pattern": r"^\d+(\.\d+)?\s*(ms|s|m|h|d)$"},
                    {"type": "null"},
                ]
            }
        ),
    ]
    """The longest time a result may be served after it was computed, in seconds or as "30s". Required, because only you
    know how long a prediction stays true; None: until it is evicted."""
    max_entries: int = Field(default=10_000, gt=0)
    """Results kept at most; the ones not asked for lately go first. 10,000 small results are a few megabytes."""
    max_bytes: Annotated[clock.Size, AfterValidator(_some_bytes)] = "256MiB"
    """Estimated bytes of results and keys kept at most. A single larger result is handed on but not kept."""
    jitter: float = Field(default=0.1, ge=0, lt=1)
    """The share of `ttl` by which an entry may expire early, at random, so that entries made together don't expire
    together. 0.1 spreads a burst over a tenth of its lifetime; nothing is ever served after `ttl`."""
    on_hit: Literal["readonly", "copy"] = "readonly"
    """How arrays come back from the cache: "readonly" shares one buffer that nobody can make writable, "copy" gives
    every caller a writable array of its own, for the price of copying it. Lists, dicts and models are always copies."""
    scope: str | None = Field(default=None, min_length=1)
    """Functions whose caches name the same scope share one store, its bounds included, but never each other's
    results. None: a store for each function."""
