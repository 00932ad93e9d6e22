"""One text for threads and tasks: a flow yields what is to be called, and a driver calls or awaits it.

A flow is a generator that yields ``(function, arguments)`` and is sent what came of it, or thrown what was raised. For
plain functions `drive` calls, for coroutine functions `drive_async` awaits; the decisions in between are written once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeAlias

__all__ = ["Flow", "drive", "drive_async"]

Flow: TypeAlias = Generator[tuple[Callable[..., Any], tuple[Any, ...]], Any, Any]


class _Stopped(Exception):  # noqa: N818 - never leaves this file
    """Carries a StopIteration of the user's, which no generator may raise."""


def drive(flow: Flow) -> Any:
    """Runs a flow of plain functions and returns its result."""
    try:
        function, arguments = next(flow)
        while True:
            try:
                answer = function(*arguments)
            except StopIteration as error:
                function, arguments = flow.throw(_Stopped(error))
            except BaseException as error:
                function, arguments = flow.throw(error)
            else:
                function, arguments = flow.send(answer)
    except StopIteration as stop:
        return stop.value
    except _Stopped as stopped:
        raise stopped.args[0] from None


async def drive_async(flow: Flow) -> Any:
    """Runs a flow of coroutine functions and returns its result."""
    try:
        function, arguments = next(flow)
        while True:
            try:
                answer = await function(*arguments)
            except BaseException as error:
                function, arguments = flow.throw(error)
            else:
                function, arguments = flow.send(answer)
    except StopIteration as stop:
        return stop.value
