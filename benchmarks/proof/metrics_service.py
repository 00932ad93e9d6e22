"""A guarded model behind gunicorn, and its /metrics: what the proof of the metrics calls and Prometheus scrapes.

``PROOF_PROFILE`` names the profile of the training data. Each answer says how the call ended, how long it took and
which process answered, so that the callers know the truth.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from mlguard import Cache, InvalidInputError, Monitor, guarded
from mlguard.sinks import prometheus

FAILS_FROM = 2.0
"""Inputs from which on the model fails."""

prometheus.register()


@guarded(monitor=Monitor(log=False, drift=os.environ["PROOF_PROFILE"]), cache=Cache(ttl="1h"))
def predict(x: float) -> float:
    """Takes a millisecond or ten, as real ones do."""
    if x >= FAILS_FROM:
        raise LookupError("no such neighbour")
    time.sleep(0.010 if x > 1 else 0.001)
    return x / (1 + abs(x))


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """WSGI: ``/predict?<number>`` and ``/metrics``."""
    if environ["PATH_INFO"] == "/metrics":
        body, content_type = prometheus.exposition(environ.get("HTTP_ACCEPT"))
        start_response("200 OK", [("Content-Type", content_type), ("Content-Length", str(len(body)))])
        return [body]
    started = time.perf_counter()
    try:
        outcome = predict.guard.call(environ["QUERY_STRING"])
    except InvalidInputError:
        status, how = "422 Unprocessable Content", "rejected_validation"
    except LookupError:
        status, how = "500 Internal Server Error", "failed"
    else:
        status, how = "200 OK", str(outcome.disposition)
    took = time.perf_counter() - started
    said = {"X-How": how, "X-Took": repr(took), "X-Process": str(os.getpid()), "Content-Length": "0"}
    start_response(status, list(said.items()))
    return []
