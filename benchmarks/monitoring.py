"""Claim: the guard's share of a monitored call is small beside the line, the span or the record that it makes."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import Any

import structlog

from benchmarks import lines
from benchmarks.case import OURS, Budget, Case
from benchmarks.subject import CALL, score
from mlguard import Monitor, guarded

__all__ = ["cases"]

_LINE = "the same line by hand"
_SPAN = "OpenTelemetry span by hand"
_COUNTED = "counted only"
_SLOW = 0.001  # seconds that a slow log takes for a line


def cases() -> list[Case]:
    """One line, one span, a slow log, and a record."""
    lines.configure()
    _spans_ready()
    return [
        Case(
            name="monitoring",
            claim="one structlog line a call, summaries and validation off",
            arguments=CALL,
            contestants={OURS: _ours(summaries=False), _LINE: _line(), _COUNTED: _ours(log=False)},
            budgets=(Budget(_LINE, 1.3), Budget(_LINE, None, of=_COUNTED)),
        ),
        Case(
            name="monitoring-span",
            claim="one span a call, which is current in it, no exporter, no line, no validation",
            arguments=CALL,
            contestants={OURS: _ours(log=False, spans=True), _SPAN: _span(), **_logfire()},
            budgets=(Budget(_SPAN, 1.5),),
        ),
        Case(
            name="monitoring-background",
            claim="a log that takes a millisecond for a line: written in a thread, against in the call",
            arguments=CALL,
            contestants={OURS: _slow("background"), "in the call": _slow(True)},
            budgets=(Budget("in the call", 0.05),),
            most_rounds=31,
        ),
        Case(
            name="monitoring-record",
            claim="the event handed to the record, whose thread writes at the same time, against a line in the call",
            arguments=CALL,
            contestants={
                OURS: _ours(log=False, summaries=False, record=_folder()),
                _LINE: _line(),
            },
            budgets=(Budget(_LINE, None),),
        ),
    ]


def _folder() -> str:
    folder = tempfile.mkdtemp(prefix="mlguard-record-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _ours(**settings: Any) -> Callable[..., Any]:
    return guarded(monitor=Monitor(**settings), validation=False)(score)


def _line() -> Callable[..., Any]:
    """What a service would write by hand for the same fields."""
    write = lines.by_hand(lambda: _ours(summaries=False)(*CALL))
    numbers = iter(range(10**9, 2 * 10**9))

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = time.monotonic()
        result = score(*args, **kwargs)
        write(round(time.monotonic() - started, 6), f"c0ffee{next(numbers)}")
        return result

    return wrapper


def _slow(log: Any) -> Callable[..., Any]:
    """Ours, through a log that takes its time."""

    def slowly(logger: Any, method: str, event: Any) -> Any:
        time.sleep(_SLOW)
        raise structlog.DropEvent

    function = _ours(log=log, summaries=False)
    sink: Any = function.guard._wrapper.rooms["monitor"]._sink  # type: ignore[attr-defined]
    config = {**structlog.get_config(), "processors": [slowly]}
    sink.open = lambda level: config
    return function


@functools.cache
def _spans_ready() -> None:
    """A provider that records and exports nothing, which all contestants use.

    From then on OpenTelemetry is loaded, as it is in most services, and every event looks for a trace: 0.15 µs.
    """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    trace.set_tracer_provider(TracerProvider())


def _logfire() -> dict[str, Callable[..., Any]]:
    """`logfire.instrument`, where Logfire is installed, through the same provider.

    It is not among the locked packages: its plugin is loaded by every process with pydantic, tests included.
    """
    if importlib.util.find_spec("logfire") is None:
        return {}
    import logfire  # pyright: ignore[reportMissingImports]  # as said

    logfire.configure(send_to_logfire=False, console=False, inspect_arguments=False)
    return {"logfire.instrument": logfire.instrument()(score)}


def _span() -> Callable[..., Any]:
    """Attributes and status as ours has them, by hand."""
    from opentelemetry import trace

    tracer = trace.get_tracer("by hand")

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with tracer.start_as_current_span(
            "score", attributes={"code.function.name": "benchmarks.subject.score"}
        ) as span:
            result = score(*args, **kwargs)
            span.set_attributes({"mlguard.disposition": "executed", "mlguard.attempts": 1, "mlguard.call_id": "c0ffee"})
            return result

    return wrapper
