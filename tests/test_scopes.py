"""Scopes: state that functions share on purpose, and only then."""

from __future__ import annotations

import pytest

from mlguard import Breaker, Cache, CircuitOpenError, Concurrency, PolicyError, guarded

BREAKER = Breaker(minimum_calls=2, failure_rate_threshold=0.5)


def test_functions_of_one_scope_share_a_breaker() -> None:
    """Failures of one function open the breaker of another in the same scope, and of no other."""

    @guarded(breaker=BREAKER, scope="test host")
    def first() -> None:
        raise ConnectionError

    @guarded(breaker=BREAKER, scope="test host")
    def second() -> str:
        return "fine"

    @guarded(breaker=BREAKER)
    def alone() -> str:
        return "fine"

    for _ in range(2):
        with pytest.raises(ConnectionError):
            first()
    with pytest.raises(CircuitOpenError):
        second()
    assert alone() == "fine"


def test_a_scope_in_the_section_wins() -> None:
    """The scope in a section holds for that section, whatever the decorator says."""
    concurrency = Concurrency(max_concurrent=1, scope="section scope")

    @guarded(concurrency=concurrency, scope="decorator scope")
    def first() -> None: ...

    @guarded(concurrency=concurrency)
    def second() -> None: ...

    first()
    assert second.guard.stats()["concurrency"] == first.guard.stats()["concurrency"]


def test_other_settings_in_one_scope_are_refused() -> None:
    """Two functions can't share one limit and disagree about it; the error shows both."""

    @guarded(concurrency=Concurrency(max_concurrent=1), scope="disputed")
    def first() -> None: ...

    with pytest.raises(PolicyError, match="max_concurrent = 1 there, 2 here"):

        @guarded(concurrency=Concurrency(max_concurrent=2), scope="disputed")
        def second() -> None: ...


def test_caches_of_one_scope_share_bounds_never_results() -> None:
    """Functions that share a store evict each other's entries, and never answer with each other's results."""
    cache = Cache(ttl=60, max_entries=2)

    @guarded(cache=cache, scope="one store")
    def one(x: int) -> str:
        return f"one {x}"

    @guarded(cache=cache, scope="one store")
    def two(x: int) -> str:
        return f"two {x}"

    assert [one(1), two(1), two(2), two(3)] == ["one 1", "two 1", "two 2", "two 3"]
    assert one.guard.cache_info().entries + two.guard.cache_info().entries == 2
