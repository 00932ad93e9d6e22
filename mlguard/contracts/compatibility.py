"""Two versions of a contract compared: who that was made for the one meets a refusal at the other.

Modes mean what they mean for schema registries. backward: the new schema takes what was made for the old one, so that
the service may be updated first. forward: the old schema takes what is made for the new one, so that its callers may.
full: both. Of a function, the result is compared the other way round: it is made by the service, read by its callers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from mlguard.contracts.array_inclusion import judge_ties
from mlguard.contracts.inclusion import Finding, Inclusion
from mlguard.contracts.subject import ContractError

__all__ = ["Comparison", "Judgement", "Mode", "compare"]

Mode = Literal["backward", "forward", "full"]

_MEETS = {
    ("backward", False): "callers made for the old schema are refused by a service with the new one",
    ("forward", False): "callers made for the new schema are refused by a service with the old one",
    ("backward", True): "callers made for the old schema get results from the new service that theirs refuses",
    ("forward", True): "callers made for the new schema get results from the old service that theirs refuses",
}


@dataclass(frozen=True)
class Judgement:
    """A finding, and in which direction it counts."""

    finding: Finding
    direction: Literal["backward", "forward"]
    result: bool
    """It is about the result of a function."""

    @property
    def meets(self) -> str:
        """Who meets what, in a sentence; empty for a note, which refuses nobody."""
        if self.finding.verdict == "note":
            return ""
        said = _MEETS[self.direction, self.result]
        return said if self.finding.verdict == "incompatible" else f"it can't be told whether {said}"


@dataclass(frozen=True)
class Comparison:
    """What a comparison came to."""

    mode: Mode
    judgements: tuple[Judgement, ...]

    @property
    def verdict(self) -> Literal["compatible", "incompatible", "unknown"]:
        """Incompatible where anything is; else unknown where anything is; else compatible."""
        found = {each.finding.verdict for each in self.judgements}
        return "incompatible" if "incompatible" in found else "unknown" if "unknown" in found else "compatible"

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for other programs."""
        return {
            "mode": self.mode,
            "verdict": self.verdict,
            "findings": [
                {**asdict(each.finding), "direction": each.direction, "result": each.result, "meets": each.meets}
                for each in self.judgements
            ],
        }


def compare(old: dict[str, Any], new: dict[str, Any], mode: Mode = "backward") -> Comparison:
    """Compares two documents that `json_schema` made, or any JSON Schemas.

    Args:
        old: The contract that is out there.
        new: The one that shall follow it.
        mode: Which way must hold.

    Raises:
        ContractError: A schema refers to itself without end.
    """
    try:
        return Comparison(mode, tuple(_judgements(old, new, mode)))
    except RecursionError:
        raise ContractError("the schemas refer to themselves without end. Fix: check their $defs.") from None


def _judgements(old: dict[str, Any], new: dict[str, Any], mode: Mode) -> list[Judgement]:
    directions: list[Literal["backward", "forward"]] = [
        each for each in ("backward", "forward") if mode in (each, "full")
    ]
    judgements: list[Judgement] = []
    for direction in directions:
        for result in (False, True):
            for finding in _found(old, new, backward=direction == "backward", result=result):
                known = any(each.finding == finding and each.result == result for each in judgements)
                if not (known and finding.verdict == "note"):
                    judgements.append(Judgement(finding, direction, result))
    return judgements


def _found(old: dict[str, Any], new: dict[str, Any], *, backward: bool, result: bool) -> list[Finding]:
    """Arguments go from caller to service, results the other way."""
    forth = backward is not result
    judge = Inclusion(old, new, ("old", "new")) if forth else Inclusion(new, old, ("new", "old"))
    if not result:
        judge.findings += judge.judge(judge.writer, judge.reader)
    elif "result" in old and "result" in new:
        judge.findings += judge.judge(judge.writer["result"], judge.reader["result"], "return")
        if old.get("items_of") != new.get("items_of"):
            judge.find(
                "return", "incompatible", "type", "a stream of items in one of the two, a single result in the other"
            )
    elif "result" in old or "result" in new:
        judge.find("return", "unknown", "type", "only one of the two describes a result")
    judge_ties(judge, results=result)
    return judge.findings
