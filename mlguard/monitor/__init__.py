"""Monitoring: one wide event a call, written through the application's own structlog, and counts that cost nothing.

`Monitor` is what a policy declares, `Reporter` what it becomes for one function. What an event may say is declared
once, in `event.py`. What stays out: metrics, drift and the searchable record, which read the same event elsewhere.
"""

from mlguard.monitor.redaction import Redacted
from mlguard.monitor.reporter import Reporter
from mlguard.monitor.section import Monitor

__all__ = ["Monitor", "Redacted", "Reporter"]
