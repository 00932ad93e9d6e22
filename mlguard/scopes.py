"""State that several guarded functions share on purpose, because they named the same scope.

Without a scope, one policy on two functions shares configuration, never state.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

from mlguard.errors import PolicyError
from mlguard.forks import in_children
from mlguard.section import Section
from mlguard.target import Target

__all__ = ["ScopeKey", "Scopes", "of_this_process", "settings_of"]

R = TypeVar("R")
ScopeKey: TypeAlias = tuple[Callable[..., Any], str]


class Scopes:
    """The runtime objects of every scope.

    Args:
        before: What a reload starts from: a scope whose settings did not change keeps its object.
    """

    def __init__(self, before: Scopes | None = None) -> None:
        self._before = before
        self._shared: dict[ScopeKey, tuple[Section, Any]] = {}
        self.renew_lock()

    def shared(
        self, runtime: Callable[[Target, Any], R], target: Target, section: Section, scope: str | None
    ) -> tuple[R, ScopeKey | None]:
        """The runtime object of a section, the function's own or the one of its scope; and the key of the scope.

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
            return runtime(target, section), None
        key = runtime, scope
        with self._lock:
            if key not in self._shared:
                self._shared[key] = self._kept(key, section) or (section, runtime(target, section))
            known, built = self._shared[key]
            _refuse_difference(known, section, scope, target)
            return built, key

    def keep(self, key: ScopeKey, target: Target) -> None:
        """Holds a scope to what it is, in a reload: a function goes on using it as it was.

        Raises:
            PolicyError: Another function has it with other settings now.
        """
        if self._before is not None and key in self._before._shared:
            known = self._before._shared[key]
            _refuse_difference(self._shared.setdefault(key, known)[0], known[0], key[1], target)

    def take_over(self, other: Scopes) -> None:
        """Puts what a reload made in place of what was there."""
        with self._lock:
            self._shared.update(other._shared)

    def known(self) -> set[ScopeKey]:
        """The scopes there are."""
        with self._lock:
            return set(self._shared)

    def drop(self, keys: Iterable[ScopeKey]) -> None:
        """Forgets scopes that no function shares in any more."""
        with self._lock:
            dropped = [self._shared.pop(key, None) for key in keys]
        del dropped  # outside of the lock

    def renew_lock(self) -> None:
        """For the child of a fork: a thread that is not there any more may have held the lock."""
        self._lock = threading.Lock()

    def _kept(self, key: ScopeKey, section: Section) -> tuple[Section, Any] | None:
        known = None if self._before is None else self._before._shared.get(key)
        return known if known is not None and settings_of(known[0]) == settings_of(section) else None


def settings_of(section: Section) -> dict[str, Any]:
    """What tells two sections apart, whatever scope they are of."""
    return section.model_dump(exclude={"scope"})


def _refuse_difference(known: Section, section: Section, scope: str, target: Target) -> None:
    if settings_of(known) != settings_of(section):
        raise PolicyError(
            f"{target.name}: scope '{scope}' already has a {type(section).__name__} with other settings "
            f"({_difference(known, section)}). Fix: give both the same {type(section).__name__}, or another scope."
        )


def _difference(first: Section, second: Section) -> str:
    theirs, ours = settings_of(first), settings_of(second)
    return ", ".join(f"{key} = {theirs[key]!r} there, {ours[key]!r} here" for key in theirs if theirs[key] != ours[key])


of_this_process = Scopes()
in_children(of_this_process.renew_lock)
