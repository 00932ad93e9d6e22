"""What stands for a collector of OpenTelemetry and for Datadog's agent: real servers that decode what they get."""

from __future__ import annotations

import gzip
import re
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PATIENCE = 30.0


class Receiver:
    """A collector: decodes what comes over OTLP/HTTP."""

    def __init__(self) -> None:
        received: list[Any] = []
        self.received = received
        self.opened = threading.Event()
        self.opened.set()
        opened = self.opened

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                opened.wait(PATIENCE)
                kind = ExportMetricsServiceRequest if self.path == "/v1/metrics" else ExportTraceServiceRequest
                received.append(kind.FromString(body))  # type: ignore[attr-defined]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.opened.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def metrics(self) -> dict[str, Any]:
        """The metrics of the last export, by name."""
        request = self.received[-1]
        (resource,) = request.resource_metrics
        (scope,) = [scope for scope in resource.scope_metrics if scope.scope.name == "mlguard"]
        return {metric.name: metric for metric in scope.metrics}

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def points(metric: Any) -> dict[tuple[str, ...], Any]:
    """The points of a metric by the values of their attributes, in the order of their names."""
    data = getattr(metric, metric.WhichOneof("data"))
    return {
        tuple(each.value.string_value for each in sorted(point.attributes, key=lambda each: each.key)): point
        for point in data.data_points
    }


class Line(NamedTuple):
    name: str
    values: list[float]
    kind: str
    rate: float
    tags: frozenset[str]


class Agent:
    """Receives datagrams as Datadog's agent does, and parses them by the protocol's grammar."""

    def __init__(self, path: Path | None = None) -> None:
        self._socket = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0) if path is None else str(path))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.port = 0 if path is not None else self._socket.getsockname()[1]
        self._packets: list[bytes] = []
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self) -> None:
        while packet := self._socket.recv(65_536):
            self._packets.append(packet)
            if packet == b"end":
                return

    def close(self) -> None:
        with socket.socket(self._socket.family, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"end", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    @property
    def packets(self) -> list[bytes]:
        return [packet for packet in self._packets if packet != b"end"]

    @property
    def lines(self) -> list[Line]:
        return [parsed(line) for packet in self.packets for line in packet.decode().splitlines()]

    def wait_for(self, holds: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < until, self.lines
            time.sleep(0.005)

    def total(self, name: str, *tags: str) -> float:
        return sum(
            value / line.rate
            for line in self.lines
            if line.name == name and line.kind == "c" and line.tags >= set(tags)
            for value in line.values
        )

    def durations(self, guard: str) -> list[Line]:
        return [line for line in self.lines if line.name == "mlguard.call_duration" and f"guard:{guard}" in line.tags]


def parsed(line: str) -> Line:
    match = re.fullmatch(
        r"([\w.]+):((?:-?[\d.e+-]+)(?::-?[\d.e+-]+)*)\|(c|g|d)(?:\|@([\d.e-]+))?(?:\|#([^|]*))?(?:\|c:[^|]*)?(?:\|e:[^|]*)?",
        line,
    )
    assert match, line
    values = [float(value) for value in match[2].split(":")]
    return Line(match[1], values, match[3], float(match[4] or 1), frozenset((match[5] or "").split(",")))
