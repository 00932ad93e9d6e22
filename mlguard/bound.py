"""What a function is bound to, and how the names its code looks up come and go with the calls that need them.

When a function gets which is decided in `wrapper.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterable
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

from mlguard.keyed import ByKey
from mlguard.monitor import readings
from mlguard.policies import Policy
from mlguard.policies.ceiling import Clamped
from mlguard.specialise import specialise
from mlguard.target import Target
from mlguard.wiring import CORE, Wiring, core_names

if TYPE_CHECKING:
    from mlguard.policies.lineage import Resolved

__all__ = ["Bound", "called"]


class Bound:
    """What a function is bound to: a policy, and all that was built for it.

    Args:
        target: The function.
        policy: The policy in force.
        clamped: What the decorator's ceiling lowered in it.
        wiring: What it became.
        resolved: What its name meant; None: the policy is an object in code.
    """

    def __init__(
        self, target: Target, policy: Policy, clamped: list[Clamped], wiring: Wiring, resolved: Resolved | None
    ) -> None:
        self.target = target
        self.policy = policy
        self.clamped = clamped
        self.wiring = wiring
        self.resolved = resolved
        self.number = 0
        """What its names end in, unless it is 0, so that a call which began under another goes on with its own."""
        self._calls = _Codes()
        self._produces = _Codes()

    def code(self, function: FunctionType) -> CodeType:
        """The code of a call under this policy; the names it looks up are put into the function's namespace."""
        namespace, kind = function.__globals__, self.target.kind
        if self.wiring.pools:
            by_key = ByKey(self.target, self.wiring.pools, self.wiring.flags, self.wiring.names)
            (name,) = self._renamed("by_key").values()
            namespace[name] = core_names(self.target, by_key)["function"]
            code = specialise(kind, {}, {"function": name})
            return self._calls.watched(called(code["call"], function))
        code = specialise(kind, self.wiring.flags, self._renamed("produce", *self.wiring.names) if self.number else {})
        namespace.update(zip(self._renamed(*self.wiring.names).values(), self.wiring.names.values(), strict=True))
        if "produce" in code:
            own = self._produces.watched(code["produce"].replace())
            namespace.update(dict.fromkeys(self._renamed("produce").values(), FunctionType(own, namespace)))
        return self._calls.watched(called(code["call"], function))

    def forget(self, namespace: dict[str, Any], numbers: set[int]) -> None:
        """Takes its names out of a namespace as soon as no call runs on them any more: they may hold a whole cache.

        Its number is then free, so that after any number of reloads there are few different names, and codes.
        """
        names = [name for name in self._renamed(*self.wiring.names).values() if name not in CORE]
        entries = self._renamed("produce", "by_key").values()

        def forget_entries() -> None:
            _drop(namespace, entries)
            self._produces.when_gone(forget_names)

        def forget_names() -> None:
            _drop(namespace, names)
            numbers.discard(self.number)

        self._calls.when_gone(forget_entries)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the interpreter's end, much is gone already
            readings.of_this_process.leave(self)

    def _renamed(self, *names: str) -> dict[str, str]:
        return {name: f"{name}__{self.number}" if self.number else name for name in names}


class _Codes:
    """Code objects that may still run: each call in progress keeps the one it began with."""

    def __init__(self) -> None:
        self._alive: set[int] = set()
        self._numbers = itertools.count()
        self._then: list[Callable[[], Any]] = []

    def watched(self, code: CodeType) -> CodeType:
        """The same code object, which must be nobody else's."""
        number = next(self._numbers)
        self._alive.add(number)
        weakref.finalize(code, self._gone, number).atexit = False
        return code

    def when_gone(self, then: Callable[[], Any]) -> None:
        """Does something once none of them can run any more."""
        self._then.append(then)
        self._gone(-1)

    def _gone(self, number: int) -> None:
        self._alive.discard(number)
        if not self._alive:
            with contextlib.suppress(IndexError):  # another thread, or a finalizer in this one, was quicker
                self._then.pop()()

    def __reduce__(self) -> tuple[Any, ...]:
        return _unwatched, ()


def _unwatched() -> _Codes:
    """In another process: the code came by itself, nobody knows when it is gone, so that nothing is ever dropped."""
    codes = _Codes()
    codes._alive.add(-2)
    return codes


def called(code: CodeType, function: FunctionType) -> CodeType:
    """The code under the function's name, as profilers and tracebacks show it; an object of its own."""
    return code.replace(co_name=function.__name__, co_qualname=function.__qualname__)


def _drop(namespace: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        namespace.pop(name, None)
