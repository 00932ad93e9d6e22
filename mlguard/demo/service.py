"""The feature service: a real HTTP server on loopback that has a bad day, and the client both runs call it with.

The faults are made by `mlguard.testing.chaos`, inside the server, around the function that looks a row up. Which fault
meets a request follows from the seed, the number of the call, which travels in a header, and how many requests of that
call have come. So the first request of a call meets the same fault whichever function sends it, and the retry of a
failed request gets a draw of its own.
"""

from __future__ import annotations

import json
import random
import threading
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from mlguard import guarded
from mlguard.testing import Chaos, changes, chaos, delays, fails

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

_CALL = "X-Demo-Call"


def fault_of(seed: int, call: int, request: int) -> str | None:
    """The fault that a request of a call meets, counted from 1; None: it is answered as it should be."""
    return _bad_day(seed).drawn(call, request)


class FeatureService:
    """Answers ``GET /patients/<number>`` with the stored features of a patient, as JSON. A context manager."""

    def __init__(self, rows: npt.NDArray[np.float64], seed: int = 0) -> None:
        stored = rows.tolist()

        @guarded(validation=False)  # it guards nothing: chaos strikes inside of guards
        def row(call: str, patient: str) -> Any:
            return stored[int(patient)]

        self._chaos = _bad_day(seed, row)
        handler = type("Handler", (_Handler,), {"row": staticmethod(row)})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._chaos.__enter__()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._chaos.__exit__(kind, error, at)


class FeatureClient:
    """What a careful service would write without mlguard: a timeout, an error on a bad status, the row as an array."""

    def __init__(self, url: str, seed: int = 0) -> None:
        self._url = url
        self._seed = seed
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
        self._call = 0
        self.requests = 0
        """Requests sent for the call in progress."""

    def begin(self, call: int) -> None:
        """A new call begins; with its number it tells the service whose requests come."""
        self._call = call
        self.requests = 0

    @property
    def fault(self) -> str | None:
        """The fault that the last request of this call met."""
        return fault_of(self._seed, self._call, self.requests) if self.requests else None

    def stored(self, patient: Any) -> npt.NDArray[Any]:
        """The stored features of a patient."""
        self.requests += 1
        request = urllib.request.Request(f"{self._url}/patients/{patient}")  # noqa: S310 - loopback
        request.add_header(_CALL, str(self._call))
        with self._open(request, timeout=PATIENCE) as answer:
            return np.array(json.load(answer)["features"])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a stalled answer must not hold up the end
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up on a stalled answer is no news."""


class _Handler(BaseHTTPRequestHandler):
    row: Callable[[str, str], list[Any]]

    def do_GET(self) -> None:
        try:
            row = self.row(self.headers.get(_CALL, ""), self.path.removeprefix("/patients/"))
        except _Trouble as trouble:
            return self._answer(trouble.status, {"error": str(trouble)})
        except (ValueError, IndexError):
            return self._answer(404, {"error": "no such patient"})
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


class _Trouble(Exception):  # noqa: N818 - what a server calls its own failure
    """Answered with an HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


def _bad_day(seed: int, *functions: Any) -> Chaos:
    """All that goes wrong in the service, at the rates of `FAULTS`."""
    corrupt = [changes(change, name=name, rate=FAULTS[name]) for name, change in _CORRUPT.items()]
    return chaos(
        fails(lambda: _Trouble(500), name="HTTP 500", rate=FAULTS["HTTP 500"]),
        fails(lambda: _Trouble(503), name="HTTP 503", rate=FAULTS["HTTP 503"]),
        delays(STALL, name="stall", rate=FAULTS["stall"]),
        *corrupt,
        on=functions,
        seed=seed,
        key=lambda call, patient: call,
    )


_CORRUPT: Final[dict[str, Callable[[list[Any], random.Random], list[Any]]]] = {
    "NaN": _some(float("nan")),
    "null": _some(None),
    "-999": _some(-999.0),
    "numbers as text": lambda row, _: [str(number) for number in row],
    "decimal comma": lambda row, _: [str(number).replace(".", ",") for number in row],
    "19 values": lambda row, chance: row[: (cut := chance.randrange(len(row)))] + row[cut + 1 :],
    "units x 1000": lambda row, _: [number * 1000 for number in row],
    "units / 25.4": lambda row, _: [number / 25.4 for number in row],
}
