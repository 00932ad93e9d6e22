"""Further attempts after a failure that may pass. `Retry` is what a policy says, `Retrying` decides for one function.

tenacity decides whether to stop and how long to wait; it is asked only after a failure, so a call that succeeds never
meets it. The loop itself, and the sleeping, are in `call.py`. Which failures are transient is in `mlguard.outcome`.
"""

from __future__ import annotations

import inspect
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeAlias

import tenacity
from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator
from pydantic.json_schema import SkipJsonSchema

from mlguard import clock
from mlguard.clock import Duration
from mlguard.context import Call, ambient_deadline
from mlguard.errors import InvalidInputError, InvalidOutputError, PolicyError, RejectedError
from mlguard.forks import renew_in_children
from mlguard.monitor import metrics
from mlguard.outcome import Failure, classify, members_of
from mlguard.resilience.counting import Steps
from mlguard.resilience.error_paths import error_at, path_of
from mlguard.resilience.given_up import give_up_on, given_up_within
from mlguard.resilience.retry_after import retry_after
from mlguard.section import Section
from mlguard.target import Target

__all__ = ["Retry", "Retrying"]

cap: int | None = None
"""Caps the retries of every policy; None: each policy's own number. Only `mlguard.testing` sets it."""

BUDGET_WINDOW: Final = 10.0
"""Seconds over which the retry budget is reckoned, as Finagle does."""
BUDGET_MINIMUM: Final = 10
"""Retries in such a window that are always allowed, so that a function that is called rarely is retried at all."""

_TRANSIENT: Final = "transient"
_NEVER: Final = (InvalidInputError, PolicyError, RejectedError)
_numbers = itertools.count(1)


def _errors(given: Any) -> tuple[type[Exception] | Literal["transient"], ...]:
    """The field `on`, whatever way it was written, as a tuple of classes and perhaps "transient"."""
    if isinstance(given, str | type):
        given = (given,)
    if not isinstance(given, Sequence) or not given:
        raise ValueError("must be 'transient', an exception class, its import path, or a list of these")
    return tuple(_error(each) for each in given)


def _error(given: Any) -> type[Exception] | Literal["transient"]:
    if given == _TRANSIENT:
        return _TRANSIENT
    error = error_at(given) if isinstance(given, str) else given
    if not (isinstance(error, type) and issubclass(error, Exception)):
        raise ValueError("must hold classes that derive from Exception: cancellation and exits are never retried")
    if issubclass(error, _NEVER):
        raise ValueError(f"must not hold {error.__name__}, which the same call would meet again. Fix: drop it")
    if issubclass(error, InvalidOutputError):
        raise ValueError("must not hold InvalidOutputError. Fix: on_invalid_output=True")
    return error


def _paths(on: Any) -> list[str]:
    return [each if isinstance(each, str) else path_of(each) for each in on]


if TYPE_CHECKING:
    _Errors: TypeAlias = str | type[Exception] | Sequence[str | type[Exception]]
else:
    _Errors = Annotated[
        Any,
        PlainValidator(_errors),
        PlainSerializer(_paths, when_used="json"),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    ]


def _predicate(given: Any) -> Any:
    """The field `on_result`, refused where it is no plain function."""
    if given is not None and (not callable(given) or isinstance(given, type)):
        raise ValueError("must be a function of the result, and a file can't hold one. Fix: give it in Python")
    if inspect.iscoroutinefunction(given):
        raise ValueError("must be a plain function: a coroutine is always true. Fix: decide without awaiting")
    return given


_Predicate: TypeAlias = SkipJsonSchema[Annotated[Callable[[Any], Any] | None, BeforeValidator(_predicate)]]


class Retry(Section):
    """Calls the function again after a failure that may pass, with growing pauses in between.

    Never retried, whatever `on` says: cancellation, KeyboardInterrupt and other exits, invalid input, what mlguard
    itself refused (memory, breaker, concurrency), a wrong policy, and a failure that a guarded function further in
    has retried already: three retries around three retries stay three.

    Raises:
        PolicyError: A value is impossible, or `on` names something that can't be retried.
    """

    max_retries: int = Field(default=3, ge=0, le=100)
    """Further attempts after the first, at most. 3: the fourth failure in a row is rarely a passing one."""
    on: _Errors = _TRANSIENT
    """What is retried: "transient" (lost connections, timeouts, HTTP 408, 425, 429 and 5xx), exception classes or their
    import paths, or a list that mixes them. Transient, because anything else would only fail again."""
    backoff_factor: float = Field(default=2.0, ge=1, le=100, allow_inf_nan=False)
    """By how much each pause may be longer than the one before."""
    initial_delay: Duration = 0.1
    """The first pause, at most (exactly, without jitter). 0.1: about one restart of a connection."""
    max_delay: Duration = 10.0
    """The longest pause, also where the callee asks for a longer one: nobody waits for minutes inside a call."""
    jitter: bool = True
    """Draws each pause evenly between 0 and the backoff ("full jitter", AWS Architecture Blog, 2015), so that callers
    that failed together don't come back together."""
    budget: float | None = Field(default=0.2, ge=0, le=1)
    """Retries, as a share of the calls of the last 10 seconds; 10 retries in 10 seconds are always allowed. 0.2, as
    Envoy and Finagle have it: a callee that is down gets a fifth more load instead of three times more. None: no limit.
    Counted in each process."""
    respect_retry_after: bool = True
    """Waits at least as long as the callee asks for (Retry-After), up to `max_delay`; the backoff comes on top, so that
    callers told the same second don't all come back in it."""
    on_result: _Predicate = None
    """Retries as well where this function says True of a result, such as ``lambda answer: answer.pending``. After the
    last attempt the caller gets the result as it is, and no cache keeps it. Python only: a file can't hold a function.
    None: every result counts."""
    on_invalid_output: bool = False
    """Retries as well when the result breaks its schema: for models that answer differently each time."""
    scope: str | None = None
    """Functions that name the same scope share one budget. None: each its own."""
    per: str | None = None
    """The argument of whose values each has one budget, such as "host" or "request.tenant"; 1,000 values are kept
    apart at most. None: all calls have it together."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if clock.seconds(self.initial_delay) > clock.seconds(self.max_delay):
            raise ValueError(
                f"must have initial_delay <= max_delay, but {self.initial_delay:g} > {self.max_delay:g}. "
                "Fix: lower initial_delay, or raise max_delay"
            )
        return self


class Tries:
    """What is remembered between two attempts: numbers only, so that no exception outlives its attempt."""

    __slots__ = ("call", "made", "pause")

    def __init__(self, call: int, made: int, pause: float) -> None:
        self.call = call
        """The number of the call, as `counted` gave it."""
        self.made = made
        """Attempts so far."""
        self.pause = pause
        """Seconds to wait before the next."""


class Retrying:
    """Decides after a failure whether a function gets another attempt, and when.

    Args:
        target: The function.
        section: What its policy says.
    """

    def __init__(self, target: Target, section: Retry) -> None:
        self._target = target
        self._section = section
        on: Any = section.on  # a tuple, whatever way it was written
        self._classes = tuple(each for each in on if isinstance(each, type))
        self._transient = _TRANSIENT in on
        self._max_delay = clock.seconds(section.max_delay)
        # Exceptions, which cross processes, carry this mark: so a name rather than an object.
        self.mark = f"{target.name}#{next(_numbers)}"
        self._wants_other = section.on_result
        kind = tenacity.wait_random_exponential if section.jitter else tenacity.wait_exponential
        self._tenacity = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(section.max_retries + 1),
            wait=kind(
                multiplier=clock.seconds(section.initial_delay), exp_base=section.backoff_factor, max=self._max_delay
            ),
        )
        self.steps = Steps(self)
        self._calls_before_reset = 0
        self.after_fork()
        self.reset()
        renew_in_children(self)

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        return {"counted": self.steps.__next__, "again": self.again, "unwanted": self.unwanted}

    def again(
        self, this: Call | None, tries: Tries | int, error: BaseException, deadline: float | None
    ) -> Tries | None:
        """When to try again; None: not at all, so the caller raises the error as it is.

        Called while the error is being handled, `tries` being what the call before returned, or what `counted` gave.
        Keeps neither the error nor its frames.
        """
        if not isinstance(error, Exception) or not self._retryable(error):
            return None
        call, made = (tries, 1) if isinstance(tries, int) else (tries.call, tries.made + 1)
        if any(given_up_within(each, self.mark, call, this) for each in members_of(error)):
            if this is not None:
                this.tell(mlguard__retry__stopped="retried_within", mlguard__retry__last_error=type(error).__name__)
            return None
        pause = self._pause(made, error)
        stopped = self._stopped(made, pause, deadline)
        if stopped is not None and (made > 1 or stopped == "budget"):
            give_up_on(error, self.mark)
        if this is not None:
            _tell(this, made, pause, stopped)
            this.tell(mlguard__retry__last_error=type(error).__name__)
        return Tries(call, made, pause) if stopped is None else None

    def unwanted(self, this: Call | None, tries: Tries | int, result: Any, deadline: float | None) -> Tries | None:
        """When to try again after a result; None: not at all, because it is wanted or there are no attempts left."""
        if self._wants_other is None or not self._wants_other(result):
            return None
        call, made = (tries, 1) if isinstance(tries, int) else (tries.call, tries.made + 1)
        pause = self._tenacity.wait(self._state(made))
        stopped = self._stopped(made, pause, deadline)
        if this is not None:
            _tell(this, made, pause, stopped)
            if stopped is not None:
                this.shareable = False
                this.tell(mlguard__retry__unwanted=True)
        return Tries(call, made, pause) if stopped is None else None

    def explain(self) -> list[str]:
        section = self._section
        what = " and ".join("transient failures" if each == _TRANSIENT else each for each in _paths(section.on))
        drawn = "drawn between 0 and" if section.jitter else "of"
        said = [
            f"Up to {section.max_retries} retries after {what}, with pauses {drawn} "
            f"{clock.duration_text(clock.seconds(section.initial_delay))}, growing {section.backoff_factor:g}-fold "
            f"to at most {clock.duration_text(self._max_delay)}."
        ]
        if section.on_invalid_output:
            said.append("A result that breaks its schema is retried as well.")
        if section.on_result is not None:
            named = getattr(section.on_result, "__qualname__", type(section.on_result).__qualname__)
            said.append(
                f"So is a result of which {named.rsplit('<locals>.', 1)[-1]}() says True; the last one is used."
            )
        if section.respect_retry_after:
            said.append(f"A Retry-After is honoured up to {clock.duration_text(self._max_delay)}.")
        if section.budget is not None:
            said.append(
                f"Retries are at most {section.budget:.0%} of the calls of the last {BUDGET_WINDOW:g}s, "
                f"or {BUDGET_MINIMUM} where that is more."
            )
        return said

    def stats(self) -> dict[str, Any]:
        """Calls that ran the function, retries made, seconds they paused, and how often a call gave up, by reason."""
        with self._lock:
            calls = self.steps.read() - self._calls_before_reset
            return {
                "calls": calls,
                "retries": self._retries,
                "waited_seconds": round(self._waited, 6),
                "gave_up": dict(self._gave_up),
            }

    def metrics(self) -> Iterator[metrics.Figure]:
        with self._lock:
            calls, retries, waited = self.steps.read() - self._calls_before_reset, self._retries, self._waited
            gave_up = dict(self._gave_up)
        yield metrics.ATTEMPTS, (), calls + retries
        yield metrics.RETRIES, (), retries
        yield metrics.WAITED, ("retry",), waited
        for reason, number in gave_up.items():
            yield metrics.RETRIES_STOPPED, (reason,), number

    def reset(self) -> None:
        with self._lock:
            self._calls_before_reset = self.steps.read()
            self._retries = 0
            self._waited = 0.0
            self._gave_up = {"max_retries": 0, "deadline": 0, "budget": 0}
            # What the budget saw: time, calls and retries until then, once a second of failures.
            self._seen = deque([(clock.now(), self._calls_before_reset, 0)])

    def after_fork(self) -> None:
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Retrying, (self._target, self._section)

    def _retryable(self, error: Exception) -> bool:
        if issubclass(type(error), ExceptionGroup):
            return all(self._one_retryable(each, isinstance(error, self._classes)) for each in members_of(error))
        return self._one_retryable(error)

    def _one_retryable(self, error: Exception, of_such_a_group: bool = False) -> bool:
        kind, cls = classify(error), type(error)  # not isinstance: an exception's own __class__ may fail
        if issubclass(cls, InvalidOutputError):
            return self._section.on_invalid_output
        if issubclass(cls, _NEVER) or kind is Failure.REJECTED:
            return False
        if of_such_a_group or issubclass(cls, self._classes):
            return True
        return self._transient and kind in (Failure.TRANSIENT, Failure.THROTTLED)

    def _pause(self, made: int, error: Exception) -> float:
        pause = self._tenacity.wait(self._state(made))
        asked = None
        if self._section.respect_retry_after:
            asked = max((each for each in map(retry_after, members_of(error)) if each is not None), default=None)
        return pause if asked is None else min(asked + pause, self._max_delay)

    def _stopped(self, made: int, pause: float, deadline: float | None) -> str | None:
        """Why there is no further attempt; None: there is one, and it is counted."""
        reason = None
        now = clock.now()
        last = deadline if deadline is not None else ambient_deadline()
        if self._tenacity.stop(self._state(made)) or (cap is not None and made > cap):
            reason = "max_retries"
        elif last is not None and now + pause >= last:
            reason = "deadline"
        with self._lock:
            if reason is None and not self._affordable(now):
                reason = "budget"
            if reason is None:
                self._retries += 1
                self._waited += pause
            else:
                self._gave_up[reason] += 1
        return reason

    def _state(self, made: int) -> tenacity.RetryCallState:
        state = tenacity.RetryCallState(self._tenacity, None, (), {})
        state.attempt_number = made
        return state

    def _affordable(self, now: float) -> bool:
        """Whether the budget has a retry left. Calls are counted as they come, but looked at only here."""
        if self._section.budget is None:
            return True
        seen, calls = self._seen, self.steps.read()
        if now - seen[-1][0] >= 1:
            seen.append((now, calls, self._retries))
        while len(seen) > 1 and seen[1][0] <= now - BUDGET_WINDOW:
            seen.popleft()
        since, calls_then, retries_then = seen[0]
        # Where the oldest look is longer ago than the window, the calls since then count as evenly spread; the retries
        # since then were all made within the second after it.
        calls_lately = (calls - calls_then) * BUDGET_WINDOW / max(now - since, BUDGET_WINDOW)
        if since + 1 <= now - BUDGET_WINDOW:
            retries_then = seen[1][2]
        return self._retries - retries_then < max(BUDGET_MINIMUM, self._section.budget * calls_lately)


def _tell(this: Call, made: int, pause: float, stopped: str | None) -> None:
    """What the event and the outcome say of it."""
    if stopped is not None:
        this.tell(mlguard__retry__stopped=stopped)
        return
    this.waited += pause
    facts = this.facts or {}
    this.tell(mlguard__retry__retries=made, mlguard__retry__waited=facts.get("mlguard.retry.waited", 0.0) + pause)
