"""The named dimensions in models and dataclasses that were built before the call: pydantic does not look at them again.

A value is walked along its annotation, so a list of numbers is never looked through.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
import weakref
from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np
import typing_extensions
from pydantic import BaseModel, GetCoreSchemaHandler, ValidationInfo, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from mlguard.validation.array import Array, Check, array_checks, check_of
from mlguard.validation.dimensions import CALL, LATER, Dims, dims_of
from mlguard.validation.tables.marks import TableMark

__all__ = ["with_instances"]

_Walk = Callable[[Any, Dims, str], None]
_UNIONS = (typing.Union, types.UnionType)
_CONTAINERS = (list, tuple, set, frozenset, collections.deque)  # an iterator would be used up
_walks: weakref.WeakKeyDictionary[type, dict[str, _Walk]] = weakref.WeakKeyDictionary()


def with_instances(annotation: Any, schema: CoreSchema, handler: GetCoreSchemaHandler) -> CoreSchema:
    """The schema of an annotation; where it holds models with named dimensions, it binds those of instances too."""
    if not any(check.names for check in array_checks(schema, handler)) or not _holds_instances(schema):
        return schema
    walk = _walk_of(annotation)
    if walk is None:
        return schema
    if _has_union(schema, handler, set()) and _named(array_checks(schema, handler)) <= _seen_by(walk, set()):
        return core_schema.with_info_wrap_validator_function(_Bind(walk).bind_alone, schema)
    return core_schema.with_info_after_validator_function(_Bind(walk).bind, schema)


class _Bind:
    def __init__(self, walk: _Walk) -> None:
        self._walk = walk

    def bind(self, value: Any, info: ValidationInfo) -> Any:
        self._walk(value, dims_of(info), "")
        return value

    def bind_alone(self, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        """Binds the names of what came of it only: in a union, branches that were tried and not taken bind nothing."""
        context: Any = info.context
        if not dims_of(info):
            return self.bind(handler(value), info)
        context[CALL] = LATER
        try:
            value = handler(value)
        finally:
            context[CALL] = 0
        return self.bind(value, info)


def _has_union(schema: Any, handler: GetCoreSchemaHandler, seen: set[str]) -> bool:
    if isinstance(schema, dict):
        if schema.get("type") == "union":
            return True
        if schema.get("type") == "definition-ref":
            ref = schema["schema_ref"]
            if ref in seen:
                return False
            seen.add(ref)
            return _has_union(handler.resolve_ref_schema(cast(CoreSchema, schema)), handler, seen)
        rest = [part for key, part in schema.items() if key not in ("metadata", "serialization", "default")]
        return any(_has_union(part, handler, seen) for part in rest)
    return isinstance(schema, list | tuple) and any(_has_union(part, handler, seen) for part in schema)


def _named(checks: Iterable[Check]) -> set[Any]:
    return {(type(check), check.names) for check in checks if check.names}


def _seen_by(walk: Any, seen: set[Any]) -> set[Any]:
    """The arrays that a walk comes to, as far as annotations tell."""
    if isinstance(walk, _Choice):
        return _named(walk.checks)
    if isinstance(walk, _Instance):
        if walk.kind in seen:
            return set()
        seen.add(walk.kind)
    return set().union(*(_seen_by(part, seen) for part in walk.parts()))


def _walk_of(annotation: Any) -> _Walk | None:
    """What looks at a value of this annotation; None where it can hold no array with a shape."""
    if isinstance(annotation, typing.TypeVar) or _is_instance_type(annotation):
        return _Instance(annotation)
    if isinstance(annotation, typing_extensions.TypeAliasType) or hasattr(annotation, "__value__"):
        return _walk_of(annotation.__value__)
    if hasattr(annotation, "__supertype__"):
        return _walk_of(annotation.__supertype__)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        checks = [check_of(mark, parts[0]) for mark in parts[1:] if isinstance(mark, Array)]
        checks += [mark.check_of(parts[0]) for mark in parts[1:] if isinstance(mark, TableMark)]
        inner = _walk_of(parts[0])
        if not checks or inner is None:
            return _Choice(checks) if checks else inner
        return _All([_Choice(checks), inner])
    if origin in _UNIONS:
        return _walk_of_union(parts)
    if _is_instance_type(origin):
        return _Instance(origin, dict(zip(getattr(origin, "__parameters__", ()), parts, strict=False)))
    if isinstance(annotation, type) and hasattr(annotation, "__annotations__") and issubclass(annotation, dict | tuple):
        return _keyed(_hints(annotation), getattr(annotation, "_fields", None))
    if not isinstance(origin, type):
        return None
    if issubclass(origin, collections.abc.Mapping):
        walk = _walk_of(parts[-1])
        return None if walk is None else _Each(walk)
    if issubclass(origin, tuple) and parts[-1:] != (...,):
        return _keyed(dict(enumerate(parts)), range(len(parts)))
    if issubclass(origin, Iterable) and parts and origin is not np.ndarray:
        walk = _walk_of(parts[0])
        return None if walk is None else _Each(walk)
    return None


def _walk_of_union(parts: Iterable[Any]) -> _Walk | None:
    walks = [walk for walk in map(_walk_of, parts) if walk is not None]
    arrays = [check for walk in walks if isinstance(walk, _Choice) for check in walk.checks]
    others = [walk for walk in walks if not isinstance(walk, _Choice)]
    if arrays:
        others.append(_Choice(arrays))
    return _All(others) if len(others) > 1 else others[0] if others else None


class _Choice:
    """An array, or a sequence, that is one of these."""

    def __init__(self, checks: list[Check]) -> None:
        self.checks = checks

    def __call__(self, value: Any, dims: Dims, path: str) -> None:
        refused: PydanticCustomError | None = None
        for check in self.checks:
            try:
                if check.bind(value, dims):
                    return
            except PydanticCustomError as error:
                if refused is None or error.type == "array_dimension":
                    refused = _placed(error, path)
        if refused is not None:
            raise refused


class _All:
    """A union of several sorts: each looks at what is its own."""

    def __init__(self, walks: list[_Walk]) -> None:
        self._walks = walks

    def __call__(self, value: Any, dims: Dims, path: str) -> None:
        for walk in self._walks:
            walk(value, dims, path)

    def parts(self) -> Iterable[_Walk]:
        return self._walks


class _Each:
    """The items of a list, or the values of a dict."""

    def __init__(self, walk: _Walk) -> None:
        self._walk = walk

    def parts(self) -> Iterable[_Walk]:
        return [self._walk]

    def __call__(self, value: Any, dims: Dims, path: str) -> None:
        if isinstance(value, collections.abc.Mapping):
            entries: Iterable[tuple[Any, Any]] = value.items()
        elif isinstance(value, _CONTAINERS):
            entries = enumerate(value)
        else:
            return
        for key, item in entries:
            self._walk(item, dims, _inside(path, key))


class _Keyed:
    """Entries that have a type each: a tuple, a named tuple or a TypedDict."""

    def __init__(self, walks: dict[Any, _Walk]) -> None:
        self._walks = walks

    def parts(self) -> Iterable[_Walk]:
        return self._walks.values()

    def __call__(self, value: Any, dims: Dims, path: str) -> None:
        if not isinstance(value, dict | tuple):
            return
        for key, walk in self._walks.items():
            if isinstance(value, dict):
                if key in value:
                    walk(value[key], dims, _inside(path, key))
            elif isinstance(key, int) and key < len(value):
                walk(value[key], dims, _inside(path, key))


def _keyed(hints: dict[Any, Any], order: Iterable[Any] | None) -> _Walk | None:
    names = list(hints) if order is None else list(order)
    walks = {}
    for index, name in enumerate(names):
        walk = _walk_of(_without_required(hints.get(name, Any)))
        if walk is not None:
            walks[name if order is None else index] = walk
    return _Keyed(walks) if walks else None


class _Instance:
    """An instance of a model or a dataclass; its own class says what it holds, which may be a subclass of this one."""

    def __init__(self, kind: Any, meant: dict[Any, Any] | None = None) -> None:
        self.kind = kind
        self._meant = meant
        """What the type variables of a generic dataclass stand for; a generic model is a class of its own."""
        self._own: dict[str, _Walk] | None = None

    def __call__(self, value: Any, dims: Dims, path: str) -> None:
        kind = type(value)
        if _is_instance_type(kind):
            for name, walk in (self._walks() if kind is self.kind else _walks_of(kind)).items():
                walk(getattr(value, name, None), dims, _inside(path, name))

    def parts(self) -> Iterable[_Walk]:
        return self._walks().values() if _is_instance_type(self.kind) else ()

    def _walks(self) -> dict[str, _Walk]:
        if not self._meant:
            return _walks_of(self.kind)
        if self._own is None:
            hints = _hints(self.kind).items()
            found = {name: _walk_of(_filled_in(annotation, self._meant)) for name, annotation in hints}
            self._own = {name: walk for name, walk in found.items() if walk is not None}
        return self._own


def _walks_of(kind: type) -> dict[str, _Walk]:
    walks = _walks.get(kind)
    if walks is None:
        found = {name: _walk_of(annotation) for name, annotation in _annotations(kind).items()}
        walks = _walks[kind] = {name: walk for name, walk in found.items() if walk is not None}
    return walks


def _annotations(kind: Any) -> dict[str, Any]:
    fields = getattr(kind, "__pydantic_fields__", None)
    if fields is None:
        return _hints(kind)
    return {
        name: typing.Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        for name, field in fields.items()
    }


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing_extensions.get_type_hints(kind, include_extras=True)
    except NameError:  # a name that only the function around the class knows
        return {}


def _filled_in(annotation: Any, meant: dict[Any, Any]) -> Any:
    """An annotation with what its type variables stand for."""
    if isinstance(annotation, typing.TypeVar):
        return meant.get(annotation, annotation)
    variables = getattr(annotation, "__parameters__", ()) if typing.get_origin(annotation) is not None else ()
    return annotation[tuple(meant.get(each, each) for each in variables)] if variables else annotation


def _without_required(annotation: Any) -> Any:
    """What a TypedDict says of a key, without Required, NotRequired and ReadOnly."""
    while getattr(typing.get_origin(annotation), "_name", "") in ("Required", "NotRequired", "ReadOnly"):
        annotation = typing.get_args(annotation)[0]
    return annotation


def _is_instance_type(annotation: Any) -> bool:
    return isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation))


def _holds_instances(schema: Any) -> bool:
    if isinstance(schema, dict):
        return schema.get("type") in ("model", "dataclass", "definition-ref") or any(
            _holds_instances(part) for key, part in schema.items() if key not in ("metadata", "serialization")
        )
    return isinstance(schema, list | tuple) and any(_holds_instances(part) for part in schema)


def _inside(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _placed(error: PydanticCustomError, path: str) -> PydanticCustomError:
    """The same error with the path to the array, which pydantic does not know."""
    kind, words = cast(Any, error.type), cast(Any, error.message_template)
    return PydanticCustomError(kind, words, {**(error.context or {}), "at": path} if path else error.context)
