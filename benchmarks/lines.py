"""One structlog line per call: the same processors for every contestant, and the line of mlguard's event by hand."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import Any

import orjson
import structlog
from structlog.testing import capture_logs

__all__ = ["by_hand", "configure", "monitored"]


@functools.cache
def configure() -> None:
    """The set-up structlog's performance page recommends, to an unbuffered /dev/null.

    The faster the rendering, the less of what mlguard adds can hide behind it.
    """
    sink = open(os.devnull, "wb", buffering=0)  # noqa: SIM115 - stays open for the process's life
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.BytesLoggerFactory(sink),
        cache_logger_on_first_use=True,
    )


def by_hand(ours: Callable[[], object]) -> Callable[[float, str], None]:
    """Writes the fields that mlguard's event of this very call has, all precomputed but duration and call id.

    Args:
        ours: A call of the guarded function, made once to see its event.
    """
    with capture_logs() as seen:
        ours()
    (event,) = seen
    name = event.pop("event")
    event.pop("log_level")
    log = structlog.get_logger().bind()

    def line(duration: float, call_id: str) -> None:
        fields = {**event}
        fields["mlguard.duration"] = duration
        fields["mlguard.call_id"] = call_id
        log.info(name, **fields)

    return line


def monitored(function: Callable[..., Any]) -> Callable[..., Any]:
    """The monitor decorator that services write by hand: one line with outcome and duration."""
    log = structlog.get_logger().bind()

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            result = function(*args, **kwargs)
        except Exception:
            log.exception("call", function=function.__qualname__, duration=time.perf_counter() - started)
            raise
        log.info("call", function=function.__qualname__, outcome="success", duration=time.perf_counter() - started)
        return result

    return wrapper
