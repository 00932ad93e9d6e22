"""What watches one function for drift: counts the values of its calls, judges each window, and tells of what changed.

A value costs a bisection and an addition; at the end of a window the call that fills it pays for the comparison, a few
microseconds a field. Nothing but counts is kept, no value of a call.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from mlguard.drift.alarms import Alarm, Alarms, Limits
from mlguard.drift.effects import shares_of
from mlguard.drift.event import EVENT, told
from mlguard.drift.fleet import SavedCounts
from mlguard.drift.reading import Fields, Place
from mlguard.drift.reference import FieldReference, Profile
from mlguard.drift.section import Drift
from mlguard.drift.tallies import Look, in_words
from mlguard.drift.windows import Counts, Ladder, Window
from mlguard.errors import PolicyError
from mlguard.forks import renew_in_children
from mlguard.monitor import metrics
from mlguard.monitor.readings import MOST_SERIES, OTHER, forget
from mlguard.monitor.redaction import Words
from mlguard.monitor.sink import Sink
from mlguard.section import nearest
from mlguard.target import Target

__all__ = ["ANOMALIES", "Detector", "detector_for"]

ANOMALIES: Final = 16
"""Anomalies that one event names."""

_TOLD = 16  # records of one window; more would be a flood, and say the same
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Detector:
    """Compares the calls of one function with a profile.

    Args:
        target: The function, with the annotations in force.
        section: The settings.
        profile: The reference that `section.profile` names.
        policy_name: For the events.
        model_version: For the events; a callable is asked for each.
    """

    def __init__(
        self,
        target: Target,
        section: Drift,
        profile: Profile,
        *,
        policy_name: str | None = None,
        model_version: str | Callable[[], str] | None = None,
    ) -> None:
        self._made_of = (target, section, profile, policy_name, model_version)
        self._target = target
        self._section = section
        self._profile = profile
        self._policy_name, self._version = policy_name, model_version
        self._signature = target.signature
        self._variadic = any(parameter.kind in _VARIADIC for parameter in target.parameters)
        self._report: Callable[[int, str, dict[str, Any]], None] = _to_log
        self._names, self._skipped = _parameters(target)
        self._hidden = _hidden(target)
        self._watched = self._chosen()
        effects = tuple(section.design_effect or field.design_effect for field in self._watched)
        self._limits = Limits(section.p_value, section.psi, section.persistence, effects)
        self._inputs_first = sum(field.role == "input" for field in self._watched)
        self.reset()
        renew_in_children(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, self._made_of

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        """None of its own: the monitor hands calls on."""
        return {}

    @property
    def onsets(self) -> int:
        """How often a field began to drift."""
        return self._alarms.onsets

    @property
    def fingerprint(self) -> str:
        """Of the profile."""
        return self._profile.fingerprint

    def observe(self, args: Any, kwargs: Any, result: Any, *, has_result: bool = True) -> tuple[list[str], int] | None:
        """Counts a call whose function ran; says what training never saw: the first of it in words, and how much."""
        look: Look = []
        rows = 0
        if not kwargs and len(args) == self._arity:
            for number, place in self._numbered:
                read = place.read(args[number], look)
                if read > rows:
                    rows = read
        else:
            rows = self._read_named(args, kwargs, look)
        if has_result and self._output is not None:
            read = self._output.read(result, look)
            if read > rows:
                rows = read
        self._rows += rows
        if self._rows >= self._ladder.next:
            self._end_windows()
        if not look:
            return None
        self._odd_calls += 1
        return ([in_words(odd) for odd in look[:ANOMALIES]], len(look)) if self._section.anomalies else None

    def counts(self) -> SavedCounts:
        """What was counted so far; `mlguard.drift.merge` adds up those of several workers."""
        tables = self._tables()
        fields = {field.name: tables[field.name] for field in self._watched}
        return {"profile": self.fingerprint, "rows": self._rows, "fields": fields}

    def explain(self) -> list[str]:
        section, profile = self._section, self._profile
        lengths = " / ".join(f"{length:,}" for length in section.windows)
        inputs, outputs = self._inputs_first, len(self._watched) - self._inputs_first
        said = [
            f"{_many(inputs, 'input')} and {_many(outputs, 'prediction')} are compared with {profile.rows:,} rows of "
            f"training data ({section.profile}) in windows of {lengths} rows, of at most {section.sample:,} a call.",
            f"A field drifts when {section.persistence} windows in a row have p < {section.p_value:g} and a population "
            f"stability index above {section.psi:g}: one warning '{EVENT}', and one record when it is over.",
        ]
        if self._left:
            said.append(f"Not watched: {'; '.join(f'{name} ({why})' for name, why in [*self._left.items()][:10])}.")
        return said

    def report_to(self, report: Callable[[int, str, dict[str, Any]], None]) -> None:
        """Hands alarms on, each with its level and its name, instead of writing them to the log."""
        self._report = report

    def stats(self) -> dict[str, Any]:
        active = self._alarms.active
        return {
            "rows": self._rows,
            "windows": self._windows,
            "onsets": self._alarms.onsets,
            "active": {name: seen.as_dict() for name, seen in active.items()},
            "anomalous_calls": self._odd_calls,
            "never_seen": self._never_seen(),
            "problems": [*self._inputs.problems, *self._outputs.problems],
            "profile": self.fingerprint,
            "counts": self.counts(),
        }

    def metrics(self) -> Iterator[metrics.Figure]:
        yield metrics.ANOMALOUS, (), self._odd_calls
        yield metrics.DRIFT_EVALUATED, (), self._judged_at
        tables, active = self._tables(), self._alarms.active
        left = MOST_SERIES
        for field in (*self._watched[self._inputs_first :], *self._watched[: self._inputs_first]):
            left -= len(field.counts)
            if left < 0:  # profiles of hundreds of fields; `mlguard.drift.merge` compares those of a whole fleet
                break
            shares = shares_of(field.counts)
            for cell, (label, counted) in enumerate(zip(field.bins.labels, tables[field.name], strict=True)):
                at = (field.name, f"{cell:02} {label}"[:80])
                yield metrics.FEATURE_BIN, at, counted
                yield metrics.REFERENCE_BIN, at, shares[cell]
            seen = active.pop(field.name, None)
            yield metrics.DRIFT_SCORE, (field.name,), 0.0 if seen is None else seen.psi
            yield metrics.DRIFT_ACTIVE, (field.name,), float(seen is not None)
        for seen in active.values():
            yield metrics.DRIFT_SCORE, (OTHER,), seen.psi
            yield metrics.DRIFT_ACTIVE, (OTHER,), 1.0

    def reset(self) -> None:
        self._inputs = Fields([field for field in self._watched if field.role == "input"], self._section.sample)
        outputs = [field for field in self._watched if field.role == "output"]
        self._outputs = Fields(outputs, self._section.sample)
        self._by_name = {name: Place(self._inputs, name) for name in self._names if name not in self._hidden}
        places = enumerate((self._by_name.get(name) for name in self._names), start=self._skipped)
        self._numbered = [(number, place) for number, place in places if place is not None]
        self._arity = self._skipped + len(self._names)
        self._output = Place(self._outputs, "output") if outputs else None
        self._ladder = Ladder(self._section.windows)
        self._alarms = Alarms(self._watched, self._section.windows, self._limits)
        self._lock = threading.Lock()
        self._rows = 0
        self._windows = 0
        self._odd_calls = 0
        self._judged_at = 0.0

    def after_fork(self) -> None:
        """A child counts its own calls: what its parent counted is in the parent's counts already."""
        self.reset()
        forget(self)

    def same_as(self, before: Detector) -> bool:
        """True where the one it would replace counts by the same profile and settings, and should stay."""
        return self.fingerprint == before.fingerprint and self._section == before._section

    def _read_named(self, args: Any, kwargs: Any, look: Look) -> int:
        """Arguments by name, defaults, and those of ``**more``."""
        rows = 0
        if not self._variadic and len(args) + len(kwargs) == self._arity:
            given = [(place, args[number]) for number, place in self._numbered if number < len(args)]
            given += [(self._by_name[name], value) for name, value in kwargs.items() if name in self._by_name]
            return max([0, *(place.read(value, look) for place, value in given)])
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError:  # chaos and the like; the function itself will have said so
            return 0
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            place = self._by_name.get(name)
            if place is not None:
                rows = max(rows, place.read(value, look))
        return rows

    def _end_windows(self) -> None:
        """Judges what ended, unless another thread is at it."""
        if not self._lock.acquire(blocking=False):
            return
        changes: list[Alarm] = []
        try:
            rows, tables = self._rows, self._tables()
            for window in self._ladder.ended(rows, [tables[field.name] for field in self._watched]):
                self._windows += 1
                self._judged_at = time.time()
                changes += self._alarms.judge(self._with_absent(window), rows)
        finally:
            self._lock.release()
        if changes:
            self._tell(changes)

    def _with_absent(self, window: Window) -> Window:
        """An input that did not come at all in a whole window is missing in all of its rows."""
        inputs: Counts = window.counts[: self._inputs_first]
        rows = max(map(sum, inputs), default=0)
        if rows:
            for counts in inputs:
                if not any(counts):
                    counts[-1] = rows
        return window

    def _tell(self, changes: list[Alarm]) -> None:
        """Onsets first, the largest change first."""
        changes.sort(key=lambda alarm: (alarm.state != "onset", -alarm.seen.psi))
        version = self._version() if callable(self._version) else self._version
        about = {
            "mlguard.schema_version": 1,
            "code.function.name": self._target.name,
            "mlguard.policy": self._policy_name,
            "mlguard.model_version": version,
        }
        about = {key: value for key, value in about.items() if value}
        for number, alarm in enumerate(changes[:_TOLD], start=1):
            level = logging.WARNING if alarm.state == "onset" else logging.INFO
            event = {**about, **told(alarm)}
            if number == _TOLD and len(changes) > _TOLD:
                event["mlguard.drift.more"] = len(changes) - _TOLD
            self._report(level, EVENT, event)

    def _tables(self) -> dict[str, list[int]]:
        return self._inputs.tables() | self._outputs.tables()

    def _never_seen(self) -> list[str]:
        """Fields of the profile that no call had so far."""
        if not self._rows:
            return []
        tables = self._tables()
        return [field.name for field in self._watched if not any(tables[field.name])]

    def _chosen(self) -> tuple[FieldReference, ...]:
        """The fields to watch, inputs first."""
        self._left: dict[str, str] = dict(self._profile.left_out)
        known = {field.name for field in self._profile.fields}
        for name in self._section.exclude:
            if name not in known and name not in self._left:
                raise PolicyError(
                    f"{self._target.name}: monitor.drift.exclude = {name!r}: the profile has no such field."
                    f"{nearest(name, known)} Fix: name a field, or drop it."
                )
        for field in self._profile.fields:
            if field.name in self._section.exclude:
                self._left[field.name] = "excluded"
            elif self._hidden & {*field.path.split("."), "return" if field.role == "output" else ""}:
                self._left[field.name] = "the schema hides it"
        found = [field for field in self._profile.fields if field.name not in self._left]
        if not found:
            raise PolicyError(
                f"{self._target.name}: monitor.drift: no field of the profile is left to watch: "
                f"{'; '.join(f'{name} ({why})' for name, why in self._left.items())}. Fix: drop monitor.drift."
            )
        return tuple(sorted(found, key=lambda field: field.role != "input"))


def _to_log(level: int, name: str, event: dict[str, Any]) -> None:
    sink = Sink()
    config = sink.open(level)
    if config is not None:
        sink.write(config, level, name, event)


def _parameters(target: Target) -> tuple[list[str], int]:
    """The names of arguments by position, without the method's own object, and how many stand before them."""
    parameters = target.parameters
    names = [parameter.name for parameter in parameters]
    bound = "." in target.qualname and names[:1] in (["self"], ["cls"])
    return (names[1:], 1) if bound else (names, 0)


def _hidden(target: Target) -> frozenset[str]:
    """Arguments, fields of models in them, and ``"return"``, whose values no event may show."""
    return frozenset(Words(target.hints, ()).hidden)


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _remade(
    target: Target,
    section: Drift,
    profile: Profile,
    policy_name: str | None,
    model_version: str | Callable[[], str] | None,
) -> Detector:
    return Detector(target, section, profile, policy_name=policy_name, model_version=model_version)


def detector_for(
    target: Target, section: Drift, *, policy_name: str | None, model_version: str | Callable[[], str] | None
) -> Detector:
    """Reads the profile and refuses one that can't be this function's.

    Raises:
        PolicyError: The file can't be read, was made with another schema, or has fields that no argument can be.
    """
    from mlguard.drift.errors import ProfileError

    try:
        profile = Profile.load(section.profile)
    except ProfileError as error:
        raise PolicyError(f"{target.name}: monitor.drift.profile: {error}") from None
    if profile.contract is not None:
        from mlguard.drift.contract import refuse_another_schema

        refuse_another_schema(section.profile, profile.contract, target)
    _refuse_unreachable(target, section, profile)
    return Detector(target, section, profile, policy_name=policy_name, model_version=model_version)


def _refuse_unreachable(target: Target, section: Drift, profile: Profile) -> None:
    """A field that no argument can hold would look missing for ever; a typing error must not become an alarm."""
    from mlguard.drift.reach import names_within

    known = names_within(target)
    if known is None:
        return
    lost = [
        field.name
        for field in profile.fields
        if field.role == "input" and field.name not in section.exclude and field.path not in known
    ]
    if lost:
        names = sorted(known)
        raise PolicyError(
            f"{target.name}: monitor.drift: the profile {section.profile} has the field {lost[0]!r}"
            f"{f' and {len(lost) - 1} more' if len(lost) > 1 else ''}, which no argument is or holds."
            f"{nearest(lost[0], names)} There are: {', '.join(names[:20])}. "
            "Fix: name the columns of the profile like the arguments, or exclude them."
        )
