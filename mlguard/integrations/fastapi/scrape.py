"""The metrics of every guarded function, for a Prometheus that scrapes the application."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["Scrape"]


class Scrape:
    """Answers a scrape with the application's own metrics and mlguard's.

    Raises:
        ModuleNotFoundError: The extra `prometheus` is not installed.
    """

    def __init__(self) -> None:
        from mlguard.sinks import prometheus  # needs its extra, which not every service has

        self._prometheus = prometheus

    def start(self) -> None:
        """For each process that serves: with several workers, it keeps its counts where all can read them from now on.

        Raises:
            PolicyError: PROMETHEUS_MULTIPROC_DIR names no folder that can be written to.
        """
        self._prometheus.register()

    def stop(self) -> None:
        """At a process's end: uvicorn ends it by a signal, which leaves no later time to write what was counted."""
        self._prometheus.flush()

    async def page(self, request: Request) -> Response:
        """The metrics, read in a thread: with several workers they are in files."""
        body, content_type = await asyncio.to_thread(self._prometheus.exposition, request.headers.get("accept"))
        return Response(body, headers={"Content-Type": content_type})
