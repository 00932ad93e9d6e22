"""State for each value of an argument: one breaker for every host, one budget for every tenant.

A section with `per` names the argument. Its runtime objects stand in a `Pool`, one for each value seen; `ByKey` stands
in for the function and runs each call on those of its value. What the objects do is written in their rooms.
"""

from __future__ import annotations

import builtins
import functools
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from types import FunctionType
from typing import Any, Final, get_type_hints

import mlguard.call
from mlguard import clock
from mlguard.errors import PolicyError
from mlguard.forks import renew_in_children
from mlguard.monitor.metrics import Figure, Metric
from mlguard.section import Section, nearest, shown
from mlguard.specialise import specialise
from mlguard.target import Target
from mlguard.vocabulary import Runtime

__all__ = ["MOST", "ByKey", "Place", "Pool", "pool_of"]

MOST: Final = 1_000
"""Values that are kept apart at most; the one unused for longest goes first, with its state."""

_SHOWN = 20


class Pool:
    """The runtime objects of one section, one for each value of a key.

    Args:
        runtime: Builds one, as ``runtime(target, section)``.
        target: The function.
        section: Its settings, whose `per` names the argument.
    """

    def __init__(self, runtime: Callable[[Target, Any], Any], target: Target, section: Section) -> None:
        self._made_of = (runtime, target, section)
        self._plain: Runtime = runtime(target, section)  # never runs; says what each of them does
        self.per: str = section.per  # type: ignore[attr-defined]  # those that have a pool have the field
        self.after_fork()
        self._objects: dict[Hashable, Any] = {}
        self._used: dict[Hashable, float] = {}
        self._gone: Counter[tuple[Metric, tuple[str, ...]]] = Counter()  # what was counted for values that had to go
        renew_in_children(self)

    def of(self, value: Hashable) -> Any:
        """The object of one value."""
        self._used[value] = clock.now()
        found = self._objects.get(value)
        return self._new(value) if found is None else found

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        return self._plain.names(asynchronous=asynchronous)

    def explain(self) -> list[str]:
        return [*self._plain.explain(), f"One of these for each value of '{self.per}', for {MOST:,} values at most."]

    def stats(self) -> dict[str, Any]:
        """The number of values, and what the ones used last say."""
        objects = dict(self._objects)
        last: list[Any] = sorted(objects, key=lambda value: -self._used.get(value, 0.0))[:_SHOWN]
        hidden = _hides(self._made_of[1], self.per)
        names = [f"hidden value {number}" if hidden else shown(each[1]) for number, each in enumerate(last, start=1)]
        by_value = {name: objects[each].stats() for name, each in zip(names, last, strict=True)}
        return {"per": self.per, "values": len(objects), "by_value": by_value}

    def metrics(self) -> Iterator[Figure]:
        """The figures of all values together: who the callers are is no label of a metric."""
        objects = list(self._objects.values())
        for each in [self._plain, *objects]:  # the plain one counts nothing, and says which series there are
            for metric, labels, value in each.metrics():
                if each is not self._plain or metric.kind != "gauge":
                    yield metric, labels, value
        for (metric, labels), value in list(self._gone.items()):
            yield metric, labels, value

    def reset(self) -> None:
        with self._lock:
            self._objects, self._used, self._gone = {}, {}, Counter()

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Pool, self._made_of

    def _new(self, value: Hashable) -> Any:
        runtime, target, section = self._made_of
        made = runtime(target, section)
        with self._lock:
            made = self._objects.setdefault(value, made)
            if len(self._objects) > MOST:
                oldest = min(self._objects, key=lambda each: self._used.get(each, 0.0))
                gone = self._objects.pop(oldest)
                self._used.pop(oldest, None)
                for metric, labels, number in gone.metrics():
                    if metric.kind == "counter":
                        self._gone[metric, labels] += number
            else:
                gone = None
        del gone  # outside of the lock
        return made


@functools.cache
def pool_of(runtime: Callable[[Target, Any], Any]) -> Callable[[Target, Any], Pool]:
    """Builds the pool of a section, as `runtime` builds one object of it; one function, so that scopes find it."""
    return functools.partial(Pool, runtime)


class ByKey:
    """Runs each call of a function on the runtime objects of its value.

    Args:
        target: The function.
        pools: The sections that are kept apart.
        flags: Those of its code.
        names: What its code looks up, but for what the pools bring.

    Raises:
        PolicyError: A section names an argument that the function does not have.
    """

    def __init__(
        self, target: Target, pools: Mapping[str, Pool], flags: Mapping[str, bool], names: Mapping[str, Any]
    ) -> None:
        self._made_of = (target, pools, flags, names)
        self._places = [Place(target, pool.per, name) for name, pool in pools.items()]
        self._pools = list(pools.values())
        self._functions: dict[Hashable, tuple[list[Any], Callable[..., Any]]] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values = tuple([place.value(args, kwargs) for place in self._places])
        objects = [pool.of(value) for pool, value in zip(self._pools, values, strict=True)]
        known = self._functions.get(values)
        if known is None or known[0] != objects:
            known = objects, self._function(objects)
            if len(self._functions) >= MOST:
                self._functions.clear()
            self._functions[values] = known
        return known[1](*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return ByKey, self._made_of

    def _function(self, objects: Iterable[Runtime]) -> Callable[..., Any]:
        target, _, flags, names = self._made_of
        namespace = {
            "__name__": mlguard.call.__name__,
            "__loader__": mlguard.call.__loader__,
            "__builtins__": builtins,
            **names,
        }
        for each in objects:
            namespace.update(each.names(asynchronous=target.kind.asynchronous))
        code = specialise(target.kind, flags)
        if "produce" in code:
            namespace["produce"] = FunctionType(code["produce"], namespace)
        return FunctionType(code["call"].replace(co_name=target.function.__name__), namespace)


class Place:
    """Where a call has the value of a key: an argument, or a field of one, before anything is checked.

    Raises:
        PolicyError: The function has no such parameter.
    """

    def __init__(self, target: Target, per: str, section: str) -> None:
        self._target = target
        self._per = per
        self._section = section
        parameter, *self._fields = per.split(".")
        known = target.signature.parameters
        if parameter not in known or known[parameter].kind in (2, 4):  # *args and **kwargs
            raise PolicyError(
                f"{target.name}: {section}.per = '{per}', but the function has no parameter '{parameter}'."
                f"{nearest(parameter, known)} Fix: name a parameter, or a field of one such as 'request.host'."
            )
        self._parameter = parameter
        by_position = [each.name for each in target.parameters if each.kind in (0, 1)]
        self._position = by_position.index(parameter) if parameter in by_position else -1
        self._default = known[parameter].default

    def value(self, args: Any, kwargs: Any) -> Hashable:
        by_position = 0 <= self._position < len(args)
        value = args[self._position] if by_position else kwargs.get(self._parameter, self._default)
        for field in self._fields:
            value = value.get(field) if isinstance(value, Mapping) else getattr(value, field, None)
        kind = type(value)
        if kind is not str and value is not None and not _tells_apart(value):
            raise PolicyError(
                f"{self._target.name}: {self._section}.per = '{self._per}' is a {kind.__qualname__} in this "
                "call, which can't tell calls apart. Fix: name an argument, or a field of one, that is a text or a "
                "number."
            )
        return (kind, value)


def _tells_apart(value: Any) -> bool:
    """False for what is equal to itself only, too: as a key it would be kept alive, a model for instance."""
    try:
        hash(value)
    except TypeError:
        return False
    own: Any = type(value).__hash__
    return own is not object.__hash__


def _hides(target: Target, per: str) -> bool:
    """Whether the schema says that the values of this argument, or of this field of one, are not to be shown."""
    from mlguard.monitor.redaction import hides

    name, *fields = per.split(".")
    annotation = target.hints.get(name)
    for field in fields:
        if hides(annotation):
            return True
        model = getattr(annotation, "__origin__", annotation) if hasattr(annotation, "__metadata__") else annotation
        annotation = get_type_hints(model, include_extras=True).get(field) if isinstance(model, type) else None
    return hides(annotation)
