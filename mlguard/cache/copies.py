"""Copies that a cache can keep and hand out, so that no caller changes what another one gets.

`keep` takes a private copy of a result and says how to make a fresh one from it. What nobody can change is handed out
as it is. The content of an array lies in a `bytes` object: a view of that can't be made writable, by `setflags`, by
`.base` or otherwise, and every caller gets a view object of its own. Lists, dicts, sets, models and dataclasses are
built anew each time, around what they hold.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from copyreg import _slotnames  # type: ignore[attr-defined]
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from uuid import UUID

import numpy as np
from pydantic import BaseModel

from mlguard.cache.frames import FRAMES, Frame, HoldsObjectsError

__all__ = ["Kept", "TooLarge", "Uncopyable", "copyable", "keep", "weight"]

_EMPTY_BYTES: Final = sys.getsizeof(b"")
_PLACE: Final = 8  # bytes of one place in a list or tuple
_PAIR: Final = sys.getsizeof((0, 0))

Make: TypeAlias = Callable[[], Any]
_Kept: TypeAlias = "tuple[Any, Make | None, int]"  # as it is where there is nothing to make


class Uncopyable(Exception):  # noqa: N818 - an answer rather than an error: it never leaves the cache
    """The value, or something inside it, is of a type that nobody knows how to copy."""


class TooLarge(Exception):  # noqa: N818 - likewise
    """The value takes more bytes than the cache may hold; found before it was copied."""


class Kept(NamedTuple):
    """A result as a cache keeps it."""

    value: Any
    """The result itself, where it can't be changed."""
    make: Make | None
    """What makes a fresh result otherwise."""
    size: int
    """Estimated bytes."""

    def fresh(self) -> Any:
        return self.value if self.make is None else self.make()


def keep(value: Any, limit: int, *, writable: bool) -> Kept:
    """A private copy of a value.

    Args:
        value: What a function returned.
        limit: Bytes that it may take at most.
        writable: Whether arrays are handed out as writable copies instead of views.

    Raises:
        Uncopyable: No safe copy can be made.
        TooLarge: It takes more than `limit` bytes.
    """
    try:
        return Kept(*_Keeper(limit, writable).keep(value))
    except RecursionError:
        raise Uncopyable("a value that contains itself, or is nested too deeply") from None


def copyable(cls: type) -> bool:
    """Whether values of exactly this class can be kept."""
    return cls in _HOW or _how_else(cls) is not None


class _Keeper:
    """One walk through one value."""

    def __init__(self, limit: int, writable: bool) -> None:
        self.left = limit
        self.writable = writable

    def keep(self, value: Any) -> _Kept:
        cls = type(value)
        how = _HOW.get(cls) or _how_else(cls)
        if how is None:
            raise Uncopyable(cls.__qualname__)
        return how(self, value)

    def pay(self, size: int) -> int:
        self.left -= size
        if self.left < 0:
            raise TooLarge
        return size

    def plain(self, value: Any) -> _Kept:
        return value, None, self.pay(weight(value))

    def derived(self, value: Any) -> _Kept:
        if getattr(value, "__dict__", None):
            raise Uncopyable(f"{type(value).__qualname__} with attributes of its own")
        return self.plain(value)

    def array(self, value: np.ndarray[Any, Any]) -> _Kept:
        dtype = value.dtype
        if dtype.hasobject or dtype.kind in "OT":
            raise Uncopyable(f"array of dtype {dtype}")
        size = self.pay(value.nbytes)  # before it is copied
        order: Literal["C", "F"] = "F" if value.flags.fnc else "C"
        maker = _writable_array if self.writable else _readonly_array
        dtype = dtype if dtype.names is None else copy.deepcopy(dtype)
        make = functools.partial(maker, value.shape, dtype, value.tobytes(order), order)
        return None, make, size + self.pay(_weight_of_call(make) + sys.getsizeof(make.args[0]) + _EMPTY_BYTES)

    def frame(self, value: Any, how: Frame) -> _Kept:
        size_of, pack, unpack = how
        try:
            size = self.pay(size_of(value))
        except HoldsObjectsError as error:
            raise Uncopyable(str(error)) from None
        return self.called(size, unpack, pack(value))

    def items(self, make: Callable[[list[Any]], Any], values: Any, *, frozen: bool = False) -> _Kept:
        """A container; a frozen one is handed out as it is, unless it holds something that has to be made."""
        kept, fresh, size = self.parts(values)
        if frozen and not fresh:
            whole = make(kept)
            return whole, None, size + self.pay(max(0, sys.getsizeof(whole) - _PLACE * len(kept)))
        return self.called(size, _rebuilt, make, kept, fresh)

    def parts(self, values: Any) -> tuple[list[Any], tuple[tuple[int, Make], ...], int]:
        kept: list[Any] = []
        fresh: list[tuple[int, Make]] = []
        size = 0
        for place, item in enumerate(values):
            value, renew, item_size = self.keep(item)
            kept.append(value)
            size += item_size + self.pay(_PLACE)
            if renew is not None:
                fresh.append((place, renew))
        made = tuple(fresh)
        return kept, made, size + (self.pay(sys.getsizeof(made) + _PAIR * len(made)) if made else 0)

    def called(self, size: int, function: Callable[..., Any], *arguments: Any) -> _Kept:
        """What is made by a call, beside parts that are paid for."""
        make = functools.partial(function, *arguments)
        lists = sum(sys.getsizeof(each) - _PLACE * len(each) for each in arguments if type(each) is list)
        return None, make, size + self.pay(_weight_of_call(make) + lists)

    def mapping(self, make: Callable[[Any], Any], value: dict[Any, Any]) -> _Kept:
        keys: Any = _shared_names(value)
        if keys is not None:
            keys_size = self.pay(sys.getsizeof(keys))
        else:
            keys, renew_keys, keys_size = self.items(tuple, value, frozen=True)
            if renew_keys is not None:
                raise Uncopyable("a dict with keys that can be changed")
        kept, fresh, size = self.parts(value.values())
        _, values, size = self.called(size, _rebuilt, list, kept, fresh)
        return self.called(keys_size + size, _mapped, make, keys, values)

    def model(self, value: BaseModel) -> _Kept:
        cls = type(value)
        parts = (
            {name: value.__dict__[name] for name in cls.model_fields if name in value.__dict__},
            value.__pydantic_extra__,
            value.__pydantic_private__,
        )
        names: Any = _shared_names(value.__pydantic_fields_set__)
        if names is None:
            names = tuple(value.__pydantic_fields_set__)
            size = self.pay(sum(map(sys.getsizeof, names)))
        else:
            size = 0
        kept, fresh, parts_size = self.parts(parts)
        _, values, size = self.called(size + parts_size, _rebuilt, list, kept, fresh)
        return self.called(size + self.pay(sys.getsizeof(names)), _new_model, cls, names, values)

    def dataclass(self, value: Any) -> _Kept:
        cls = type(value)
        names = [field.name for field in dataclasses.fields(cls)]
        if not getattr(value, "__dict__", {}).keys() <= set(names):
            raise Uncopyable(f"{cls.__qualname__} with attributes that are no fields")
        kept, fresh, size = self.parts([getattr(value, name) for name in names])
        _, values, size = self.called(size + self.pay(sys.getsizeof(names)), _rebuilt, list, kept, fresh)
        return self.called(size, _new_dataclass, cls, tuple(names), values)

    def named_tuple(self, value: Any) -> _Kept:
        if getattr(value, "__dict__", None):
            raise Uncopyable(f"{type(value).__qualname__} with attributes of its own")
        return self.items(functools.partial(tuple.__new__, type(value)), value, frozen=True)


_names: dict[str, str] = {}
_MOST_NAMES: Final = 4096


def _shared_names(values: Collection[Any]) -> tuple[str, ...] | None:
    """Names of fields and columns, one object for all that are equal; None: they are not, or there are too many."""
    if len(values) > 256 or set(map(type, values)) - {str}:
        return None
    if len(_names) > _MOST_NAMES and not _names.keys() >= set(values):
        return None
    return tuple([_names.setdefault(value, value) for value in values])


def weight(value: Any) -> int:
    """Bytes of a value that holds no other; nothing for those of which Python has only one."""
    cls = type(value)
    if value is None or cls is bool or (cls is int and -6 < value < 257) or (cls is str and len(value) < 2):
        return 0
    return sys.getsizeof(value, 64)


def _weight_of_call(call: functools.partial[Any]) -> int:
    return sys.getsizeof(call) + sys.getsizeof(call.args) + sys.getsizeof(call.keywords)


def _readonly_array(shape: tuple[int, ...], dtype: np.dtype[Any], content: bytes, order: Any) -> np.ndarray[Any, Any]:
    # The fields of a structured dtype can be renamed in place, so each array gets a dtype of its own.
    return np.ndarray(shape, dtype if dtype.names is None else copy.deepcopy(dtype), content, 0, None, order)


def _writable_array(shape: tuple[int, ...], dtype: np.dtype[Any], content: bytes, order: Any) -> np.ndarray[Any, Any]:
    return _readonly_array(shape, dtype, content, order).copy(order)


def _rebuilt(make: Callable[[list[Any]], Any], kept: list[Any], fresh: tuple[tuple[int, Make], ...]) -> Any:
    values = kept.copy()
    for place, renew in fresh:
        values[place] = renew()
    return values if make is list else make(values)


def _mapped(make: Callable[[Any], Any], keys: tuple[Any, ...], values: Make) -> Any:
    return make(zip(keys, values(), strict=True))


def _new_model(cls: type[BaseModel], fields_set: tuple[str, ...], parts: Make) -> BaseModel:
    fields, extra, private = parts()
    model = cls.__new__(cls)
    object.__setattr__(model, "__dict__", fields)
    object.__setattr__(model, "__pydantic_fields_set__", set(fields_set))
    if not cls.__pydantic_root_model__:  # which has neither of the two
        object.__setattr__(model, "__pydantic_extra__", extra)
        object.__setattr__(model, "__pydantic_private__", private)
    return model


def _new_dataclass(cls: type, names: tuple[str, ...], values: Make) -> Any:
    made: Any = object.__new__(cls)
    for name, value in zip(names, values(), strict=True):
        object.__setattr__(made, name, value)
    return made


def _how_else(cls: type) -> Callable[[_Keeper, Any], _Kept] | None:
    if issubclass(cls, Enum):
        return _Keeper.plain
    if issubclass(cls, BaseModel):
        return (
            None
            if any(vars(parent).get("__slots__") for parent in cls.__mro__ if parent is not BaseModel)
            else _Keeper.model
        )
    if dataclasses.is_dataclass(cls):
        return _Keeper.dataclass if cls.__base__ is object or dataclasses.is_dataclass(cls.__base__) else None
    if issubclass(cls, np.generic):
        return None if issubclass(cls, np.void | np.object_) or cls.__module__ != "numpy" else _Keeper.plain
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return _Keeper.named_tuple
    if (kind := (cls.__module__.partition(".")[0], cls.__name__)) in FRAMES:
        return functools.partial(_Keeper.frame, how=FRAMES[kind])
    if issubclass(cls, str | int | float | bytes) and not _slotnames(cls):
        return _Keeper.derived
    return None


_UNCHANGEABLE: Final = (
    type(None), bool, int, float, complex, str, bytes, range, date, time, datetime, timedelta, UUID, Decimal, Fraction,
    PurePosixPath, PureWindowsPath, PosixPath, WindowsPath, IPv4Address, IPv6Address, IPv4Network, IPv6Network,
)  # fmt: skip

_HOW: Final[dict[type, Callable[[_Keeper, Any], _Kept]]] = {
    **dict.fromkeys(_UNCHANGEABLE, _Keeper.plain),
    np.ndarray: _Keeper.array,
    list: lambda keeper, value: keeper.items(list, value),
    tuple: lambda keeper, value: keeper.items(tuple, value, frozen=True),
    set: lambda keeper, value: keeper.items(set, value),
    frozenset: lambda keeper, value: keeper.items(frozenset, value, frozen=True),
    deque: lambda keeper, value: keeper.items(functools.partial(deque, maxlen=value.maxlen), value),
    bytearray: lambda keeper, value: (None, functools.partial(bytearray, bytes(value)), keeper.pay(len(value) + 64)),
    dict: lambda keeper, value: keeper.mapping(dict, value),
    OrderedDict: lambda keeper, value: keeper.mapping(OrderedDict, value),
}
