"""`f.guard`: what can be asked of a guarded function, and `Outcome`, what one call of it came to.

How the wrapper is made is in `guard.py`, what it does is in `wrapper.py`; what a call meets, in `call.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from mlguard import clock
from mlguard.context import Call
from mlguard.errors import PolicyError
from mlguard.monitor import readings
from mlguard.outcome import Disposition
from mlguard.policies import Policy
from mlguard.target import Kind
from mlguard.validation import Binding
from mlguard.wrapper import Wrapper

if TYPE_CHECKING:
    from mlguard.cache import CacheInfo, ResultCache

__all__ = ["Guarded", "Handle", "Outcome"]

P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

# The order in which a call meets the concerns; the keys are those of `Wiring.rooms`.
_ORDER = (
    "monitor", "drift", "fallback", "validation", "quarantine", "timeout", "cache", "retry", "breaker", "concurrency",
    "memory",
)  # fmt: skip


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
    waited: float = 0.0
    """Seconds of the duration that went into waiting for a slot or for memory, and into pauses between attempts."""
    queued: float = 0.0
    """Of those, seconds in the line for a slot."""
    late: bool = False
    """True where the result came after the deadline and was used all the same."""
    stopped: str | None = None
    """Why there was no further attempt after a failure: max_retries, deadline, budget, or retried_within."""
    breaker: str | None = None
    """The state of the breaker after the call: closed, open or half_open. None: there is none."""
    stale: bool = False
    """True where the value is a cached result whose time was over, served as `stale_while_revalidate` or
    `stale_if_error` allow."""
    rejected: tuple[dict[str, Any], ...] = ()
    """What the schema refused and the policy let pass, as pydantic's ``errors()``: under ``on_invalid="report"`` the
    violations; under ``"quarantine"`` the rows that were taken out, each with argument, number and column as ``loc``.
    At most 100 rows are listed; the last entry, ``more_violations``, counts the rest."""


class Handle(Generic[P, R_co]):
    """What can be asked of one guarded function; it is the function's attribute ``guard``."""

    def __init__(self, wrapper: Wrapper) -> None:
        self._wrapper = wrapper

    @property
    def policy(self) -> Policy:
        """The policy in force, with what the decorator merged over it.

        Raises:
            PolicyError: It goes by a name that no policy has, or can't be honoured.
        """
        return self._wrapper.policy

    @property
    def origins(self) -> dict[str, str]:
        """Where each value in force that is no default was written: file and line, variable, package, or decorator."""
        return self._wrapper.origins

    @property
    def source(self) -> str:
        """The wrapper as Python text: `call.py` without the concerns this policy leaves out."""
        return self._wrapper.source

    def explain(self) -> str:
        """What happens to a call, in words and in order, with every number in force."""
        rooms, target = self._wrapper.rooms, self._wrapper.target
        steps = [f"{name}: {said}" for name in _ORDER if name in rooms for said in rooms[name].explain()]
        steps.append(f"function: {target.label} runs; its own exceptions are re-raised as they are.")
        steps.append(f"validation: {cast(Binding, rooms['validation']).explain_result()}")
        numbered = (f"{number:3}. {step}" for number, step in enumerate(steps, start=1))
        return "\n".join([f"A call to {target.name}, in order:", *numbered])

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Outcome[R_co]:
        """Calls the function and says how it went.

        Raises:
            PolicyError: The function is asynchronous (use `acall`) or a generator (its items are the result).
        """
        self._refuse_outcome(Kind.PLAIN, "await f.guard.acall(...)")
        return self._wrapper.with_outcome(self._outcome)(*args, **kwargs)  # type: ignore[no-any-return]

    async def acall(self: Handle[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> Outcome[T]:
        """`call` for a coroutine function."""
        self._refuse_outcome(Kind.COROUTINE, "f.guard.call(...)")
        return await self._wrapper.with_outcome(self._outcome)(*args, **kwargs)  # type: ignore[no-any-return]

    def warm(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Calls the function once before traffic, with its schema but outside statistics, breaker, cache and retry.

        Loads lazily initialised models and compiled kernels. For a coroutine function, await what it returns.
        """
        return self._wrapper.warm()(*args, **kwargs)  # type: ignore[no-any-return]

    def stats(self) -> dict[str, Any]:
        """Counts and states so far, by concern; plain data that JSON can hold."""
        rooms = self._wrapper.rooms
        return {name: rooms[name].stats() for name in _ORDER if name in rooms}

    def cache_info(self) -> CacheInfo:
        """Hits, misses and size of the function's cache.

        Raises:
            PolicyError: The policy has no cache.
        """
        return self._cache().info()

    def cache_clear(self, *, tenant: Any = None, model_version: str | None = None) -> int:
        """Forgets every cached result, or those of a tenant or of a model version, and says how many.

        In a shared store they are gone for every process; another process may answer from its own memory for a moment
        more (a second, or what the store's ``?front=`` says). It blocks while the store works: in an async function,
        call it in a thread.

        Args:
            tenant: The value of the argument that ``Cache(tenant=...)`` names. None: whoever it is.
            model_version: A version. None: any.

        Raises:
            PolicyError: The policy has no cache, or no tenant although one is given.
            StoreError: The shared store could not do it.
        """
        return self._cache().clear(tenant=tenant, model_version=model_version)

    def cache_invalidate(self, *args: Any, **kwargs: Any) -> bool:
        """Forgets the cached result of one call, given its arguments, and says whether there was one.

        With ``Cache(rows=True)``: of every row of the batch.

        Raises:
            InvalidInputError: The arguments break their schema.
            PolicyError: The policy has no cache.
            StoreError: The shared store could not do it.
        """
        cache = self._cache()
        return cache.invalidate(self._wrapper.key_of_call(args, kwargs))

    def reset(self) -> None:
        """Forgets state and counts of every concern, as if the function had just been decorated.

        Metrics go on: a counter that goes down would look like a restart.
        """
        bound = self._wrapper.settle()
        with readings.forgetting(bound):
            for room in bound.wiring.rooms.values():
                room.reset()

    def __repr__(self) -> str:
        return f"<guard of {self._wrapper.target.name}>"

    def _outcome(self, this: Call, value: Any) -> Outcome[Any]:
        facts = this.facts or {}
        breaker = self._wrapper.rooms.get("breaker")
        return Outcome(
            value=value,
            disposition=Disposition(this.disposition),
            degraded=this.degraded,
            cached=this.disposition in (Disposition.CACHE_HIT, Disposition.COALESCED),
            attempts=this.attempts,
            duration=clock.now() - this.started,
            call_id=this.id,
            waited=this.waited,
            queued=facts.get("mlguard.concurrency.waited", 0.0),
            late=this.late,
            stopped=facts.get("mlguard.retry.stopped"),
            breaker=getattr(breaker, "state", None),
            stale=facts.get("mlguard.cache") == "stale",
            rejected=tuple(this.violations or ()),
        )

    def _refuse_outcome(self, wanted: Kind, instead: str) -> None:
        kind, name = self._wrapper.target.kind, self._wrapper.target.name
        if kind.stream or self._wrapper.settle().wiring.started is not None:
            raise PolicyError(f"{name} is a {kind.value}: it has items, not one Outcome. Fix: iterate it.")
        if kind is not wanted:
            raise PolicyError(f"{name} is a {kind.value}. Fix: {instead}")

    def _cache(self) -> ResultCache:
        if "cache" not in self._wrapper.rooms:
            raise PolicyError(f"{self._wrapper.target.name} has no cache. Fix: add cache=Cache(ttl=...) to its policy.")
        return cast("ResultCache", self._wrapper.rooms["cache"])


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
