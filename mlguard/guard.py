"""`guarded`, the decorator: from a function and a policy to one wrapper of the same kind, name and signature.

What a call then meets is written in `call.py`; which objects carry it out is decided in `wiring.py`.
"""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, cast, overload

import mlguard.call
from mlguard.batch import RowArguments
from mlguard.cache import Cache
from mlguard.errors import PolicyError
from mlguard.handle import Guarded, Handle
from mlguard.memory import Memory
from mlguard.monitor import Monitor
from mlguard.policies import Policy
from mlguard.policies.choice import Choice
from mlguard.resilience import Breaker, Concurrency, Fallback, Retry, Timeout
from mlguard.specialise import specialise
from mlguard.target import Target
from mlguard.validation import Validation
from mlguard.wiring import Options
from mlguard.wrapper import Wrapper

__all__ = ["guarded"]

P = ParamSpec("P")
R = TypeVar("R")


class Decorator(Protocol):
    """What ``guarded(...)`` with arguments returns."""

    def __call__(self, function: Callable[P, R], /) -> Guarded[P, R]: ...


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"


UNSET: Any = _Unset()
"""Tells ``fallback=None``, which falls back to None, from no fallback at all."""


@overload
def guarded(function: Callable[P, R], /) -> Guarded[P, R]: ...
@overload
def guarded(
    policy: Policy | str | None = None,
    /,
    *,
    schema: type[Any] | None = None,
    output: Any = None,
    key: Callable[..., Any] | None = None,
    need: int | str | Callable[..., int] | None = None,
    rows: RowArguments = None,
    model_version: str | Callable[[], str] | None = None,
    scope: str | None = None,
    ceiling: Policy | None = None,
    deterministic: bool = True,
    validation: Validation | Mapping[str, Any] | bool | None = None,
    fallback: Any = UNSET,
    timeout: Timeout | Mapping[str, Any] | bool | None = None,
    cache: Cache | Mapping[str, Any] | Literal[False] | None = None,
    retry: Retry | Mapping[str, Any] | bool | None = None,
    breaker: Breaker | Mapping[str, Any] | bool | None = None,
    concurrency: Concurrency | Mapping[str, Any] | Literal[False] | None = None,
    memory: Memory | Mapping[str, Any] | bool | None = None,
    monitor: Monitor | Mapping[str, Any] | bool | None = None,
) -> Decorator: ...


def guarded(  # the overloads above are for type checkers, this one signature for readers and inspect
    policy: Any = None,
    /,
    *,
    schema: type[Any] | None = None,
    output: Any = None,
    key: Callable[..., Any] | None = None,
    need: int | str | Callable[..., int] | None = None,
    rows: RowArguments = None,
    model_version: str | Callable[[], str] | None = None,
    scope: str | None = None,
    ceiling: Policy | None = None,
    deterministic: bool = True,
    validation: Validation | Mapping[str, Any] | bool | None = None,
    fallback: Any = UNSET,
    timeout: Timeout | Mapping[str, Any] | bool | None = None,
    cache: Cache | Mapping[str, Any] | Literal[False] | None = None,
    retry: Retry | Mapping[str, Any] | bool | None = None,
    breaker: Breaker | Mapping[str, Any] | bool | None = None,
    concurrency: Concurrency | Mapping[str, Any] | Literal[False] | None = None,
    memory: Memory | Mapping[str, Any] | bool | None = None,
    monitor: Monitor | Mapping[str, Any] | bool | None = None,
) -> Any:
    """Guards a function: checks its arguments against their annotations, and applies a policy to every call.

    Use it bare (``@guarded``: the schema and nothing else), with a policy (``@guarded(Policy(retry=Retry()))``), with
    the name of one (``@guarded("realtime")``), or with sections (``@guarded(retry=Retry(max_retries=2))``). Works on
    functions, coroutine functions, generators, async generators and methods of every kind.

    Args:
        policy: A `Policy`, or the name of one that `mlguard.policies` knows. Absent: the schema and nothing else.
        schema: A Pydantic model that checks plain arguments; its fields are named as the function's parameters.
        output: The type of the result, where the return annotation does not say it. Checked, never converted.
        key: Called with the arguments; what it returns stands for them in the cache.
        need: Memory one call needs beside its arguments: bytes, text such as ``"256MiB"``, a factor of the size of the
            arguments such as ``"3x"``, or a callable of the arguments that returns bytes.
        rows: The arguments that are a batch, where a cache or the memory guard works by rows: ``"features"``,
            ``("input_ids", "mask")``, ``{"images": 1}`` with the axis of the rows (default 0), or
            ``"patient.features"`` for a field of a model. Absent: the one argument or field whose annotation names its
            rows, such as ``Array("batch", 30)``. The result has its rows along the first axis.
        model_version: Part of the cache key and of every event; a callable is asked at every call.
        scope: Functions with the same scope share breaker, concurrency, retry budget and the bounds of the cache.
            Absent: nothing is shared.
        ceiling: What the policy can ask for at most, whoever changes it in a file or the environment: numbers above it
            are lowered, with a warning; a switch or a section that is False in it is taken away. Absent: no ceiling.
        deterministic: False says that equal inputs may give different results; a cache is then refused.
        validation: Merged over the policy's section, as are all that follow: the fields set here win. A section may be
            given as a mapping of its settings; True means its defaults where the policy has none, False removes it.
        fallback: A `Fallback`, or the value or callable of one.
        timeout: See `Timeout`.
        cache: See `Cache`.
        retry: See `Retry`.
        breaker: See `Breaker`.
        concurrency: See `Concurrency`.
        memory: See `Memory`.
        monitor: See `Monitor`.

    Returns:
        A function of the same kind, with the same name and signature, and ``guard``, its `Handle`.

    Raises:
        PolicyError: The policy contradicts itself, or can't be honoured for this function. For a policy by name, and
            where an annotation names something that is defined later, this comes at the first call, or at
            `policies.bind_all()`; so does that there is no policy of the name.
    """
    if policy is not None and not isinstance(policy, Policy | str):
        if callable(policy) or isinstance(policy, classmethod | staticmethod | property):
            return _decorate(policy, Choice(Policy()), Options(), sys._getframe(1).f_locals)
        raise PolicyError(
            f"guarded() takes a Policy or the name of one, not {type(policy).__name__}. "
            "Fix: guarded(Policy(...)), guarded('name'), or sections by name such as guarded(retry=Retry())."
        )
    overrides: dict[str, Any] = {
        "validation": validation,
        "fallback": fallback if isinstance(fallback, Fallback) or fallback is False else Fallback(value=fallback),
        "timeout": timeout,
        "cache": cache,
        "retry": retry,
        "breaker": breaker,
        "concurrency": concurrency,
        "memory": memory,
        "monitor": monitor,
    }
    if fallback is UNSET:
        del overrides["fallback"]
    given = {name: section for name, section in overrides.items() if section is not None}
    caller = sys._getframe(1)
    choice = Choice(
        Policy() if policy is None else policy, given, ceiling, f"{caller.f_code.co_filename}:{caller.f_lineno}"
    )
    options = Options(schema, output, key, need, rows, model_version, scope, deterministic)

    def decorate(function: Callable[..., Any]) -> Any:
        return _decorate(function, choice, options, sys._getframe(1).f_locals)

    return decorate


def _decorate(function: Any, choice: Choice, options: Options, namespace: Mapping[str, Any]) -> Any:
    if isinstance(function, classmethod | staticmethod):
        return type(function)(_decorate(function.__func__, choice, options, namespace))
    target = Target(function, namespace)
    names = {
        "__name__": mlguard.call.__name__,
        "__loader__": mlguard.call.__loader__,
        "__builtins__": builtins,  # pydantic-core looks it up in the caller's namespace, and aborts where it is not
    }
    wrapper = FunctionType(specialise(target.kind, {})["call"], names, target.name)
    functools.update_wrapper(wrapper, function)
    wrapper.__signature__ = target.signature  # type: ignore[attr-defined]  # Celery and autospec ignore __wrapped__
    made = Wrapper(wrapper, target, choice, options)
    made.prepare()
    wrapper.guard = Handle(made)  # type: ignore[attr-defined]
    return cast("Guarded[..., Any]", wrapper)
