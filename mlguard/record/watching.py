"""A query in a thread, so that progress can be told and Ctrl-C ends it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["Progress", "watched"]

T = TypeVar("T")

Progress = Callable[[float], object]
"""Told the share of the work that is done, from 0 to 1, about four times a second."""

_EVERY: Final = 0.25


def watched(connection: DuckDBPyConnection, work: Callable[[], T], progress: Progress | None) -> T:
    """What work returns, done in a thread, so that progress can be told; Ctrl-C ends it."""
    with ThreadPoolExecutor(1, "mlguard-query") as one:
        done = one.submit(work)
        try:
            while not wait((done,), _EVERY).done:
                if progress is not None:
                    progress(min(1.0, max(0.0, connection.query_progress() / 100)))
        except BaseException:
            connection.interrupt()
            raise
        return done.result()
