"""What code lets files ask for at most: ``guarded("llm", ceiling=Policy(...))``.

A ceiling caps numbers (durations and sizes among them) and forbids switches and whole sections. It adds nothing but the
two sections without which a call has no limit at all: `timeout` and `concurrency`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from mlguard.errors import PolicyError
from mlguard.policies.policy import Policy, section_classes
from mlguard.section import Section, shown

__all__ = ["Clamped", "clamp", "refuse_what_caps_nothing"]

_LIMITS: Final = ("timeout", "concurrency")
"""Sections that limit: a policy without them asks for more than any ceiling allows."""

_WITHIN: Final = {("timeout", "attempt"): "total", ("retry", "initial_delay"): "max_delay"}
"""Settings that must not exceed another of their section, which a ceiling may have lowered."""


class Clamped(NamedTuple):
    """A value that was asked for, and what it became."""

    setting: str
    """Dotted, such as ``"retry.max_retries"``; for a section as a whole, its name."""
    asked: Any
    allowed: Any


def clamp(policy: Policy, ceiling: Policy) -> tuple[Policy, list[Clamped]]:
    """The policy with nothing above the ceiling, and what was lowered for it."""
    found: list[Clamped] = []
    changes: dict[str, Any] = {}
    for name, cap in _sections_of(ceiling):
        own: Section | None = getattr(policy, name)
        if cap is None:
            if own is not None:
                found.append(Clamped(name, True, False))
                changes[name] = False
        elif own is not None:
            lowered = _lowered(name, own, cap)
            found.extend(lowered)
            changes[name] = {each.setting.partition(".")[2]: each.allowed for each in lowered}
        elif name in _LIMITS:
            settings = {key: getattr(cap, key) for key in cap.model_fields_set}
            found.extend(Clamped(f"{name}.{key}", None, value) for key, value in settings.items())
            changes[name] = settings
    return (policy.merged({name: change for name, change in changes.items() if change != {}}), found)


def refuse_what_caps_nothing(ceiling: Policy, where: str) -> None:
    """A ceiling may only say what has a more and a less.

    Raises:
        PolicyError: It says something else.
    """
    if not isinstance(ceiling, Policy):
        raise PolicyError(
            f"{where}: ceiling = {shown(ceiling)}: must be a Policy. "
            "Fix: such as ceiling=Policy(retry=Retry(max_retries=3))."
        )
    for name, cap in _sections_of(ceiling):
        for key in cap.model_fields_set if cap is not None else ():
            value = getattr(cap, key)
            if not isinstance(value, bool | int | float):
                raise PolicyError(
                    f"{where}: ceiling has {name}.{key} = {shown(value)}, which has no more and less. "
                    "Fix: cap numbers, durations, sizes and switches only."
                )


def _sections_of(ceiling: Policy) -> list[tuple[str, Section | None]]:
    return [(name, getattr(ceiling, name)) for name in section_classes() if name in ceiling.model_fields_set]


def _lowered(name: str, own: Section, cap: Section) -> list[Clamped]:
    allowed = {key: getattr(own, key) for key in type(own).model_fields}
    for key in cap.model_fields_set:
        allowed[key] = _least(getattr(own, key), getattr(cap, key))
    for (section, key), other in _WITHIN.items():
        if section == name and None not in (allowed[key], allowed[other]):
            allowed[key] = min(allowed[key], allowed[other])
    return [
        Clamped(f"{name}.{key}", asked, allowed[key])
        for key in type(own).model_fields
        if (asked := getattr(own, key)) is not allowed[key] and asked != allowed[key]
    ]


def _least(asked: Any, limit: Any) -> Any:
    if isinstance(limit, bool):
        return asked and limit
    if isinstance(asked, str):
        return asked  # what is no number, such as need = "learned", is neither more nor less
    return limit if asked is None else min(asked, limit)
