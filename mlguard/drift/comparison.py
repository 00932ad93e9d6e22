"""A profile against a table, or against counts: the gate once over everything, for people, CI and fleets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlguard.drift.columns import columns_of
from mlguard.drift.errors import ProfileError
from mlguard.drift.fleet import merge
from mlguard.drift.gate import Difference, difference, rejected
from mlguard.drift.reference import Profile
from mlguard.drift.section import Drift

__all__ = ["Comparison", "compare", "compare_counts"]


@dataclass(frozen=True)
class Comparison:
    """What a table or a fleet's counts came to."""

    rows: int
    differences: tuple[Difference, ...]
    """Of every field that is in both, the largest index first."""
    drifted: frozenset[str]
    """The fields that passed the gate."""
    absent: tuple[str, ...]
    """Fields of the profile that the data does not have."""
    new: tuple[str, ...] = ()
    """Columns that the profile does not know."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "rows": self.rows,
            "drifted": sorted(self.drifted),
            "absent": list(self.absent),
            "new": list(self.new),
            "fields": {one.field: one.as_dict() for one in self.differences},
        }


def compare(
    profile: Profile,
    data: Any,
    predictions: Any = None,
    *,
    p_value: float = 1e-4,
    psi: float = 0.02,
    design_effect: float | None = None,
) -> Comparison:
    """All rows of a table as one window.

    Args:
        profile: The reference.
        data: As `mlguard.drift.profile` takes it.
        predictions: Likewise.
        p_value: As in `Drift`.
        psi: As in `Drift`.
        design_effect: As in `Drift`.

    Raises:
        ProfileError: The data is no table, or has no field of the profile.
    """
    columns = columns_of(data, "data")
    by_name = {column.name: column.values for column in columns}
    inputs = [field for field in profile.fields if field.role == "input"]
    if not any(field.name in by_name for field in inputs) and len(columns) == len(inputs):
        by_name = {field.name: column.values for field, column in zip(inputs, columns, strict=True)}
    if predictions is not None:
        for column in columns_of(predictions, "predictions"):
            suffix = "" if column.index is None else f"[{column.index}]"
            by_name[f"output{'.' if column.path else ''}{column.path}{suffix}"] = column.values
    counts = {field.name: field.bins.count(by_name[field.name]) for field in profile.fields if field.name in by_name}
    new = tuple(sorted(set(by_name) - {field.name for field in profile.fields} - set(profile.left_out)))
    return _judged(profile, counts, len(columns[0].values), new, p_value, psi, design_effect)


def compare_counts(
    profile: Profile,
    counts: Mapping[str, Any],
    *,
    p_value: float = 1e-4,
    psi: float = 0.02,
    design_effect: float | None = None,
) -> Comparison:
    """What detectors counted (see `merge`) as one window.

    Raises:
        ProfileError: The counts are by another profile.
    """
    found = merge([counts])
    if found["profile"] != profile.fingerprint:
        raise ProfileError(
            f"the counts are by the profile {found['profile']}, this one is {profile.fingerprint}. "
            "Fix: give the profile that the workers have."
        )
    known = {field.name: len(field.counts) for field in profile.fields}
    for name, cells in found["fields"].items():
        if known.get(name) != len(cells):
            raise ProfileError(f"the counts of {name!r} are none of this profile's. Fix: take them anew.")
    return _judged(profile, found["fields"], found["rows"], (), p_value, psi, design_effect)


def _judged(
    profile: Profile,
    counts: Mapping[str, list[int]],
    rows: int,
    new: tuple[str, ...],
    p_value: float,
    psi: float,
    design_effect: float | None,
) -> Comparison:
    limits = Drift(profile="-", p_value=p_value, psi=psi, design_effect=design_effect)  # refuses what makes no sense
    there = [field for field in profile.fields if field.name in counts]
    if not there:
        names = ", ".join(field.name for field in profile.fields[:5])
        raise ProfileError(
            f"the data has no field of the profile ({names}, ...). Fix: name the columns as in training."
        )
    found = [difference(field, counts[field.name], limits.design_effect or field.design_effect) for field in there]
    real = rejected({one.field: one.p_value for one in found}, limits.p_value, len(found))
    return Comparison(
        rows=rows,
        differences=tuple(sorted(found, key=lambda one: -one.psi)),
        drifted=frozenset(one.field for one in found if one.field in real and one.psi > limits.psi),
        absent=tuple(field.name for field in profile.fields if field.name not in counts),
        new=new,
    )
