"""Sinks tell all that a process counted: here, that of the test."""

from __future__ import annotations

import weakref

import pytest

from mlguard.monitor import readings


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions of other tests are no matter here, and totals start at 0."""
    monkeypatch.setattr("mlguard.wrapper._wrappers", weakref.WeakSet())
    readings.of_this_process.after_fork()
