"""Claim: everything together costs little more than a wrapper fused by hand, without a log line and with one."""

from __future__ import annotations

from benchmarks import lines, peers
from benchmarks.case import OURS, Budget, Case
from benchmarks.limit import fused, fused_signature
from benchmarks.subject import CALL, score
from mlguard import Memory, Monitor, Policy, Retry, guarded

__all__ = ["cases"]

_LIMIT = "fused by hand"
_LIMIT_LINE = "fused by hand + the same line"
_STACKED = "peers stacked, one line"


def cases() -> list[Case]:
    """Without a line, with one, and with summaries in it."""
    lines.configure()
    policy = Policy(memory=Memory(), retry=Retry())
    told = guarded(policy, monitor=Monitor(summaries=False))(score)
    summarised = guarded(policy, monitor=Monitor())(score)
    with_line = fused(score, lines.by_hand(lambda: told(*CALL)))
    stacked = peers.stacked(score)
    return [
        Case(
            name="everything",
            claim="validation, memory guard and retry, no log line",
            arguments=CALL,
            contestants={
                OURS: guarded(policy)(score),
                _LIMIT: fused(score),
                "fused by hand, for this signature": fused_signature(score),
            },
            budgets=(Budget(_LIMIT, 1.3),),
        ),
        Case(
            name="everything-line",
            claim="the same with one structlog line per call, summaries off",
            arguments=CALL,
            contestants={OURS: told, _LIMIT_LINE: with_line, _STACKED: stacked},
            budgets=(Budget(_LIMIT_LINE, 1.15), Budget(_STACKED, 1 / 8), Budget(_STACKED, None, of=_LIMIT_LINE)),
        ),
        Case(
            name="everything-summaries",
            claim="the same with summaries of two scalars in and one out",
            arguments=CALL,
            contestants={OURS: summarised, _LIMIT_LINE: with_line, _STACKED: stacked},
            budgets=(Budget(_LIMIT_LINE, 1.5),),
        ),
    ]
