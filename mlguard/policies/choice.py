"""What a decorator chose: a policy or the name of one, what it merges over it, and the ceiling above it.

A name is resolved when the function is bound, at its first call or at `policies.bind_all`, and again at a reload.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from mlguard.errors import PolicyError
from mlguard.policies.ceiling import Clamped, clamp, refuse_what_caps_nothing
from mlguard.policies.policy import NAME, PRESET, Policy
from mlguard.section import shown

if TYPE_CHECKING:
    from mlguard.policies.lineage import Resolved

__all__ = ["Choice"]

_log = structlog.get_logger("mlguard.policies")


@dataclass(frozen=True)
class Choice:
    """The policy of one function, as its decorator says it.

    Raises:
        PolicyError: The name could never be one, or the ceiling says something that has no more and less.
    """

    given: Policy | str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    ceiling: Policy | None = None
    where: str = "the decorator"
    """File and line of the decorator."""

    def __post_init__(self) -> None:
        if isinstance(self.given, str) and not NAME.fullmatch(self.given.removeprefix(PRESET)):
            raise PolicyError(
                f"{self.where}: {shown(self.given)} can't be the name of a policy: names are [a-z][a-z0-9_]*, such as "
                "'realtime' or 'mlguard:realtime'."
            )
        if self.ceiling is not None:
            refuse_what_caps_nothing(self.ceiling, self.where)

    @property
    def name(self) -> str | None:
        """The name to resolve; None: the policy is there already."""
        return self.given if isinstance(self.given, str) else None

    def policy(self, get: Callable[[str], Resolved]) -> tuple[Policy, list[Clamped]]:
        """The policy in force, and what the ceiling lowered in it.

        Args:
            get: Finds a policy by name.

        Raises:
            PolicyError: There is no such policy, it is abstract, or what is merged over it contradicts it.
        """
        policy = _usable(get(self.given)) if isinstance(self.given, str) else self.given
        if self.overrides:
            policy = policy.merged(self.overrides)
        return (policy, []) if self.ceiling is None else clamp(policy, self.ceiling)

    def tell(self, clamped: list[Clamped], *, function: str) -> None:
        """Warns of what the ceiling lowered."""
        for each in clamped:
            with contextlib.suppress(Exception):  # a broken log must not break the call that binds the function
                _log.warning(
                    "mlguard.policy.clamped",
                    **{
                        "code.function.name": function,
                        "mlguard.policy": self.name,
                        "mlguard.policy.setting": each.setting,
                        "mlguard.policy.asked": each.asked,
                        "mlguard.policy.allowed": each.allowed,
                    },
                )

    def origins(self, get: Callable[[str], Resolved]) -> dict[str, str]:
        """Where each value that is no default was written: as the policy's own origins, the decorator's over them."""
        from mlguard.policies.explained import origins

        found: dict[str, str] = {}
        unclamped = self.given
        if isinstance(unclamped, str):
            resolved = get(unclamped)
            found = origins(resolved)
            unclamped = _usable(resolved)
        else:
            found = {f"{name}.{key}": f"Policy at {self.where}" for name, key in _said(unclamped.sections)}
        for name, override in self.overrides.items():
            if override is False or override is None:
                found = {key: where for key, where in found.items() if key.partition(".")[0] != name}
                found[name] = f"removed at {self.where}"
            elif override is True:
                found.setdefault(name, self.where)
            else:
                found.update({f"{name}.{key}": self.where for _, key in _said({name: override})})
        if self.ceiling is not None:
            merged = unclamped.merged(self.overrides) if self.overrides else unclamped
            found.update({each.setting: f"ceiling at {self.where}" for each in clamp(merged, self.ceiling)[1]})
        return found


def _usable(resolved: Resolved) -> Policy:
    if resolved.policy is None:
        raise PolicyError(
            f"policy '{resolved.name}' is abstract ({' and '.join(resolved.origins)}): it is there to be extended. "
            "Fix: use a policy that extends it."
        )
    return resolved.policy


def _said(sections: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings that sections say explicitly."""
    return [
        (name, key)
        for name, section in sections.items()
        for key in (section if isinstance(section, Mapping) else section.model_fields_set)
    ]
