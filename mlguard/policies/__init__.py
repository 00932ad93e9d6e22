"""Policies: `Policy`, and policies by name, from packages, from code, from a file, and from the environment.

    [policies.remote]                       # mlguard.toml
    abstract = true
    retry = { max_retries = 3 }
    [policies.realtime]
    extends = ["remote"]
    timeout = { total = "800ms" }

Of one policy, the environment (``MLGUARD__REALTIME__RETRY__MAX_RETRIES=5``) wins over the file, the file over what code
defined, and that over the installed packages that the file lists in `use`, value by value. The file is found from the
working directory upwards, or named by ``MLGUARD_POLICIES``; all of it is read at the first use, and again at `reload`,
while a `watch` sees a change, or after `reset`.

What stays out: what a section means (its own room), and using a policy on a function (`mlguard.guarded`).
"""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, overload

from mlguard.errors import PolicyError
from mlguard.policies.policy import Policy

if TYPE_CHECKING:
    from mlguard.policies.catalogue import Catalogue
    from mlguard.policies.change import Change
    from mlguard.policies.watching import Watch

__all__ = [
    "Policy", "bind_all", "check", "define", "explain", "get", "load", "names", "origins", "reload", "reset", "watch",
]  # fmt: skip


def _catalogue() -> Catalogue:
    from mlguard.policies.catalogue import of_this_process  # not at import: policies without a name need none of it

    return of_this_process


@overload
def define(name: str, policy: Policy, /, *, replace: bool = False) -> None: ...
@overload
def define(policy: Policy, /, *, replace: bool = False) -> None: ...
def define(name: str | Policy, policy: Policy | None = None, /, *, replace: bool = False) -> None:
    """Gives a policy a name in code. A policy file may extend it, or change its values under the same name.

    Functions that are bound to the policy already keep it until `reload`.

    Args:
        name: The name; or only a policy that carries one.
        policy: The policy.
        replace: True to replace another policy that code gave this name. Defining an equal one again needs no leave, so
            that modules may be imported anew.

    Raises:
        PolicyError: There is no name or it is not a legal one, or another policy has it.
    """
    if isinstance(name, Policy):
        policy, name = name, name.name or ""
    if not isinstance(policy, Policy):
        raise PolicyError(
            f"define() takes a name and a Policy, not {type(policy).__name__}. Fix: define('name', Policy(...))."
        )
    if not name:
        raise PolicyError("define() needs a name. Fix: define('name', policy), or Policy(name='name', ...).")
    caller = sys._getframe(1)
    origin = f"{caller.f_code.co_filename}:{caller.f_lineno}"
    _catalogue().define(name, policy, origin, replacing=replace)


def load(path: str | os.PathLike[str]) -> list[Change]:
    """Takes the policies from this file from now on, in place of the one that is found by itself.

    Args:
        path: The file (``.toml``, ``.yaml``, or a ``pyproject.toml``).

    Returns:
        What changed for functions that were bound already.

    Raises:
        PolicyError: As `reload`.
    """
    from mlguard.policies.change import reload as read_again

    return read_again(path)


def reload() -> list[Change]:
    """Reads file, packages and environment again, and gives every bound function what they say now: all or nothing.

    Calls in progress end under the policy they began with. A section that stays as it was keeps its state: cached
    results, an open circuit, what was learned. Policies that are objects in code do not change.

    Returns:
        What changed, function by function.

    Raises:
        PolicyError: A file can't be read, something in one or in the environment is wrong, or a bound function can't
            honour what its policy says now. Every problem is listed, with its place; what was in force stays in force.
    """
    from mlguard.policies.change import reload as read_again

    return read_again()


def watch(interval: float | str = "2s") -> Watch:
    """Reloads whenever a policy file changes, until the answer is stopped (``.stop()``, or the end of a ``with``).

    A bad file keeps what is in force, is logged as `mlguard.policies.reload_failed`, and is watched on.

    Args:
        interval: Between two looks at the files; a look costs some ten microseconds. 2 s: quicker than an operator who
            saves a file can turn to the dashboard.

    Raises:
        PolicyError: The interval is impossible, or what is there to be read is wrong.
    """
    from mlguard.clock import seconds
    from mlguard.policies.watching import Watch

    every = seconds(interval)
    if not every:
        raise PolicyError(f"policies.watch(interval={interval!r}): must be more than 0. Fix: such as '2s'.")
    return Watch(every)


def get(name: str) -> Policy:
    """The policy of that name in force.

    Raises:
        PolicyError: There is none, with the nearest name and every place that was searched; it is abstract; or what was
            read is wrong.
    """
    resolved = _catalogue().get(name)
    if resolved.policy is None:
        raise PolicyError(
            f"policy '{name}' is abstract ({' and '.join(resolved.origins)}): it is there to be extended. "
            f"Fix: use a policy that extends it; there are: {', '.join(names()) or 'none'}."
        )
    return resolved.policy


def names() -> list[str]:
    """The names that can be used on functions, sorted; abstract policies and presets are left out."""
    return _catalogue().names()


def explain(name: str) -> str:
    """Every value of a policy in force, and where it came from: file and line, variable, code, or default.

    Raises:
        PolicyError: There is no policy of that name, or what was read is wrong.
    """
    from mlguard.policies.explained import explained

    return explained(_catalogue().get(name))


def origins(name: str) -> dict[str, str]:
    """Where each value of a policy that is no default was written, such as ``{"retry.budget": "/srv/mlguard.toml:4"}``.

    Raises:
        PolicyError: There is no policy of that name, or what was read is wrong.
    """
    from mlguard.policies.explained import origins as found

    return found(_catalogue().get(name))


def check() -> None:
    """Refuses what can only be told once every module is imported; for the start of a service.

    Raises:
        PolicyError: A policy extends one that nobody defined, or a variable sets a policy that does not exist. Every
            problem is listed.
    """
    _catalogue().check()


def bind_all() -> None:
    """Makes every guarded function ready for its first call; for the start of a service, once everything is imported.

    Raises:
        PolicyError: What `check` refuses, an annotation that is still not defined, or a policy that can't be honoured.
    """
    from mlguard.wrapper import every_wrapper  # a wrapper has a policy, so that its module needs this one first

    def unbound() -> list[str]:
        problems: dict[str, None] = {}
        for wrapper in every_wrapper():
            try:
                wrapper.settle()
            except PolicyError as error:
                problems[str(error)] = None
        return list(problems)

    check()
    problems = unbound()
    if problems:
        gc.collect()  # perhaps they are those of functions that nobody has any more
        problems = unbound()
    if problems:
        raise PolicyError("\n  ".join([f"{len(problems)} guarded functions can't be bound:", *problems]))


def reset() -> None:
    """Forgets every policy of code, file and environment, for tests. The next use reads file and environment again."""
    _catalogue().reset()
