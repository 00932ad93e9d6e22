"""State that several guarded functions share on purpose, because they named the same scope.

Without a scope, one policy on two functions shares configuration, never state.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from mlguard.errors import PolicyError
from mlguard.forks import in_children
from mlguard.section import Section
from mlguard.target import Target

__all__ = ["shared"]

R = TypeVar("R")

_lock = threading.Lock()
_shared: dict[tuple[Callable[..., Any], str], tuple[Section, Any]] = {}


def shared(runtime: Callable[[Target, Any], R], target: Target, section: Section, scope: str | None) -> R:
    """The runtime object of a section: the function's own, or the one of its scope.

    Args:
        runtime: Builds it, as ``runtime(target, section)``.
        target: The function it is for.
        section: Its settings; its own ``scope`` wins over the decorator's.
        scope: The decorator's scope.

    Raises:
        PolicyError: The scope exists with other settings.
    """
    scope = getattr(section, "scope", None) or scope
    if scope is None:
        return runtime(target, section)
    with _lock:
        known, built = _shared.setdefault((runtime, scope), (section, None))
        if _settings(known) != _settings(section):
            raise PolicyError(
                f"{target.name}: scope '{scope}' already has a {type(section).__name__} with other settings "
                f"({_difference(known, section)}). Fix: give both the same {type(section).__name__}, or another scope."
            )
        if built is None:
            built = runtime(target, section)
            _shared[runtime, scope] = (section, built)
        return built  # type: ignore[no-any-return]


def _renew() -> None:
    global _lock
    _lock = threading.Lock()


in_children(_renew)


def _settings(section: Section) -> dict[str, Any]:
    return section.model_dump(exclude={"scope"})


def _difference(first: Section, second: Section) -> str:
    theirs, ours = _settings(first), _settings(second)
    return ", ".join(f"{key} = {theirs[key]!r} there, {ours[key]!r} here" for key in theirs if theirs[key] != ours[key])
