"""Every error mlguard raises of its own. The user's own exceptions are never wrapped.

    GuardError
    ├── InvalidInputError      also pydantic's ValidationError: the arguments break their schema
    ├── InvalidOutputError     also pydantic's ValidationError: the result breaks its schema
    ├── RejectedError          the call was refused before the function ran
    │   ├── MemoryPressureError
    │   ├── CircuitOpenError
    │   └── ConcurrencyLimitError
    ├── DeadlineExceededError  also TimeoutError
    └── PolicyError            also ValueError: a policy or a decorator that can't be honoured

All pickle, so that they cross process pools. How schema violations are worded is decided in
`mlguard.validation.messages`; this file only carries them.
"""

from __future__ import annotations

import json
import math
from typing import Any, Self

from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

__all__ = [
    "CircuitOpenError",
    "ConcurrencyLimitError",
    "DeadlineExceededError",
    "GuardError",
    "InvalidInputError",
    "InvalidOutputError",
    "MemoryPressureError",
    "PolicyError",
    "RejectedError",
]


class GuardError(Exception):
    """The root of every error that mlguard raises of its own.

    Attributes:
        retry_after: Seconds after which the same call may succeed, or None where nobody can say.
        permanent: True where the same call can't succeed before its input, the policy or the machine changes.
    """

    retry_after: float | None = None
    permanent: bool = False

    def __new__(cls, *args: Any, **named: Any) -> Self:
        """A new error, or, given nothing but another one, an error that carries what that one carries.

        So Ray raises on the driver what a worker raised: as a class of its own below the error's, made from the error
        alone. Without this, `except InvalidInputError` would miss it, and its `retry_after` would be None.
        """
        if len(args) != 1 or not isinstance(args[0], GuardError):
            return super().__new__(cls, *args)  # keywords are for __init__
        error = super().__new__(cls, *args[0]._made_of())
        error.__dict__.update(args[0].__dict__)
        return error

    def _made_of(self) -> tuple[Any, ...]:
        return self.args

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only fields would be lost by the default, which calls the class with `args` alone.
        return _revive, (type(self), self.args, self.__dict__.copy())


class PolicyError(GuardError, ValueError):
    """A policy, or a decorator's use of it, can't be honoured. The message names the field, the value and the fix."""

    permanent = True


class RejectedError(GuardError):
    """The call was refused before the function ran: a load balancer may send it elsewhere or later."""

    def __init__(self, message: str, *, retry_after: float | None = None, permanent: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.permanent = permanent


class CircuitOpenError(RejectedError):
    """Too many recent calls failed, so this one was not tried. `retry_after` says when the next probe is allowed."""


class ConcurrencyLimitError(RejectedError):
    """Every slot is taken and the queue is full, or the wait for a slot was too long."""


class MemoryPressureError(RejectedError):
    """Running the call now could exhaust the memory of the container or host.

    Attributes:
        used: Bytes in use when the call was refused.
        limit: Bytes the call's process may use at most; the nearest limit above it.
        need: Bytes the call was expected to need on top.
        source: Where `used` and `limit` were read, such as ``"cgroup v2 /sys/fs/cgroup/app"`` or ``"host"``.
    """

    def __init__(
        self,
        message: str,
        *,
        used: int,
        limit: int,
        need: int,
        source: str,
        retry_after: float | None = None,
        permanent: bool = False,
    ) -> None:
        super().__init__(message, retry_after=retry_after, permanent=permanent)
        self.used = used
        self.limit = limit
        self.need = need
        self.source = source


class DeadlineExceededError(GuardError, TimeoutError):
    """The call, an attempt or a wait took longer than its policy, or the caller's own deadline, allows.

    Attributes:
        started: False where the time was up before the function ran; a breaker then has nothing to count.
    """

    started: bool = True


class _SchemaError(GuardError, ValidationError):
    """What the two schema errors share: pydantic's `errors()`, bounded and always JSON-serialisable.

    Build one with `of`. The offending values themselves are never kept: an error travels to logs, to other
    processes and to clients, and a batch is gigabytes.
    """

    _lines: tuple[Any, ...]

    @classmethod
    def of(cls, title: str, violations: list[dict[str, Any]]) -> Self:
        """An error from violations as pydantic's ``errors()`` lists them: type, loc, msg and perhaps ctx."""
        details = [
            InitErrorDetails(type=_custom(violation), loc=tuple(violation["loc"]), input=None)
            for violation in violations
        ]
        return cls.from_exception_data(title, details, hide_input=True)

    def __new__(cls, *args: Any, **named: Any) -> Self:
        error = super().__new__(cls, *args, **named)
        if len(args) > 1:
            error._lines = args  # pydantic-core's own, which it does not give back
        return error

    def _made_of(self) -> tuple[Any, ...]:
        return self._lines

    def errors(self, **options: Any) -> Any:
        """The violations as pydantic lists them, without ``input``: a refused value is never shown."""
        found = super().errors(**{"include_url": False, **options, "include_input": False})
        return [_without_message(violation) for violation in found]

    def json(self, **options: Any) -> str:
        """`errors()` as JSON."""
        indent = options.pop("indent", None)
        return json.dumps(self.errors(**options), indent=indent)

    def __str__(self) -> str:
        from mlguard.validation.messages import render

        return render(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of, (self.title, self.errors())


class InvalidInputError(_SchemaError):
    """The arguments break the declared schema; the function was not called. `errors()` lists what is wrong."""

    permanent = True


class InvalidOutputError(_SchemaError):
    """The function returned something that breaks its declared schema; the result was not handed on and not cached.

    Not `permanent`: the next result may be a valid one.
    """


def _revive(cls: type[GuardError], args: tuple[Any, ...], state: dict[str, Any]) -> GuardError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _without_message(violation: Any) -> dict[str, Any]:
    figures = {key: value for key, value in violation.get("ctx", {}).items() if key != "message"}
    rest = {key: value for key, value in violation.items() if key != "ctx"}
    return {**rest, "ctx": figures} if figures else rest


def _custom(violation: dict[str, Any]) -> PydanticCustomError:
    # PydanticCustomError fills {placeholders} from its context, so a literal brace must not look like one.
    return PydanticCustomError(
        violation["type"], "{message}", {**_plain(violation.get("ctx") or {}), "message": violation["msg"]}
    )


def _plain(value: Any) -> Any:
    """The same figures, as JSON knows them: NaN and infinities become words, everything unknown its class name."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return type(value).__name__
