"""`Monitor`: what a policy says about monitoring. What it does with a call is in `reporter.py`."""

from __future__ import annotations

from pydantic import Field

from mlguard.clock import Duration
from mlguard.drift.section import DriftSetting, or_a_path
from mlguard.section import Section

__all__ = ["Monitor"]


class Monitor(Section):
    """One log event a call, and counts. Without settings every call is logged, with summaries."""

    log: bool = True
    """Write an event for each call through the application's structlog. False: only count, for `f.guard.stats()`."""
    sample_rate: float = Field(default=1.0, gt=0, le=1)
    """The share of successful calls whose event is written, above 0 and at most 1. Failed, refused, slow and degraded
    calls, those that report mode let pass and those with anomalies are always written. The default drops nothing,
    because what is dropped can't be asked for later."""
    summaries: bool = True
    """Add shapes, statistics and numbers of the arguments and the result; never text. On by default: they tell a wrong
    input from a broken model."""
    slow_call: Duration | None = None
    """From this duration on a call is slow: always written, and counted. None: no call is."""
    drift: DriftSetting = Field(default=None, json_schema_extra=or_a_path)
    """Compare inputs and predictions with a profile of the training data: its path, or a `Drift` section. None: not,
    because only who trained the model has the profile."""
