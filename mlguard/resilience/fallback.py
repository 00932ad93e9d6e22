"""A safe value in place of a failure. `Fallback` is what a policy says, `SafeDefault` provides it for one function.

The value is never cached, is held to the output schema like any other result, and the event says that it is degraded.
Which failures there are is in `mlguard.outcome`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

from pydantic import BeforeValidator, Field

from mlguard.context import Call, current, leave
from mlguard.errors import InvalidOutputError, PolicyError
from mlguard.monitor import metrics
from mlguard.outcome import Disposition, Failure, classify, from_within
from mlguard.resilience.error_paths import path_of
from mlguard.section import Section
from mlguard.target import Target

__all__ = ["Fallback", "SafeDefault", "inside"]

_BY_DEFAULT: Final = frozenset(Failure) - {Failure.INVALID_INPUT, Failure.CANCELLED}


def _failures(given: Any) -> Any:
    """The field `on`, also where it is a single word."""
    given = (given,) if isinstance(given, str) else given
    if given is not None and Failure.CANCELLED in given:
        raise ValueError("must not hold 'cancelled': a caller that has gone wants no value. Fix: drop it")
    return given


if TYPE_CHECKING:
    _Failures: TypeAlias = str | Sequence[str] | None
else:
    _Failures = Annotated[Annotated[tuple[Failure, ...], Field(min_length=1)] | None, BeforeValidator(_failures)]


class Fallback(Section):
    """Answers with a safe value where the call would have failed.

    Raises:
        PolicyError: No value is given, or `on` holds something else than classes of outcome.
    """

    value: Any
    """The value, None included; each call gets its own copy. Or a function that makes it: called with the arguments of
    the call, and with ``error=`` where it has such a parameter and the guarded function has not. It may be guarded
    itself, and asynchronous where the guarded function is. Under ``validation.on_invalid="quarantine"`` a value stands
    for the result of one row, and a function is called with the rows that have to be answered for."""
    on: _Failures = None
    """The classes of outcome it answers for: "transient", "throttled", "permanent", "invalid_output", "rejected",
    "invalid_input". None: all but "invalid_input", because a wrong argument is the caller's to correct. Cancellation
    and mistakes in the policy itself are never answered for."""


class SafeDefault:
    """Provides the fallback of one function.

    Args:
        target: The function.
        section: What its policy says.
        check: Raises InvalidOutputError where a value breaks the output schema: ``check(this, value, dims)``.
        include_invalid_input: Answers for invalid input as well.
        wrap: Makes a stream of the value, where the function is a generator; awaited where it is asynchronous.

    Raises:
        PolicyError: The fallback can't stand in for the function: a wrong kind of function, other parameters, a value
            that breaks the output schema or can't be copied.
    """

    def __init__(
        self,
        target: Target,
        section: Fallback,
        *,
        check: Callable[[Call | None, Any, Any], None] | None,
        include_invalid_input: bool = False,
        wrap: Callable[[Any], Any] | None = None,
    ) -> None:
        self._target = target
        self._section = section
        self._check = check
        self._include_invalid_input = include_invalid_input
        self._wrap = wrap
        on = _BY_DEFAULT if section.on is None else frozenset(Failure(each) for each in section.on)
        self._on = on | {Failure.INVALID_INPUT} if include_invalid_input else on
        self._calls = callable(section.value)
        if self._calls:
            self._wants_error = _fits(target, section.value)
        else:
            self._value = _own_copy(target, section.value)
            self._shared = _own_copy(target, self._value) is self._value  # nothing in it can be changed
            self._check_beforehand()
        self.reset()

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        return {"covered": self.covered, "fallback": self.fallback_async if asynchronous else self.fallback}

    def covered(self, error: BaseException) -> bool:
        """Whether this is a failure to answer for."""
        return classify(error) in self._on and not isinstance(error, PolicyError)

    def fallback(self, this: Call | None, error: Exception, args: Any, kwargs: Any, dims: Any) -> Any:
        """The value in place of a failure.

        Raises:
            InvalidOutputError: It breaks the output schema.
            Exception: The fallback's own function failed.
        """
        with inside(this):
            value = self._value_for(error, args, kwargs)
            if inspect.iscoroutine(value):
                value.close()
                raise PolicyError(
                    f"{self._target.name}: its fallback gave a coroutine, but nothing here can await it. "
                    "Fix: a plain function, or make the guarded function asynchronous."
                )
            if self._wrap is not None:
                value = self._wrap(value)
        try:
            return self._degraded(this, error, value, dims)
        except BaseException:
            if self._wrap is not None:
                value.close()
            raise

    async def fallback_async(self, this: Call | None, error: Exception, args: Any, kwargs: Any, dims: Any) -> Any:
        """The same for an asynchronous function; the fallback may be asynchronous or not."""
        with inside(this):
            value = self._value_for(error, args, kwargs)
            if self._calls and inspect.isawaitable(value):
                value = await value
            if self._wrap is not None:
                value = await self._wrap(value)
        try:
            return self._degraded(this, error, value, dims)
        except BaseException:
            if self._wrap is not None:
                await value.close()
            raise

    def explain(self) -> list[str]:
        value = self._section.value
        named = getattr(value, "__qualname__", type(value).__qualname__)
        said = f"what {named}() gives" if self._calls else f"its safe value (of type {type(value).__qualname__})"
        return [f"Answers with {said} after: {', '.join(sorted(self._on))}."]

    def stats(self) -> dict[str, Any]:
        """How often it answered."""
        return {"answered": self._answered}

    def metrics(self) -> Iterator[metrics.Figure]:
        yield metrics.FALLBACKS, (), self._answered

    def reset(self) -> None:
        self._answered = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._target, self._section, self._check, self._include_invalid_input, self._wrap)

    def _value_for(self, error: Exception, args: Any, kwargs: Any) -> Any:
        if not self._calls:
            return self._value if self._shared else copy.deepcopy(self._value)
        if kwargs:
            args, kwargs = self._by_position(args, kwargs)
        if self._wants_error:
            return self._section.value(*args, **kwargs, error=error)
        return self._section.value(*args, **kwargs)

    def _by_position(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The same arguments, by position where possible: the fallback's parameters may have other names."""
        try:
            bound = self._target.signature.bind(*args, **kwargs)
        except TypeError:
            return args, kwargs  # invalid input, let through to the fallback as it came
        return bound.args, bound.kwargs

    def _degraded(self, this: Call | None, error: Exception, value: Any, dims: Any) -> Any:
        if self._check is not None:
            self._check(this, value, dims)
        self._answered += 1
        if this is not None:
            this.degraded = True
            this.disposition = Disposition.FALLBACK
            this.tell(error__type=path_of(type(error)))
        return value

    def _check_beforehand(self) -> None:
        """Refuses a fixed value that could never be right; sizes that depend on the call are checked with each call."""
        if self._check is None or self._wrap is not None:
            return
        try:
            self._check(None, self._value, {})
        except InvalidOutputError as error:
            raise PolicyError(
                f"{self._target.name}: Fallback.value breaks the function's own output schema ({error}). "
                "Fix: a value that a caller could use like any other result."
            ) from None


@contextmanager
def inside(this: Call | None) -> Iterator[None]:
    """While the fallback runs it belongs to the call: its notes, and the guarded functions it calls."""
    token = None if this is None else current.set(this)
    try:
        yield
    except BaseException as failure:
        if token is not None:
            from_within(failure)
        raise
    finally:
        if this is not None and token is not None:
            leave(this, token)


def _again(target: Target, section: Fallback, check: Any, include_invalid_input: bool, wrap: Any) -> SafeDefault:
    return SafeDefault(target, section, check=check, include_invalid_input=include_invalid_input, wrap=wrap)


def _own_copy(target: Target, value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception as error:
        raise PolicyError(
            f"{target.name}: Fallback.value of type {type(value).__qualname__} can't be copied for each call "
            f"({type(error).__name__}: {error}). Fix: give a function that makes it."
        ) from None


def _fits(target: Target, function: Callable[..., Any]) -> bool:
    """Whether a fallback function wants the error.

    Raises:
        PolicyError: It can't be called in the guarded function's place.
    """
    name = getattr(function, "__qualname__", repr(function))
    _refuse_other_kind(target, function, name)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return False  # written in C, without a signature: there is nothing to check, and no parameter called error
    parameter = signature.parameters.get("error")
    wants_error = (
        parameter is not None
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and "error" not in target.signature.parameters
    )
    args = [None for each in target.parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    kwargs = {each.name: None for each in target.parameters if each.kind is each.KEYWORD_ONLY}
    if wants_error:
        kwargs["error"] = None
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise PolicyError(
            f"{target.name}: its fallback {name}{signature} can't be called with the arguments of "
            f"{target.qualname}{target.signature} ({error}). Fix: give it the same parameters, or (*args, **kwargs)."
        ) from None
    return wants_error


def _refuse_other_kind(target: Target, function: Callable[..., Any], name: str) -> None:
    call = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    kinds = (function, call)
    asynchronous = any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in kinds)
    if asynchronous and not target.kind.asynchronous:
        raise PolicyError(
            f"{target.name}: its fallback {name} is asynchronous, but a {target.kind.value} can't await it. "
            "Fix: a plain function, or make the guarded function asynchronous."
        )
    generates = any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in kinds)
    if generates and not target.kind.stream:
        raise PolicyError(
            f"{target.name}: its fallback {name} is a generator, but a {target.kind.value} gives one value. "
            "Fix: return the value."
        )
    if inspect.isgeneratorfunction(function) and target.kind.asynchronous:
        raise PolicyError(
            f"{target.name}: its fallback {name} is a plain generator, but the function is an {target.kind.value}. "
            "Fix: make the fallback an async generator."
        )
