"""The memory guard: no call starts that could get the container or host killed for want of memory.

Here live the section `Memory`, what it becomes for one function (`MemoryGuard`), where "used" and "limit" come from
(`Gauge`, over one `Probe` per limit), what a call will need, and which needs are in flight. Memory of GPUs stays out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlguard.later import later
from mlguard.memory.section import Memory

if TYPE_CHECKING:
    from mlguard.memory.gauge import Gauge, read
    from mlguard.memory.guard import MemoryGuard
    from mlguard.memory.measuring import LearningGuard, guard_for
    from mlguard.memory.probe import Probe, Reading

__all__ = ["Gauge", "LearningGuard", "Memory", "MemoryGuard", "Probe", "Reading", "guard_for", "read"]

__getattr__ = later(
    __name__,
    {
        "Gauge": "gauge",
        "read": "gauge",
        "MemoryGuard": "guard",
        "LearningGuard": "measuring",
        "guard_for": "measuring",
        "Probe": "probe",
        "Reading": "probe",
    },
)
