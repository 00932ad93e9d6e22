"""The feature service: a real HTTP server on loopback that has a bad day, and the client both runs call it with.

Which fault meets a request is drawn from the seed, the number of the call and the number of the request within that
call, which travel in a header. So the first request of a call meets the same fault whoever sends it, and the retry of
a failed request gets a draw of its own.
"""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

__all__ = ["FAULTS", "PATIENCE", "STALL", "UNSEEN", "FeatureClient", "FeatureService", "fault_of"]

FAULTS: Final[dict[str, float]] = {
    "HTTP 500": 0.02,
    "HTTP 503": 0.02,
    "stall": 0.015,
    "NaN": 0.01,
    "null": 0.01,
    "-999": 0.01,
    "numbers as text": 0.0075,
    "decimal comma": 0.0075,
    "19 values": 0.0075,
    "units x 1000": 0.0075,
    "units / 25.4": 0.005,
}
"""The share of requests that meets each fault."""

UNSEEN: Final = "units / 25.4"
"""Millimetres answered as inches: every value stays in its declared range, so the schema can't see it."""

PATIENCE: Final = 0.08
"""Seconds the client waits for an answer, guarded or not."""

STALL: Final = 0.2
"""Seconds a stalled answer takes."""

_DRAW = "X-Demo-Draw"


def fault_of(draw: str) -> str | None:
    """The fault that a request meets, from its draw; None: it is answered as it should be."""
    chance = random.Random(draw).random()  # noqa: S311 - a reproducible plan, not a secret
    for fault, share in FAULTS.items():
        chance -= share
        if chance < 0:
            return fault
    return None


class FeatureService:
    """Answers ``GET /patients/<number>`` with the stored features of a patient, as JSON. A context manager."""

    def __init__(self, rows: npt.NDArray[np.float64]) -> None:
        handler = type("Handler", (_Handler,), {"rows": rows.tolist()})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class FeatureClient:
    """What a careful service would write without mlguard: a timeout, an error on a bad status, the row as an array."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        self._call = ""
        self.requests = 0
        """Requests sent for the call in progress."""

    def begin(self, call: str) -> None:
        """A new call begins; its name is the first part of the draws of its requests."""
        self._call = call
        self.requests = 0

    @property
    def fault(self) -> str | None:
        """The fault that the last request of this call met."""
        return fault_of(f"{self._call}/{self.requests}") if self.requests else None

    def stored(self, patient: Any) -> npt.NDArray[Any]:
        """The stored features of a patient."""
        self.requests += 1
        request = urllib.request.Request(f"{self._url}/patients/{patient}")  # noqa: S310 - loopback
        request.add_header(_DRAW, f"{self._call}/{self.requests}")
        with self._open(request, timeout=PATIENCE) as answer:
            return np.array(json.load(answer)["features"])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a stalled answer must not hold up the end
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up on a stalled answer is no news."""


class _Handler(BaseHTTPRequestHandler):
    rows: list[list[float]]

    def do_GET(self) -> None:
        draw = self.headers.get(_DRAW, "")
        fault = fault_of(draw)
        if fault == "stall":
            time.sleep(STALL)
        if fault in ("HTTP 500", "HTTP 503"):
            return self._answer(int(fault[-3:]), {"error": fault})
        try:
            row = self.rows[int(self.path.removeprefix("/patients/"))]
        except (ValueError, IndexError):
            return self._answer(404, {"error": "no such patient"})
        if fault in _CORRUPT:
            row = _CORRUPT[fault](row, random.Random(f"{draw}/where"))  # noqa: S311
        return self._answer(200, {"features": row})

    def _answer(self, status: int, body: Any) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: the terminal belongs to the demo."""


def _some(value: Any) -> Callable[[list[Any], random.Random], list[Any]]:
    """Puts a value where five of the features were."""

    def corrupt(row: list[Any], chance: random.Random) -> list[Any]:
        lost = set(chance.sample(range(len(row)), 5))
        return [value if index in lost else number for index, number in enumerate(row)]

    return corrupt


_CORRUPT: Final[dict[str | None, Callable[[list[Any], random.Random], list[Any]]]] = {
    "NaN": _some(float("nan")),
    "null": _some(None),
    "-999": _some(-999.0),
    "numbers as text": lambda row, _: [str(number) for number in row],
    "decimal comma": lambda row, _: [str(number).replace(".", ",") for number in row],
    "19 values": lambda row, chance: row[: (cut := chance.randrange(len(row)))] + row[cut + 1 :],
    "units x 1000": lambda row, _: [number * 1000 for number in row],
    "units / 25.4": lambda row, _: [number / 25.4 for number in row],
}
