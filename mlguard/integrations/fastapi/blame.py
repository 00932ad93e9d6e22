"""Whose fault a refused input is: the client's, who sent it, or ours, who made it.

FastAPI calls path operations and dependencies with what the client sent: what their guards refuse is the client's
fault. What a guarded function further in refuses was put together by our own code. A client can't mend that, and should
not be shown the names of inner functions: it is the server's failure, as `mlguard.outcome` has it between guards.

Which guarded functions an error passed is read from its traceback: every wrapper has a namespace of its own, which its
frames carry. An error that has lost its way, as those of other processes have, is ours.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from mlguard.wrapper import Wrapper, every_wrapper

__all__ = ["Refusal", "by_client", "refusal", "wrapper_of"]


class Refusal(NamedTuple):
    """Where an error came from."""

    passed: list[Wrapper]
    """The guarded functions that it came out of, the outermost first; one that called itself is there twice."""
    refuser: Wrapper | None
    """The last of them, where its guard raised the error; None: code that it called did, or none is guarded."""


def refusal(error: BaseException) -> Refusal:
    """Reads an error's way from its traceback."""
    by_namespace = {id(wrapper.function.__globals__): wrapper for wrapper in every_wrapper()}
    passed: list[Wrapper] = []
    refuser: Wrapper | None = None
    frames = error.__traceback__
    while frames is not None:
        names = frames.tb_frame.f_globals
        wrapper = by_namespace.get(id(names))
        if wrapper is not None:
            if wrapper is not refuser:  # it has a frame for the call and one for the attempt
                passed.append(wrapper)
            refuser = wrapper
        elif str(names.get("__name__")).partition(".")[0] != "mlguard":
            refuser = None
        frames = frames.tb_next
    return Refusal(passed, refuser)


def by_client(found: Refusal, scope: Mapping[str, Any], client_input: Collection[Wrapper]) -> bool:
    """Whether what a guard refused came from the client.

    Args:
        found: What `refusal` says of the error.
        scope: The request's.
        client_input: Functions further in that get what the client sent as it is.
    """
    if found.refuser is None:
        return False
    if found.refuser in client_input:
        return True
    return len(found.passed) == 1 and any(found.refuser is own for own in _called_by_framework(scope))


def wrapper_of(function: Any) -> Wrapper | None:
    """The wrapper of a guarded function, or of one that is hidden below decorators; None: nothing there is guarded."""
    return next(_wrappers(function), None)


def _called_by_framework(scope: Mapping[str, Any]) -> Iterator[Wrapper]:
    yield from _wrappers(scope.get("endpoint"))
    app = scope.get("app")
    for replacement in getattr(app, "dependency_overrides", {}).values():
        yield from _wrappers(replacement)
    # A router that is included with dependencies has them in a context of its own, beside the route.
    for holder in (scope.get("route"), *_values(scope.get("fastapi"))):
        yield from _dependencies(getattr(holder, "dependant", None))


def _values(mapping: Any) -> Collection[Any]:
    return mapping.values() if isinstance(mapping, Mapping) else ()


def _dependencies(dependant: Any) -> Iterator[Wrapper]:
    if dependant is None:
        return
    yield from _wrappers(getattr(dependant, "call", None))
    for dependency in getattr(dependant, "dependencies", ()):
        yield from _dependencies(dependency)


def _wrappers(called: Any) -> Iterator[Wrapper]:
    """The guarded functions that calling this calls: itself, below decorators, a method, what makes an object."""
    wrapper = getattr(getattr(called, "guard", None), "_wrapper", None)
    if isinstance(wrapper, Wrapper):
        yield wrapper
    elif isinstance(called, functools.partial):
        yield from _wrappers(called.func)
    elif inspect.isclass(called):
        for maker in (called.__new__, called.__init__):
            yield from _wrappers(maker)
    elif hasattr(called, "__wrapped__"):
        yield from _wrappers(called.__wrapped__)
    elif called is not None and not inspect.isroutine(called):
        yield from _wrappers(type(called).__call__)
