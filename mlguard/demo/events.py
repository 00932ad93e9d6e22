"""Where the demo's log events go: an application decides that, never mlguard."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

__all__ = ["logging_to"]


@contextlib.contextmanager
def logging_to(file: Path | None) -> Iterator[Counter[str]]:
    """Writes one JSON line an event to a file, or to the null device, so that the events cost what they cost.

    Yields the number of events written so far, by level. The configuration in force before comes back at the end.
    """
    written: Counter[str] = Counter()

    def count(logger: Any, method: str, event: Any) -> Any:
        written[method] += 1
        return event

    before = structlog.get_config() if structlog.is_configured() else None
    with (file or Path(os.devnull)).open("w", encoding="utf-8") as lines:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                count,
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger("info"),
            logger_factory=structlog.WriteLoggerFactory(lines),
            cache_logger_on_first_use=False,
        )
        try:
            yield written
        finally:
            if before is None:
                structlog.reset_defaults()
            else:
                structlog.configure(**before)
