"""From windows to alarms: what must hold how often before a person is told, and before the all-clear."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mlguard.drift.gate import Difference, difference, rejected, suspicious
from mlguard.drift.reference import FieldReference
from mlguard.drift.windows import Window

__all__ = ["Alarm", "Alarms", "Limits"]

_CLEAR: Final = 0.5
"""The share of the threshold below which a change is no longer large: a field at the threshold would else flap."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a difference counts; see `Drift`."""

    p_value: float
    psi: float
    persistence: int
    design_effects: tuple[float, ...]
    """By field."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A field begins to drift, or has recovered."""

    field: FieldReference
    state: Literal["onset", "recovery"]
    window: int
    """The nominal length of the windows that showed it."""
    lasted: int
    """Rows since the onset; 0 for one."""
    seen: Difference


class _State:
    """One field: how many windows in a row said what, for each rung."""

    __slots__ = ("calm", "fired", "onset", "rung", "seen")

    def __init__(self, rungs: int) -> None:
        self.fired = [0] * rungs
        self.calm = [0] * rungs
        self.rung: int | None = None
        """The rung whose windows must look well again; None: no alarm."""
        self.onset = 0
        self.seen: Difference | None = None


class Alarms:
    """The alarms of one function.

    A field drifts once `persistence` consecutive windows of one length passed the gate. It has recovered once as many
    windows of that length neither look unlikely (p above the square root of the limit) nor differ by half as much as
    would count. While an alarm lasts, a longer window that confirms it takes over: what lasted longer takes longer to
    clear.
    """

    def __init__(self, fields: Sequence[FieldReference], lengths: Sequence[int], limits: Limits) -> None:
        self._fields = fields
        self._lengths = lengths
        self._limits = limits
        self._states = [_State(len(lengths)) for _ in fields]
        self.onsets = 0
        """How many there have been."""

    @property
    def active(self) -> dict[str, Difference]:
        """The fields that drift now, with the figures of the window that said so last."""
        found = zip(self._fields, self._states, strict=True)
        return {field.name: state.seen for field, state in found if state.rung is not None and state.seen is not None}

    def judge(self, window: Window, rows: int) -> list[Alarm]:
        """What a window changes. `rows` is how many were counted in all."""
        limits = self._limits
        compared: dict[int, Difference] = {}
        for number, (field, counts, effect) in enumerate(
            zip(self._fields, window.counts, limits.design_effects, strict=True)
        ):
            if self._states[number].rung is not None or suspicious(field, counts, limits.p_value, effect):
                compared[number] = difference(field, counts, effect)
        unlikely = {seen.field: seen.p_value for seen in compared.values() if seen.p_value <= limits.p_value}
        real = rejected(unlikely, limits.p_value, len(self._fields))
        changes = []
        for number, state in enumerate(self._states):
            seen = compared.get(number)
            fired = seen is not None and seen.field in real and seen.psi > limits.psi
            if fired or state.rung is not None or state.fired[window.rung]:
                change = self._move(self._fields[number], state, window.rung, rows, seen, fired=fired)
                if change is not None:
                    changes.append(change)
        return changes

    def _move(
        self, field: FieldReference, state: _State, rung: int, rows: int, seen: Difference | None, *, fired: bool
    ) -> Alarm | None:
        limits = self._limits
        state.fired[rung] = state.fired[rung] + 1 if fired else 0
        if state.rung is None:
            if seen is None or state.fired[rung] < limits.persistence:
                return None
            state.rung, state.onset, state.seen = rung, rows, seen
            state.calm = [0] * len(state.calm)
            self.onsets += 1
            return Alarm(field, "onset", self._lengths[rung], 0, seen)
        if seen is None or not seen.rows:
            return None
        if fired and rung > state.rung and state.fired[rung] >= limits.persistence:
            state.rung = rung
        if rung != state.rung:
            return None
        state.seen = seen
        well = seen.p_value > math.sqrt(limits.p_value) or seen.psi <= _CLEAR * limits.psi
        state.calm[rung] = state.calm[rung] + 1 if well else 0
        if state.calm[rung] < limits.persistence:
            return None
        lasted, state.rung, state.seen = rows - state.onset, None, None
        state.fired = [0] * len(state.fired)  # what a longer window saw of it must not raise it again
        return Alarm(field, "recovery", self._lengths[rung], lasted, seen)
