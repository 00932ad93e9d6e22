"""What an event says of a call that ended: the one place where its fields are put together.

Which calls are told of, at which level and to whom is decided in `reporter.py`; every field is declared in `event.py`.
An event is plain data: it holds no argument and no result, only what may be said of them.
"""

from __future__ import annotations

import functools
import itertools
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from mlguard.context import Call
from mlguard.errors import GuardError, InvalidInputError, InvalidOutputError
from mlguard.forks import renew_in_children
from mlguard.monitor import failures
from mlguard.monitor.identity import tell_identity
from mlguard.monitor.parameters import Parameters
from mlguard.monitor.redaction import HIDDEN, scrubbed
from mlguard.monitor.summaries import plain, summarise
from mlguard.outcome import Disposition, Failure, classify
from mlguard.target import Target

__all__ = ["NAME", "NAME_OF_EXCEPTION", "SCHEMA_VERSION", "Teller"]

NAME: Final = "mlguard.call"
NAME_OF_EXCEPTION: Final = "mlguard.call.exception"
SCHEMA_VERSION: Final = 1

_VIOLATIONS = 20
_NOTES = 32

# Names that structlog or a standard library LogRecord gives a meaning to; a note of that name would break the line.
_TAKEN = frozenset(vars(logging.makeLogRecord({}))) | {
    "event", "level", "timestamp", "logger", "logger_name", "log_level", "exc_info", "exception", "stack", "stack_info",
    "stacklevel", "positional_args", "extra", "message", "asctime", "taskName", "trace_id", "span_id",
}  # fmt: skip


class Teller:
    """Puts together the events of one function.

    Args:
        target: The function.
        policy_name: The policy's name.
        fingerprint: A digest of the policy.
        model_version: A callable is asked for every event.
        watch: Asked for further facts, by event key; what they return is JSON as it is.
        summaries: Whether arguments and results are summarised.
        trouble: Told where telling failed, and of what; the rest of the event is told all the same.
    """

    def __init__(
        self,
        target: Target,
        *,
        policy_name: str | None,
        fingerprint: str,
        model_version: str | Callable[[], str] | None,
        watch: tuple[Callable[[], Mapping[str, Any]], ...],
        summaries: bool,
        trouble: Callable[[str, Exception], None],
    ) -> None:
        self._target = target
        self._stream = target.kind.stream
        self._version = model_version if callable(model_version) else None
        self._watch = watch
        self._summaries = summaries
        self._trouble = trouble
        self._parameters: Parameters | None = None  # read at the first event, when annotations can be resolved
        about = {
            "code.function.name": target.name,
            "mlguard.policy": policy_name,
            "mlguard.policy.fingerprint": fingerprint,
            "mlguard.model_version": None if callable(model_version) else model_version,
        }
        self.about: dict[str, Any] = {"mlguard.schema_version": SCHEMA_VERSION} | {
            key: value for key, value in about.items() if value
        }
        """What all events of the function have in common."""
        self.after_fork()
        renew_in_children(self)

    def after_fork(self) -> None:
        """Another process is another place."""
        self._success: dict[str, Any] | None = None

    def success(
        self, this: Call, result: Any, args: Any, kwargs: Any, *, duration: float, rate: float, slow: bool, odd: Any
    ) -> dict[str, Any]:
        """The event of a call that returned, or of a stream that came to its end.

        Args:
            this: The call.
            result: What it returned; an `Opened` for a stream.
            args: The arguments as the function got them.
            kwargs: Those by name.
            duration: Seconds.
            rate: The share of calls like this one that is kept.
            slow: Whether it was.
            odd: What training never saw, and how often; None: nothing.
        """
        event = (self._success or self._begun()).copy()
        event["mlguard.call_id"] = this.id
        event["mlguard.disposition"] = str(this.disposition)
        event["mlguard.duration"] = _rounded(duration)
        event["mlguard.attempts"] = this.attempts
        event["mlguard.sample_rate"] = rate
        if slow:
            event["mlguard.slow"] = True
        if this.violations is not None:
            self._tell_violations(event, this.violations, self._known().words.violation)
        if odd is not None:
            event["mlguard.anomalies"], event["mlguard.anomaly_count"] = odd
        if "ray" in sys.modules or "opentelemetry.trace" in sys.modules:
            self._tell_place(event, this)
        self.tell_met(event, this)
        if self._stream:
            event["mlguard.items"] = result.count
        if self._summaries:
            self._tell_inputs(event, args, kwargs)
            if not self._stream:
                self._tell_output(event, result)
        return event

    def failure(
        self,
        this: Call,
        error: BaseException,
        args: Any,
        kwargs: Any,
        *,
        duration: float,
        slow: bool,
        odd: Any,
        suppressed: int,
    ) -> dict[str, Any]:
        """The event of a call that an exception, a rejection or a cancellation ended.

        Args:
            this: The call.
            error: With what it ended.
            args: The arguments as the function got them, or was to get.
            kwargs: Those by name.
            duration: Seconds.
            slow: Whether it was.
            odd: What training never saw, and how often; None: nothing.
            suppressed: Events of this kind that were left out before it.
        """
        cancelled = this.disposition is Disposition.CANCELLED
        event = {
            **self.about,
            "mlguard.call_id": this.id,
            "event.outcome": "unknown" if cancelled else "failure",
            "error.type": failures.error_type(error),
            "mlguard.disposition": str(this.disposition),
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
        if this.violations is not None:
            self._tell_violations(event, this.violations, self._known().words.violation)
        self._tell_place(event, this)
        self.tell_met(event, this)
        refused = this.disposition is Disposition.REJECTED_VALIDATION
        if not cancelled:
            recorded_by = failures.recorded(error, this)
            if recorded_by is not None:
                event["mlguard.recorded_by"] = recorded_by
            else:
                self.tell_error(event, error, args, kwargs, refused=refused)
        if self._summaries and not refused:
            self._tell_inputs(event, args, kwargs)
        return event

    def tell_met(self, event: dict[str, Any], this: Call) -> None:
        """What the call met, where it met anything."""
        if this.ran:
            event["mlguard.function_duration"] = _rounded(this.ran)
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
            self._trouble("watch", trouble)

    def _begun(self) -> dict[str, Any]:
        """What a success is copied from and filled in, which is quicker than building it; a field keeps its place."""
        place: dict[str, Any] = {}
        tell_identity(place)
        self._success = self.about | {
            "mlguard.call_id": "",
            "event.outcome": "success",
            "mlguard.disposition": "",
            "mlguard.duration": 0.0,
            "mlguard.attempts": 0,
            "mlguard.sample_rate": 1.0,
            "process.pid": place["process.pid"],
            "host.name": place["host.name"],
        }
        return self._success

    def _tell_place(self, event: dict[str, Any], this: Call) -> None:
        """Which process and which trace the call belongs to."""
        try:
            tell_identity(event)
            if "opentelemetry.trace" in sys.modules:
                _tell_trace(event, this)
        except Exception as trouble:
            self._trouble("place", trouble)

    def tell_error(self, event: dict[str, Any], error: BaseException, args: Any, kwargs: Any, *, refused: bool) -> None:
        """The exception's message and traceback, without what the schema hides.

        Args:
            event: Gets the fields.
            error: The exception.
            args: The arguments, whose hidden values are looked for.
            kwargs: Those by name.
            refused: They are no valid arguments, and the message says nothing of them.
        """
        try:
            parameters = self._known()
            values = () if refused else parameters.hidden_values(args, kwargs)

            def say(error: BaseException) -> str:
                return failures.message(error, scrub, self._violation_of(error))

            def scrub(text: str) -> str:
                return scrubbed(text, values, parameters.words.hidden)

            event["exception.message"] = say(error)
            if isinstance(error, GuardError):  # its message says where to look; its frames are mlguard's own
                if isinstance(error, ValidationError):
                    self._tell_violations(event, error.errors(), self._violation_of(error))
            elif classify(error) is not Failure.INVALID_INPUT:  # an answer to the client came from nowhere but itself
                event["exception"] = failures.stack(error, say)
        except Exception as trouble:
            self._trouble("exception", trouble)

    @property
    def hides_output(self) -> bool:
        """Whether no event may show what the function returns."""
        return self._known().output_hidden

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

    def _tell_inputs(self, event: dict[str, Any], args: Any, kwargs: Any) -> None:
        try:
            for (key, hidden), value in self._known().named(args, kwargs):
                if hidden:
                    event[key] = HIDDEN
                else:
                    summarise(event, key, value)
        except Exception as trouble:
            self._trouble("summaries", trouble)

    def _tell_output(self, event: dict[str, Any], result: Any) -> None:
        try:
            if self._known().output_hidden:
                event["mlguard.output"] = HIDDEN
            else:
                summarise(event, "mlguard.output", result)
        except Exception as trouble:
            self._trouble("summaries", trouble)

    def _known(self) -> Parameters:
        if self._parameters is None:
            self._parameters = Parameters(self._target)
        return self._parameters


def _rounded(seconds: float) -> float:
    """To the microsecond, in a third of the time that ``round(seconds, 6)`` takes."""
    return round(seconds * 1e6) / 1e6


def _tell_notes(event: dict[str, Any], notes: dict[str, Any]) -> None:
    for name, value in itertools.islice(notes.items(), _NOTES):
        taken = name in _TAKEN or "." in name or name in event
        event[f"note.{name}" if taken else name] = plain(value)
    if len(notes) > _NOTES:
        event["mlguard.notes_dropped"] = len(notes) - _NOTES


_trace: Any = None


def _tell_trace(event: dict[str, Any], this: Call) -> None:
    """Ids of the call's own span, or of the span around it."""
    global _trace
    if _trace is None:
        from opentelemetry import trace

        _trace = trace
    span = _trace.get_current_span() if this.span is None else this.span
    if span is _trace.INVALID_SPAN:
        return
    ids = span.get_span_context()
    if ids.is_valid:
        event["trace_id"], event["span_id"] = _trace.format_trace_id(ids.trace_id), _trace.format_span_id(ids.span_id)
