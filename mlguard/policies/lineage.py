"""From what the sources say about single policies to one policy in force: inheritance, merging, contradictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from mlguard.errors import PolicyError
from mlguard.policies.entries import Entry, Written
from mlguard.policies.policy import Policy
from mlguard.section import nearest, problems_by_field

__all__ = ["Entries", "Resolved", "UnknownParentError", "resolve"]

Entries = Mapping[str, Sequence[Entry]]
"""Every policy by name, as its sources write it: code, then file, then environment; what comes later wins."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A policy with all it inherits, and where each of its values was written."""

    name: str
    abstract: bool
    description: str | None
    origins: tuple[str, ...]
    parents: tuple[str, ...]
    sections: Mapping[str, Written]
    policy: Policy | None
    """None where the policy is abstract: it may lack what the policies that extend it must say."""


class UnknownParentError(PolicyError):
    """A policy extends one that isn't there, or not yet: code may still define it."""

    parent = ""
    """The one that is not there."""


def resolve(name: str, entries: Entries) -> Resolved:
    """The policy of that name in force.

    Parents count in their order, later ones over earlier ones, and the policy itself over all of them. What is reached
    twice counts once, below everything that extends it.

    Raises:
        UnknownParentError: It, or one it extends, extends a policy that is not there.
        PolicyError: A policy extends itself, or what came together contradicts itself or lacks a required setting.
    """
    order: dict[str, None] = {}
    _walk(name, entries, (), order)
    sections: dict[str, Written] = {}
    for ancestor in order:
        for entry in entries[ancestor]:
            for key, written in entry.sections.items():
                sections[key] = _merged(sections.get(key), written)
    own = entries[name]
    abstract = any(entry.abstract for entry in own)
    description = next((entry.description for entry in reversed(own) if entry.description), None)
    parents = tuple(parent for entry in own for parent in entry.parents)
    origins = tuple(entry.origin for entry in own)
    policy = None if abstract else _build(name, description, origins, sections)
    return Resolved(name, abstract, description, origins, parents, sections, policy)


def _walk(name: str, entries: Entries, chain: tuple[str, ...], order: dict[str, None]) -> None:
    """Adds a policy behind everything it extends."""
    if name in chain:
        circle = chain[chain.index(name) :]
        first = circle.index(min(circle))  # the same words wherever the walk began, so that it is one problem
        circle = circle[first:] + circle[: first + 1]
        shown = " -> ".join(circle)
        raise PolicyError(
            f"{_places(entries[circle[0]])}: policies extend each other in a circle: {shown}. Fix: drop one `extends`."
        )
    if name in order:
        return
    if name not in entries:
        shown = " -> ".join([*chain, name])
        unknown = UnknownParentError(
            f"{_places(entries[chain[-1]])}: '{chain[-1]}' extends '{name}', which is not defined ({shown})."
            f"{nearest(name, entries)} Known: {', '.join(sorted(entries))}."
        )
        unknown.parent = name
        raise unknown
    for entry in entries[name]:
        for parent in entry.parents:
            _walk(parent, entries, (*chain, name), order)
    order[name] = None


def _merged(inherited: Written | None, written: Written) -> Written:
    if written.settings is None or inherited is None or inherited.settings is None:
        return written
    return Written(written.origin, {**inherited.settings, **written.settings})


def _build(name: str, description: str | None, origins: tuple[str, ...], sections: Mapping[str, Written]) -> Policy:
    values = {
        key: None if written.settings is None else {name: setting.value for name, setting in written.settings.items()}
        for key, written in sections.items()
    }
    about = {"name": name} if description is None else {"name": name, "description": description}
    try:
        return Policy.model_validate({**about, **values})
    except ValidationError as error:
        problems: list[str] = []
        for path, texts in problems_by_field(error, Policy, in_code=False).items():
            where = _origin_of(path, sections) or " and ".join(origins)
            problems.extend(f"{where}: {'.'.join([name, *path])}{text}" for text in texts)
        raise PolicyError("\n".join(problems)) from None


def _origin_of(path: tuple[str, ...], sections: Mapping[str, Written]) -> str:
    """Where a value was written; for a section as a whole, every place that had a part in it."""
    written = sections.get(path[0]) if path else None
    if written is None or written.settings is None:
        return ""
    if len(path) > 1:
        setting = written.settings.get(path[1])
        return setting.origin if setting else written.origin
    return " and ".join(dict.fromkeys([setting.origin for setting in written.settings.values()] or [written.origin]))


def _places(entries: Sequence[Entry]) -> str:
    return " and ".join(entry.origin for entry in entries)
