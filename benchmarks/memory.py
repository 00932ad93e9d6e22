"""Claim: on small calls the memory guard costs a two-hundredth of asking psutil.

Asked for by name (``python -m benchmarks memory``), the table of `memory_table.py` follows: who gets killed.
"""

from __future__ import annotations

from benchmarks import peers
from benchmarks.case import OURS, Budget, Case
from benchmarks.subject import CALL, score
from mlguard import Memory, Retry, guarded

__all__ = ["cases"]

_WITHOUT = "mlguard without memory"


def cases() -> list[Case]:
    """What the guard adds to a call that is guarded anyway."""
    return [
        Case(
            name="memory",
            claim="a guarded function (retry) with and without the memory guard; calls that need little memory",
            arguments=CALL,
            contestants={
                OURS: guarded(memory=Memory(), retry=Retry(), validation=False)(score),
                _WITHOUT: guarded(retry=Retry(), validation=False)(score),
                "psutil check": peers.memory_checked(score),
            },
            least_sample=0.3,  # longer than a reading serves, so that every sample pays for some
            most_rounds=15,
            budgets=(Budget("psutil check", 1 / 200, minus=_WITHOUT),),
        ),
    ]
