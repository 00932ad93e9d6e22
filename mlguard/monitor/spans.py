"""A span of OpenTelemetry for every call: current while the function runs, through the application's tracer provider.

What the function does itself, requests and queries with spans of their own, becomes a child of it. The code of the
caller never runs inside it: between two items of a stream, the span is not current. Only a policy with ``spans`` loads
this file, which needs the extra ``opentelemetry``; where its spans go is the application's choice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel
from opentelemetry import trace

from mlguard import clock
from mlguard.context import Call
from mlguard.monitor import failures, reporter
from mlguard.outcome import Disposition

if TYPE_CHECKING:
    from mlguard.monitor.reporter import Reporter

__all__ = ["Spans"]

_MARK: Final = "__mlguard_span__"

_OF_THE_FUNCTION: Final = ("code.function.name", "mlguard.policy", "mlguard.model_version")


class Spans:
    """Begins, enters, leaves and ends the calls of one function with their spans.

    Args:
        about: What makes the events of the function, which has ended its part of a call before the span ends.
    """

    def __init__(self, about: Reporter) -> None:
        self._reporter = about
        self._stream = about.stream
        self._name: str = about.teller.about["code.function.name"]
        self._about = {key: about.teller.about[key] for key in _OF_THE_FUNCTION if key in about.teller.about}
        self._provider: Any = None
        self._tracer: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Spans, (self._reporter,)

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        """The names that it brings to `call.py` in place of the reporter's."""
        names = self.begin, self.enter, self.leave, self.succeeded, self.failed
        return {name.__name__: name for name in names}

    def begin(self) -> Call:
        """A call with its span, a child of the one that is current where the call is made."""
        this = Call()
        try:
            provider = trace.get_tracer_provider()
            if provider is not self._provider:  # the application has set its own since
                from mlguard import __version__

                self._tracer, self._provider = provider.get_tracer("mlguard", __version__), provider
            this.span = self._tracer.start_span(self._name, attributes=self._about)
        except Exception as trouble:
            self._reporter.trouble("span", trouble)
        return this

    def enter(self, this: Call) -> Any:
        """Makes call and span current; a further attempt is an event of the span."""
        token = reporter.enter(this)
        attached = None
        try:
            if this.span is not None:
                if this.attempts > 1 and this.first_item_at is None:
                    this.span.add_event("mlguard.retry", {"mlguard.attempt": this.attempts})
                attached = otel.attach(trace.set_span_in_context(this.span))
        except Exception as trouble:
            self._reporter.trouble("span", trouble)
        return token, attached

    def leave(self, this: Call, tokens: Any) -> None:
        """Neither is current any more."""
        token, attached = tokens
        if reporter.leave(this, token) and attached is not None:  # else it was destroyed in another context
            otel.detach(attached)

    def succeeded(self, this: Call, result: Any, args: Any, kwargs: Any) -> None:
        """A call returned, or a stream came to its end."""
        ended = time.time_ns()  # before the log is written
        self._reporter.succeeded(this, result, args, kwargs)
        if this.span is not None:
            self._end(this, ended, {"mlguard.items": result.count} if self._stream else {})

    def failed(self, this: Call, error: BaseException, args: Any, kwargs: Any) -> None:
        """An exception, a rejection or a cancellation ended a call."""
        ended = time.time_ns()
        self._reporter.failed(this, error, args, kwargs)
        if this.span is None:
            return
        try:
            if this.span.is_recording() and this.disposition != Disposition.CANCELLED:
                self._tell_error(this, error, args, kwargs)
        except Exception as trouble:
            self._reporter.trouble("span", trouble)
        self._end(this, ended, {"error.type": failures.error_type(error)})

    def _tell_error(self, this: Call, error: BaseException, args: Any, kwargs: Any) -> None:
        """The status, and the exception unless the span of a call inside this one has it; nothing hidden is shown."""
        told: dict[str, Any] = {}
        refused = this.disposition == Disposition.REJECTED_VALIDATION
        self._reporter.teller.tell_error(told, error, args, kwargs, refused=refused)
        said = told.get("exception.message", "")
        this.span.set_status(trace.Status(trace.StatusCode.ERROR, said))
        if failures.recorded(error, this, _MARK) is None:
            event = {"exception.type": failures.error_type(error), "exception.message": said}
            if "exception" in told:
                event["exception.stacktrace"] = told["exception"]
            this.span.add_event("exception", event)
        failures.mark(error, this, this.id, clock.now(), _MARK)

    def _end(self, this: Call, ended: int, fields: dict[str, Any]) -> None:
        try:
            if this.span.is_recording():
                fields |= {"mlguard.call_id": this.id, "mlguard.disposition": str(this.disposition)}
                if this.attempts != 1:
                    fields["mlguard.attempts"] = this.attempts
                self._reporter.teller.tell_met(fields, this)
                this.span.set_attributes(_attributes(fields))
        except Exception as trouble:
            self._reporter.trouble("span", trouble)
        try:
            this.span.end(ended)
        except Exception as trouble:
            self._reporter.trouble("span", trouble)


def _attributes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as OpenTelemetry takes them: numbers, texts, and lists of one kind of these."""
    found: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, list):
            of_one_kind = len({type(item) for item in value}) == 1 and all(map(_fits, value))
            found[key] = value if of_one_kind else [str(item) for item in value]
        elif value is not None:
            found[key] = value if _fits(value) else str(value)
    return found


def _fits(value: Any) -> bool:
    """False for an integer beyond 64 bits with a sign: its exporter would drop it, and all spans beside it."""
    return not isinstance(value, int) or -(2**63) <= value < 2**63
