"""The event `mlguard.drift`: a field begins to drift, or has recovered. Every key it may have, declared once.

``python -m mlguard.drift.event`` prints it as JSON Schema. Like that of a call, it is written as a plain dict, and
tests hold it against the schema.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from mlguard.drift.alarms import Alarm
from mlguard.drift.reference import FieldReference

__all__ = ["EVENT", "DriftEvent", "json_schema", "told"]

EVENT: Final = "mlguard.drift"
"""The name of the record; a warning at the onset, information at the recovery."""

_MOVED = 3  # cells that the record names


class DriftEvent(BaseModel):
    """A field of a guarded function begins to drift, or has recovered."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True, serialize_by_alias=True, title=EVENT)

    schema_version: Literal[1] = Field(alias="mlguard.schema_version")
    """The version of this schema."""
    event: Literal["mlguard.drift"]
    """The name of the record."""
    function: str = Field(alias="code.function.name")
    """Module and qualified name of the guarded function."""
    policy: str | None = Field(default=None, alias="mlguard.policy")
    """The policy's name."""
    model_version: str | None = Field(default=None, alias="mlguard.model_version")
    """As given to `guarded()`."""
    field: str = Field(alias="mlguard.drift.field")
    """The input or prediction, as the profile calls it."""
    role: Literal["input", "output"] = Field(alias="mlguard.drift.role")
    """Which of the two."""
    state: Literal["onset", "recovery"] = Field(alias="mlguard.drift.state")
    """It begins, or it is over."""
    window: int = Field(alias="mlguard.drift.window", ge=1)
    """Nominal rows of the windows that showed it."""
    rows: int = Field(alias="mlguard.drift.rows", ge=0)
    """Rows of the last of them."""
    lasted: int | None = Field(default=None, alias="mlguard.drift.lasted", ge=0)
    """At a recovery: rows since the onset."""
    p_value: float = Field(alias="mlguard.drift.p_value", ge=0, le=1)
    """How likely as large a difference is without drift."""
    psi: float = Field(alias="mlguard.drift.psi", ge=0)
    """Population stability index, less what chance adds."""
    jensen_shannon: float = Field(alias="mlguard.drift.jensen_shannon", ge=0, le=1)
    """Distance, from 0 to 1."""
    wasserstein: float | None = Field(default=None, alias="mlguard.drift.wasserstein", ge=0)
    """How far values moved, in standard deviations of the reference; absent for categories."""
    bins: list[str] = Field(alias="mlguard.drift.bins")
    """What the shares below are shares of."""
    reference: list[float] = Field(alias="mlguard.drift.reference")
    """Shares of the training data."""
    current: list[float] = Field(alias="mlguard.drift.current")
    """Shares of the window."""
    moved: list[str] = Field(alias="mlguard.drift.moved", max_length=_MOVED)
    """The bins whose share changed most, in words."""
    fix: str | None = Field(default=None, alias="mlguard.drift.fix")
    """At an onset: where to look first."""
    more: int | None = Field(default=None, alias="mlguard.drift.more", ge=1)
    """Further fields that changed with this window and have no record of their own."""


def told(alarm: Alarm) -> dict[str, Any]:
    """What a record says of an alarm, without what belongs to the function."""
    seen, field = alarm.seen, alarm.field
    event: dict[str, Any] = {
        "mlguard.drift.field": field.name,
        "mlguard.drift.role": field.role,
        "mlguard.drift.state": alarm.state,
        "mlguard.drift.window": alarm.window,
    }
    event |= {f"mlguard.drift.{name}": value for name, value in seen.as_dict().items() if value is not None}
    if alarm.state == "recovery":
        event["mlguard.drift.lasted"] = alarm.lasted
    shown = [cell for cell, shares in enumerate(zip(seen.reference, seen.current, strict=True)) if any(shares)]
    event["mlguard.drift.bins"] = [field.bins.labels[cell] for cell in shown]
    event["mlguard.drift.reference"] = [round(seen.reference[cell], 4) for cell in shown]
    event["mlguard.drift.current"] = [round(seen.current[cell], 4) for cell in shown]
    moved = sorted(shown, key=lambda cell: -abs(seen.current[cell] - seen.reference[cell]))[:_MOVED]
    event["mlguard.drift.moved"] = [
        f"{field.bins.labels[cell]}: {seen.reference[cell]:.1%} -> {seen.current[cell]:.1%}" for cell in moved
    ]
    if alarm.state == "onset":
        event["mlguard.drift.fix"] = _fix(field, seen.reference, seen.current)
    return event


def _fix(field: FieldReference, reference: tuple[float, ...], current: tuple[float, ...]) -> str:
    """Where to look first, by what grew most."""
    gain = [now - before for before, now in zip(reference, current, strict=True)]
    most = max(range(len(gain)), key=gain.__getitem__)
    last = len(gain) - 1
    if most == last:
        look = f"{field.name} is missing more often: look at what fills it"
    elif field.role == "output":
        look = (
            "the model says other things than in training: look at its inputs first, then at the model that is loaded"
        )
    elif field.kind == "category":
        mix = "categories that training did not have" if most in (last - 1, last - 2) else "another mix of categories"
        look = f"{field.name} has {mix}: look at the codes of its source and at who calls"
    elif most in (0, last - 2):
        look = f"{field.name} leaves the trained range: look at its unit, its scale and its sentinel values"
    elif most == last - 1:
        look = f"{field.name} holds values of another kind: look at what parses it"
    else:
        look = f"{field.name} moved within the trained range: look at its source and at who calls"
    return f"{look}. Fix: repair the source, or, where the world has changed, retrain and make the profile anew."


def json_schema() -> dict[str, Any]:
    """The event as JSON Schema, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **DriftEvent.model_json_schema(by_alias=True),
    }


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
