"""What a guard says: the error of a call that was refused, and warnings of which most are left out."""

from __future__ import annotations

import math
from typing import Any

import structlog

from mlguard import clock
from mlguard.errors import MemoryPressureError
from mlguard.memory.ledger import Look

__all__ = ["LOG_EVERY", "Warnings", "allowed_text", "refusal"]

LOG_EVERY = 10.0
"""Seconds between two warnings of one function; those in between are counted in the next."""

_log = structlog.get_logger("mlguard.memory")


def allowed_text(share: float, limit: int, source: str) -> str:
    """How much may be used, in words: "85% of the 400MiB limit of cgroup v2 /sys/fs/cgroup"."""
    return f"{share * 100:.4g}% of the {clock.size_text(limit)} limit of {source}"


def refusal(
    function: str, look: Look, *, need: int, share: float, waited: float, max_wait: float, why_not: str | None
) -> MemoryPressureError:
    """The error of a call that may not run.

    Args:
        function: What people call the function.
        look: What decided.
        need: Bytes that the call needs.
        share: Up to which share of the limit calls are admitted.
        waited: Seconds that it waited.
        max_wait: Seconds that such a call waits at most.
        why_not: Why it did not wait, as a sentence; None: it did, or its policy says so.
    """
    used, limit, source = look.reading
    size, allowed, of = clock.size_text, int(share * limit), allowed_text(share, limit, source)
    if look.permanent:
        message = (
            f"{function} was not run: this call needs {size(need)}, and even with nothing else in memory only "
            f"{size(allowed)} may be used, {of}. Fix: split the input, raise the limit, or correct need."
        )
        retry_after = None
    else:
        needs = f", {size(look.reserved)} are promised to calls in flight" if look.reserved else ""
        needs += f", and this call needs {size(need)}" if need else ""
        goes_first = " Calls that wait longer go first." if look.room >= need > 0 else ""
        wait = why_not or f"It waited {clock.duration_text(round(waited, 3))}."
        message = (
            f"{function} was not run: {size(used)} are used{needs}; {size(allowed)} may be used, {of}.{goes_first} "
            f"{wait} Fix: retry later or elsewhere, run fewer calls at once, raise the limit, or memory.max_wait."
        )
        retry_after = max(1.0, max_wait)
    return MemoryPressureError(
        message, used=used, limit=limit, need=need, source=source, retry_after=retry_after, permanent=look.permanent
    )


class Warnings:
    """One warning of a kind now and then: pressure comes when there are most calls.

    Args:
        function: The name of the function they are about.
    """

    def __init__(self, function: str) -> None:
        self._function = function
        self._kinds: dict[tuple[str, str], _Kind] = {}
        self.failures = 0
        """Warnings that the logging set-up failed to write."""

    def warn(self, event: str, action: str, **fields: Any) -> None:
        """Logs it, unless one of its kind was logged a moment ago."""
        now = clock.now()
        kind = self._kinds.setdefault((event, action), _Kind())
        if now < kind.next:
            kind.suppressed += 1
            return
        suppressed, kind.suppressed, kind.next = kind.suppressed, 0, now + LOG_EVERY
        try:
            _log.warning(event, function=self._function, action=action, suppressed=suppressed, **fields)
        except Exception:  # a logging set-up that fails must not fail a prediction
            self.failures += 1


class _Kind:
    next = -math.inf
    suppressed = 0
