"""The frame: which stretch of time the figures are drawn over, and in what steps."""

# ruff: noqa: S608 - the SQL is put together from this package's own names; values are bound or quoted

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from mlguard.report.figures.facts import Facts

__all__ = ["Frame", "frame_of", "step_for"]

MOST: Final = 97
"""Steps at most: quarters of an hour of a day, and still three pixels wide on a phone."""

_FEWEST = 13  # where there are records for them
_PER_STEP = 5  # records; with fewer, a percentile of a step is a single call

_SECOND, _MINUTE, _HOUR, _DAY = 1.0, 60.0, 3600.0, 86400.0
_STEPS: Final = (
    *(_SECOND * number for number in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30)),
    *(_MINUTE * number for number in (1, 2, 5, 10, 15, 30)),
    *(_HOUR * number for number in (1, 2, 3, 6, 12)),
    *(_DAY * number for number in (1, 2, 7, 14, 28, 91, 182, 364, 3640)),
)

_CORE = 0.99  # of the records; what lies far outside of where they are comes from a clock that was wrong
_FAR = 20  # times as long as the stretch of the core


@dataclass(frozen=True)
class Frame:
    """Equal steps of time, in UTC."""

    start: datetime | None
    """When the first step begins; None: no record says when it was."""
    step: float
    """Seconds of one step."""
    steps: int
    first: datetime | None = None
    """Of the records that lie in the frame."""
    last: datetime | None = None
    outside: int = 0
    """Records that lie so far away that a clock must have been wrong; they count, but are not drawn over time."""
    untimed: int = 0
    """Records without a time."""

    @property
    def end(self) -> datetime | None:
        return None if self.start is None else self.start + timedelta(seconds=self.step * self.steps)

    @property
    def sql(self) -> str:
        """The number of a record's step; outside of 0 to `steps` - 1, or NULL, where it is not drawn."""
        if self.start is None:
            return "NULL::BIGINT"
        return f"CAST(floor((epoch_us(moment) - {_microseconds(self.start)}) / {self.step * 1e6:.0f}) AS BIGINT)"

    def at(self, step: float) -> datetime:
        """When a step begins."""
        if self.start is None:
            raise ValueError("no record says when it was")
        return self.start + timedelta(seconds=self.step * step)


_EPOCH = datetime(1970, 1, 1)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def frame_of(facts: Facts) -> Frame:
    """The frame of all records."""
    ((low, high, timed, untimed),) = facts.ask(
        f"SELECT quantile_disc(us, {(1 - _CORE) / 2}), quantile_disc(us, {(1 + _CORE) / 2}), count(us), "
        "count(*) - count(us) FROM (SELECT epoch_us(moment) AS us FROM facts)"
    )
    if not timed:
        return Frame(None, 1.0, 0, untimed=untimed)
    reach = _FAR * max(high - low, 1_000_000)
    ((first, last, kept),) = facts.ask(
        "SELECT min(epoch_us(moment)), max(epoch_us(moment)), count(*) FROM facts "
        f"WHERE epoch_us(moment) BETWEEN {low - reach} AND {high + reach}"
    )
    step = step_for((last - first) / 1e6, most=min(MOST, max(_FEWEST, kept // _PER_STEP)))
    width = round(step * 1e6)
    begin = first // width * width
    return Frame(
        start=_EPOCH + timedelta(microseconds=begin),
        step=step,
        steps=(last - begin) // width + 1,
        first=_EPOCH + timedelta(microseconds=first),
        last=_EPOCH + timedelta(microseconds=last),
        outside=timed - kept,
        untimed=untimed,
    )


def step_for(seconds: float, most: int = MOST) -> float:
    """The shortest step of which at most `most` cover so many seconds."""
    return next((step for step in _STEPS if seconds / step <= most - 1), _STEPS[-1])
