"""The wrapper of one function at work: when it gets which code, and how it is switched off.

A wrapper is a plain function object; what changes is its code. A call that runs keeps the code it began with, so that
settling, switching off and on again are safe at any moment. What can be asked of it is in `handle.py`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any

from mlguard.errors import PolicyError
from mlguard.forks import in_children
from mlguard.specialise import readable, specialise
from mlguard.target import Target
from mlguard.vocabulary import Runtime
from mlguard.wiring import Options, core_names, wire

if TYPE_CHECKING:
    from mlguard.policies import Policy

__all__ = ["Wrapper", "every_wrapper", "switch_off"]

_settling = threading.RLock()
_wrappers: weakref.WeakSet[Wrapper] = weakref.WeakSet()
_off = 0  # how many `testing.disabled()` are entered

_WARM = ("VALIDATE", "POSITIONAL", "DIMS", "CHECK")


class Wrapper:
    """What stands in for a guarded function.

    Args:
        function: The function object whose code this changes; its globals are the wrapper's own.
        target: The user's function.
        policy: The policy in force.
        options: What the decorator said beside it.
    """

    def __init__(self, function: FunctionType, target: Target, policy: Policy, options: Options) -> None:
        self.target = target
        self.policy = policy
        self._function = function
        self._options = options
        self._flags: dict[str, bool] | None = None
        self._rooms: dict[str, Runtime] = {}
        self._variants: dict[tuple[str, bool], Callable[..., Any]] = {}

    @property
    def rooms(self) -> dict[str, Runtime]:
        """The runtime object of each concern, by section."""
        self.settle()
        return self._rooms

    @property
    def source(self) -> str:
        """The wrapper as Python text."""
        self.settle()
        return readable(self.target.kind, self._flags or {}, self._function.__name__)

    def prepare(self) -> None:
        """Makes the function work: at once where its annotations can be resolved, else from its first call on.

        Raises:
            PolicyError: The policy can't be honoured.
        """
        first_call = core_names(self.target, self._first_call)["function"]
        self._function.__globals__.update({**core_names(self.target, self.target.function), "first_call": first_call})
        if self.target.resolved:
            try:
                self._settle()
            except NameError:
                self.put()  # a model's own annotation is defined further down: the first call tries again
        else:
            self.put()
        _wrappers.add(self)

    def settle(self) -> None:
        """Puts the real code in place, where that had to wait for annotations to become resolvable.

        Raises:
            PolicyError: The policy can't be honoured, or an annotation names something that is still not defined.
        """
        if self._flags is not None:
            return
        try:
            self._settle()
        except NameError as error:
            raise PolicyError(
                f"{self.target.name}: an annotation names '{error.name}', which is not defined. "
                "Fix: define or import it at module level before the first call."
            ) from None

    def put(self) -> None:
        """Gives the function the code for its state."""
        if _off:
            code = specialise(self.target.kind, {})
        elif self._flags is None:
            code = specialise(self.target.kind, {}, rename={"function": "first_call"})
        else:
            code = specialise(self.target.kind, self._flags)
        function = self._function
        if "produce" in code:
            function.__globals__["produce"] = FunctionType(code["produce"], function.__globals__)
        function.__code__ = code["call"].replace(co_name=function.__name__, co_qualname=function.__qualname__)

    def with_outcome(self, outcome: Callable[[Any, Any], Any]) -> Callable[..., Any]:
        """The same call, whose result is what `outcome` makes of its record and its value."""
        self.settle()
        flags = {} if _off else self._flags or {}
        return self._variant("outcome", {**flags, "RECORD": True, "OUTCOME": True}, outcome=outcome)

    def warm(self) -> Callable[..., Any]:
        """The same call with the schema alone."""
        self.settle()
        flags = {} if _off else self._flags or {}
        return self._variant("warm", {flag: flags.get(flag, False) for flag in _WARM})

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_variants": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _wrappers.add(self)

    def _first_call(self, *args: Any, **kwargs: Any) -> Any:
        """What an unsettled function calls."""
        self.settle()
        return self._function(*args, **kwargs)

    def _settle(self) -> None:
        with _settling:
            if self._flags is not None:
                return
            wiring = wire(self.target, self.policy, self._options)
            self._function.__globals__.update(wiring.names)
            self._rooms = wiring.rooms
            self._flags = wiring.flags
            self.put()

    def _variant(self, name: str, flags: Mapping[str, bool], **names: Any) -> Callable[..., Any]:
        key = name, bool(_off)
        if key not in self._variants:
            code = specialise(self.target.kind, flags)
            # The function's own names may be fewer: pickling by value takes along only those that its code uses.
            core = core_names(self.target, self.target.function)
            namespace = {**core, **self._function.__globals__, **names}
            if "produce" in code:
                namespace["produce"] = FunctionType(code["produce"], namespace)
            self._variants[key] = FunctionType(code["call"], namespace)
        return self._variants[key]


def every_wrapper() -> list[Wrapper]:
    """The wrappers of every guarded function that is alive in this process."""
    return list(_wrappers)


def switch_off(off: bool) -> None:
    """Switches every guard of the process off, or on again once as often as it was switched off."""
    global _off
    with _settling:
        _off += 1 if off else -1
        for wrapper in every_wrapper():
            wrapper.put()


def _renew() -> None:
    global _settling
    _settling = threading.RLock()


in_children(_renew)
