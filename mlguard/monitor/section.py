"""`Monitor`: what a policy says about monitoring. What it does with a call is in `reporter.py`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mlguard.clock import Duration
from mlguard.drift.section import DriftSetting, or_a_path
from mlguard.record.section import RecordSetting, or_a_folder
from mlguard.section import Section

__all__ = ["Monitor"]


class Monitor(Section):
    """One log event a call, and counts. Without settings every call is logged, with summaries."""

    log: bool | Literal["background"] = True
    """Write an event for each call through the application's structlog. True: in the call, so that a line is out before
    anything can go wrong after it. "background": in a thread, so that a log that is slow or blocked delays no
    prediction; what the thread can't keep up with is dropped and counted, and a process that is killed loses up to
    10,000 lines. False: no log; calls are counted all the same, for `f.guard.stats()` and the metrics."""
    sample_rate: float = Field(default=1.0, gt=0, le=1)
    """The share of successful calls whose event is written, above 0 and at most 1. Failed, refused, slow and degraded
    calls, those that report mode let pass and those with anomalies are always written. The default drops nothing,
    because what is dropped can't be asked for later."""
    summaries: bool = True
    """Add shapes, statistics and numbers of the arguments and the result; never text. On by default: they tell a wrong
    input from a broken model."""
    metrics: bool = True
    """Whether the metrics of this process show the function. They are counted anyway, so that this costs nothing."""
    slow_call: Duration | None = None
    """From this duration on a call is slow: always written, and counted. None: no call is."""
    record: RecordSetting = Field(default=None, json_schema_extra=or_a_folder)
    """Keep the same events in a folder that can be searched: its path, or a `Record` section. None: not, because it
    takes disk."""
    record_outputs: bool = False
    """Add what was predicted to the record, bounded, never what the schema hides. Off by default: predictions may be
    personal data. It needs `record`."""
    spans: bool = False
    """Make an OpenTelemetry span of every call, current while the function runs, through the application's tracer
    provider. It needs the extra `opentelemetry`. Off by default: a span costs more than the log line."""
    drift: DriftSetting = Field(default=None, json_schema_extra=or_a_path)
    """Compare inputs and predictions with a profile of the training data: its path, or a `Drift` section. None: not,
    because only who trained the model has the profile."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.record_outputs and self.record is None:
            raise ValueError("record_outputs = True, but record is not set. Fix: record=FOLDER, or drop record_outputs")
        return self
