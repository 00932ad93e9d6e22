"""The key of one function's calls: written once, from its signature and annotations, as a short Python function.

A parameter annotated with a plain scalar stands in the key as it is where it has exactly that type; everything
else goes through `keys.slot`, whose bytes equal no scalar. So two calls have one key exactly when every keyed argument
has the same type and content, and the usual call hashes nothing but a small tuple.
"""

from __future__ import annotations

import inspect
import itertools
import linecache
from collections.abc import Callable, Iterator
from typing import Any, Final

from mlguard.cache.annotations import MisplacedMark, never_keyed, plain_types
from mlguard.cache.keys import is_marked, slot
from mlguard.errors import PolicyError
from mlguard.target import Target

__all__ = ["KeyFunction", "key_function", "keyed_names"]

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


def key_function(
    target: Target,
    *,
    key: Callable[..., Any] | None,
    versions: tuple[Callable[[], Any], ...],
    prefix: Any,
) -> KeyFunction:
    """A function ``(cache, args, kwargs) -> key`` for the calls of a target; None where a call can't be keyed.

    Args:
        target: The function, whose annotations must be resolved unless there is a `key`.
        key: The user's own key of the arguments.
        versions: Asked at every call; what they answer is part of the key.
        prefix: Tells this cache's keys from others in the same store; None where it has its store to itself.
    """
    names: dict[str, Any] = {"slot": slot, "prefix": prefix, "user_key": key}
    parts = [] if prefix is None else ["prefix"]
    lines = ["def key_of(self, args, kwargs):", "    try:"]
    if key is not None:
        parts.append("slot(user_key(*args, **kwargs))")
    else:
        keyed, _ = keyed_names(target)
        lines += _unpacking(target)
        names["bound"] = _bound
        names["signature"] = target.signature
        for place, parameter in enumerate(target.parameters):
            if parameter.name in keyed:
                parts.append(_part(f"v{place}", parameter, target.hints.get(parameter.name, inspect.Parameter.empty)))
    for place, version in enumerate(versions):
        names[f"version{place}"] = version
        parts.append(f"slot(version{place}())")
    lines.append(f"        return ({''.join(part + ', ' for part in parts)})")
    lines += ["    except Exception as error:", "        return self.unkeyed(error, args)"]
    text = "\n".join(lines) + "\n"
    file = f"<mlguard key of {target.qualname} #{next(_numbers)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), names)  # noqa: S102 - a text made of the lines above and of parameter numbers
    return names["key_of"]  # type: ignore[no-any-return]


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
    tests = sorted(_PLAIN_TESTS[cls] for cls in plain_types(annotation)) if parameter.kind not in _VARIADIC else []
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
