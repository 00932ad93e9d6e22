"""The key of one function's calls: written once, from its signature and annotations, as a short Python function.

A parameter annotated with a plain scalar stands in the key as it is where it has exactly that type; everything
else goes through `keys.slot`, whose bytes equal no scalar. So two calls have one key exactly when every keyed argument
has the same type and content, and the usual call hashes nothing but a small tuple.
"""

from __future__ import annotations

import inspect
import itertools
import linecache
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from mlguard.cache.annotations import MisplacedMark, never_keyed, plain_types
from mlguard.cache.keys import LOCAL, Dialect, is_marked
from mlguard.errors import PolicyError
from mlguard.target import Target

__all__ = ["KeyFunction", "KeyParts", "key_function", "keyed_names"]

KeyFunction = Callable[[Any, Any, Any], Any]

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_numbers = itertools.count(1)

# A longer text is hashed, so that keys stay small. NaN equals nothing and 0.0 equals -0.0, so `slot` writes their bits.
_PLAIN_TESTS: Final = {
    int: "type({v}) is int",
    bool: "type({v}) is bool",
    float: "type({v}) is float and {v} and {v} == {v}",
    str: "type({v}) is str and len({v}) < 513",
    type(None): "{v} is None",
}


def keyed_names(target: Target) -> tuple[list[str], list[str]]:
    """The parameters that are part of the key, and those left out by NotKeyed.

    Raises:
        PolicyError: One of them can never be keyed.
        NameError: An annotation names something that is not defined yet.
    """
    keyed: list[str] = []
    left_out: list[str] = []
    for parameter in target.parameters:
        annotation = target.hints.get(parameter.name, inspect.Parameter.empty)
        if is_marked(getattr(annotation, "__metadata__", ())):
            left_out.append(parameter.name)
            continue
        _refuse_unkeyable(target, parameter, annotation)
        keyed.append(parameter.name)
    return keyed, left_out


class KeyParts(NamedTuple):
    """A key function, and where to find in its keys what entries are invalidated by."""

    function: KeyFunction
    version: int | None
    """The place of the model version; None: it is not in the key."""
    tenant: int | None


def key_function(
    target: Target,
    *,
    key: Callable[..., Any] | None,
    version: Callable[[], Any] | None,
    prefix: Any,
    dialect: Dialect = LOCAL,
    tenant: str | None = None,
    left_out: Mapping[str, frozenset[str]] | None = None,
) -> KeyParts:
    """A function ``(cache, args, kwargs) -> key`` for the calls of a target; None where a call can't be keyed.

    Args:
        target: The function, whose annotations must be resolved unless there is a `key`.
        key: The user's own key of the arguments.
        version: Asked at every call; what it answers is part of the key.
        prefix: Tells this cache's keys from others in the same store; None where it has its store to itself.
        dialect: How what is no plain scalar is written.
        tenant: The argument, or the field of one, that is part of the key whatever else is.
        left_out: Arguments that others add to the key row by row; not the argument but some of its fields where the
            set has any.
    """
    left_out = left_out or {}
    names: dict[str, Any] = {"slot": dialect.slot, "model": dialect.model, "prefix": prefix, "user_key": key}
    parts = [] if prefix is None else ["prefix"]
    lines = ["def key_of(self, args, kwargs):", "    try:"]
    keyed = [] if key is not None else keyed_names(target)[0]
    if keyed or tenant is not None:
        lines += _unpacking(target)
        names["bound"] = _bound
        names["signature"] = target.signature
    places: list[int | None] = [None, None]
    if version is not None:
        names["version"] = version
        lines.append("        version_now = version()")
        places[0] = len(parts)
        parts.append(_plain_or_slot("version_now", [str]))
    if tenant is not None:
        lines.append(f"        tenant_now = {_tenant(target, tenant)}")
        places[1] = len(parts)
        parts.append(_plain_or_slot("tenant_now", [str]))
    if key is not None:
        parts.append("slot(user_key(*args, **kwargs))")
    for place, parameter in enumerate(target.parameters):
        name = parameter.name
        if name not in keyed or name == tenant or left_out.get(name) == frozenset():
            continue
        if name in left_out:
            names[f"without{place}"] = left_out[name]
            parts.append(f"model(v{place}, without{place})")
        else:
            parts.append(_part(f"v{place}", parameter, target.hints.get(name, inspect.Parameter.empty)))
    lines.append(f"        return ({''.join(part + ', ' for part in parts)})")
    lines += ["    except Exception as error:", "        return self.unkeyed(error, args)"]
    text = "\n".join(lines) + "\n"
    file = f"<mlguard key of {target.qualname} #{next(_numbers)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), names)  # noqa: S102 - made of the lines above, parameter numbers and identifiers
    return KeyParts(names["key_of"], *places)


def _tenant(target: Target, tenant: str) -> str:
    """The expression for the tenant.

    Raises:
        PolicyError: No argument of that name, or it has no such field.
    """
    name, *fields = tenant.split(".")
    ordinary = [parameter.name for parameter in target.parameters if parameter.kind not in _VARIADIC]
    if name not in ordinary:
        raise PolicyError(
            f"{target.name}: Cache.tenant = '{tenant}', but it has no parameter '{name}'. Fix: name one of "
            f"{', '.join(ordinary) or 'its parameters, of which there are none'}, or drop tenant."
        )
    cls = target.hints.get(name)
    for field in fields:
        cls = typing.get_args(cls)[0] if typing.get_origin(cls) is typing.Annotated else cls
        if isinstance(cls, type) and issubclass(cls, BaseModel):
            if field not in cls.model_fields:
                raise PolicyError(
                    f"{target.name}: Cache.tenant = '{tenant}', but {cls.__qualname__} has no field '{field}'. "
                    f"Fix: name one of {', '.join(cls.model_fields)}."
                )
            cls = cls.model_fields[field].annotation
        else:
            cls = None
    place = [parameter.name for parameter in target.parameters].index(name)
    return ".".join([f"v{place}", *fields])


def _unpacking(target: Target) -> Iterator[str]:
    parameters = target.parameters
    if not parameters:
        return
    values = "".join(f"v{place}, " for place in range(len(parameters)))
    if any(parameter.kind in _VARIADIC for parameter in parameters):
        yield f"        {values}= bound(signature, args, kwargs)"
        return
    positional = sum(parameter.kind in _POSITIONAL for parameter in parameters)
    named = [parameter.name for parameter in parameters[positional:]]
    other = f"len(kwargs) != {len(named)}" if named else "kwargs"
    yield f"        if len(args) != {positional} or {other}:"
    yield f"            {values}= bound(signature, args, kwargs)"
    yield "        else:"
    taken = ["*args"] if positional else []
    taken += [f"kwargs[{name!r}]" for name in named]
    yield f"            {values}= {'args' if not named else ', '.join(taken) + ','}"


def _part(name: str, parameter: inspect.Parameter, annotation: Any) -> str:
    return _plain_or_slot(name, plain_types(annotation) if parameter.kind not in _VARIADIC else ())


def _plain_or_slot(name: str, plain: Iterable[type]) -> str:
    tests = sorted(_PLAIN_TESTS[cls] for cls in plain)
    if not tests:
        return f"slot({name})"
    return f"{name} if {' or '.join(tests)} else slot({name})".replace("{v}", name)


def _bound(signature: inspect.Signature, args: Any, kwargs: Any) -> tuple[Any, ...]:
    """The arguments in the order of the parameters, defaults included, however they were passed."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return tuple(bound.arguments.values())


def _refuse_unkeyable(target: Target, parameter: inspect.Parameter, annotation: Any) -> None:
    name = parameter.name
    if annotation is inspect.Parameter.empty:
        return  # `self` too: its class does not exist while its body runs; see `ResultCache.unkeyed`
    try:
        reason = never_keyed(annotation)
    except MisplacedMark:
        raise PolicyError(
            f"{target.name}: NotKeyed inside the annotation of parameter '{name}' can't be honoured: there it marks "
            f"neither the parameter nor a field of a class. Fix: put it outermost, Annotated[..., NotKeyed], on the "
            f"parameter or on a field of a model."
        ) from None
    if reason is not None:
        raise PolicyError(
            f"{target.name}: cache is set, but parameter '{name}' can't be part of a cache key: {reason} has no "
            f"content that two calls could share. Fix: mark it Annotated[..., NotKeyed] if it does not change the "
            f"result, give key=lambda ...: ... at the decorator, make it a model or dataclass of keyable fields, or "
            f"give its class a method __mlguard_key__() that returns what tells two objects apart."
        )
