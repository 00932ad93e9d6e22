"""What keeps a call alive when things fail around it: retry, deadlines, breaker, concurrency limit, fallback.

One file a concern: the section a user declares, and beside it the object that carries it out for one function. What
kind of failure an exception is, is decided in `mlguard.outcome`; the order in which they meet a call, in `call.py`.
"""

from mlguard.resilience.breaker import Breaker, CircuitBreaker
from mlguard.resilience.concurrency import Concurrency, Slots
from mlguard.resilience.deadline import Deadlines, Timeout
from mlguard.resilience.fallback import Fallback, SafeDefault
from mlguard.resilience.retry import Retry, Retrying

__all__ = [
    "Breaker",
    "CircuitBreaker",
    "Concurrency",
    "Deadlines",
    "Fallback",
    "Retry",
    "Retrying",
    "SafeDefault",
    "Slots",
    "Timeout",
]
