"""The public test mode: guards off, no waits, events captured, a clock to move, a fresh start, things that go wrong.

Each is a context manager; nothing here changes anything before it is entered, and leaving it puts everything back.
They act on the whole process: don't use them in a service. Nothing but code switches any of it on.
"""

from mlguard.testing.chaos import Chaos, chaos
from mlguard.testing.fake_clock import FakeClock
from mlguard.testing.faults import Fault, changes, delays, fails, hangs, nan, wrong_shape
from mlguard.testing.isolation import isolated
from mlguard.testing.switches import capture_events, disabled, instant

__all__ = [
    "Chaos",
    "FakeClock",
    "Fault",
    "capture_events",
    "changes",
    "chaos",
    "delays",
    "disabled",
    "fails",
    "hangs",
    "instant",
    "isolated",
    "nan",
    "wrong_shape",
]
