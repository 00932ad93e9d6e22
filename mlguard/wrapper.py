"""The wrapper of one function at work: when it gets which code, and how it is switched off or given another policy.

A wrapper is a plain function object; what changes is its code. A call that runs keeps the code it began with, and the
names that code looks up, so that settling, switching off and on again, and another policy are safe at any moment. What
can be asked of it is in `handle.py`.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

from mlguard.bound import Bound, called
from mlguard.errors import PolicyError
from mlguard.forks import in_children
from mlguard.keyed import ByKey
from mlguard.monitor import readings
from mlguard.policies import Policy
from mlguard.policies.ceiling import Clamped
from mlguard.policies.choice import Choice
from mlguard.policies.policy import section_classes
from mlguard.scopes import ScopeKey, Scopes
from mlguard.scopes import of_this_process as scopes_of_this_process
from mlguard.specialise import readable, specialise
from mlguard.target import Target
from mlguard.vocabulary import Runtime
from mlguard.wiring import Options, core_names, wire

if TYPE_CHECKING:
    from mlguard.policies.lineage import Resolved

__all__ = ["Wrapper", "every_wrapper", "named", "settling", "surround", "switch_off"]

_settling = threading.RLock()
_wrappers: weakref.WeakSet[Wrapper] = weakref.WeakSet()
_off = 0  # how many `testing.disabled()` are entered
_around: Callable[[Target], Callable[..., Any] | None] | None = None  # what `testing.chaos` puts in functions' places

_WARM = ("VALIDATE", "POSITIONAL", "DIMS", "CHECK")


class Wrapper:
    """What stands in for a guarded function.

    Args:
        function: The function object whose code this changes; its globals are the wrapper's own.
        target: The user's function.
        choice: The policy that the decorator chose; one that goes by name is bound at the first call.
        options: What the decorator said beside it.

    Raises:
        PolicyError: The policy contradicts itself.
    """

    def __init__(self, function: FunctionType, target: Target, choice: Choice, options: Options) -> None:
        self.target = target
        self.choice = choice
        self.function = function
        """What users call; its globals are a namespace of its own."""
        self.options = options
        """What the decorator said beside the policy."""
        self._policy = None if choice.name else self._chosen(named)[0]
        self._bound: Bound | None = None
        self._numbers: set[int] = set()  # of what it is bound to, and of what calls in progress were bound to
        self._variants: dict[tuple[str, bool], Callable[..., Any]] = {}

    @property
    def bound(self) -> Bound | None:
        """What it is bound to; None: nothing yet."""
        return self._bound

    @property
    def policy(self) -> Policy:
        """The policy in force, with what the decorator merged over it."""
        if self._bound is None and self._policy is not None:
            return self._policy
        return self.settle().policy

    @property
    def origins(self) -> dict[str, str]:
        """Where each value of the policy in force that is no default was written."""
        resolved = self.settle().resolved if self.choice.name else None
        return self.choice.origins(named if resolved is None else lambda name: resolved)

    @property
    def rooms(self) -> dict[str, Runtime]:
        """The runtime object of each concern, by section."""
        return self.settle().wiring.rooms

    @property
    def source(self) -> str:
        """The wrapper as Python text."""
        wiring = self.settle().wiring
        text = readable(self.target.kind, wiring.flags, self.function.__name__)
        return text if wiring.started is None else text + wiring.started.source

    def prepare(self) -> None:
        """Makes the function work: at once where policy and annotations can be resolved, else from its first call on.

        Raises:
            PolicyError: The policy can't be honoured.
        """
        self.target.inside = None if _around is None else _around(self.target)
        core = core_names(self.target, self.target.function)
        first_call = core_names(self.target, self._first_call)["function"]
        self.function.__globals__.update({**core, "unguarded": core["function"], "first_call": first_call})
        if self.target.resolved and self._policy is not None:
            try:
                _, clamped = self._settle()
            except NameError:
                self.put()  # a model's own annotation is defined further down: the first call tries again
            else:
                self.choice.tell(clamped, function=self.target.name)
        else:
            self.put()
        _wrappers.add(self)

    def settle(self) -> Bound:
        """Puts the real code in place, where that had to wait for annotations or for the policy of a name.

        Raises:
            PolicyError: The policy does not exist or can't be honoured, or an annotation names something that is still
                not defined.
        """
        if self._bound is not None:
            return self._bound
        try:
            bound, clamped = self._settle()
        except NameError as error:
            raise PolicyError(
                f"{self.target.name}: an annotation names '{error.name}', which is not defined. "
                "Fix: define or import it at module level before the first call."
            ) from None
        self.choice.tell(clamped, function=self.target.name)
        return bound

    def put(self) -> None:
        """Gives the function the code for its state."""
        function = self.function
        if not _off and self._bound is not None:
            function.__code__ = self._bound.code(function)
            return
        rename = {"function": "unguarded" if _off else "first_call"}
        function.__code__ = called(specialise(self.target.kind, {}, rename)["call"], function)

    def surround(self) -> None:
        """Calls, in the user's function's place, what `testing.chaos` makes of it."""
        inside = None if _around is None else _around(self.target)
        if inside is None and self.target.inside is None:
            return
        self.target.inside = inside
        function = core_names(self.target, self.target.function)["function"]
        self.function.__globals__["unguarded"] = function
        if self._bound is not None and self._bound.wiring.started is None:  # which looks for itself
            self._bound.wiring.names["function"] = function
        self._variants = {}
        self.put()

    def rebuilt(self, get: Callable[[str], Resolved], scopes: Scopes) -> Bound | None:
        """What this function would be bound to now; None: nothing changed, or it is not bound yet. Changes nothing.

        Raises:
            PolicyError: The policy is gone, or can't be honoured, or not at run time.
        """
        bound = self._bound
        if bound is None:
            return None
        policy, clamped = self._chosen(get)
        if policy.fingerprint == bound.policy.fingerprint:
            for key in bound.wiring.scopes.values():
                scopes.keep(key, self.target)
            return None
        _refuse_what_is_fixed(self.target, bound.policy, policy)
        wiring = wire(self.target, policy, self.options, scopes=scopes, before=(bound.policy, bound.wiring))
        return Bound(self.target, policy, clamped, wiring, self._resolved(get))

    def rebind(self, bound: Bound) -> None:
        """Puts another policy in place; calls in progress end under the one they began with."""
        with _settling:
            before, self._bound = self._bound, self._numbered(bound)
            bound.wiring.connect()
            self._variants = {}
            self.put()
        if before is not None:
            readings.of_this_process.replaced(before)
            before.forget(self.function.__globals__, self._numbers)

    def start_afresh(self, *, forget_name: bool) -> None:
        """Forgets state and counts, for tests; calls in progress end as they began.

        Args:
            forget_name: Whether to forget as well what the name of its policy meant, so that the next call looks it up.
        """
        with _settling:
            bound = self._bound
            unbound = forget_name and self.choice.name is not None
            if unbound:
                self._bound, self._variants = None, {}
                self.put()
        if bound is not None:
            if unbound:
                bound.forget(self.function.__globals__, self._numbers)
            for room in cast("Iterable[Any]", bound.wiring.rooms.values()):
                room.reset()
                if hasattr(room, "metrics"):
                    readings.forget(room)  # what nobody has read is no part of any total: that would cost more than all

    def scopes(self) -> list[ScopeKey]:
        """The scopes that it shares in."""
        return [] if self._bound is None else list(self._bound.wiring.scopes.values())

    def moved(self, get: Callable[[str], Resolved]) -> None:
        """Notes where the values of its policy stand now, which says what it said."""
        if self._bound is not None:
            self._bound.resolved = self._resolved(get)

    def with_outcome(self, outcome: Callable[[Any, Any], Any]) -> Callable[..., Any]:
        """The same call, whose result is what `outcome` makes of its record and its value."""
        flags = {} if _off else self.settle().wiring.flags
        return self._variant("outcome", {**flags, "RECORD": True, "OUTCOME": True}, outcome=outcome)

    def warm(self) -> Callable[..., Any]:
        """The same call with the schema alone."""
        flags = {} if _off else self.settle().wiring.flags
        plain = core_names(self.target, self.target.function)["function"]
        return self._variant("warm", {flag: flags.get(flag, False) for flag in _WARM}, function=plain)

    def key_of_call(self, args: Any, kwargs: Any) -> Any:
        """The cache key of a call's validated arguments; the function does not run."""
        wiring = self.settle().wiring
        flags = {flag: wiring.flags.get(flag, False) for flag in ("VALIDATE", "POSITIONAL", "DIMS", "CACHE")}
        call = self._variant("key", flags, **{**wiring.names, "lookup": _found})
        if not self.target.kind.asynchronous:
            return call(*args, **kwargs)[0]
        try:
            call(*args, **kwargs).send(None)  # it meets nothing that it would have to wait for
        except StopIteration as stop:
            return stop.value[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_variants": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _wrappers.add(self)

    def _chosen(self, get: Callable[[str], Resolved]) -> tuple[Policy, list[Clamped]]:
        try:
            return self.choice.policy(get)
        except PolicyError as error:
            where = _on_which_worker() if self.choice.name else ""
            raise PolicyError(f"{self.target.name}: {error}{where}") from None

    def _resolved(self, get: Callable[[str], Resolved]) -> Resolved | None:
        return None if self.choice.name is None else get(self.choice.name)

    def _first_call(self, *args: Any, **kwargs: Any) -> Any:
        """What an unsettled function calls."""
        self.settle()
        with _settling:  # another thread may just be putting the code in place
            pass
        return self.function(*args, **kwargs)

    def _settle(self) -> tuple[Bound, list[Clamped]]:
        """What it is bound to now, and what the ceiling lowered, for the one who bound it to tell."""
        with _settling:
            if self._bound is not None:
                return self._bound, []
            policy, clamped = self._chosen(named)
            wiring = wire(self.target, policy, self.options, scopes=scopes_of_this_process)
            wiring.connect()
            self._bound = self._numbered(Bound(self.target, policy, clamped, wiring, self._resolved(named)))
            self.put()
            return self._bound, clamped

    def _numbered(self, bound: Bound) -> Bound:
        """With a number that no call in progress needs any more."""
        bound.number = next(number for number in itertools.count() if number not in self._numbers)
        self._numbers.add(bound.number)
        return bound

    def _variant(self, name: str, flags: Mapping[str, bool], **names: Any) -> Callable[..., Any]:
        key = name, bool(_off)
        if key not in self._variants:
            code = specialise(self.target.kind, flags)
            # The function's own names may be fewer: pickling by value takes along only those that its code uses.
            core = core_names(self.target, self.target.function)
            own = core if _off else self.settle().wiring.names
            namespace = {**core, **self.function.__globals__, **own, **names}
            if not _off and (pools := self.settle().wiring.pools):
                return self._variants.setdefault(key, ByKey(self.target, pools, flags, {**own, **names}))
            if "produce" in code:
                namespace["produce"] = FunctionType(code["produce"], namespace)
            self._variants[key] = FunctionType(code["call"], namespace)
        return self._variants[key]


def _found(key: Any) -> tuple[Any]:
    return (key,)


def settling() -> threading.RLock:
    """The lock that is held while a function gets other code."""
    return _settling


def every_wrapper() -> list[Wrapper]:
    """The wrappers of every guarded function that is alive in this process."""
    return list(_wrappers)


def surround(around: Callable[[Target], Callable[..., Any] | None] | None) -> None:
    """Lets every guarded function call what `around` says in the user's function's place; None: as it was."""
    global _around
    with _settling:
        _around = around
        for wrapper in every_wrapper():
            wrapper.surround()


def switch_off(off: bool) -> None:
    """Switches every guard of the process off, or on again once as often as it was switched off."""
    global _off
    with _settling:
        _off += 1 if off else -1
        for wrapper in every_wrapper():
            wrapper.put()


def named(name: str) -> Resolved:
    """The policy of that name in force."""
    from mlguard.policies.catalogue import of_this_process  # not at import: policies without a name need none of it

    return of_this_process.get(name)


def _on_which_worker() -> str:
    """What an error about a policy by name says besides in the workers of a pool, which read policies themselves."""
    from mlguard.monitor.identity import worker  # not at import: only an error needs it

    this = worker()
    return (
        f" This is {this}, and policies are read where a function runs. Fix: hand it the file as well, by "
        "MLGUARD_POLICIES in its environment or in its working directory."
        if this
        else ""
    )


def _refuse_what_is_fixed(target: Target, before: Policy, after: Policy) -> None:
    """What a process does once and can't undo is no matter for a reload."""
    for name, section in section_classes().items():
        for key in section.fixed:
            default = section.model_fields[key].default
            old, new = (getattr(getattr(policy, name), key, default) for policy in (before, after))
            if old != new:
                raise PolicyError(
                    f"{target.name}: {name}.{key} can't change while the process runs ({old} -> {new}). "
                    "Fix: restart the service, or change it back."
                )


def _renew() -> None:
    global _settling
    _settling = threading.RLock()


in_children(_renew)
