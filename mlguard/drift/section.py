"""`Drift`: what a policy says about drift. What it does with a call is in `detector.py`."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from mlguard.section import Section

__all__ = ["Drift", "DriftSetting", "or_a_path"]


class Drift(Section):
    """Compares what a function is called with, and what it says, with a profile of its training data."""

    profile: str
    """The file that `mlguard.drift.profile(...).save(path)` or `mlguard drift profile` wrote; a relative path starts
    from the working folder. Read once, when the function is decorated."""
    windows: tuple[int, ...] = Field(default=(100, 400, 1_600), min_length=1, max_length=8)
    """Rows of the windows that are compared with the reference, ascending. The shortest shows a large change within 200
    rows, the longest a shift of a fifth of a standard deviation within a few thousand. Below 100 rows a decile has
    fewer than ten, and the test loses its footing."""
    p_value: float = Field(default=1e-4, gt=0, lt=0.1)
    """How unlikely a difference must be without drift. At 1e-4 and two windows in a row, independent traffic raises no
    alarm in years."""
    psi: float = Field(default=0.02, ge=0)
    """How large it must be, as population stability index less its bias: a shift of a normal variable by a seventh of
    its standard deviation. Smaller changes are real in millions of rows and matter to nobody."""
    persistence: int = Field(default=2, ge=1, le=10)
    """How many windows in a row must agree before the alarm, and before the all-clear. One odd batch is no drift."""
    design_effect: float | None = Field(default=None, ge=1)
    """By how much neighbouring rows overstate a difference, for every field. None: as the profile learnt it from the
    order of the training data. Give it where that was shuffled and traffic comes in runs: an average run of ten equal
    rows is about 10."""
    sample: int = Field(default=256, ge=1, le=65_536)
    """Rows of one call that are looked at, evenly spread over the batch; of a wide array fewer, at most 8,192 values.
    256 cost about a tenth of a millisecond."""
    anomalies: bool = True
    """Whether a call's event names the inputs that training never saw: `mlguard.anomalies`. Such calls are always
    logged, whatever the sample rate."""
    exclude: tuple[str, ...] = ()
    """Fields of the profile that are not watched, such as a trend everybody knows of."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.windows[0] < 50 or self.windows[-1] > 10_000_000:
            raise ValueError(
                f"windows = {self.windows}: must be from 50 rows, below which the test means little, to 10 million"
            )
        if any(after <= before for before, after in pairwise(self.windows)):
            raise ValueError(f"windows = {self.windows}: must ascend, such as (100, 400, 1600)")
        return self


def _section(value: Any) -> Any:
    """A path stands for a section of nothing but it."""
    return {"profile": os.fspath(value)} if isinstance(value, str | os.PathLike) else value


def or_a_path(schema: dict[str, Any]) -> None:
    """Says the same in a JSON Schema."""
    schema["anyOf"] = [*schema.get("anyOf", ()), {"type": "string"}]


if TYPE_CHECKING:
    DriftSetting = Drift | str | os.PathLike[str] | None
else:
    DriftSetting = Annotated[Drift | None, BeforeValidator(_section)]
