"""What a class is called inside a key: a number in this process, a name and a fingerprint where processes share keys.

Inside one process every class gets a number of its own: names may repeat, and a class that is defined anew, by a reload
or in a factory, may behave differently under the same name and with the same fields. Another process can't know that
number, so a shared store's keys spell the class out: its module, its name, and what its fields are declared as. What
its methods do is not in it; that is what `model_version` is for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import itertools
import re
import sys
import typing
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from pydantic import BaseModel

if TYPE_CHECKING:
    from mlguard.cache.codec import Codec
    from mlguard.target import Target

__all__ = ["FORMAT", "NotKeyed", "fingerprint_of", "identity_of", "is_marked", "keyed_fields", "number_of", "spelt"]

FORMAT: Final = b"mlguard key 2"
"""The version of what keys are made of; a change of it changes every key."""

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


class NotKeyed:
    """Marks a parameter or a field that must not make two calls different, such as a request id.

    ``request_id: Annotated[str, NotKeyed]``, outermost, on a parameter of the guarded function or on a field of a
    model, dataclass or named tuple. What is marked is validated like anything else and reaches the function, but is no
    part of the cache key: the cached result of one request id answers another.
    """


def is_marked(metadata: Iterable[Any]) -> bool:
    """Whether `NotKeyed`, the class or an instance, is among the metadata of an `Annotated`."""
    return any(item is NotKeyed or isinstance(item, NotKeyed) for item in metadata)


def keyed_fields(cls: type) -> tuple[str, ...]:
    """The fields of a model, dataclass or named tuple that are part of its key.

    Raises:
        NameError: An annotation of the class names something that is not defined yet.
    """
    if issubclass(cls, BaseModel):
        return tuple(name for name, field in cls.model_fields.items() if not is_marked(field.metadata))
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else list(cls._fields)  # type: ignore[attr-defined]
    return tuple(name for name in names if not is_marked(getattr(hints.get(name), "__metadata__", ())))


_numbers = itertools.count(1)
_numbered: WeakKeyDictionary[type, bytes] = WeakKeyDictionary()


def number_of(cls: type) -> bytes:
    """A name that no other class of this process ever has."""
    name = _numbered.get(cls)
    if name is None:
        name = _numbered.setdefault(cls, b"%d:" % next(_numbers))
    return name


_spelt: WeakKeyDictionary[type, bytes] = WeakKeyDictionary()


def spelt(cls: type) -> bytes:
    """Module, name and fingerprint of the fields: the same in every process that runs the same code."""
    name = _spelt.get(cls)
    if name is None:
        text = "\n".join([f"{cls.__module__}:{cls.__qualname__}", *_fields_as_text(cls)])
        digest = hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).digest()
        name = _spelt.setdefault(cls, b"%d:" % len(digest) + digest)
    return name


def fingerprint_of(code: CodeType) -> str:
    """A digest of what a function's text does, without line numbers; the same in every process of one Python."""
    return hashlib.blake2b(repr(_code_as_data(code)).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


def _fields_as_text(cls: type) -> list[str]:
    if issubclass(cls, Enum):
        return [f"{name}={_shown(member._value_)}" for name, member in cls.__members__.items()]
    if issubclass(cls, BaseModel):
        return [
            f"{name}: {_shown(field.annotation)} {_shown(field.metadata)}" for name, field in cls.model_fields.items()
        ]
    if dataclasses.is_dataclass(cls) or hasattr(cls, "_fields"):
        hints = typing.get_type_hints(cls, include_extras=True)
        return [f"{name}: {_shown(annotation)}" for name, annotation in hints.items()]
    return []


def _shown(value: Any) -> str:
    # What differs from process to process goes; a repr that differs all the same costs hits, never a wrong one.
    return _ADDRESS.sub("", repr(value))


def _code_as_data(code: CodeType) -> tuple[Any, ...]:
    constants = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            constants.append(_code_as_data(constant))
        elif isinstance(constant, frozenset):  # in an order that changes with the process
            constants.append(("frozenset", sorted(map(repr, constant))))
        else:
            constants.append((type(constant).__name__, repr(constant)))
    named = code.co_argcount + code.co_kwonlyargcount
    handlers = code.co_exceptiontable.hex()
    kinds = code.co_flags, code.co_posonlyargcount, code.co_kwonlyargcount
    return code.co_code.hex(), handlers, constants, code.co_names, code.co_freevars, code.co_varnames[:named], kinds


def identity_of(
    target: Target,
    codec: Codec,
    how: Sequence[Any],
    *,
    encode: Callable[[Any], bytes] | None = None,
    key: Callable[..., Any] | None = None,
) -> list[bytes]:
    """What tells a function's entries in a shared store from all others', beside its model version.

    Its module, name and own text, what it closes over, what its parameters and its result are declared as, and the
    formats of key and value. A script is known by its file: every script's module is called ``__main__``.

    Args:
        target: The function.
        codec: What writes its results.
        how: The settings that decide what a key is made of and which results are stored.
        encode: What writes the values it closes over; None: they do not count.
        key: The user's own key of the arguments.
    """
    function = inspect.unwrap(target.function)
    module = str(function.__module__) if target.script is None else f"__main__ {target.script}"
    hints = [f"{name}: {_shown(annotation)}" for name, annotation in target.hints.items()]
    text = [sys.byteorder, module, target.qualname, repr(tuple(how)), *sorted(hints)]
    bodies = _body_of(target.function, encode, ()), _body_of(key, encode, ())
    return [FORMAT, codec.fingerprint, *bodies, *[part.encode("utf-8", "backslashreplace") for part in text]]


_FILLED: Final = (list, set, dict, deque, bytearray)  # what functions close over in order to fill it


def _body_of(function: Any, encode: Callable[[Any], bytes] | None, seen: tuple[Any, ...]) -> bytes:
    """A digest of a function's text and of what it closes over, its own wrappers included."""
    if hasattr(function, "guard"):  # a guarded function is what it guards, under whatever policy
        function = inspect.unwrap(function)
    if any(function is each for each in seen):
        return b"itself"
    if isinstance(function, MethodType):
        return _digest(_body_of(function.__func__, encode, seen), _value_of(function.__self__, encode, seen))
    code = getattr(function, "__code__", None)
    if code is None:
        return b"" if function is None else f"{type(function).__module__}.{type(function).__qualname__}".encode()
    parts = [fingerprint_of(code).encode()]
    for cell in function.__closure__ or () if encode is not None else ():
        try:
            content = cell.cell_contents
        except ValueError:  # what it names is not there yet
            continue
        parts.append(_value_of(content, encode, (*seen, function)))
    return _digest(*parts)


def _value_of(value: Any, encode: Any, seen: tuple[Any, ...]) -> bytes:
    if isinstance(value, FunctionType | MethodType):
        return _body_of(value, encode, seen)
    if not isinstance(value, _FILLED):
        with contextlib.suppress(Exception):  # no content that could be written: its class is all there is to say
            return _digest(b"value", encode(value))
    return f"{type(value).__module__}.{type(value).__qualname__}".encode()


def _digest(*parts: bytes) -> bytes:
    joined = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    return hashlib.blake2b(joined, digest_size=16).digest()
