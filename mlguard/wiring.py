"""From a policy to the names in `call.py`: which concerns one function has, and the object behind each name.

What the names do is written in the rooms of the concerns; in which order they meet a call, in `call.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin

from mlguard import clock, context
from mlguard.batch import RowArguments
from mlguard.cache import Cache, ResultCache, store_of
from mlguard.errors import PolicyError
from mlguard.memory import MemoryGuard
from mlguard.monitor import Reporter
from mlguard.outcome import Disposition
from mlguard.policies import Policy
from mlguard.resilience import CircuitBreaker, Deadlines, Retrying, SafeDefault, Slots
from mlguard.scopes import shared
from mlguard.streams import END, Opener, first_checked, opened_fallback, opened_fallback_async
from mlguard.target import Target
from mlguard.validation import Binding
from mlguard.vocabulary import Runtime

__all__ = ["Options", "Wiring", "core_names", "wire"]


@dataclass(frozen=True)
class Options:
    """What belongs to one function rather than to a policy, given at its decorator."""

    schema: Any = None
    output: Any = None
    key: Callable[..., Any] | None = None
    need: int | str | Callable[..., Any] | None = None
    rows: RowArguments = None
    model_version: str | Callable[[], str] | None = None
    scope: str | None = None
    deterministic: bool = True


@dataclass
class Wiring:
    """What a function and a policy become: flags and names for `call.py`, and the runtime objects of the concerns."""

    flags: dict[str, bool] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)
    rooms: dict[str, Runtime] = field(default_factory=dict)


def wire(target: Target, policy: Policy, options: Options) -> Wiring:
    """Builds every runtime object a policy asks for.

    Raises:
        PolicyError: The policy can't be honoured for this function.
        NameError: An annotation names something that is not defined yet.
    """
    _refuse_contradictions(target, policy, options)
    wiring = Wiring()
    asynchronous = target.kind.asynchronous

    def add(name: str, flag: str, room: Any) -> Any:
        wiring.rooms[name] = room
        wiring.flags[flag] = True
        wiring.names.update(room.names(asynchronous=asynchronous))
        return room

    scope = options.scope
    declared = target.declared(options.schema, options.output)  # whose marks say what is hidden or no part of a key
    reports = policy.validation is not None and policy.validation.on_invalid == "report"
    binding = Binding(target, policy.validation, schema=options.schema, output=options.output)
    add("validation", "VALIDATE", binding)
    wiring.flags |= {
        "VALIDATE": binding.validates,
        "POSITIONAL": binding.validates and not binding.has_keywords and not reports,
        "DIMS": binding.has_dims and (binding.validates or binding.checks),
        "CHECK": binding.checks,
    }
    if target.kind.stream and binding.checks:
        wiring.names["check"] = first_checked(binding.check_item)
    if policy.timeout:
        add("timeout", "TIMEOUT", Deadlines(target, policy.timeout))
    if policy.cache:
        add("cache", "CACHE", _result_cache(declared, policy.cache, options))
    if policy.retry:
        add("retry", "RETRY", shared(Retrying, target, policy.retry, scope))
    if policy.breaker:
        add("breaker", "BREAKER", shared(CircuitBreaker, target, policy.breaker, scope))
    if policy.concurrency:
        add("concurrency", "CONCURRENCY", shared(Slots, target, policy.concurrency, scope))
    if policy.memory:
        add("memory", "MEMORY", MemoryGuard(target, policy.memory, need=options.need))
    if policy.fallback:
        add("fallback", "FALLBACK", _fallback(target, policy, binding))
    if policy.monitor:
        add("monitor", "MONITOR", _reporter(declared, policy, options, wiring.rooms))
    # Report mode with a cache needs a record as well: a result that only report mode let pass is not kept for others.
    wiring.flags["RECORD"] = bool(policy.monitor or policy.timeout or (reports and policy.cache))
    wiring.names |= core_names(target, target.function)
    return wiring


def _result_cache(target: Target, section: Cache, options: Options) -> ResultCache:
    store = shared(store_of, target, section, options.scope) if section.scope or options.scope else None
    return ResultCache(target, section, key=options.key, model_version=options.model_version, store=store)


def _fallback(target: Target, policy: Policy, binding: Binding) -> SafeDefault:
    assert policy.fallback  # noqa: S101 - for the type checker
    streams = (opened_fallback_async if target.kind.asynchronous else opened_fallback) if target.kind.stream else None
    check = None if not binding.checks else first_checked(binding.check_item) if target.kind.stream else binding.check
    invalid = policy.validation is not None and policy.validation.on_invalid == "fallback"
    return SafeDefault(target, policy.fallback, check=check, include_invalid_input=invalid, wrap=streams)


def _reporter(target: Target, policy: Policy, options: Options, rooms: dict[str, Runtime]) -> Reporter:
    assert policy.monitor  # noqa: S101 - for the type checker
    return Reporter(
        target,
        policy.monitor,
        policy_name=policy.name,
        fingerprint=policy.fingerprint,
        model_version=options.model_version,
        watch=tuple(facts for room in rooms.values() if (facts := getattr(room, "facts", None))),
    )


def core_names(target: Target, function: Callable[..., Any]) -> dict[str, Any]:
    """The names that belong to no section: the function, the call in progress, the clock."""
    asynchronous = target.kind.asynchronous
    if target.kind.stream:
        opener = Opener(function)
        function = opener.open_async if asynchronous else opener.open
    return {
        "function": function,
        "sleep": _sleep_async if asynchronous else _sleep,
        "clock": clock,
        "context": context,
        "Disposition": Disposition,
        "END": END,
    }


def _sleep(seconds: float) -> None:
    clock.sleep(seconds)


async def _sleep_async(seconds: float) -> None:
    await clock.sleep_async(seconds)


def _refuse_contradictions(target: Target, policy: Policy, options: Options) -> None:
    """What can't be honoured for this function is refused here, with the fix named, never ignored."""

    def refuse(problem: str, fix: str) -> NoReturn:
        raise PolicyError(f"{target.name}: {problem}. Fix: {fix}.")

    if policy.abstract:
        refuse(f"policy '{policy.name}' is abstract", "use a policy that extends it")
    if policy.cache and target.kind.stream:
        refuse("cache is set, but a stream can't be cached", "cache=False, or return a list")
    if policy.cache and not options.deterministic:
        refuse(
            "cache is set, but deterministic=False says that equal inputs give different results",
            "cache=False, or drop deterministic=False",
        )
    if policy.validation and policy.validation.on_invalid == "fallback" and not policy.fallback:
        refuse(
            "validation.on_invalid = 'fallback', but no fallback is set",
            "fallback=VALUE, or on_invalid='raise'",
        )
    if options.need is not None and not policy.memory:
        refuse("need= is set, but the policy has no memory section", "memory=Memory(), or drop need=")
    if options.key is not None and not policy.cache:
        refuse("key= is set, but the policy has no cache section", "cache=Cache(ttl=...), or drop key=")
    holds = [name for name in ("timeout", "concurrency", "memory", "cache") if getattr(policy, name)]
    if not holds or target.kind.stream:
        return
    if _returns(target, Iterator | AsyncIterable):
        refuse(
            f"it returns an iterator, so {' and '.join(holds)} would end before its items are made",
            "make it a generator with 'for item in ...: yield item' ('async for' in an async function)",
        )
    if _returns(target, Awaitable):
        refuse(
            f"it returns an awaitable, so {' and '.join(holds)} would end before the work is done",
            "make it an 'async def' that awaits it",
        )


def _returns(target: Target, lazy: Any) -> bool:
    """True where the return annotation promises something whose work is done after the function has returned."""
    rest = [target.hints.get("return")]
    while rest:
        annotation = rest.pop()
        origin = get_origin(annotation) or annotation
        if origin is Annotated:
            rest.append(get_args(annotation)[0])
        elif origin in (Union, UnionType):
            rest.extend(get_args(annotation))
        elif isinstance(origin, type) and issubclass(origin, lazy):
            return True
    return False
