"""`f.guard`: what can be asked of a guarded function, and `Outcome`, what one call of it came to.

How the wrapper is made is in `guard.py`; what a call meets, in `call.py`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from mlguard import clock
from mlguard.cache import CacheInfo
from mlguard.context import Call
from mlguard.errors import PolicyError
from mlguard.forks import in_children
from mlguard.outcome import Disposition
from mlguard.specialise import readable, specialise
from mlguard.target import Kind, Target
from mlguard.vocabulary import Runtime
from mlguard.wiring import Options, core_names, wire

if TYPE_CHECKING:
    from mlguard.policies import Policy

__all__ = ["Guarded", "Handle", "Outcome", "every_handle", "remember"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

_settling = threading.RLock()
_handles: weakref.WeakSet[Handle[Any, Any]] = weakref.WeakSet()

# The order in which a call meets the concerns; the keys are those of `Wiring.rooms`.
_ORDER = ("monitor", "fallback", "validation", "timeout", "cache", "retry", "breaker", "concurrency", "memory")


@dataclass(frozen=True)
class Outcome(Generic[R_co]):
    """What one call came to, beside its value."""

    value: R_co
    """What the function, the cache or the fallback gave."""
    disposition: Disposition
    """How the call ended: executed, cache_hit, coalesced or fallback."""
    degraded: bool
    """True where the value is a fallback."""
    cached: bool
    """True where the function did not run for this call, because an equal one had or was running."""
    attempts: int
    """How often the function was entered for this call."""
    duration: float
    """Seconds from the start of the call to its end."""
    call_id: str
    """The id of the call's event."""
    rejected: tuple[dict[str, Any], ...] = ()
    """What the schema refused and the policy let pass (``on_invalid="report"``), as pydantic's ``errors()``."""


class Handle(Generic[P, R_co]):
    """What can be asked of one guarded function; it is the function's attribute ``guard``."""

    def __init__(self, wrapper: FunctionType, target: Target, policy: Policy, options: Options) -> None:
        self.policy = policy
        """The policy in force, with what the decorator merged over it."""
        self._wrapper = wrapper
        self._target = target
        self._options = options
        self._flags: dict[str, bool] | None = None
        self._bypassed = False
        self._rooms: dict[str, Runtime] = {}
        self._variants: dict[str, Callable[..., Any]] = {}

    @property
    def source(self) -> str:
        """The wrapper as Python text: `call.py` without the concerns this policy leaves out."""
        self.settle()
        return readable(self._target.kind, self._flags or {}, self._wrapper.__name__)

    def explain(self) -> str:
        """What happens to a call, in words and in order, with every number in force."""
        self.settle()
        heading = f"A call to {self._target.name}, in order:"
        steps = [f"{name}: {said}" for name in _ORDER if name in self._rooms for said in self._rooms[name].explain()]
        steps.append(f"function: {self._target.label} runs; its own exceptions are re-raised as they are.")
        steps.append(f"validation: {self._rooms['validation'].explain_result()}")  # type: ignore[attr-defined]
        return "\n".join([heading, *(f"{number:3}. {step}" for number, step in enumerate(steps, start=1))])

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Outcome[R_co]:
        """Calls the function and says how it went.

        Raises:
            PolicyError: The function is asynchronous (use `acall`) or a generator (its items are the result).
        """
        self._refuse_outcome(Kind.PLAIN, "await f.guard.acall(...)")
        return self._variant("outcome")(*args, **kwargs)  # type: ignore[no-any-return]

    async def acall(self: Handle[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> Outcome[T]:
        """`call` for a coroutine function."""
        self._refuse_outcome(Kind.COROUTINE, "f.guard.call(...)")
        return await self._variant("outcome")(*args, **kwargs)  # type: ignore[no-any-return]

    def warm(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Calls the function once before traffic, with its schema but outside statistics, breaker, cache and retry.

        Loads lazily initialised models and compiled kernels. For a coroutine function, await what it returns.
        """
        return self._variant("warm")(*args, **kwargs)  # type: ignore[no-any-return]

    def stats(self) -> dict[str, Any]:
        """Counts and states so far, by concern; plain data that JSON can hold."""
        self.settle()
        return {name: self._rooms[name].stats() for name in _ORDER if name in self._rooms}

    def cache_info(self) -> CacheInfo:
        """Hits, misses and size of the function's cache.

        Raises:
            PolicyError: The policy has no cache.
        """
        return self._cache().info()  # type: ignore[no-any-return]

    def cache_clear(self) -> None:
        """Forgets every cached result.

        Raises:
            PolicyError: The policy has no cache.
        """
        self._cache().clear()

    def reset(self) -> None:
        """Forgets state and counts of every concern, as if the function had just been decorated."""
        self.settle()
        for room in self._rooms.values():
            room.reset()

    def settle(self) -> None:
        """Puts the real wrapper in place, where that had to wait for annotations to become resolvable.

        Raises:
            PolicyError: The policy can't be honoured, or an annotation names something that is still not defined.
        """
        if self._flags is not None:
            return
        try:
            self.try_to_settle()
        except NameError as error:
            raise PolicyError(
                f"{self._target.name}: an annotation names '{error.name}', which is not defined. "
                "Fix: define or import it at module level before the first call."
            ) from None

    def try_to_settle(self) -> None:
        """The same, with the NameError of an annotation that can't be resolved yet."""
        with _settling:
            if self._flags is not None:
                return
            wiring = wire(self._target, self.policy, self._options)
            self._wrapper.__globals__.update(wiring.names)
            self._rooms = wiring.rooms
            self._flags = wiring.flags
            self._put()

    def prepare(self) -> None:
        """Puts a wrapper in place that settles at its first call."""
        names = core_names(self._target, self._target.function)
        first_call = core_names(self._target, self.first_call)["function"]
        self._wrapper.__globals__.update({**names, "first_call": first_call})
        self._put()

    def first_call(self, *args: Any, **kwargs: Any) -> Any:
        """What an unsettled wrapper calls."""
        self.settle()
        return self._wrapper(*args, **kwargs)

    def bypass(self, on: bool) -> None:
        """Switches every concern off, or on again; calls in flight finish as they began. For `mlguard.testing`."""
        with _settling:
            self._bypassed = on
            self._put()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_variants": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        remember(self)

    def __repr__(self) -> str:
        return f"<guard of {self._target.name}>"

    def _put(self) -> None:
        """Gives the wrapper the code for its state. A call that runs keeps the code it began with."""
        if self._bypassed:
            code = specialise(self._target.kind, {})
        elif self._flags is None:
            code = specialise(self._target.kind, {}, rename={"function": "first_call"})
        else:
            code = specialise(self._target.kind, self._flags)
        namespace = self._wrapper.__globals__
        if "produce" in code:
            namespace["produce"] = FunctionType(code["produce"], namespace)
        wrapper = self._wrapper
        wrapper.__code__ = code["call"].replace(co_name=wrapper.__name__, co_qualname=wrapper.__qualname__)

    def _variant(self, name: str) -> Callable[..., Any]:
        """The same call, compiled to return an `Outcome`, or to leave out everything but the schema."""
        self.settle()
        if name not in self._variants:
            flags = self._flags or {}
            if name == "outcome":
                flags = {**flags, "RECORD": True, "OUTCOME": True}
            else:
                flags = {flag: flags.get(flag, False) for flag in ("VALIDATE", "POSITIONAL", "DIMS", "CHECK")}
            code = specialise(self._target.kind, flags)
            # The wrapper's own names may be fewer: pickling by value takes along only those that its code uses.
            core = core_names(self._target, self._target.function)
            namespace = {**core, **self._wrapper.__globals__, "outcome": _outcome}
            if "produce" in code:
                namespace["produce"] = FunctionType(code["produce"], namespace)
            self._variants[name] = FunctionType(code["call"], namespace)
        return self._variants[name]

    def _refuse_outcome(self, wanted: Kind, instead: str) -> None:
        kind = self._target.kind
        if kind.stream:
            raise PolicyError(f"{self._target.name} is a {kind.value}: it has items, not one Outcome. Fix: iterate it.")
        if kind is not wanted:
            raise PolicyError(f"{self._target.name} is a {kind.value}. Fix: {instead}")

    def _cache(self) -> Any:
        self.settle()
        if "cache" not in self._rooms:
            raise PolicyError(f"{self._target.name} has no cache. Fix: add cache=Cache(ttl=...) to its policy.")
        return self._rooms["cache"]


class BoundGuarded(Generic[P, R_co]):
    """How type checkers see a guarded method of an object.

    Its ``guard`` is the one of the function, which knows no object: ``model.predict.guard.call(model, batch)``.
    """

    if TYPE_CHECKING:

        @property
        def guard(self) -> Handle[..., R_co]: ...

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class Guarded(Generic[P, R_co]):
    """How type checkers see a guarded function: callable as before, with ``guard`` and ``__wrapped__``.

    At run time a guarded function is a plain function; this class only describes it and is never instantiated.
    """

    if TYPE_CHECKING:
        __name__: str
        __qualname__: str

        @property
        def guard(self) -> Handle[P, R_co]: ...

        @property
        def __wrapped__(self) -> Callable[P, R_co]: ...

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

        @overload
        def __get__(
            self: Guarded[Concatenate[type[T], Q], R_co], instance: T | None, owner: type[T], /
        ) -> BoundGuarded[Q, R_co]: ...
        @overload
        def __get__(self, instance: None, owner: type, /) -> Guarded[P, R_co]: ...
        @overload
        def __get__(
            self: Guarded[Concatenate[Any, Q], R_co], instance: object, owner: type | None = None, /
        ) -> BoundGuarded[Q, R_co]: ...
        def __get__(self, instance: Any, owner: Any = None, /) -> Any: ...


def remember(handle: Handle[Any, Any]) -> None:
    """Adds the handle of a function whose decoration succeeded to `every_handle`."""
    _handles.add(handle)


def every_handle() -> list[Handle[Any, Any]]:
    """The handles of every guarded function that is alive in this process."""
    return list(_handles)


def _renew() -> None:
    global _settling
    _settling = threading.RLock()


in_children(_renew)


def _outcome(this: Call, value: Any) -> Outcome[Any]:
    return Outcome(
        value=value,
        disposition=Disposition(this.disposition),
        degraded=this.degraded,
        cached=this.disposition in (Disposition.CACHE_HIT, Disposition.COALESCED),
        attempts=this.attempts,
        duration=clock.now() - this.started,
        call_id=this.id,
        rejected=tuple(this.violations or ()),
    )
