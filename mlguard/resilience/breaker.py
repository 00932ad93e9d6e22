"""A pause for a callee that keeps failing. `Breaker` is what a policy says, `CircuitBreaker` does it for one function.

    closed ──share of failures reaches the threshold──> open ──open_for is over──> half-open
      ^                                                  ^                            │
      └──────────every probe succeeds────────────────────┼────────────────────────────┤
                                                         └────────a probe fails───────┘

Each change of state is logged once. While closed, a call that succeeds takes no lock: it steps a counter and reads the
clock. Which failures there are is in
`mlguard.outcome`; what happens to a refused call is decided by retry (nothing) and fallback.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Iterator
from typing import Annotated, Any, Final

import structlog
from pydantic import AfterValidator, Field

from mlguard import clock
from mlguard.clock import Duration
from mlguard.errors import CircuitOpenError, InvalidInputError, PolicyError
from mlguard.forks import renew_in_children
from mlguard.monitor import metrics
from mlguard.outcome import Failure, classify, members_of, status_of
from mlguard.resilience.counting import Steps
from mlguard.section import Section
from mlguard.target import Target

__all__ = ["Breaker", "CircuitBreaker"]

_log = structlog.get_logger("mlguard.breaker")
_BUCKETS: Final = 10
_NEITHER: Final = (Failure.INVALID_INPUT, Failure.REJECTED, Failure.CANCELLED)


def _answered(error: BaseException) -> bool:
    """Whether the callee did answer, or the caller's own data were refused before it was asked."""
    return all(
        status_of(each) is not None or issubclass(type(each), InvalidInputError)
        for each in (members_of(error) if isinstance(error, Exception) else (error,))
    )


def _some_time(value: float) -> float:
    if value == 0:
        raise ValueError("must be more than 0")
    return value


class Breaker(Section):
    """Refuses calls at once while the function keeps failing, and tries now and then whether it has recovered.

    Failures are transient and throttled ones, results that break their schema, and every other exception of the
    function, but not an HTTP 4xx: there the callee did answer. Invalid input, cancellation, and what mlguard itself
    refused count neither as success nor as failure. State is kept for each process.

    Raises:
        PolicyError: A value is impossible.
    """

    failure_rate_threshold: float = Field(default=0.5, gt=0, le=1)
    """The share of failures among the calls in the window that opens the circuit. 0.5, as in resilience4j: a callee
    that fails half its calls is not merely unlucky."""
    minimum_calls: int = Field(default=20, ge=1)
    """Calls in the window before the share counts: below, one bad minute of a rarely called function would open it."""
    window: Annotated[Duration, AfterValidator(_some_time)] = 30.0
    """How far back calls count, to a tenth of it. 30: long enough for `minimum_calls`, short enough to notice."""
    open_for: Annotated[Duration, AfterValidator(_some_time)] = 30.0
    """How long calls are refused before probes are let through. 30: about the restart of a service."""
    half_open_calls: int = Field(default=1, ge=1)
    """Probes that must all succeed to close the circuit; never more than that many at a time. 1: a callee that is
    recovering is not run over."""
    slow_call: Annotated[Duration, AfterValidator(_some_time)] | None = None
    """A call that takes at least this long counts as a failure, though its result is used. None: no call is slow."""
    scope: str | None = None
    """Functions that name the same scope share one circuit: those that call the same service. None: each its own."""
    per: str | None = None
    """The argument of whose values each has one circuit, such as "host" or "request.tenant"; 1,000 values are kept
    apart at most. None: all calls have it together."""


class CircuitBreaker:
    """Lets the calls of one function through, counts how they end, and stops them while too many fail.

    Safe for threads and tasks alike. A permit says in which state a call was let in: what comes back late from before
    the circuit opened does not count as a probe.

    Args:
        target: The function.
        section: What its policy says.

    Raises:
        PolicyError: `slow_call` is set for a stream, whose time is its consumer's too.
    """

    def __init__(self, target: Target, section: Breaker) -> None:
        self._target = target
        self._section = section
        self._window = clock.seconds(section.window)
        self._open_for = clock.seconds(section.open_for)
        self._slow = None if section.slow_call is None else clock.seconds(section.slow_call)
        if self._slow is not None and target.kind.stream:
            raise PolicyError(
                f"{target.name}: Breaker.slow_call can't be honoured for a {target.kind.value}, because the time its "
                "consumer takes would count. Fix: Timeout(first_item=..., idle=...)"
            )
        self.steps = Steps(self)
        self._step = self.steps.__next__
        self._permits = itertools.count(1)
        self.after_fork()
        self.reset()
        renew_in_children(self)

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        timed = self._slow is not None
        return {
            "breaker_enter": self.enter_timed if timed else self.enter,
            "breaker_succeeded": self.succeeded_timed if timed else self.succeeded,
            "breaker_failed": self.failed_timed if timed else self.failed,
        }

    @property
    def state(self) -> str:
        """``"closed"``, ``"open"`` or ``"half_open"``."""
        if self._closed:
            return "closed"
        return "open" if clock.now() < self._open_until else "half_open"

    def enter(self) -> int:
        """A permit for one attempt.

        Raises:
            CircuitOpenError: The circuit is open, or half-open with as many probes on their way as may be.
        """
        return self._closed or self._probe()

    def succeeded(self, permit: int) -> None:
        """Takes a permit back: the attempt went well."""
        if permit == self._closed:
            if clock.now() >= self._next_mark:
                self._mark()
            self._step()
        else:
            self._probe_succeeded(permit)

    def failed(self, permit: int | None, error: BaseException) -> None:
        """Takes a permit back: the attempt ended with an exception. Without a permit, there is nothing to do."""
        if permit is None:
            return
        kind = classify(error)
        if kind in _NEITHER or (kind is Failure.PERMANENT and _answered(error)):
            self._give_back(permit)
        else:
            self._count_failure(permit, type(error).__name__)

    def enter_timed(self) -> tuple[int, float]:
        return self.enter(), clock.now()

    def succeeded_timed(self, permit: tuple[int, float]) -> None:
        number, started = permit
        if self._slow is not None and clock.now() - started >= self._slow:
            self._count_failure(number, "slow_call")
        else:
            self.succeeded(number)

    def failed_timed(self, permit: tuple[int, float] | None, error: BaseException) -> None:
        if permit is not None:
            self.failed(permit[0], error)

    def facts(self) -> dict[str, Any]:
        """What an event says of the breaker."""
        return {"mlguard.breaker.state": self.state}

    def explain(self) -> list[str]:
        section = self._section
        slow = f", calls of {clock.duration_text(self._slow)} and more included" if self._slow is not None else ""
        probes = "one probe succeeds" if section.half_open_calls == 1 else f"{section.half_open_calls} probes succeed"
        return [
            f"Refused for {clock.duration_text(self._open_for)} once {section.failure_rate_threshold:.0%} of at least "
            f"{section.minimum_calls} calls in {clock.duration_text(self._window)} failed{slow}; "
            f"closed again when {probes}."
        ]

    def stats(self) -> dict[str, Any]:
        """The state and since when, what the window holds, and how often the circuit changed and refused."""
        with self._lock:
            calls, failures = self._in_window(clock.now())
            return {
                "state": self.state,
                "calls": calls,
                "failures": failures,
                "failure_rate": round(failures / calls, 4) if calls else 0.0,
                **self._changes,
                "refused": self._refused,
                "last_failure": self._last_failure,
                "seconds_in_state": round(max(0.0, clock.now() - self._since), 3),
                "log_failures": self._log_failures,
            }

    def metrics(self) -> Iterator[metrics.Figure]:
        state = self.state
        for each in ("closed", "half_open", "open"):
            yield metrics.BREAKER_STATE, (each,), float(state == each)
        for to, number in zip(("open", "half_open", "closed"), self._changes.values(), strict=True):
            yield metrics.BREAKER_TRANSITIONS, (to,), number
        yield metrics.BREAKER_REJECTIONS, (), self._refused
        yield metrics.INSTRUMENTATION_ERRORS, (), self._log_failures

    def reset(self) -> None:
        self._marks: deque[tuple[float, int, int]]
        self._since: float
        with self._lock:
            self._changes = {"opened": 0, "half_opened": 0, "closed": 0}
            self._refused = self._log_failures = 0
            self._last_failure: str | None = None
            self._news: deque[dict[str, Any]] = deque()
            self._close()

    def after_fork(self) -> None:
        self._lock = threading.RLock()  # re-entrant: a stream closed by the garbage collector gives its permit back
        self._probes: dict[int, float] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return CircuitBreaker, (self._target, self._section)

    def _mark(self) -> None:
        """Remembers the counts at this moment, so that the window can forget what came before."""
        if not self._lock.acquire(blocking=False):
            return  # another thread is at it
        try:
            now = clock.now()
            if now >= self._next_mark:
                self._add_mark(now)
        finally:
            self._lock.release()

    def _add_mark(self, now: float) -> None:
        self._marks.append((now, self.steps.read(), self._failures))
        self._next_mark = now + self._window / _BUCKETS
        self._in_window(now)

    def _in_window(self, now: float) -> tuple[int, int]:
        """Calls and failures in the window. The calls between two marks lie within a bucket after the first."""
        oldest = now - self._window - self._window / _BUCKETS
        while len(self._marks) > 1 and self._marks[0][0] <= oldest:
            self._marks.popleft()
        since, successes_then, failures_then = self._marks[0]
        if since <= oldest:
            return 0, 0
        failures = self._failures - failures_then
        return self.steps.read() - successes_then + failures, failures

    def _count_failure(self, permit: int, why: str) -> None:
        with self._lock:
            now = clock.now()
            if self._probes.pop(permit, None) is not None:
                self._last_failure = why
                self._open(now, probe=True)
            elif permit == self._closed:
                if now >= self._next_mark:
                    self._add_mark(now)
                self._failures += 1
                self._last_failure = why
                calls, failures = self._in_window(now)
                section = self._section
                if calls >= section.minimum_calls and failures >= section.failure_rate_threshold * calls:
                    self._open(now, calls=calls, failures=failures)
        self._tell()

    def _open(self, now: float, **why: Any) -> None:
        self._closed = 0
        self._open_until = now + self._open_for
        self._probes.clear()
        self._probes_succeeded = 0
        self._half_open = False
        self._changed("opened", now, last_failure=self._last_failure, open_for=self._open_for, **why)

    def _changed(self, to: str, now: float, **figures: Any) -> None:
        """Notes a change of state, for `_tell` once the lock is free."""
        self._changes[to] += 1
        told: dict[str, Any] = {"event": f"mlguard.breaker.{to}", "code.function.name": self._target.name}
        if self._section.scope is not None:
            told["mlguard.breaker.scope"] = self._section.scope
        figures = {"lasted": round(now - self._since, 3), **figures}
        self._news.append(told | {f"mlguard.breaker.{name}": value for name, value in figures.items()})
        self._since = now

    def _tell(self) -> None:
        """Logs changes of state. Outside the lock, because an application's processors may do anything."""
        while self._news:
            try:
                news = self._news.popleft()
            except IndexError:  # another thread has told it
                return
            say = _log.warning if news["event"] == "mlguard.breaker.opened" else _log.info
            try:
                say(news.pop("event"), **news)
            except Exception:  # a logging set-up that fails must not fail a call
                self._log_failures += 1

    def _close(self) -> None:
        self._probes.clear()
        self._probes_succeeded = 0
        self._open_until = 0.0
        self._failures = 0
        self._since = now = clock.now()
        self._half_open = False
        self._marks = deque([(now, self.steps.read(), 0)])
        self._next_mark = now + self._window / _BUCKETS
        self._closed = next(self._permits)  # 0 where it is not closed, so that `enter` need not ask twice

    def _probe(self) -> int:
        """A permit while the circuit is not closed."""
        permit = self._probe_permit()
        self._tell()
        return permit

    def _probe_permit(self) -> int:
        with self._lock:
            if self._closed:
                return self._closed
            now = clock.now()
            left = self._open_until - now
            if left > 0:
                self._refused += 1
                raise CircuitOpenError(
                    f"{self._target.name}: not called, because too many recent calls failed (the circuit opened "
                    f"{clock.duration_text(max(0.0, round(self._open_for - left, 3)))} ago, at "
                    f"{self._section.failure_rate_threshold:.0%} failures). It is probed again in "
                    f"{clock.duration_text(round(left, 3))}. Fix: look at the failures before it opened.",
                    retry_after=left,
                )
            # A probe that never comes back must not keep the circuit open for ever.
            for number in [number for number, since in self._probes.items() if now - since >= self._open_for]:
                del self._probes[number]
            if len(self._probes) + self._probes_succeeded >= self._section.half_open_calls:
                self._refused += 1
                raise CircuitOpenError(
                    f"{self._target.name}: not called, because it is being probed after failures, by "
                    f"{self._section.half_open_calls} call(s) at a time (half_open_calls). Fix: try again shortly.",
                    retry_after=min(1.0, self._open_for),
                )
            if not self._half_open:
                self._half_open = True
                self._changed("half_opened", now)
            permit = next(self._permits)
            self._probes[permit] = now
            return permit

    def _probe_succeeded(self, permit: int) -> None:
        with self._lock:
            if self._probes.pop(permit, None) is not None:
                self._probes_succeeded += 1
                if self._probes_succeeded >= self._section.half_open_calls:
                    since = self._since
                    self._close()
                    self._since = since
                    self._changed("closed", clock.now())
        self._tell()

    def _give_back(self, permit: int) -> None:
        if permit != self._closed:
            with self._lock:
                self._probes.pop(permit, None)
