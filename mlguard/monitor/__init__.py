"""Monitoring: one wide event a call, written through the application's own structlog, and counts that cost nothing.

`Monitor` is what a policy declares, `Reporter` what it becomes for one function. What an event may say is declared
once, in `event.py`; what there is to count, in `metrics.py`, and `readings.py` reads it when somebody asks. What stays
out: drift and the searchable record, which have rooms of their own, and the systems figures go to, which are `sinks`.
"""

from mlguard.monitor.redaction import Redacted
from mlguard.monitor.reporter import Reporter
from mlguard.monitor.section import Monitor

__all__ = ["Monitor", "Redacted", "Reporter"]
