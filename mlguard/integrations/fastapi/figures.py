"""What the health page says of one guarded function: the figures a person looks for first, and all counts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mlguard.errors import PolicyError
from mlguard.handle import Handle
from mlguard.monitor.failures import error_type
from mlguard.wrapper import Wrapper

__all__ = ["figures_of"]

_LONGEST = 300
_MOST = 50


def figures_of(wrapper: Wrapper) -> dict[str, Any]:
    """The figures of a function by section, as JSON can hold them."""
    about: dict[str, Any] = {"name": wrapper.target.name, "kind": wrapper.target.kind.value}
    try:
        policy = wrapper.policy
        stats: dict[str, Any] = Handle(wrapper).stats()
    except PolicyError as error:
        return {**about, "policy": wrapper.choice.name, "problem": str(error)}
    except Exception as error:  # the others are still worth showing
        return {**about, "policy": wrapper.choice.name, "problem": f"its figures can't be read: {error_type(error)}"}
    if policy.concurrency is not None:
        stats["concurrency"] = {"max_concurrent": policy.concurrency.max_concurrent, **stats["concurrency"]}
    if policy.memory is not None:
        stats["memory"] = {"threshold": policy.memory.threshold, **stats["memory"]}
    if "drift" in stats:
        stats["drift"].pop("counts", None)  # the tables that workers are merged by; large, and no figures
    shown = {name: _plain(_summed(section)) for name, section in stats.items()}
    return {**about, "policy": policy.name, "stats": shown}


def _summed(section: Any) -> Any:
    """A section that is kept for each value of an argument, without the values: they are the user's."""
    if not (isinstance(section, dict) and "by_value" in section):
        return section
    each = section["by_value"].values()
    states = Counter(one["state"] for one in each if "state" in one)
    told = {"per": section["per"], "values": section["values"]}
    return {**told, "last_used": dict(states)} if states else told


def _plain(value: Any) -> Any:
    """The same as JSON knows it, bounded."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key)[:_LONGEST]: _plain(item) for key, item in list(value.items())[:_MOST]}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in list(value)[:_MOST]]
    return str(value)[:_LONGEST] if isinstance(value, str) else type(value).__name__
