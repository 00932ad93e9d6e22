"""The limit written by hand does what it says, or being near it would be no achievement."""

from __future__ import annotations

import pytest
from pydantic_core import ValidationError

import benchmarks.limit
from benchmarks.limit import fused, fused_signature
from benchmarks.subject import score

BOTH = pytest.mark.parametrize("decorate", [fused, fused_signature])


@BOTH
def test_the_limit_validates_and_converts(decorate) -> None:
    """Arguments are bound and converted as pydantic does, and bad ones never reach the function."""
    guarded = decorate(score)
    assert guarded("2.5", count=4) == 10.0
    with pytest.raises(ValidationError):
        guarded("much", 1)


@BOTH
def test_the_limit_retries_connection_errors_only(decorate, monkeypatch) -> None:
    """Three retries of what may pass, none of what won't."""
    monkeypatch.setattr(benchmarks.limit, "_PAUSES", (0.0, 0.0, 0.0))
    calls: list[Exception] = []

    def fails(amount: float, count: int) -> float:
        calls.append(ConnectionError() if count else KeyError())
        if len(calls) < 3:
            raise calls[-1]
        return amount

    assert decorate(fails)(1.0, 1) == 1.0
    assert len(calls) == 3
    calls.clear()
    with pytest.raises(KeyError):
        decorate(fails)(1.0, 0)
    assert len(calls) == 1


@BOTH
def test_the_limit_refuses_under_pressure(decorate, monkeypatch) -> None:
    """The memory check is a real one."""
    monkeypatch.setattr(benchmarks.limit, "_THRESHOLD", -1.0)
    with pytest.raises(MemoryError, match="are allowed"):
        decorate(score)(1.0, 1)


@BOTH
def test_the_limit_checks_the_output(decorate) -> None:
    """A result that is no float is an error."""
    with pytest.raises(ValidationError):
        decorate(lambda amount, count: "much")(1.0, 1)


def test_the_limit_writes_one_line_per_successful_call() -> None:
    """Duration and a fresh call id are told, and a failed call tells nothing."""
    told: list[tuple[float, str]] = []
    guarded = fused(score, lambda duration, call_id: told.append((duration, call_id)))
    guarded(1.0, 1)
    guarded(1.0, count=2)
    with pytest.raises(ValidationError):
        guarded("much", 1)
    assert len({call_id for _, call_id in told}) == 2
    assert all(0 <= duration < 1 for duration, _ in told)
