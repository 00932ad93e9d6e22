"""The record: every guarded call as a line of JSON in a bounded folder, to be searched later.

`Record` is what a policy declares, `recorder_for` gives the one `Recorder` that a process has for it, `outputs` turns a
prediction into what a line may hold of it. `open_calls` reads: a view `calls` for SQL. What stays out: what an event
says, which the monitor decides, and how it looks on a terminal, which `mlguard query` does.
"""

from typing import TYPE_CHECKING

from mlguard.later import later
from mlguard.record.section import Record

if TYPE_CHECKING:
    from mlguard.record.errors import RecordError
    from mlguard.record.prediction import outputs
    from mlguard.record.reading import Calls, open_calls
    from mlguard.record.recorder import Recorder, recorder_for

__all__ = ["Calls", "Record", "RecordError", "Recorder", "open_calls", "outputs", "recorder_for"]

__getattr__ = later(
    __name__,
    {
        "Calls": "reading",
        "RecordError": "errors",
        "Recorder": "recorder",
        "open_calls": "reading",
        "outputs": "prediction",
        "recorder_for": "recorder",
    },
)
