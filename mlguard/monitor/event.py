"""The event: every field a record of a guarded call may have, declared once.

`schemas/event.schema.json` is generated from here; ``python -m mlguard.monitor.event`` prints it. Nothing on the path
of a call imports this file: the reporter writes plain dicts, and tests hold them against the schema.
"""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from mlguard.outcome import Disposition

__all__ = ["EVENT", "EXCEPTION_EVENT", "Event", "Violation", "json_schema"]

EVENT: Final = "mlguard.call"
"""The name of a record of a call that ended well, was refused or was cancelled."""

EXCEPTION_EVENT: Final = "mlguard.call.exception"
"""The name of a record of a call from which an exception escaped."""


class Violation(BaseModel):
    """One way in which an argument or a result breaks its schema."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    loc: str
    """Where, dotted. A name that the schema does not know, such as a key of the caller's own dict, is shown as `*`."""
    type: str
    """pydantic's error type, such as `greater_than_equal`."""
    msg: str
    """pydantic's message, which never quotes the input; `[redacted]` for a hidden field."""


def _keyed(name: str) -> Any:
    return Field(default=None, alias=name)


class Event(BaseModel):
    """One guarded call.

    Beside these fields a record holds summaries, `mlguard.input.<parameter>...` and `mlguard.output...`, what other
    concerns tell (`mlguard.breaker...`, `mlguard.memory...`, `mlguard.cache...`, `mlguard.retry...`), the fields that
    `mlguard.note()` added, under their own names or under `note.` where such a name is taken, and whatever the
    application's own processors add. An optional field that is absent means none, zero or false.
    """

    model_config = ConfigDict(
        extra="allow", use_attribute_docstrings=True, serialize_by_alias=True, title="mlguard.call"
    )

    schema_version: Literal[1] = Field(alias="mlguard.schema_version")
    """The version of this schema. It grows when a field changes its meaning or goes, not when one comes."""
    event: Literal["mlguard.call", "mlguard.call.exception"]
    """The name of the record."""
    outcome: Literal["success", "failure", "unknown"] = Field(alias="event.outcome")
    """As in ECS; `unknown` for a cancelled call."""
    function: str = Field(alias="code.function.name")
    """Module and qualified name of the guarded function, as in OpenTelemetry."""
    call_id: str = Field(alias="mlguard.call_id")
    """Unique across processes."""
    disposition: Disposition = Field(alias="mlguard.disposition")
    """How the call ended."""
    duration: float = Field(alias="mlguard.duration", ge=0)
    """Seconds from the call's start to its end, waits and retries included; for a stream, to its end."""
    attempts: int = Field(alias="mlguard.attempts", ge=0)
    """How often the function was entered; 0 for a cache hit or a rejection."""
    sample_rate: float = Field(alias="mlguard.sample_rate", gt=0, le=1)
    """The share of calls like this one that is kept: to estimate a count, weigh each record with its inverse."""

    parent_call_id: str | None = _keyed("mlguard.parent_call_id")
    """The guarded call inside which this one ran."""
    trace_id: str | None = None
    """The OpenTelemetry trace that the call belongs to, 32 hexadecimal digits."""
    span_id: str | None = None
    """The call's own span with `spans`, else the span in which it was made; 16 hexadecimal digits."""
    process_id: int | None = _keyed("process.pid")
    """The process in which it ran."""
    host: str | None = _keyed("host.name")
    """The machine, or the container, in which it ran."""
    time: float | None = _keyed("mlguard.time")
    """With `log="background"`: when the call ended, in seconds since 1970. A timestamp of the application's processors
    says when the line was written."""
    policy: str | None = _keyed("mlguard.policy")
    """The policy's name."""
    fingerprint: str | None = _keyed("mlguard.policy.fingerprint")
    """A digest of the policy in force."""
    model_version: str | None = _keyed("mlguard.model_version")
    """As given to `guarded()`."""
    error_type: str | None = _keyed("error.type")
    """The class of the exception with which the call ended."""
    exception_message: str | None = Field(default=None, alias="exception.message", max_length=500)
    """What it says, without hidden values and without inputs that pydantic quotes."""
    exception: str | None = None
    """The traceback as text, without local variables. An application's processors may turn it into something else."""
    recorded_by: str | None = _keyed("mlguard.recorded_by")
    """The inner call whose record has the message and traceback of this exception."""
    degraded: bool | None = _keyed("mlguard.degraded")
    """The value is a fallback."""
    late: bool | None = _keyed("mlguard.late")
    """An attempt ended after its deadline, and its result was used all the same."""
    slow: bool | None = _keyed("mlguard.slow")
    """The call took longer than the policy's `slow_call`."""
    function_duration: float | None = Field(default=None, alias="mlguard.function_duration", ge=0)
    """Seconds of the duration that the function itself ran, all attempts together; for a stream, that it made items.
    What is neither this nor `mlguard.waited` went into validation, cache and the guard itself, and for a stream into
    its consumer."""
    waited: float | None = Field(default=None, alias="mlguard.waited", ge=0)
    """Seconds of the duration that went into waiting for a slot, for memory, or between attempts."""
    cache: str | None = _keyed("mlguard.cache")
    """What the cache did: miss, coalesced (another call's run was shared), bypass (no key, or nothing to share), stale,
    negative (a failure that is remembered), shared (found in the shared store), partial (some rows were computed)."""
    cache_error: str | None = _keyed("mlguard.cache.error")
    """Why the shared store was no help: unreachable, timeout, backing_off, damaged, foreign and so on."""
    stale_for: float | None = Field(default=None, alias="mlguard.cache.stale_for", ge=0)
    """Seconds for which the result that was served had been out of date."""
    rows_hit: int | None = Field(default=None, alias="mlguard.cache.rows_hit", ge=0)
    """Rows of the batch that were cached."""
    rows_computed: int | None = Field(default=None, alias="mlguard.cache.rows_computed", ge=0)
    """Rows of the batch that the function ran on."""
    first_item: float | None = Field(default=None, alias="mlguard.first_item", ge=0)
    """Seconds until a stream's first item."""
    items: int | None = Field(default=None, alias="mlguard.items", ge=0)
    """How many items a stream made."""
    violations: list[Violation] | None = Field(default=None, alias="mlguard.violations", max_length=20)
    """The first violations of a schema."""
    violation_count: int | None = Field(default=None, alias="mlguard.violation_count", ge=1)
    """How many violations there were."""
    validation_check: Literal["sample", "metadata"] | None = _keyed("mlguard.validation.check")
    """Some values of arrays or tables were not looked at: a bounded sample was, or class, dtype and shape only."""
    anomalies: list[str] | None = Field(default=None, alias="mlguard.anomalies", max_length=16)
    """Inputs and predictions that training never saw, by the profile of `drift`: outside the trained range, an unseen
    category, unusually many missing values. Fields and bounds of the profile, no value of the call."""
    anomaly_count: int | None = Field(default=None, alias="mlguard.anomaly_count", ge=1)
    """How many there were."""
    chaos: str | None = _keyed("mlguard.chaos")
    """What `mlguard.testing.chaos` did to the last attempt that it struck. Only in tests."""
    prediction: Any = _keyed("mlguard.prediction")
    """With `record_outputs`, in the record only: what was predicted, as `mlguard.record.outputs` shows it."""
    rejected_rows: int | None = _keyed("mlguard.rejected_rows")
    """Rows of a table that were taken out because they break their schema; the fallback answered for them."""
    suppressed: int | None = Field(default=None, alias="mlguard.suppressed", ge=1)
    """Records of rejections of this kind that were left out since the last one, to spare the log an overload."""
    notes_dropped: int | None = Field(default=None, alias="mlguard.notes_dropped", ge=1)
    """Notes beyond the 32 that a record holds."""


def json_schema() -> dict[str, Any]:
    """The event as JSON Schema, draft 2020-12."""
    schema = Event.model_json_schema(by_alias=True)
    scalar: dict[str, Any] = {"type": ["number", "string", "boolean", "null"]}
    scalars = {"anyOf": [scalar, {"type": "array", "items": scalar}]}
    schema["patternProperties"] = {
        r"^mlguard\.(input\.[^.]+|output)(\.|$)": {
            **scalars,
            "description": (
                "A summary: a number or boolean by value (`nan`, `inf` and `-inf` as text), `length` of a text, "
                "`count` of a container, `shape`, `dtype`, `bytes`, `nulls`, `infinite`, `min`, `mean`, `max`, `std` "
                "of an array, `rows`, `columns`, `nulls` of a frame, `type` of anything else; `sampled` where "
                "statistics looked at a part of the values."
            ),
        },
        r"^mlguard\.(breaker|memory|cache|retry|concurrency|timeout|fallback)\.": {
            **scalars,
            "description": "What a concern tells.",
        },
        r"^ray\.": {"type": "string", "description": "Ids of Ray, where Ray runs the call."},
        r"^note\.": {**scalars, "description": "A note whose own name is taken."},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
