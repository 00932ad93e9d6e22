"""What the monitor does with a call that ended: counts it, and hands its event to the log and to the record."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextvars import Token
from typing import TYPE_CHECKING, Any, cast

from mlguard import clock, context
from mlguard.context import Call
from mlguard.forks import in_children
from mlguard.monitor import failures, metrics, readings
from mlguard.monitor.counts import OVERLOAD, QUIET, Counts
from mlguard.monitor.listeners import Ended, listeners
from mlguard.monitor.metrics import Figure
from mlguard.monitor.redaction import HIDDEN
from mlguard.monitor.section import Monitor
from mlguard.monitor.sink import ERROR, INFO, WARNING, Sink
from mlguard.monitor.telling import NAME, NAME_OF_EXCEPTION, Teller
from mlguard.outcome import Disposition, Failure, classify, disposition_of
from mlguard.target import Target

if TYPE_CHECKING:
    from mlguard.drift.detector import Detector
    from mlguard.record import Record, Recorder

__all__ = ["Reporter"]

_chance = random.Random()  # noqa: S311 - sampling; not the shared generator, whose sequence belongs to the user's model
in_children(_chance.seed)


class Reporter:
    """Counts the calls of one function and reports their events.

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
        self._name = target.name
        self._section = section
        self._log = bool(section.log)
        self._record = cast("Record | None", section.record)  # as the section keeps it, whatever it was given
        self._reports = self._log or self._record is not None
        self.stream = target.kind.stream
        """Whether the function is a generator."""
        self._rate = section.sample_rate
        self._slow = math.inf if section.slow_call is None else clock.seconds(section.slow_call)
        self._drift = drift
        self._sink = Sink(background=section.log == "background", trouble=self.trouble)
        if drift is not None:
            drift.report_to(self.report)
        self._recorder: Recorder | None = None
        self.teller = Teller(
            target,
            policy_name=policy_name,
            fingerprint=fingerprint,
            model_version=model_version,
            watch=watch,
            summaries=section.summaries,
            trouble=self.trouble,
        )
        """Puts the events together."""
        self.reset()

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, self._made_of

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        return {"enter": enter, "leave": leave, "succeeded": self.succeeded, "failed": self.failed}

    def succeeded(self, this: Call, result: Any, args: Any, kwargs: Any) -> None:
        """A call returned, or a stream came to its end."""
        duration = clock.now() - this.started
        self.counts.latencies[this.disposition].add(duration)
        slow = duration >= self._slow
        if slow:
            self.counts.slow += 1
        odd = self._observe(this, args, kwargs, result) if self._drift is not None else None
        if listeners and self._section.metrics:
            self._tell_listeners(this, duration)
        if not self._reports:
            return
        rate = self._rate
        if rate < 1.0:
            if slow or this.degraded or this.violations is not None or odd is not None:
                rate = 1.0
            elif _chance.random() >= rate:
                return
        level = INFO if this.violations is None else WARNING
        try:
            config = self._sink.open(level) if self._log else None
            if config is None and self._record is None:
                return
            event = self.teller.success(this, result, args, kwargs, duration=duration, rate=rate, slow=slow, odd=odd)
            if self._record is not None:
                self._keep(NAME, event, result)
            if config is not None:
                self._sink.write(config, level, NAME, event)
        except Exception as trouble:
            self.trouble("log", trouble)

    def failed(self, this: Call, error: BaseException, args: Any, kwargs: Any) -> None:
        """An exception, a rejection or a cancellation ended a call; `call.py` raises it again."""
        now = clock.now()
        duration = now - this.started
        this.disposition = disposition = disposition_of(error)
        self.counts.latencies[disposition].add(duration)
        slow = duration >= self._slow
        if slow:
            self.counts.slow += 1
        cancelled = disposition is Disposition.CANCELLED
        if not cancelled:
            self.counts.failure(disposition, failures.error_type(error))
        odd = self._observe(this, args, kwargs, None) if self._drift is not None else None
        if listeners and self._section.metrics:
            self._tell_listeners(this, duration)
        if not self._reports:
            return
        level, name = _level_of(disposition, error)
        try:
            config = self._sink.open(level) if self._log else None
            if config is None and self._record is None:
                return
            suppressed = self.counts.left_out_before(disposition, now) if disposition in OVERLOAD else 0
            if suppressed is None:
                return
            event = self.teller.failure(
                this, error, args, kwargs, duration=duration, slow=slow, odd=odd, suppressed=suppressed
            )
            recorded_by = event.get("mlguard.recorded_by", this.id)
            if self._record is not None:
                self._keep(name, event)
            if config is not None:
                self._sink.write(config, level, name, event)
            if not cancelled:
                failures.mark(error, this, recorded_by, now)
        except Exception as trouble:
            self.trouble("log", trouble)

    def report(self, level: int, name: str, event: dict[str, Any]) -> None:
        """Writes an event that is of no single call, such as an alarm of drift, where those of calls go.

        Also where calls are only counted: it is rare, and somebody asked to be told.
        """
        if self._record is not None:
            self._keep(name, event)
        config = self._sink.open(level)
        if config is not None:
            self._sink.write(config, level, name, event)

    def trouble(self, where: str, error: Exception) -> None:
        """Something of the monitor failed, and the call goes on."""
        self.counts.trouble(where, error)

    def explain(self) -> list[str]:
        section = self._section
        if not self._reports:
            said = ["Calls are counted, not logged."]
        else:
            share = (
                "every call" if self._rate == 1.0 else f"{self._rate:.3g} of the successful calls and every other one"
            )
            with_what = "with summaries of arguments and result" if section.summaries else "without summaries"
            said = [
                f"One {'structlog event' if self._log else 'event'} for {share}, {with_what}.",
                "Rejections by memory, breaker and concurrency: at most one event of a kind in "
                f"{clock.duration_text(QUIET)}; the next one says how many were left out.",
            ]
        if section.log == "background":
            said.append("The log is written in a thread of its own; what it can't keep up with is dropped and counted.")
        if self._record is not None:
            what = "The same events, with what was predicted," if section.record_outputs else "The same events"
            said.append(f"{what} are kept in {self._record.path}.")
        if section.spans:
            said.append("One OpenTelemetry span for every call, current while the function runs.")
        if math.isfinite(self._slow):
            said.append(f"A call is slow from {clock.duration_text(self._slow)} on.")
        return said

    def stats(self) -> dict[str, Any]:
        queues = {"log": self._sink.queue, "record": self._recorder}
        return self.counts.stats() | {name: queue.stats() for name, queue in queues.items() if queue is not None}

    def metrics(self) -> Iterator[Figure]:
        """What was counted, as figures, and which policy and model it was counted under."""
        yield from self.counts.metrics()
        about = self.teller.about
        labels = ("mlguard.policy", "mlguard.policy.fingerprint", "mlguard.model_version")
        yield metrics.GUARD_INFO, tuple(str(about.get(label, ""))[:200] for label in labels), 1.0

    def reset(self) -> None:
        self.counts = Counts()

    def go_on_from(self, before: Reporter) -> None:
        """Takes over the counts of the one it replaces, whose policy has changed in another section."""
        self.counts = before.counts
        readings.share(self, before)

    def _keep(self, name: str, event: dict[str, Any], *result: Any) -> None:
        """Hands the event to the record, with the prediction where that is asked for and not hidden."""
        try:
            kept = {"event": name, **event}
            if result and self._section.record_outputs and not self.stream:
                from mlguard.record import outputs

                kept["mlguard.prediction"] = HIDDEN if self.teller.hides_output else outputs(result[0])
            if self._recorder is None:
                from mlguard.record import recorder_for

                assert self._record is not None  # noqa: S101 - for the type checker
                self._recorder = recorder_for(self._record)
            self._recorder.put(kept)
        except Exception as trouble:
            self.trouble("record", trouble)

    def _observe(self, this: Call, args: Any, kwargs: Any, result: Any) -> tuple[list[str], int] | None:
        """Hands a call whose function ran on to drift; a fallback, a failure and a stream have no prediction."""
        if not this.attempts or this.disposition == Disposition.CANCELLED or self._drift is None:
            return None
        try:
            said = this.disposition == Disposition.EXECUTED and not self.stream
            return self._drift.observe(args, kwargs, result, has_result=said)
        except Exception as trouble:
            self.trouble("drift", trouble)
            return None

    def _tell_listeners(self, this: Call, duration: float) -> None:
        ended = Ended(self._name, str(this.disposition), duration)
        for listener in listeners:
            try:
                listener(ended)
            except Exception as trouble:
                self.trouble("listener", trouble)


def enter(this: Call) -> Token[Call | None]:
    """`context.enter`, and notes the time."""
    this.left_at = None
    this.entered = clock.now()
    return context.current.set(this)


def leave(this: Call, token: Token[Call | None]) -> bool:
    """`context.leave`, and adds up how long the function ran."""
    this.ran += (clock.now() if this.left_at is None else this.left_at) - this.entered
    return context.leave(this, token)


def _level_of(disposition: Disposition, error: BaseException) -> tuple[int, str]:
    if disposition is Disposition.CANCELLED:
        return INFO, NAME
    if disposition is Disposition.FAILED and classify(error) is not Failure.INVALID_INPUT:
        return ERROR, NAME_OF_EXCEPTION
    return WARNING, NAME


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
