"""Events for an application that logs through the standard library and never heard of structlog.

It has given the root logger, or the one named ``mlguard``, a handler. Printing to its standard output past that handler
would be no log. So the record comes from the logger ``mlguard``: its message reads as a sentence, and every field of
the event is an attribute of it under its own name, which is where formatters that write JSON look.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from structlog.contextvars import merge_contextvars
from structlog.dev import ConsoleRenderer, set_exc_info
from structlog.processors import StackInfoRenderer, TimeStamper, add_log_level

from mlguard import clock

__all__ = ["config", "in_use", "sentence"]

# What structlog does when nobody has configured it, and the standard library does itself.
_OWN_CLASSES: Final = (ConsoleRenderer, StackInfoRenderer, TimeStamper)

# What a sentence has said in its beginning, or nobody reads there; the attributes have it all.
_UNSAID: Final = frozenset(
    {
        "code.function.name", "event.outcome", "exception", "host.name", "mlguard.call_id", "mlguard.disposition",
        "mlguard.duration", "mlguard.policy.fingerprint", "mlguard.schema_version", "process.pid",
    }
)  # fmt: skip


def in_use(name: str) -> bool:
    """Whether somebody has given this logger, or one above it, a handler."""
    return logging.getLogger(name).hasHandlers()


def config(of_structlog: dict[str, Any], name: str, level: int) -> dict[str, Any] | None:
    """What structlog is set to, tests' additions included, with the standard library at its end.

    None where the standard library drops this level, unless there are additions, which come before that.
    """
    added = [
        each
        for each in of_structlog["processors"]
        if not isinstance(each, _OWN_CLASSES) and each not in (add_log_level, set_exc_info, merge_contextvars)
    ]
    if not added and not logging.getLogger(name).isEnabledFor(level):
        return None
    return {**of_structlog, "processors": [*added, merge_contextvars, _hand_on], "logger_factory": _Logger}


def sentence(name: str, event: dict[str, Any]) -> str:
    """The event for people: ``mlguard.call: service.price executed in 12.5ms, input.rooms=4, output=4000.0``."""
    said = f"{name}: {event.get('code.function.name')} {event.get('mlguard.disposition', '')}"
    if "mlguard.duration" in event:
        said += f" in {clock.duration_text(event['mlguard.duration'])}"
    shown = [
        f"{key.removeprefix('mlguard.')}={value!r}"
        if isinstance(value, str)
        else f"{key.removeprefix('mlguard.')}={value}"
        for key, value in event.items()
        if key not in _UNSAID and (key, value) not in (("mlguard.sample_rate", 1.0), ("mlguard.attempts", 1))
    ]
    return ", ".join([said, *shown])


def _hand_on(logger: Any, method: str, event: Any) -> Any:
    """The last processor: the event as it is, for `_Logger`."""
    return (event,), {}


class _Logger:
    """What stands at the end of structlog's chain."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def _log(self, level: int, event: dict[str, Any]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        name = event.pop("event")
        record = self._logger.makeRecord(
            self._logger.name,
            level,
            "mlguard",
            0,
            "%s",
            (sentence(name, event),),
            None,
            event.get("code.function.name"),
        )
        # Not as extra=, which refuses names that a record has. Notes of such names are note.NAME; what the application
        # binds to structlog's context may be called name or args, and must not replace the record's own.
        own = record.__dict__
        own.update({key: value for key, value in {"event": name, **event}.items() if key not in own})
        record.exc_text = event.get("exception")  # which formatters print below the message
        self._logger.handle(record)

    def info(self, event: dict[str, Any]) -> None:
        self._log(logging.INFO, event)

    def warning(self, event: dict[str, Any]) -> None:
        self._log(logging.WARNING, event)

    def error(self, event: dict[str, Any]) -> None:
        self._log(logging.ERROR, event)
