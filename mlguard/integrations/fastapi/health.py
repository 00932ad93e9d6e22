"""The state of every guarded function of this process, for people and for probes.

*Live* says that the process can still answer; a restart heals nothing else, so nothing else is asked. *Ready* says that
it should get requests: not while its memory refuses every call, or a policy can't be honoured. An open breaker is
neither: what is behind it is down for every process alike, and other routes work.

In a prefork server each process answers for itself; which one did is shown. How the page looks is in `page.py`.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, Final

import psutil
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

import mlguard
from mlguard import memory
from mlguard.errors import PolicyError
from mlguard.integrations.fastapi import page
from mlguard.integrations.fastapi.counts import Counts
from mlguard.integrations.fastapi.figures import figures_of
from mlguard.monitor import metrics, readings
from mlguard.monitor.failures import error_type
from mlguard.wrapper import Wrapper, every_wrapper

__all__ = ["Health"]

_UNSTORED: Final = {"Cache-Control": "no-store"}


class Health:
    """Answers for one process of an application.

    Args:
        counts: Those of the application's requests.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    async def live(self, request: Request) -> Response:
        """200, whoever asks: the event loop runs."""
        return JSONResponse({"status": "live", "pid": os.getpid()}, headers=_UNSTORED)

    async def ready(self, request: Request) -> Response:
        """200, or 503 with the reasons."""
        reasons = _reasons_against(every_wrapper())
        status = "not_ready" if reasons else "ready"
        content = {"status": status, "reasons": reasons, "pid": os.getpid()}
        return JSONResponse(content, 503 if reasons else 200, headers=_UNSTORED)

    async def page(self, request: Request) -> Response:
        """All there is to know, as HTML where it is asked for, else JSON. Always 200, so that trouble can be read."""
        report = self.report()
        if _wants_html(request):
            return HTMLResponse(page.render(report), headers={**_UNSTORED, **page.HEADERS})
        return Response(json.dumps(report, allow_nan=False), media_type="application/json", headers=_UNSTORED)

    def report(self) -> dict[str, Any]:
        """What the page shows, as plain data."""
        wrappers = sorted(every_wrapper(), key=lambda wrapper: wrapper.target.name)
        reasons = _reasons_against(wrappers)
        return {
            "status": "not_ready" if reasons else "ready",
            "reasons": reasons,
            "process": {
                "pid": os.getpid(),
                "parent_pid": os.getppid(),
                "uptime": round(max(0.0, time.time() - psutil.Process().create_time()), 1),
                "mlguard": mlguard.__version__,
            },
            "memory": _memory(),
            "requests": self._counts.as_dict(),
            "events_dropped": _dropped(),
            "functions": [figures_of(wrapper) for wrapper in wrappers],
        }


def _wants_html(request: Request) -> bool:
    asked = request.query_params.get("format")
    if asked in ("json", "html"):
        return asked == "html"
    return "text/html" in request.headers.get("accept", "")


def _memory() -> dict[str, Any] | None:
    reading = memory.read()
    return None if reading is None else {"used": reading.used, "limit": reading.limit, "source": reading.source}


def _dropped() -> dict[str, int]:
    """Events that sinks lost, by sink."""
    found = [reading for reading in readings.read() if reading.metric is metrics.EVENTS_DROPPED]
    return {reading.labels[0]: int(reading.value) for reading in found if isinstance(reading.value, int | float)}


def _reasons_against(wrappers: list[Wrapper]) -> list[str]:
    """Why this process should get no requests for now."""
    reasons = []
    threshold = 1.0
    for wrapper in wrappers:
        try:
            section = wrapper.policy.memory
            wrapper.settle()
        except PolicyError as error:
            reasons.append(str(error))
            continue
        except Exception as error:  # an annotation, for instance, whose evaluation fails
            reasons.append(f"{wrapper.target.name}: can't be made ready: {error_type(error)}")
            continue
        if section is not None and section.on_pressure == "raise":
            threshold = min(threshold, section.threshold)
    reading = memory.read() if threshold < 1.0 else None
    if reading is not None and reading.used > threshold * reading.limit:
        reasons.append(
            f"memory: {reading.used / reading.limit:.0%} of the limit of {reading.source} are used, and guarded "
            f"functions start up to {threshold:.0%}"
        )
    return reasons
