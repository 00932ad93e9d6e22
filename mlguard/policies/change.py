"""A change of policies while the process runs: all of it or nothing.

Every function that is bound to a policy is built anew first; only when all could be, all change at once. Calls in
progress end under the policy they began with, and sections that stay the same keep their state.
"""

from __future__ import annotations

import contextlib
import gc
import os
from dataclasses import dataclass, field

import structlog

from mlguard.bound import Bound
from mlguard.errors import PolicyError
from mlguard.policies.catalogue import Catalogue, of_this_process
from mlguard.policies.policy import Policy
from mlguard.scopes import Scopes
from mlguard.scopes import of_this_process as scopes_of_this_process
from mlguard.wrapper import Wrapper, every_wrapper, settling

__all__ = ["Change", "reload"]

_TOLD = 20  # changes that one log line lists
_log = structlog.get_logger("mlguard.policies")


@dataclass(frozen=True)
class Change:
    """What a reload changed for one function."""

    function: str
    """Its qualified name."""
    before: Policy = field(repr=False)
    after: Policy = field(repr=False)

    @property
    def settings(self) -> dict[str, tuple[object, object]]:
        """What changed, by dotted setting: before and after; a section that came or went is one setting."""
        before, after = ({**dict.fromkeys(each.sections, True), **each.values} for each in (self.before, self.after))
        both = self.before.sections.keys() & self.after.sections.keys()
        return {
            name: (before.get(name, False), after.get(name, False))
            for name in sorted(before.keys() | after.keys())
            if ("." not in name or name.partition(".")[0] in both) and repr(before.get(name)) != repr(after.get(name))
        }


def reload(path: str | os.PathLike[str] | None = None) -> list[Change]:
    """Reads the policies again and gives every bound function what they say now.

    Args:
        path: The file; None: the one that was read before.

    Returns:
        The functions whose policy changed.

    Raises:
        PolicyError: Something in the file or the environment is wrong, or can't be honoured by a function that is
            bound. Every problem is listed, and nothing has changed.
    """
    with settling():
        catalogue = of_this_process.candidate(path)
        rebuilt, same, scopes, problems = _rebuilt(catalogue)
        if problems:
            gc.collect()  # perhaps they are those of functions that nobody has any more
            rebuilt, same, scopes, problems = _rebuilt(catalogue)
        if problems:
            many = f"{len(problems)} functions" if len(problems) > 1 else "a function"
            raise PolicyError(
                "\n  ".join([f"the policies can't change to what they say now, because of {many}:", *problems])
            )
        of_this_process.take_over(catalogue)
        scopes_of_this_process.take_over(scopes)
        changes, clamped = [], []
        for wrapper, bound in rebuilt:
            before = wrapper.settle()
            changes.append(Change(wrapper.target.name, before.policy, bound.policy))
            wrapper.rebind(bound)
            if before.clamped != bound.clamped:
                clamped.append((wrapper, bound.clamped))
        for wrapper in same:
            wrapper.moved(catalogue.get)
    for wrapper, lowered in clamped:
        wrapper.choice.tell(lowered, function=wrapper.target.name)
    if changes:
        with contextlib.suppress(Exception):  # what has changed is in force, written down or not
            _log.info(
                "mlguard.policies.reloaded",
                **{
                    "mlguard.policies.source": of_this_process.source,
                    "mlguard.policies.functions": len(changes),
                    "mlguard.policies.changes": _told(changes),
                },
            )
    return changes


def _rebuilt(catalogue: Catalogue) -> tuple[list[tuple[Wrapper, Bound]], list[Wrapper], Scopes, list[str]]:
    """What functions are to be bound to, those whose policy is as it was, the shared scopes, and problems."""
    scopes = Scopes(scopes_of_this_process)
    rebuilt: list[tuple[Wrapper, Bound]] = []
    same: list[Wrapper] = []
    problems: dict[str, None] = {}
    for wrapper in every_wrapper():
        try:
            bound = wrapper.rebuilt(catalogue.get, scopes)
        except PolicyError as error:
            problems[str(error)] = None
        else:
            if bound is None:
                same.append(wrapper)
            else:
                rebuilt.append((wrapper, bound))
    return rebuilt, same, scopes, list(problems)


def _told(changes: list[Change]) -> list[str]:
    told = {
        f"{change.after.name}: {name} {before} -> {after}": None
        for change in changes
        for name, (before, after) in change.settings.items()
    }
    return list(told)[:_TOLD]
