"""The proof that memory stays flat under monitored calls, in short."""

from __future__ import annotations

import os

import pytest
import structlog

from benchmarks.proof.events import MOST_GROWTH, run


@pytest.mark.long
def test_memory_stays_flat(tmp_path) -> None:
    """Ten thousand calls, logged, in the background and recorded, leave nothing behind, and each is accounted for."""
    with open(os.devnull, "w") as nowhere:
        structlog.configure(
            processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.WriteLoggerFactory(nowhere)
        )
        done = run(10_000, str(tmp_path / "record"))
    assert done.written + done.dropped >= 10_000
    assert done.growth < MOST_GROWTH
