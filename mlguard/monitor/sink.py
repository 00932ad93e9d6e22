"""The way out: the application's structlog, as it is configured at this moment, never configured from here.

An application that has set up the standard library's logging, and structlog not at all, gets its records from there:
see `standard.py`. With ``log="background"`` the application's processors run in a thread, in a copy of the context
variables of the call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Final, NamedTuple

import structlog
from structlog.dev import ConsoleRenderer
from structlog.stdlib import filter_by_level

from mlguard.monitor import standard
from mlguard.monitor.drain import Drain

__all__ = ["ERROR", "INFO", "WARNING", "Sink", "flush"]

LOGGER: Final = "mlguard"
"""The name under which a standard library logger sees the events."""

INFO, WARNING, ERROR = logging.INFO, logging.WARNING, logging.ERROR


class Sink:
    """Writes events as `structlog.get_logger("mlguard")` would, following every later ``structlog.configure()``.

    The event becomes the context of a fresh bound logger instead of keyword arguments of its method: that spares three
    copies of the dict, and leaves no name that a field could collide with.

    Args:
        background: Write in a thread.
        trouble: Told what the application's processors raise there.
    """

    def __init__(self, *, background: bool = False, trouble: Callable[[str, Exception], None] | None = None) -> None:
        self.queue: Drain | None = _background if background else None
        """What waits to be written, of all functions together; None: written at once."""
        self._trouble = trouble
        self._factory: Any = None
        self._logger: Any = None
        self._wrapper: Any = None
        self._enabled: dict[int, bool] = {}

    def open(self, level: int) -> dict[str, Any] | None:
        """The configuration in force; None where it drops this level, so that nothing need be built."""
        config = structlog.get_config()
        wrapper = config["wrapper_class"]
        if wrapper is not self._wrapper:
            self._wrapper, self._enabled = wrapper, {each: _enabled(wrapper, each) for each in (INFO, WARNING, ERROR)}
        if not self._enabled[level]:
            return None
        if not structlog.is_configured() and standard.in_use(LOGGER):
            return standard.config(config, LOGGER, level)
        for first in config["processors"]:
            if first is filter_by_level and not self._raw(config).isEnabledFor(level):
                return None
            break
        return config

    def write(self, config: dict[str, Any], level: int, name: str, event: dict[str, Any]) -> None:
        """Runs the application's processors, here or in the thread. What they raise is for the caller to count."""
        if self.queue is None:
            self._write(config, level, name, event)
        else:
            event["mlguard.time"] = time.time()
            self.queue.put(_Line(copy_context(), self, config, level, name, event))

    def write_late(self, line: _Line) -> None:
        """In the thread: writes a line that waited."""
        try:
            line.context.run(self._write, line.config, line.level, line.name, line.event)
        except Exception as trouble:
            if self._trouble is not None:
                self._trouble("log", trouble)

    def _write(self, config: dict[str, Any], level: int, name: str, event: dict[str, Any]) -> None:
        if "exception" in event and isinstance([*config["processors"]][-1], ConsoleRenderer):
            # Printed below the line just the same, but before structlog 26 "exception" raises a warning there.
            event["stack"] = event.pop("exception")
        context = config["context_class"]
        logger = config["wrapper_class"](
            self._raw(config),
            processors=config["processors"],
            context=event if context is dict else context(event),  # the event is ours alone; loggers copy it once more
        )
        if level == INFO:
            logger.info(name)
        elif level == WARNING:
            logger.warning(name)
        else:
            logger.error(name)

    def _raw(self, config: dict[str, Any]) -> Any:
        factory = config["logger_factory"]
        if not config["cache_logger_on_first_use"]:
            return _made(factory)
        if factory is not self._factory:
            self._logger = _made(factory)
            self._factory = factory
        return self._logger


class _Line(NamedTuple):
    """A line that waits to be written, and in what."""

    context: Context
    sink: Sink
    config: dict[str, Any]
    level: int
    name: str
    event: dict[str, Any]


def _write_all(lines: list[_Line]) -> None:
    for line in lines:
        line.sink.write_late(line)


_background = Drain("log", _write_all)
flush = _background.flush


def _made(factory: Any) -> Any:
    try:
        return factory(LOGGER)
    except TypeError:  # a factory of the application's that takes no name
        return factory()


def _enabled(wrapper_class: Any, level: int) -> bool:
    """What structlog's filtering loggers decide when their class is made; others filter later, if at all."""
    if not hasattr(wrapper_class, "is_enabled_for"):
        return True
    try:
        return bool(wrapper_class(None, processors=[], context={}).is_enabled_for(level))
    except Exception:  # a wrapper class of the application's that means something else by the name
        return True
