"""The reference: what the training data looked like, field by field, in a few kilobytes that lie beside the model.

`Profile` is what is kept and saved, `making.py` makes one. It holds bins and counts, the names of frequent categories,
and no row.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mlguard.drift.bins import Bins, Categories, Lengths, Numbers
from mlguard.drift.errors import ProfileError

__all__ = ["VERSION", "Contract", "FieldReference", "Profile"]

VERSION: Final = 1
"""The version of the saved form. It grows when an older mlguard could misread a newer file."""

LARGEST: Final = 32 * 2**20
"""Bytes of a file that is read at all; a profile of 2,000 fields takes about 2 MB."""

Category = bool | int | float | str


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FieldReference(_Frozen):
    """One field of the training data."""

    name: str = Field(min_length=1, max_length=500)
    """What people call it."""
    role: Literal["input", "output"]
    path: str = Field(max_length=500)
    """The argument, column or field it is read from; empty: the only array there is."""
    index: int | None = Field(default=None, ge=0)
    """Its position along the last axis of an array; None: it is alone."""
    width: int | None = Field(default=None, ge=1)
    """How many columns that array has."""
    kind: Literal["number", "length", "category"]
    """Numbers, texts by their length, or categories."""
    edges: tuple[float, ...] = ()
    """For numbers and lengths: from the least value to the greatest, ascending; see `Numbers`."""
    centres: tuple[float, ...] = ()
    """For numbers and lengths: the mean of the training data between each two edges."""
    categories: tuple[Category, ...] = ()
    """The most frequent categories, which have a cell each."""
    rare: tuple[Category, ...] = ()
    """The others that were seen."""
    open_ended: bool = False
    """There were too many categories to list, so that a new one is nothing unusual."""
    counts: tuple[int, ...]
    """Rows of the training data by cell."""
    mean: float | None = None
    """Of the finite numbers."""
    spread: float | None = None
    """Their standard deviation."""
    distinct: int = Field(ge=0)
    """How many different values there were."""
    design_effect: float = Field(ge=1)
    """By how much neighbouring rows overstate a difference; 1 for independent rows."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if (self.index is None) != (self.width is None) or (self.width or 1) <= (self.index or 0):
            raise ValueError(f"{self.name}: index must be below width")
        if self.kind == "category":
            known = [(type(value), value) for value in (*self.categories, *self.rare)]
            if self.edges or len(set(known)) < len(known):
                raise ValueError(f"{self.name}: categories must differ and have no edges")
        elif self.categories or self.rare or len(self.edges) < 2:
            raise ValueError(f"{self.name}: numbers need two edges and no categories")
        elif any(after < before or (number and after == before) for number, (before, after) in _steps(self.edges)):
            raise ValueError(f"{self.name}: edges must ascend")
        elif len(self.centres) != len(self.edges) - 1:
            raise ValueError(f"{self.name}: must have a centre between each two edges")
        if len(self.counts) != len(self.bins.labels) or min(self.counts) < 0 or not sum(self.counts):
            raise ValueError(f"{self.name}: must have a count of at least 0 for each of {len(self.bins.labels)} cells")
        return self

    @functools.cached_property
    def bins(self) -> Bins:
        """The cells that values are counted in."""
        if self.kind == "category":
            return Categories(self.categories, self.rare, open_ended=self.open_ended)
        return Lengths(self.edges) if self.kind == "length" else Numbers(self.edges)

    @property
    def rows(self) -> int:
        return sum(self.counts)

    @property
    def missing(self) -> float:
        """The share of rows without a value."""
        return self.counts[-1] / self.rows

    @property
    def ordered(self) -> bool:
        """True where cells have an order and distances."""
        return self.kind != "category"


class Contract(_Frozen):
    """The input schema that the training data was declared with."""

    of: Literal["class", "function"]
    name: str
    """What it is called."""
    fields: dict[str, str]
    """What each field must be, as canonical JSON Schema, by name."""


class Profile(_Frozen):
    """The reference distribution of a model's inputs and predictions.

    Make one with `mlguard.drift.profile(...)`, keep it with `save`, beside the model it belongs to.
    """

    mlguard_profile: Literal[1] = VERSION
    """The version of this form."""
    rows: int = Field(ge=1)
    """How many rows of training data there were."""
    fields: tuple[FieldReference, ...] = Field(min_length=1, max_length=2 * 2_000)
    """Every field that is watched, inputs first."""
    contract: Contract | None = None
    """The schema the profile was made with; None: any function may use it."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Fields of the data that are not watched, each with the reason."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        names = [field.name for field in self.fields]
        if len(set(names)) < len(names):
            raise ValueError("field names must differ")
        if any(field.rows != self.rows for field in self.fields):
            raise ValueError("every field must have as many rows as the profile")
        return self

    @functools.cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits: equal for equal profiles. Counts of two detectors add up only under one."""
        return hashlib.sha256(self._text().encode()).hexdigest()[:12]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it as JSON. The old file stays whole until the new one is; equal profiles give equal bytes.

        Raises:
            ProfileError: The file can't be written.
        """
        file = Path(path)
        beside = file.with_name(f".{file.name}.{os.getpid()}.new")
        try:
            beside.write_text(self._text(), encoding="utf-8")
            os.replace(beside, file)
        except OSError as error:
            beside.unlink(missing_ok=True) if beside.parent.is_dir() else None
            raise ProfileError(
                f"{file}: the profile can't be written: {error.strerror}. Fix: name a file in a folder that exists "
                "and may be written to."
            ) from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Reads what `save` wrote.

        Raises:
            ProfileError: There is no such file, or it is no profile, a damaged one, or one of a newer mlguard.
        """
        file = Path(path)
        again = "Fix: make it anew with 'mlguard drift profile DATA -o PROFILE'."
        try:
            if not file.is_file():  # opening a pipe would wait for its writer
                problem = "is no file" if file.exists() else f"does not exist, looked for from {Path.cwd()}"
                raise ProfileError(f"{file}: the profile {problem}. Fix: correct the path, or make one with "
                                   "'mlguard drift profile DATA -o PROFILE'.")  # fmt: skip
            if (size := file.stat().st_size) > LARGEST:
                raise ProfileError(f"{file} has {size:,} bytes, a profile at most {LARGEST:,}. {again}")
            found = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ProfileError(f"{file}: the profile can't be read: {error.strerror}. Fix: correct the path.") from None
        except (ValueError, RecursionError) as error:
            if isinstance(error, ProfileError):
                raise
            raise ProfileError(f"{file} is no whole JSON: {str(error)[:200]}. {again}") from None
        version = found.get("mlguard_profile") if isinstance(found, dict) else None
        if version is None:
            raise ProfileError(f"{file} is no profile of mlguard: 'mlguard_profile' is not in it. {again}")
        if isinstance(version, int) and version > VERSION:
            raise ProfileError(
                f"{file} is a profile of version {version}, this mlguard reads up to {VERSION}. "
                "Fix: update mlguard, or make the profile with this one."
            )
        try:
            return cls.model_validate_json(json.dumps(found))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ProfileError(f"{file} is a damaged profile: {where or 'it'}: {first['msg']}. {again}") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Profile) and self._text() == other._text()

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        inputs = sum(field.role == "input" for field in self.fields)
        return f"<Profile of {self.rows:,} rows: {inputs} inputs, {len(self.fields) - inputs} predictions>"

    __str__ = __repr__

    def _text(self) -> str:
        kept = self.model_dump(mode="json", exclude_defaults=False)
        for field in kept["fields"]:
            unused = (
                ("categories", "rare", "open_ended")
                if field["kind"] != "category"
                else ("edges", "centres", "mean", "spread")
            )
            for name in unused:
                del field[name]
        return json.dumps(kept, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _steps(edges: tuple[float, ...]) -> Any:
    return enumerate(pairwise(edges))


def finite(value: float) -> float | None:
    """As JSON can hold it."""
    return float(value) if math.isfinite(value) else None
