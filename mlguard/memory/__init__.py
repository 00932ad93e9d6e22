"""The memory guard: no call starts that could get the container or host killed for want of memory.

Here live the section `Memory`, what it becomes for one function (`MemoryGuard`), where "used" and "limit" come from
(`Gauge`, over one `Probe` per limit), what a call will need, and which needs are in flight. Memory of GPUs stays out.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mlguard.memory.section import Memory

if TYPE_CHECKING:
    from mlguard.memory.gauge import Gauge, read
    from mlguard.memory.guard import MemoryGuard
    from mlguard.memory.measuring import LearningGuard, guard_for
    from mlguard.memory.probe import Probe, Reading

__all__ = ["Gauge", "LearningGuard", "Memory", "MemoryGuard", "Probe", "Reading", "guard_for", "read"]

_LATER = {
    "Gauge": "gauge",
    "read": "gauge",
    "MemoryGuard": "guard",
    "LearningGuard": "measuring",
    "guard_for": "measuring",
    "Probe": "probe",
    "Reading": "probe",
}


def __getattr__(name: str) -> Any:
    """What runs is loaded for the first function that guards memory: most programs import less than they might use."""
    if name in _LATER:
        return getattr(importlib.import_module(f"mlguard.memory.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
