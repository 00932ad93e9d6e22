"""From a policy to the names in `call.py`: which concerns one function has, and the object behind each name.

What the names do is written in the rooms of the concerns; in which order they meet a call, in `call.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, Union, get_args, get_origin

from mlguard import clock, context
from mlguard.awaited_streams import AwaitedStream, Finished, Started, gives_stream
from mlguard.batch import Batch, RowArguments
from mlguard.cache import Cache
from mlguard.errors import PolicyError
from mlguard.keyed import Place, Pool, pool_of
from mlguard.memory import Memory
from mlguard.monitor import Reporter
from mlguard.outcome import Disposition, from_within
from mlguard.policies import Policy
from mlguard.resilience import CircuitBreaker, Deadlines, Retrying, SafeDefault, Slots
from mlguard.scopes import ScopeKey, Scopes, settings_of
from mlguard.streams import END, Opener, first_checked, opened_fallback, opened_fallback_async
from mlguard.target import Kind, Target
from mlguard.validation import Binding
from mlguard.vocabulary import Runtime

if TYPE_CHECKING:
    from mlguard.cache import ResultCache
    from mlguard.memory import MemoryGuard

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
    scopes: dict[str, ScopeKey] = field(default_factory=dict)
    """What it shares with other functions, by section."""
    started: Started | None = None
    """What a call of it begins, where the function is a coroutine function that returns an async iterator."""

    @property
    def pools(self) -> dict[str, Pool]:
        """The sections that have an object for each value of an argument."""
        return {name: room for name, room in self.rooms.items() if isinstance(room, Pool)}

    def connect(self) -> None:
        """Tells what stayed from an earlier policy about what is new; only once this is in force."""
        cache: Any = self.rooms.get("cache")
        if cache is not None:
            cache.deadlines = self.rooms.get("timeout")


def wire(
    target: Target, policy: Policy, options: Options, *, scopes: Scopes, before: tuple[Policy, Wiring] | None = None
) -> Wiring:
    """Builds every runtime object a policy asks for.

    Args:
        target: The function.
        policy: Its policy.
        options: What its decorator said beside it.
        scopes: Where functions of one scope find what they share.
        before: The policy and wiring that these replace: a section that did not change keeps its object, and its state.

    Raises:
        PolicyError: The policy can't be honoured for this function.
        NameError: An annotation names something that is not defined yet.
    """
    declared = target.declared(options.schema, options.output)  # whose marks say what is hidden or no part of a key
    if target.kind is Kind.COROUTINE and gives_stream(declared.hints.get("return")):
        inner = wire(AwaitedStream(target), policy, options, scopes=scopes, before=before)
        started = Started(inner.flags, inner.names)
        names = {**core_names(target, target.function), "function": started}
        return Wiring({}, names, inner.rooms, inner.scopes, started)
    _refuse_contradictions(target, policy, options)
    wiring = Wiring(names=core_names(target, target.function))
    asynchronous = target.kind.asynchronous

    def add(name: str, flag: str, room: Any) -> Any:
        wiring.rooms[name] = room
        wiring.flags[flag] = True
        wiring.names.update(room.names(asynchronous=asynchronous))
        return room

    def shared(name: str, runtime: Callable[[Target, Any], Any]) -> Any:
        """The object of the section's scope, or an own one."""
        section = getattr(policy, name)
        if getattr(section, "per", None) is not None:
            _refuse_keys(target, name, section.per)
            runtime = pool_of(runtime)
        built, key = scopes.shared(runtime, target, section, options.scope)
        if key is not None:
            wiring.scopes[name] = key
        return built

    def lasting(name: str, build: Callable[[], Any], *also: str) -> Any:
        """The object that was there before, where the section is still the same; else a new one."""
        if before is None or name not in before[1].rooms:
            return build()
        for each in (name, *also):
            now, then = getattr(policy, each), getattr(before[0], each)
            if (now and settings_of(now)) != (then and settings_of(then)):
                return build()
        if name in before[1].scopes:
            wiring.scopes[name] = before[1].scopes[name]
            scopes.keep(wiring.scopes[name], target)
        return before[1].rooms[name]

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
    deadlines = Deadlines(target, policy.timeout) if policy.timeout else None
    if deadlines is not None:
        add("timeout", "TIMEOUT", deadlines)
        wiring.flags["THREAD"] = deadlines.threads is not None
    if policy.cache:
        build_cache = partial(_result_cache, declared, policy.cache, options, shared, binding.checks)
        add("cache", "CACHE", lasting("cache", build_cache, "validation"))  # which decides what results may be kept
    if policy.retry:
        add("retry", "RETRY", lasting("retry", partial(shared, "retry", Retrying)))
    if policy.breaker:
        add("breaker", "BREAKER", lasting("breaker", partial(shared, "breaker", CircuitBreaker)))
    if policy.concurrency:
        add("concurrency", "CONCURRENCY", lasting("concurrency", partial(shared, "concurrency", Slots)))
    if policy.memory:
        add("memory", "MEMORY", lasting("memory", partial(_memory_guard, target, declared, policy.memory, options)))
        wiring.flags["SPLIT"] = policy.memory.split
    wiring.flags["ON_RESULT"] = policy.retry is not None and policy.retry.on_result is not None
    quarantine = None
    if policy.validation and policy.validation.on_invalid == "quarantine":
        quarantine = add("quarantine", "QUARANTINE", _quarantine(declared, policy, binding))
    if policy.fallback:
        add("fallback", "FALLBACK", _fallback(target, policy, binding, quarantine))
    if policy.monitor:
        if policy.monitor.drift:
            wiring.rooms["drift"] = _detector(declared, policy, options, before)
        reporter = add("monitor", "MONITOR", _reporter(declared, policy, options, wiring.rooms))
        if before is not None and "monitor" in before[1].rooms:
            reporter.go_on_from(before[1].rooms["monitor"])
        if policy.monitor.spans:
            wiring.names.update(_spans(target, reporter).names(asynchronous=asynchronous))
    # Report mode with a cache needs a record as well: a result that only report mode let pass is not kept for others.
    # So is one that retry would rather have had otherwise.
    only_its_callers = policy.cache and (reports or wiring.flags["ON_RESULT"])
    wiring.flags["RECORD"] = bool(policy.monitor or policy.timeout or only_its_callers or quarantine)
    held = [name for name in ("timeout", "concurrency", "memory") if getattr(policy, name)]
    if held and not binding.checks and not target.kind.stream and declared.hints.get("return", Any) in (Any, object):
        wiring.flags["CHECK"] = True
        wiring.names |= {"check": Finished(target, held), "exact": None}
    return wiring


def _refuse_keys(target: Target, name: str, per: str) -> None:
    """What can't run on the objects of one value."""
    if isinstance(target, AwaitedStream):
        raise PolicyError(
            f"{target.name}: {name}.per can't be honoured for a coroutine function that returns an async iterator. "
            "Fix: make it an async generator ('async for item in ...: yield item'), or drop per."
        )
    Place(target, per, name)


def _result_cache(
    target: Target,
    section: Cache,
    options: Options,
    shared: Callable[[str, Callable[..., Any]], Any],
    checked: bool,
) -> ResultCache:
    from mlguard.cache import cache_for, store_of  # loads what caches are made of, which not every program needs

    store = shared("cache", store_of) if section.scope or options.scope else None
    return cache_for(
        target,
        section,
        rows=options.rows,
        key=options.key,
        model_version=options.model_version,
        store=store,
        checked=checked,
    )


def _memory_guard(target: Target, declared: Target, section: Memory, options: Options) -> MemoryGuard:
    batch = Batch(declared, options.rows) if section.split else None
    from mlguard.memory import guard_for  # loads what guards memory

    return guard_for(target, section, need=options.need, batch=batch)


def _quarantine(target: Target, policy: Policy, binding: Binding) -> Any:
    from mlguard.validation.tables.quarantine import Quarantine  # loads what looks at tables

    assert policy.fallback  # noqa: S101 - for the type checker
    assert policy.validation  # noqa: S101
    return Quarantine(
        target,
        spread=binding.spread if binding.has_keywords else None,
        check=binding.check if binding.checks else None,
        violations=binding.told,
        by_call=callable(policy.fallback.value),
        depth=policy.validation.check,
    )


def _fallback(target: Target, policy: Policy, binding: Binding, quarantine: Any) -> SafeDefault:
    assert policy.fallback  # noqa: S101 - for the type checker
    if quarantine is not None:
        from mlguard.resilience.by_row import RowDefault

        by_row = RowDefault(
            target, policy.fallback, check=binding.check if binding.checks else None, quarantine=quarantine
        )
        quarantine.answered_by(by_row)
        return by_row
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
        drift=rooms.get("drift"),  # type: ignore[arg-type]
    )


def _spans(target: Target, reporter: Reporter) -> Any:
    try:
        from mlguard.monitor.spans import Spans
    except ModuleNotFoundError as missing:
        raise PolicyError(
            f"{target.name}: monitor.spans needs {missing.name}, which is not installed. "
            "Fix: pip install opentelemetry-api (mlguard's extra 'opentelemetry'), or spans=False."
        ) from None
    return Spans(reporter)


def _detector(target: Target, policy: Policy, options: Options, before: tuple[Policy, Wiring] | None) -> Any:
    """What counts for drift; after a reload the one before goes on, where neither profile nor settings changed."""
    from mlguard.drift.detector import detector_for  # loads what reads profiles

    section: Any = policy.monitor and policy.monitor.drift
    made = detector_for(target, section, policy_name=policy.name, model_version=options.model_version)
    old: Any = before and before[1].rooms.get("drift")
    return old if old is not None and made.same_as(old) else made


CORE: Final = ("function", "sleep", "clock", "Disposition", "from_within", "END")
"""The names that no section brings or replaces."""


def core_names(target: Target, function: Callable[..., Any]) -> dict[str, Any]:
    """What every call has: the names of `CORE`, and how a call begins, is entered and left where no monitor says."""
    asynchronous = target.kind.asynchronous
    if target.inside is not None and function is target.function:
        function = target.inside
    if target.kind.stream:
        opener = Opener(function)
        function = opener.open_async if asynchronous else opener.open
    return {
        "function": function,
        "sleep": _sleep_async if asynchronous else _sleep,
        "clock": clock,
        "begin": context.Call,
        "enter": context.enter,
        "leave": context.leave,
        "Disposition": Disposition,
        "from_within": from_within,
        "END": END,
    }


def _sleep(seconds: float) -> None:
    if seconds > 0:  # even time.sleep(0) costs 60 µs
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
    if policy.memory and policy.memory.split and target.kind.stream:
        refuse("memory.split is set, but what a stream yields can't be joined", "memory.split=False, or return a list")
    if policy.cache and not options.deterministic:
        refuse(
            "cache is set, but deterministic=False says that equal inputs give different results",
            "cache=False, or drop deterministic=False",
        )
    if policy.monitor and policy.monitor.record_outputs and target.kind.stream:
        refuse(
            "monitor.record_outputs is set, but a stream has items, no prediction to record",
            "record_outputs=False, or return a list",
        )
    if policy.retry and policy.retry.on_result is not None and target.kind.stream:
        refuse(
            "retry.on_result is set, but a stream has items, not one result to decide on",
            "drop on_result, or return a list",
        )
    if policy.validation and policy.validation.on_invalid == "quarantine":
        if target.kind.stream:
            refuse(
                "validation.on_invalid = 'quarantine', but a stream has items, no rows to put back in place",
                "on_invalid='raise', or return a list",
            )
        if not policy.fallback:
            refuse(
                "validation.on_invalid = 'quarantine', but no fallback is set to answer for rejected rows",
                "fallback=VALUE, which stands for one row, or on_invalid='raise'",
            )
        if not policy.validation.input:
            refuse(
                "validation.on_invalid = 'quarantine', but validation.input is off, so no row is looked at",
                "input=True, or on_invalid='raise'",
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
