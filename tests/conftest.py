"""What every test starts from: an unconfigured structlog, whatever the test before it did."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def unconfigured_structlog() -> Iterator[None]:
    """A test may configure structlog; the next one finds it as it was."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()
