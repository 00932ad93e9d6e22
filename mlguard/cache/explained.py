"""What a cache says of itself in `f.guard.explain()`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlguard import clock

if TYPE_CHECKING:
    from mlguard.cache.result import ResultCache

__all__ = ["explained"]


def explained(cache: ResultCache) -> list[str]:
    """Sentences with every number in force."""
    section, store = cache.section, cache.memory
    if cache.ttl is None:
        lifetime = "until it is evicted"
    else:
        lifetime = f"for {clock.duration_text(cache.ttl)} at most, up to {cache.jitter:.0%} less at random"
    arrays = "as writable copies" if cache.writable else "as read-only views"
    scope = f", shared with scope '{section.scope}'" if section.scope else ""
    what, many = ("A row of a result", "rows") if section.rows else ("A result", "results")
    return [
        f"{what} is cached {lifetime}; equal {'rows' if section.rows else 'calls'} in progress share one run.",
        *_rows(cache),
        *_leniency(cache),
        *_shared(cache),
        f"The cache holds {store.max_entries:,} {many} and {clock.size_text(store.max_bytes)} at most in this process"
        f"{scope}; the ones not asked for lately go first.",
        f"The key is {cache.key_text()}. Arrays come back {arrays}.",
    ]


def _rows(cache: ResultCache) -> list[str]:
    if not cache.section.rows:
        return []
    return [
        f"A batch ({cache.batch.label}) is looked up row by row, and the function runs on the rows that nobody has "
        "seen; where that costs more than it saves, most calls go past the cache."
    ]


def _shared(cache: ResultCache) -> list[str]:
    if cache.remote is None:
        return []
    front = clock.duration_text(cache.front or 0.0)
    secret = "sealed with the secret" if cache.remote.codec.secret.given else "not sealed with a secret"
    return [
        f"Results are shared in {cache.remote.where}, {secret}; this process answers from its own memory for {front} "
        "without asking there. Where the store fails, the call computes."
    ]


def _leniency(cache: ResultCache) -> list[str]:
    section, said = cache.section, []
    if cache.stale_for:
        said.append(
            f"For {clock.duration_text(cache.stale_for)} more an expired result is served at once, marked stale, while "
            f"one call in the background computes a new one."
        )
    if cache.stale_if_error:
        said.append(
            f"Where computing fails with {_names(section.stale_on)}, a result that expired at most "
            f"{clock.duration_text(cache.stale_if_error)} ago is served, marked stale."
        )
    if section.negative_ttl:
        said.append(
            f"A failure with {_names(section.negative_on)} is remembered for "
            f"{clock.duration_text(clock.seconds(section.negative_ttl))} and raised again."
        )
    return said


def _names(errors: object) -> str:
    names = ["a transient error" if each == "transient" else each.__name__ for each in errors]  # type: ignore[attr-defined]
    return " or ".join(names)
