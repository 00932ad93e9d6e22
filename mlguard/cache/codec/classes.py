"""The classes a function's results may be made of: those its return annotation reaches, and no others.

Bytes name a class by its number in that list only, so that no data can ask for a class, and the fingerprint of the list
stands in every entry: results of classes that have changed since are misses.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import typing
from collections.abc import Callable, Iterator
from copyreg import _slotnames  # type: ignore[attr-defined]
from enum import Enum, Flag
from typing import Any, Final

import numpy as np
import typing_extensions
from pydantic import BaseModel

from mlguard.target import spelt_out

__all__ = ["Known", "classes_in", "fingerprint", "known"]

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")  # in the repr of a function or an object; another in each process
_BOXES: Final = (typing.Required, typing.NotRequired, typing.Final)
_TO_BASE: Final[dict[type, Callable[[Any], Any]]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda value: bytes.__add__(value, b""),
}


class Known:
    """How values of one class are taken apart and put together again, without running code of the user's.

    Args:
        cls: The class.
        names: Its fields, in their order.
        take: The parts of a value: its state by field name first, then what else it has.
        make: A value from those parts; raises ValueError, TypeError or KeyError for parts that no value has.
    """

    def __init__(
        self, cls: type, names: tuple[str, ...], take: Callable[[Any], tuple[Any, ...]], make: Callable[..., Any]
    ) -> None:
        self.cls = cls
        self.names = names
        self.take = take
        self.make = make


def known(cls: type) -> Known | None:
    """How to write values of exactly this class; None: it isn't of a kind that can be."""
    if issubclass(cls, Enum):
        take = _flag_value if issubclass(cls, Flag) else _member_name
        return Known(cls, (), take, functools.partial(_member, cls))
    if issubclass(cls, BaseModel):
        if any(vars(parent).get("__slots__") for parent in cls.__mro__ if parent is not BaseModel):
            return None
        return Known(cls, tuple(cls.model_fields), _model_parts, functools.partial(_model, cls))
    if dataclasses.is_dataclass(cls):
        if cls.__base__ is not object and not dataclasses.is_dataclass(cls.__base__):
            return None  # what a class beneath it holds, its fields don't say
        names = tuple(field.name for field in dataclasses.fields(cls))
        return Known(cls, names, functools.partial(_dataclass_parts, names), functools.partial(_dataclass, cls, names))
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        names = _tuple_fields(cls)
        return Known(cls, names, _tuple_parts, functools.partial(_named_tuple, cls))
    for base in _TO_BASE:
        if cls is not base and issubclass(cls, base) and not issubclass(cls, np.generic) and not _slotnames(cls):
            return Known(cls, (), functools.partial(_base_value, base), functools.partial(_derived, cls, base))
    return None


def classes_in(annotation: Any) -> list[type]:
    """Every class of the user's that an annotation reaches, fields of fields included, in a fixed order."""
    found: dict[type, None] = {}
    seen: set[Any] = set()
    waiting = [annotation]
    while waiting:
        item = waiting.pop()
        try:
            if item in seen:
                continue
            seen.add(item)
        except TypeError:  # unhashable metadata; it holds no class
            pass
        if isinstance(item, type) and item.__module__ not in ("builtins", "numpy", "datetime"):
            found[item] = None
        waiting += reversed(list(_inside(item)))
    return list(found)


def fingerprint(annotation: Any) -> bytes:
    """8 bytes that change when the annotation, or a class it reaches, does; equal in every process."""
    lines = [_text(annotation)]
    for cls in classes_in(annotation):
        lines.append(f"{cls.__module__}.{cls.__qualname__}({','.join(base.__qualname__ for base in cls.__mro__)})")
        if issubclass(cls, Enum):
            lines += [f"{name}={_text(member.value)}" for name, member in cls.__members__.items()]
        lines += [f"{name}:{_text(hint)}" for name, hint in _fields(cls)]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8, person=b"mlguard schema 1").digest()


def _text(value: Any) -> str:
    return _ADDRESS.sub("", repr(value))


def _inside(annotation: Any) -> Iterator[Any]:
    meant = spelt_out(annotation)
    if meant is not annotation:
        yield meant
    elif isinstance(annotation, typing.NewType):
        yield annotation.__supertype__
    elif typing.get_origin(annotation) is typing.Annotated or typing.get_origin(annotation) in _BOXES:
        yield typing.get_args(annotation)[0]
    elif typing.get_origin(annotation) is typing.Literal:
        yield from map(type, typing.get_args(annotation))
    elif typing.get_origin(annotation) is not None:
        yield typing.get_origin(annotation)
        yield from typing.get_args(annotation)
    elif isinstance(annotation, typing.TypeVar):
        yield from (annotation.__bound__, *annotation.__constraints__)
    elif isinstance(annotation, type):
        yield from (hint for _, hint in _fields(annotation))


def _fields(cls: type) -> list[tuple[str, Any]]:
    if issubclass(cls, BaseModel):
        fields = cls.model_fields.items()
        return [(name, typing.Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)
                for name, field in fields]  # fmt: skip
    if dataclasses.is_dataclass(cls):
        hints = _hints(cls)
        return [(field.name, hints.get(field.name, Any)) for field in dataclasses.fields(cls)]
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        hints = _hints(cls)
        return [(name, hints.get(name, Any)) for name in _tuple_fields(cls)]
    return list(_hints(cls).items()) if typing_extensions.is_typeddict(cls) else []


def _tuple_fields(cls: Any) -> tuple[str, ...]:
    return tuple(cls._fields)


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing_extensions.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError):  # a name for type checkers only: what it means can't be stored, the rest can
        return dict(vars(cls).get("__annotations__", {}))


# Taking apart and putting together; both sides keep to what `mlguard.cache.copies` copies.


def _member_name(value: Enum) -> tuple[Any, ...]:
    if type(value).__members__.get(value._name_) is not value:
        raise ValueError("a value that is none of its members")
    return (value._name_,)


def _flag_value(value: Flag) -> tuple[Any, ...]:
    return (value._value_,)


def _member(cls: type[Enum], part: Any) -> Enum:
    return cls(part) if issubclass(cls, Flag) else cls.__members__[part]


def _model_parts(value: BaseModel) -> tuple[Any, ...]:
    cls = type(value)
    state = value.__dict__
    fields = {name: state[name] for name in cls.model_fields if name in state}
    return fields, value.__pydantic_extra__, value.__pydantic_private__, frozenset(value.__pydantic_fields_set__)


def _model(cls: type[BaseModel], fields: Any, extra: Any, private: Any, fields_set: Any) -> BaseModel:
    if not fields.keys() <= cls.model_fields.keys() or not (private or {}).keys() <= cls.__private_attributes__.keys():
        raise ValueError("fields that the class has not")
    if not fields_set <= fields.keys() | (extra or {}).keys() or (extra is not None and type(extra) is not dict):
        raise ValueError("fields that are set and are not there")
    model = cls.__new__(cls)
    object.__setattr__(model, "__dict__", fields)
    object.__setattr__(model, "__pydantic_fields_set__", set(fields_set))
    if not cls.__pydantic_root_model__:  # which has neither of the two
        object.__setattr__(model, "__pydantic_extra__", extra)
        object.__setattr__(model, "__pydantic_private__", private)
    return model


def _dataclass_parts(names: tuple[str, ...], value: Any) -> tuple[Any, ...]:
    if not getattr(value, "__dict__", {}).keys() <= set(names):
        raise ValueError("attributes that are no fields")
    return ({name: getattr(value, name) for name in names if hasattr(value, name)},)


def _dataclass(cls: type, names: tuple[str, ...], fields: Any) -> Any:
    if not fields.keys() <= set(names):
        raise ValueError("fields that the class has not")
    made: Any = object.__new__(cls)
    for name, part in fields.items():
        object.__setattr__(made, name, part)
    return made


def _tuple_parts(value: Any) -> tuple[Any, ...]:
    if getattr(value, "__dict__", None):
        raise ValueError("attributes of its own")
    return (tuple(value),)


def _named_tuple(cls: Any, parts: Any) -> Any:
    if len(parts) != len(cls._fields):
        raise ValueError("too many or too few fields")
    return tuple.__new__(cls, parts)


def _base_value(base: Any, value: Any) -> tuple[Any, ...]:
    if getattr(value, "__dict__", None):
        raise ValueError("attributes of its own")
    return (_TO_BASE[base](value),)


def _derived(cls: Any, base: Any, part: Any) -> Any:
    if type(part) is not base:
        raise TypeError("another type beneath")
    return base.__new__(cls, part)
