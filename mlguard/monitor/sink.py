"""The way out: the application's structlog, as it is configured at this moment, never configured from here."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import structlog
from structlog.dev import ConsoleRenderer
from structlog.stdlib import filter_by_level

__all__ = ["Sink"]

LOGGER = "mlguard"
"""The name under which a standard library logger sees the events."""


class Sink:
    """Writes events as `structlog.get_logger("mlguard")` would, following every later ``structlog.configure()``.

    The event becomes the context of a fresh bound logger instead of keyword arguments of its method: that spares three
    copies of the dict, and leaves no name that a field could collide with.
    """

    def __init__(self) -> None:
        self._factory: Any = None
        self._logger: Any = None

    def open(self, level: int) -> dict[str, Any] | None:
        """The configuration in force; None where it drops this level, so that nothing need be built."""
        config = structlog.get_config()
        if not _enabled(config["wrapper_class"], level):
            return None
        if next(iter(config["processors"]), None) is filter_by_level and not self._raw(config).isEnabledFor(level):
            return None
        return config

    def write(self, config: dict[str, Any], level: int, name: str, event: dict[str, Any]) -> None:
        """Runs the application's processors. What they raise is for the caller to count."""
        if "exception" in event and isinstance([*config["processors"]][-1], ConsoleRenderer):
            # Printed below the line just the same, but before structlog 26 "exception" raises a warning there.
            event["stack"] = event.pop("exception")
        context = config["context_class"]
        logger = config["wrapper_class"](
            self._raw(config),
            processors=config["processors"],
            context=event if context is dict else context(event),  # the event is ours alone; loggers copy it once more
        )
        if level == logging.INFO:
            logger.info(name)
        elif level == logging.WARNING:
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


def _made(factory: Any) -> Any:
    try:
        return factory(LOGGER)
    except TypeError:  # a factory of the application's that takes no name
        return factory()


@lru_cache(maxsize=32)
def _enabled(wrapper_class: Any, level: int) -> bool:
    """What structlog's filtering loggers decide when their class is made; others filter later, if at all."""
    if not hasattr(wrapper_class, "is_enabled_for"):
        return True
    try:
        return bool(wrapper_class(None, processors=[], context={}).is_enabled_for(level))
    except Exception:  # a wrapper class of the application's that means something else by the name
        return True
