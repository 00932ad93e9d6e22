"""What the monitor does with a call that ended: counts it, and writes its event."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from mlguard import clock
from mlguard.context import Call
from mlguard.errors import GuardError, InvalidInputError, InvalidOutputError
from mlguard.forks import in_children
from mlguard.monitor import failures
from mlguard.monitor.counts import OVERLOAD, QUIET, Counts
from mlguard.monitor.parameters import Parameters
from mlguard.monitor.redaction import HIDDEN, scrubbed
from mlguard.monitor.section import Monitor
from mlguard.monitor.sink import Sink
from mlguard.monitor.summaries import plain, summarise
from mlguard.outcome import Disposition, disposition_of
from mlguard.target import Target

if TYPE_CHECKING:
    from mlguard.drift.detector import Detector

__all__ = ["Reporter"]

SCHEMA_VERSION: Final = 1
_VIOLATIONS = 20
_NOTES = 32
_EVENT = "mlguard.call"
_EXCEPTION_EVENT = "mlguard.call.exception"
_INFO, _WARNING, _ERROR = logging.INFO, logging.WARNING, logging.ERROR

# Names that structlog or a standard library LogRecord gives a meaning to; a note of that name would break the line.
_TAKEN = frozenset(vars(logging.makeLogRecord({}))) | {
    "event", "level", "timestamp", "logger", "logger_name", "log_level", "exc_info", "exception", "stack", "stack_info",
    "stacklevel", "positional_args", "extra", "message", "asctime", "taskName",
}  # fmt: skip

_chance = random.Random()  # noqa: S311 - sampling; not the shared generator, whose sequence belongs to the user's model
in_children(_chance.seed)


class Reporter:
    """Counts the calls of one function and writes their events.

    Args:
        target: The function.
        section: The settings.
        policy_name: For the event.
        fingerprint: A digest of the policy, for the event.
        model_version: For the event; a callable is asked for every event.
        watch: Asked for further facts, by event key, when an event is built; what they return is JSON as it is.
        drift: Counts the values of calls whose function ran, and says what training never saw.
    """

    def __init__(
        self,
        target: Target,
        section: Monitor,
        *,
        policy_name: str | None = None,
        fingerprint: str = "",
        model_version: str | Callable[[], str] | None = None,
        watch: tuple[Callable[[], Mapping[str, Any]], ...] = (),
        drift: Detector | None = None,
    ) -> None:
        self._made_of = (target, section, policy_name, fingerprint, model_version, watch, drift)
        self._target = target
        self._section = section
        self._log = section.log
        self._stream = target.kind.stream
        self._rate = section.sample_rate
        self._slow = math.inf if section.slow_call is None else clock.seconds(section.slow_call)
        self._summaries = section.summaries
        self._version = model_version if callable(model_version) else None
        self._watch = watch
        self._drift = drift
        self._sink = Sink()
        self._parameters: Parameters | None = None  # read at the first event, when annotations can be resolved
        about = {
            "code.function.name": target.name,
            "mlguard.policy": policy_name,
            "mlguard.policy.fingerprint": fingerprint,
            "mlguard.model_version": None if callable(model_version) else model_version,
        }
        self._about: dict[str, Any] = {"mlguard.schema_version": SCHEMA_VERSION} | {
            key: value for key, value in about.items() if value
        }
        # Copied and filled in for every success, which is quicker than building it; the place of a field stays.
        self._success: dict[str, Any] = self._about | {
            "mlguard.call_id": "",
            "event.outcome": "success",
            "mlguard.disposition": "",
            "mlguard.duration": 0.0,
            "mlguard.attempts": 0,
            "mlguard.sample_rate": 1.0,
        }
        self.reset()

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, self._made_of

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        return {"succeeded": self.succeeded, "failed": self.failed}

    def succeeded(self, this: Call, result: Any, args: Any, kwargs: Any) -> None:
        """A call returned, or a stream came to its end."""
        duration = clock.now() - this.started
        disposition = this.disposition
        self.counts.latencies[disposition].add(duration)
        slow = duration >= self._slow
        if slow:
            self.counts.slow += 1
        odd = self._observe(this, args, kwargs, result) if self._drift is not None else None
        if not self._log:
            return
        violations = this.violations
        rate = self._rate
        if rate < 1.0:
            if slow or this.degraded or violations is not None or odd is not None:
                rate = 1.0
            elif _chance.random() >= rate:
                return
        level = _INFO if violations is None else _WARNING
        try:
            config = self._sink.open(level)
            if config is None:
                return
            event = self._success.copy()
            event["mlguard.call_id"] = this.id
            event["mlguard.disposition"] = str(disposition)
            event["mlguard.duration"] = _rounded(duration)
            event["mlguard.attempts"] = this.attempts
            event["mlguard.sample_rate"] = rate
            if slow:
                event["mlguard.slow"] = True
            if violations is not None:
                self._tell_violations(event, violations, self._known().words.violation)
            if odd is not None:
                event["mlguard.anomalies"], event["mlguard.anomaly_count"] = odd
            self._tell(event, this)
            if self._stream:
                event["mlguard.items"] = result.count
            if self._summaries:
                self._tell_inputs(event, args, kwargs)
                if not self._stream:
                    self._tell_output(event, result)
            self._sink.write(config, level, _EVENT, event)
        except Exception as trouble:
            self.counts.trouble("log", trouble)

    def failed(self, this: Call, error: BaseException, args: Any, kwargs: Any) -> None:
        """An exception, a rejection or a cancellation ended a call; `call.py` raises it again."""
        now = clock.now()
        duration = now - this.started
        disposition = disposition_of(error)
        this.disposition = disposition
        self.counts.latencies[disposition].add(duration)
        slow = duration >= self._slow
        if slow:
            self.counts.slow += 1
        name = failures.error_type(error)
        if disposition is not Disposition.CANCELLED:
            self.counts.failure(name)
        odd = self._observe(this, args, kwargs, None) if self._drift is not None else None
        if not self._log:
            return
        level, event_name = _level_of(disposition)
        try:
            config = self._sink.open(level)
            if config is None:
                return
            suppressed = self.counts.left_out_before(disposition, now) if disposition in OVERLOAD else 0
            if suppressed is None:
                return
            event = {
                **self._about,
                "mlguard.call_id": this.id,
                "event.outcome": "unknown" if disposition is Disposition.CANCELLED else "failure",
                "error.type": name,
                "mlguard.disposition": str(disposition),
                "mlguard.duration": _rounded(duration),
                "mlguard.attempts": this.attempts,
                "mlguard.sample_rate": 1.0,
            }
            if slow:
                event["mlguard.slow"] = True
            if suppressed:
                event["mlguard.suppressed"] = suppressed
            if odd is not None:
                event["mlguard.anomalies"], event["mlguard.anomaly_count"] = odd
            self._tell(event, this)
            refused = disposition is Disposition.REJECTED_VALIDATION
            if disposition is not Disposition.CANCELLED:
                self._tell_error(event, this, error, () if refused else args, {} if refused else kwargs)
            if self._summaries and not refused:
                self._tell_inputs(event, args, kwargs)
            recorded_by = event.get("mlguard.recorded_by", this.id)
            self._sink.write(config, level, event_name, event)
            if disposition is not Disposition.CANCELLED:
                failures.mark(error, this, recorded_by, now)
        except Exception as trouble:
            self.counts.trouble("log", trouble)

    def explain(self) -> list[str]:
        section = self._section
        if not section.log:
            said = ["Calls are counted, not logged."]
        else:
            share = (
                "every call" if self._rate == 1.0 else f"{self._rate:.3g} of the successful calls and every other one"
            )
            with_what = "with summaries of arguments and result" if self._summaries else "without summaries"
            said = [
                f"One structlog event for {share}, {with_what}.",
                "Rejections by memory, breaker and concurrency: at most one event of a kind in "
                f"{clock.duration_text(QUIET)}; the next one says how many were left out.",
            ]
        if math.isfinite(self._slow):
            said.append(f"A call is slow from {clock.duration_text(self._slow)} on.")
        return said

    def stats(self) -> dict[str, Any]:
        return self.counts.stats()

    def reset(self) -> None:
        self.counts = Counts()

    def go_on_from(self, before: Reporter) -> None:
        """Takes over the counts of the one it replaces, whose policy has changed in another section."""
        self.counts = before.counts

    def _tell(self, event: dict[str, Any], this: Call) -> None:
        """What the call met, where it met anything."""
        if this.parent is not None:
            event["mlguard.parent_call_id"] = this.parent.id
        if this.waited:
            event["mlguard.waited"] = _rounded(this.waited)
        if this.degraded:
            event["mlguard.degraded"] = True
        if this.late:
            event["mlguard.late"] = True
        if this.first_item_at is not None:
            event["mlguard.first_item"] = _rounded(this.first_item_at - this.started)
        if this.facts is not None:
            for key, value in this.facts.items():
                event.setdefault(key, plain(value))  # how the call ended weighs more than what it met on the way
        if this.notes is not None:
            _tell_notes(event, this.notes)
        try:
            if self._version is not None:
                event["mlguard.model_version"] = str(self._version())[:200]
            for facts in self._watch:
                for key, value in facts().items():
                    event.setdefault(key, value)
        except Exception as trouble:
            self.counts.trouble("watch", trouble)

    def _tell_error(self, event: dict[str, Any], this: Call, error: BaseException, args: Any, kwargs: Any) -> None:
        """The exception's message and traceback, unless the event of a call inside this one has them."""
        recorded_by = failures.recorded(error, this)
        if recorded_by is not None:
            event["mlguard.recorded_by"] = recorded_by
            return
        try:
            parameters = self._known()

            def say(error: BaseException) -> str:
                return failures.message(error, scrub, self._violation_of(error))

            def scrub(text: str) -> str:
                return scrubbed(text, parameters.hidden_values(args, kwargs), parameters.words.hidden)

            event["exception.message"] = say(error)
            if isinstance(error, GuardError):  # its message says where to look; its frames are mlguard's own
                if isinstance(error, ValidationError):
                    self._tell_violations(event, error.errors(), self._violation_of(error))
            else:
                event["exception"] = failures.stack(error, say)
        except Exception as trouble:
            self.counts.trouble("exception", trouble)

    def _violation_of(self, error: BaseException) -> Callable[[Any], dict[str, str]]:
        """How an error's entries are told: with their messages only where this function's own schema wrote them."""
        own = isinstance(error, InvalidInputError | InvalidOutputError) and error.title == f"{self._target.label}()"
        return functools.partial(self._known().words.violation, foreign=not own)

    def _tell_violations(
        self, event: dict[str, Any], found: list[Any], violation: Callable[[Any], dict[str, str]]
    ) -> None:
        event["mlguard.violations"] = [violation(item) for item in found[:_VIOLATIONS]]
        event["mlguard.violation_count"] = sum(
            item["ctx"]["count"] if item.get("type") == "more_violations" else 1 for item in found
        )

    def _observe(self, this: Call, args: Any, kwargs: Any, result: Any) -> tuple[list[str], int] | None:
        """Hands a call whose function ran on to drift; a fallback, a failure and a stream have no prediction."""
        if not this.attempts or this.disposition == Disposition.CANCELLED or self._drift is None:
            return None
        try:
            said = this.disposition == Disposition.EXECUTED and not self._stream
            return self._drift.observe(args, kwargs, result, has_result=said)
        except Exception as trouble:
            self.counts.trouble("drift", trouble)
            return None

    def _tell_inputs(self, event: dict[str, Any], args: Any, kwargs: Any) -> None:
        try:
            for (key, hidden), value in self._known().named(args, kwargs):
                if hidden:
                    event[key] = HIDDEN
                else:
                    summarise(event, key, value)
        except Exception as trouble:
            self.counts.trouble("summaries", trouble)

    def _tell_output(self, event: dict[str, Any], result: Any) -> None:
        try:
            if self._known().output_hidden:
                event["mlguard.output"] = HIDDEN
            else:
                summarise(event, "mlguard.output", result)
        except Exception as trouble:
            self.counts.trouble("summaries", trouble)

    def _known(self) -> Parameters:
        if self._parameters is None:
            self._parameters = Parameters(self._target)
        return self._parameters


def _level_of(disposition: Disposition) -> tuple[int, str]:
    if disposition is Disposition.CANCELLED:
        return _INFO, _EVENT
    if disposition is Disposition.FAILED:
        return _ERROR, _EXCEPTION_EVENT
    return _WARNING, _EVENT


def _rounded(seconds: float) -> float:
    """To the microsecond, in a third of the time that ``round(seconds, 6)`` takes."""
    return round(seconds * 1e6) / 1e6


def _tell_notes(event: dict[str, Any], notes: dict[str, Any]) -> None:
    for name, value in itertools.islice(notes.items(), _NOTES):
        taken = name in _TAKEN or "." in name or name in event
        event[f"note.{name}" if taken else name] = plain(value)
    if len(notes) > _NOTES:
        event["mlguard.notes_dropped"] = len(notes) - _NOTES


def _remade(
    target: Target,
    section: Monitor,
    policy_name: str | None,
    fingerprint: str,
    model_version: str | Callable[[], str] | None,
    watch: tuple[Callable[[], Mapping[str, Any]], ...],
    drift: Detector | None,
) -> Reporter:
    return Reporter(
        target,
        section,
        policy_name=policy_name,
        fingerprint=fingerprint,
        model_version=model_version,
        watch=watch,
        drift=drift,
    )
