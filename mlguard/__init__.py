"""mlguard: schemas, retry, caching, memory and monitoring for models in production, in one decorator.

Start with `guarded`. How it all fits together is written in `mlguard/call.py`.
"""

from typing import TYPE_CHECKING

from mlguard import policies
from mlguard.cache import Cache, NotKeyed
from mlguard.context import note, time_left
from mlguard.drift.section import Drift
from mlguard.errors import (
    CircuitOpenError,
    ConcurrencyLimitError,
    DeadlineExceededError,
    GuardError,
    InvalidInputError,
    InvalidOutputError,
    MemoryPressureError,
    PolicyError,
    RejectedError,
)
from mlguard.guard import guarded
from mlguard.handle import Guarded, Handle, Outcome
from mlguard.later import later
from mlguard.memory import Memory
from mlguard.monitor import Monitor, Redacted
from mlguard.policies import Policy
from mlguard.resilience import Breaker, Concurrency, Fallback, Retry, Timeout
from mlguard.validation import Array, Validation

if TYPE_CHECKING:
    from mlguard import testing as testing
    from mlguard.cache import CacheInfo
    from mlguard.validation.rows import Rows

__version__ = "0.1.0.dev0"

__all__ = [
    "Array",
    "Breaker",
    "Cache",
    "CacheInfo",
    "CircuitOpenError",
    "Concurrency",
    "ConcurrencyLimitError",
    "DeadlineExceededError",
    "Drift",
    "Fallback",
    "GuardError",
    "Guarded",
    "Handle",
    "InvalidInputError",
    "InvalidOutputError",
    "Memory",
    "MemoryPressureError",
    "Monitor",
    "NotKeyed",
    "Outcome",
    "Policy",
    "PolicyError",
    "Redacted",
    "RejectedError",
    "Retry",
    "Rows",
    "Timeout",
    "Validation",
    "guarded",
    "note",
    "policies",
    "testing",
    "time_left",
]

__getattr__ = later(__name__, {"CacheInfo": "cache", "Rows": "validation", "testing": "testing"})
