"""Recorders of one folder, closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlguard.record import Record, Recorder


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Callable[..., Recorder]]:
    """Makes recorders of one folder, and closes them."""
    made: list[Recorder] = []

    def make(**settings: Any) -> Recorder:
        made.append(Recorder(Record(**{"path": str(tmp_path / "record"), **settings})))
        return made[-1]

    yield make
    for one in made:
        one.close()
