"""mlguard: schemas, retry, caching, memory and monitoring for models in production, in one decorator.

Start with `guarded`. How it all fits together is written in `mlguard/call.py`.
"""

from mlguard import policies, testing
from mlguard.cache import Cache, CacheInfo, NotKeyed
from mlguard.context import note, time_left
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
from mlguard.memory import Memory
from mlguard.monitor import Monitor, Redacted
from mlguard.policies import Policy
from mlguard.resilience import Breaker, Concurrency, Fallback, Retry, Timeout
from mlguard.validation import Array, Validation

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
    "Timeout",
    "Validation",
    "guarded",
    "note",
    "policies",
    "testing",
    "time_left",
]
