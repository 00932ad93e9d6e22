"""Reference against current: what training looked like, and what came.

Two sources: the events `mlguard.drift`, which hold both sides of the window that showed the drift, and, where a profile
is given, the summaries of all calls of the record against it. Only single numbers, booleans and lengths of texts stand
in a record as they were, so that nothing else can be compared; what can't is named with the reason.
"""

# ruff: noqa: S608 - the SQL is put together from this package's own names; values are bound or quoted

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlguard.drift.event import EVENT
from mlguard.monitor.redaction import HIDDEN
from mlguard.record.columns import by_key, expression, literal, pointer

if TYPE_CHECKING:
    from mlguard.drift import Profile
    from mlguard.drift.reference import FieldReference
    from mlguard.record.reading import Calls

__all__ = ["MOST", "FieldShift", "Reference", "from_events", "from_profile", "merged"]

MOST: Final = 24
"""Fields that are shown; the ones that moved most."""

_EVENTS: Final = 10_000
"""Events that are looked at, the latest; a fleet in which every field flaps writes more than anybody reads."""

_BINS = 40  # of a field that are shown
_ABOUT = ("timestamp", "code.function.name", "mlguard.policy")  # what filters may ask of an event


@dataclass(frozen=True)
class FieldShift:
    """One input or prediction."""

    function: str
    field: str
    role: str
    """`input` or `output`."""
    source: str
    """`event`: the window in which the monitor saw the drift begin. `profile`: all calls of the record."""
    drifts: bool
    """True where a window passed the gate of `mlguard.drift` and it isn't over, or all calls together passed it."""
    bins: tuple[str, ...]
    reference: tuple[float, ...]
    """Shares of the training data, by bin."""
    current: tuple[float, ...]
    """Shares of what came, by bin."""
    psi: float | None
    """Population stability index, less what chance adds."""
    p_value: float | None
    wasserstein: float | None
    """How far values moved, in standard deviations of the reference; None for categories."""
    rows: float
    """Of the current side."""
    onsets: tuple[datetime | None, ...] = ()
    recoveries: tuple[datetime | None, ...] = ()
    moved: tuple[str, ...] = ()
    """The bins whose share changed most, in words."""
    fix: str = ""
    """Where to look first."""


@dataclass(frozen=True)
class Reference:
    """Every field that can be compared."""

    shifts: tuple[FieldShift, ...]
    """Those that drift first, then by how far they moved; `MOST` at most."""
    in_all: int
    """How many there are."""
    left_out: dict[str, str]
    """Fields of the profile that the record can't be compared with, each with the reason."""


def merged(*sources: Iterable[FieldShift], left_out: Mapping[str, str] = {}) -> Reference:
    """All of them, in the order in which they are told."""
    found = [shift for source in sources for shift in source]
    found.sort(key=lambda one: (not one.drifts, not one.onsets, -(one.psi or 0.0), one.function, one.field))
    return Reference(tuple(found[:MOST]), len(found), dict(left_out))


def from_events(record: Calls, where: str = "TRUE", parameters: tuple[Any, ...] = ()) -> list[FieldShift]:
    """What the events `mlguard.drift` say, a shift for each field of each function.

    Args:
        record: From `open_calls`.
        where: Which events: SQL over `time`, `function` and `policy`, with question marks.
        parameters: Values for these.
    """
    shown = ", ".join(f"{expression(by_key[key].key, by_key[key].type)} AS {by_key[key].name}" for key in _ABOUT)
    rows = record.sql(
        f"SELECT time, json FROM (SELECT {shown}, line AS json FROM lines "
        f"""WHERE contains(line, '"mlguard.drift.field"') AND {expression("event", "VARCHAR")} = '{EVENT}') """
        f"WHERE {where} ORDER BY time DESC NULLS LAST LIMIT {_EVENTS}",
        parameters,
    ).rows
    found: dict[tuple[str, str, str], list[tuple[datetime | None, dict[str, Any]]]] = {}
    for time, line in reversed([*rows]):
        event = _event(line)
        if event is not None:
            key = (
                str(event.get("code.function.name", "")),
                event["mlguard.drift.field"],
                str(event.get("mlguard.drift.role", "")),
            )
            found.setdefault(key, []).append((time, event))
    return [_shift(key, events) for key, events in found.items()]


def _event(line: str) -> dict[str, Any] | None:
    """An event of which the parts that are drawn make sense."""
    try:
        event: dict[str, Any] = json.loads(line)
    except (ValueError, RecursionError):
        return None
    bins, before, now = (event.get(f"mlguard.drift.{name}") for name in ("bins", "reference", "current"))
    sides: tuple[Any, Any] = (before, now)
    good = (
        isinstance(event.get("mlguard.drift.field"), str)
        and isinstance(bins, list)
        and bins
        and all(isinstance(side, list) and len(side) == len(bins) for side in sides)
        and all(0 <= (_number(share) or 0.0) <= 1 for side in sides for share in side)
    )
    return event if good else None


def _shift(key: tuple[str, str, str], events: list[tuple[datetime | None, dict[str, Any]]]) -> FieldShift:
    onsets = [(time, event) for time, event in events if event.get("mlguard.drift.state") == "onset"]
    recoveries = [time for time, event in events if event.get("mlguard.drift.state") == "recovery"]
    _, shown = (onsets or events)[-1]  # at the last onset both sides differ; at a recovery they are alike again

    def said(name: str) -> Any:
        return shown.get(f"mlguard.drift.{name}")

    function, field, role = key
    return FieldShift(
        function=function,
        field=field,
        role=role,
        source="event",
        drifts=events[-1][1].get("mlguard.drift.state") == "onset",
        bins=tuple(map(str, said("bins")[:_BINS])),
        reference=tuple(_number(share) or 0.0 for share in said("reference")[:_BINS]),
        current=tuple(_number(share) or 0.0 for share in said("current")[:_BINS]),
        psi=_number(said("psi")),
        p_value=_number(said("p_value")),
        wasserstein=_number(said("wasserstein")),
        rows=_number(said("rows")) or 0.0,
        onsets=tuple(time for time, _ in onsets),
        recoveries=tuple(recoveries),
        moved=tuple(map(str, said("moved") or ())) if isinstance(said("moved"), list) else (),
        fix=str(said("fix") or ""),
    )


def from_profile(
    record: Calls, profile: Profile, function: str, where: str = "TRUE", parameters: tuple[Any, ...] = ()
) -> tuple[list[FieldShift], dict[str, str]]:
    """The summaries of a function's calls against the profile of its training data.

    Args:
        record: From `open_calls`.
        profile: The reference.
        function: Whose calls.
        where: Which calls: SQL over the view `calls`, with question marks.
        parameters: Values for these.

    Returns:
        A shift for each field that could be compared, and the reason for each other one.
    """
    from mlguard.drift import compare_counts

    there = _keys(record, function, where, parameters)
    keys: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for field in profile.fields:
        why_not = _why_not(field)
        key = None if why_not else _key(field, there)
        if key is None:
            left_out[field.name] = why_not or "no record of this function has it as a single value"
        else:
            keys[field.name] = key
    fields = [field for field in profile.fields if field.name in keys]
    counts: dict[str, list[int]] = {}
    shares: dict[str, tuple[float, ...]] = {}
    told = 0
    cells, records = _counted(record, fields, keys, function, where, parameters) if fields else ({}, 0)
    for field in fields:
        found_cells = np.array(cells[field.name])
        if not found_cells.sum():
            left_out[field.name] = "it is hidden in the record"
            continue
        shares[field.name] = tuple(float(cell) for cell in found_cells / found_cells.sum())
        # As many rows as there are records: an estimate is no more certain for standing for more calls.
        counts[field.name] = [round(cell) for cell in found_cells / found_cells.sum() * records]
        told = max(told, sum(counts[field.name]))
    if not counts:
        return [], left_out
    found = compare_counts(profile, {"profile": profile.fingerprint, "rows": told, "fields": counts})
    by_name = {field.name: field for field in profile.fields}
    shifts = []
    for one in found.differences:
        field = by_name[one.field]
        before = [cell / field.rows for cell in field.counts]
        now = shares[one.field]
        seen = [cell for cell, both in enumerate(zip(before, now, strict=True)) if any(both)][:_BINS]
        shifts.append(
            FieldShift(
                function=function,
                field=one.field,
                role=field.role,
                source="profile",
                drifts=one.field in found.drifted,
                bins=tuple(field.bins.labels[cell] for cell in seen),
                reference=tuple(before[cell] for cell in seen),
                current=tuple(now[cell] for cell in seen),
                psi=one.psi,
                p_value=one.p_value,
                wasserstein=one.wasserstein,
                rows=float(sum(counts[one.field])),
            )
        )
    return shifts, left_out


_SEEN = 200  # records whose keys are looked at


def _keys(record: Calls, function: str, where: str, parameters: tuple[Any, ...]) -> set[str]:
    """The summaries that calls of the function have."""
    rows = record.sql(
        f"SELECT DISTINCT unnest(json_keys(json)) AS key FROM (SELECT json FROM calls WHERE ({where}) AND function = ? "
        f"AND attempts > 0 LIMIT {_SEEN})",
        (*parameters, function),
    ).rows
    return {key for (key,) in rows if key.startswith(("mlguard.input.", "mlguard.output"))}


def _key(field: FieldReference, there: set[str]) -> str | None:
    """Where a record holds the field's value: under its own path, or as a field of the one model that has it."""
    ending = f"{field.path}.length" if field.kind == "length" else field.path
    if field.role == "output":
        ending = ending.removeprefix("output").lstrip(".")
        exact = f"mlguard.output.{ending}" if ending else "mlguard.output"
    else:
        exact = f"mlguard.input.{ending}"
    if exact in there:
        return exact
    within = [key for key in there if key.startswith(exact[:13]) and key.endswith(f".{ending}")]
    return within[0] if len(within) == 1 else None


def _why_not(field: FieldReference) -> str | None:
    if field.index is not None:
        return "it is a column of an array, of which a record has figures of the whole only"
    if field.kind == "category" and any(isinstance(category, str) for category in (*field.categories, *field.rare)):
        return "its categories are texts, which no record holds; the monitor's drift compares them as calls are made"
    return None


def _counted(
    record: Calls,
    fields: Sequence[FieldReference],
    keys: Mapping[str, str],
    function: str,
    where: str,
    parameters: tuple[Any, ...],
) -> tuple[dict[str, list[float]], int]:
    """Weighed counts by field and cell, in one pass over the lines; and how many records were looked at."""
    paths = ", ".join(literal(pointer(keys[field.name])) for field in fields)
    cells = ", ".join(
        f"{{'field': {place}, 'cell': {_cell(field, f'found[{place + 1}]')}}}" for place, field in enumerate(fields)
    )
    any_value = " OR ".join(f"found[{place + 1}] IS NOT NULL" for place in range(len(fields)))
    # A value counts where the function ran, as for the monitor's own comparison.
    rows = record.sql(
        f"SELECT one.field, one.cell, sum(weight), count(*) FROM (SELECT unnest([{cells}]) AS one, weight FROM ("
        f"SELECT TRY(json_extract_string(json, [{paths}])) AS found, "
        "CASE WHEN weight >= 1 THEN weight ELSE 1 END AS weight "
        f"FROM calls WHERE ({where}) AND function = ? AND attempts > 0) WHERE {any_value}) GROUP BY ALL",
        (*parameters, function),
    ).rows
    found = {field.name: [0.0] * len(field.counts) for field in fields}
    records = [0] * len(fields)
    for place, cell, weight, number in rows:
        field = fields[place]
        records[place] += number
        if cell != HIDDEN:
            number_of_cell = int(cell) if field.ordered else field.bins.cell(_category(cell))
            found[field.name][number_of_cell] += weight
    return found, max(records, default=0)


def _cell(field: FieldReference, value: str) -> str:
    """The SQL of the cell of a value, as text: the number of a bin, or the category itself. See `bins.Numbers`."""
    if not field.ordered:
        return f"left({value}, 200)"
    edges = [math.nextafter(field.edges[0], -math.inf), *field.edges[1:]]
    missing, wrong = len(field.counts) - 1, len(field.counts) - 2
    number = f"TRY_CAST({value} AS DOUBLE)"
    steps = " ".join(f"WHEN {number} <= CAST('{edge!r}' AS DOUBLE) THEN {place}" for place, edge in enumerate(edges))
    return (
        f"CASE WHEN {value} = '{HIDDEN}' THEN '{HIDDEN}' ELSE CAST(CASE WHEN {value} IS NULL OR isnan({number}) "
        f"THEN {missing} WHEN {number} IS NULL THEN {wrong} {steps} ELSE {len(edges)} END AS VARCHAR) END"
    )


def _category(text: str | None) -> Any:
    """A value of a record as it was: categories here are numbers and booleans."""
    if text in ("true", "false"):
        return text == "true"
    if text is None or text == "nan":
        return None
    number = _number(text)
    return int(number) if number is not None and number.is_integer() else number if number is not None else text


def _number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
