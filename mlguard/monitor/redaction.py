"""What an event may not show, as the schema says it: `Redacted`, pydantic's secrets, fields with ``repr=False``.

Also the reverse, for error messages: the hidden values of a call are looked for in the text and taken out.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import itertools
import json
import re
import typing
import uuid
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any, Final
from weakref import WeakKeyDictionary

import typing_extensions
from pydantic import BaseModel, Secret, SecretBytes, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import core_schema

from mlguard.validation.array import Array
from mlguard.validation.tables.marks import TableMark

__all__ = ["HIDDEN", "Redacted", "Words", "fields_of", "held_by", "hides", "scrubbed"]

HIDDEN: Final = "[redacted]"
WITHHELD: Final = "[withheld: it may contain redacted values]"

_SECRETS = (SecretStr, SecretBytes, Secret)
_PIECE = 6  # characters of a hidden text that may not survive in a message
_MOST_VALUES = 1_000  # looked through in the arguments of one failed call


class Redacted:
    """Marks a parameter, a result or a field whose value no event may show: ``ssn: Annotated[str, Redacted]``.

    The event says ``"[redacted]"`` in its place, and the value is taken out of the exception messages that the event
    quotes. pydantic's `SecretStr`, `SecretBytes` and `Secret`, and fields declared with ``Field(repr=False)``, are
    treated the same without a mark.
    """


def hides(annotation: Any, _inside: frozenset[int] = frozenset()) -> bool:
    """True where the annotation, or a part of it that is no field of a class, is marked or is a secret."""
    if id(annotation) in _inside:
        return False  # a recursive alias, such as pydantic's JsonValue
    if annotation is Redacted or isinstance(annotation, Redacted):
        return True
    if isinstance(annotation, FieldInfo):
        return not annotation.repr
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return issubclass(annotation, _SECRETS)
    if typing.get_origin(annotation) in _SECRETS:
        return True
    if _is_alias(annotation):
        _inside |= {id(annotation)}
    return any(hides(part, _inside) for part in _parts(annotation))


_fields: WeakKeyDictionary[type, tuple[tuple[str, bool], ...]] = WeakKeyDictionary()


def fields_of(cls: type) -> tuple[tuple[str, bool], ...]:
    """The fields of a pydantic model or dataclass, each with whether it is hidden; nothing for another class."""
    known = _fields.get(cls)
    if known is None:
        declared = [] if issubclass(cls, tuple) else _declared(cls)
        known = _fields[cls] = tuple((name, hidden) for name, _, _, hidden in declared)
    return known


def held_by(value: Any, name: str) -> Any:
    """A field's value as it is stored, so that no property of the user's runs."""
    held = getattr(value, "__dict__", None)
    return getattr(value, name, None) if held is None else held.get(name)


class Words:
    """The names that schemas of a function use, and those of them that are hidden.

    A violation's location can hold keys of the caller's own dicts; only names that the schema knows are shown.
    """

    def __init__(self, hints: Mapping[str, Any], parameters: Iterable[str]) -> None:
        self._first = {"return", "output", *parameters}
        self.known = {"[key]", *_TAGS, *self._first}
        self.hidden = {name for name, annotation in hints.items() if hides(annotation)}
        self._hidden_by_place = False  # pydantic names the fields of a named tuple by their number
        self._seen: set[Any] = set()
        for annotation in hints.values():
            self._walk(annotation)
            if typing.get_origin(annotation) in (typing.Unpack, typing_extensions.Unpack):
                self._first.update(name for part in _parts(annotation) for name in getattr(part, "__annotations__", ()))

    def _walk(self, annotation: Any) -> None:
        if isinstance(annotation, type) and not typing.get_args(annotation):
            if annotation in self._seen:
                return
            self._seen.add(annotation)
            declared = _declared(annotation)
            if declared:
                self.known.add(annotation.__name__)
            for name, alias, inner, hidden in declared:
                names = {name, alias} if alias else {name}
                self.known |= names
                if hidden:
                    self.hidden |= names
                    self._hidden_by_place |= issubclass(annotation, tuple)
                self._walk(inner)
        elif isinstance(annotation, Array):
            self.known.update(map(str, annotation.columns or ()))
        elif id(annotation) not in self._seen:
            if _is_alias(annotation):
                self._seen.add(id(annotation))
            for part in (typing.get_origin(annotation), *_parts(annotation)):
                if part is not None:
                    self._walk(part)

    def violation(self, found: Mapping[str, Any], *, foreign: bool = False) -> dict[str, str]:
        """One entry of pydantic's ``errors()`` without any value: dotted place, type, message.

        Args:
            found: The entry.
            foreign: Another schema than the function's own was broken. What that one hides is unknown, so its message
                is not quoted.
        """
        place = [part if isinstance(part, int) or part in self.known else "*" for part in found.get("loc", ())]
        kind = str(found.get("type", ""))
        message = str(found.get("msg", ""))
        numbered = self._hidden_by_place and any(isinstance(part, int) for part in place)
        if numbered or self.hidden.intersection(place) or (self.hidden and kind not in _WITHOUT_VALUES):
            message = HIDDEN
        elif foreign or (place and place[0] not in self._first):
            message = kind
        elif kind == "union_tag_invalid":  # the one message of pydantic's own that quotes the input
            message = "Input tag does not match any of the expected tags"
        return {"loc": ".".join(map(str, place)), "type": kind, "msg": message[:200]}


def scrubbed(text: str, values: Iterable[tuple[Any, bool]], keys: Collection[str] = ()) -> str:
    """The text without the hidden values among these arguments.

    Texts and numbers are replaced where they stand; where a piece of a hidden text remains, or where a hidden value is
    something whose traces can't be recognised (an array, a model), the whole text is withheld.

    Args:
        text: An exception's message.
        values: The arguments of the call, each with whether its parameter is hidden.
        keys: Those under which a dict holds hidden values; at run time nothing tells a typed dict from another one.
    """
    forms: set[str] = set()
    left = [_MOST_VALUES]
    if not all(_collect(value, hidden, forms, left, 0, keys) for value, hidden in values):
        return WITHHELD
    for form in sorted(forms, key=len, reverse=True):
        if len(form) >= 4 and not form.replace(".", "").isdigit():
            text = text.replace(form, HIDDEN)
        else:  # the letter M is hidden where it stands alone, not inside every word
            text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", HIDDEN, text)
    rest = text.replace(HIDDEN, "\n")
    for form in forms:
        if any(form[start : start + _PIECE] in rest for start in range(len(form) - _PIECE + 1)):
            return WITHHELD
    return text


def _collect(value: Any, hidden: bool, forms: set[str], left: list[int], depth: int, keys: Collection[str]) -> bool:
    """Gathers how hidden values may be spelt; False where one can't be recognised in a text."""
    left[0] -= 1
    if left[0] < 0 or depth > 8:
        return False
    if isinstance(value, _SECRETS):
        return _collect(value.get_secret_value(), True, forms, left, depth + 1, keys)
    if hidden:
        return _spell(value, forms)
    if isinstance(value, str | bytes | int | float) or value is None:
        return True
    if isinstance(value, Mapping):
        return all(
            _collect(item, isinstance(key, str) and key in keys, forms, left, depth + 1, keys)
            for key, item in value.items()
        )
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        marks = [hidden for *_, hidden in _declared(type(value))]
        return all(
            _collect(item, secret, forms, left, depth + 1, keys)
            for item, secret in itertools.zip_longest(value, marks, fillvalue=False)
        )
    if isinstance(value, list | tuple | set | frozenset):
        return all(_collect(item, False, forms, left, depth + 1, keys) for item in value)
    return all(
        _collect(held_by(value, name), secret, forms, left, depth + 1, keys) for name, secret in fields_of(type(value))
    )


def _spell(value: Any, forms: set[str]) -> bool:
    if value is None or isinstance(value, bool) or (isinstance(value, str | bytes) and not value):
        return True
    if isinstance(value, bytes | bytearray):
        forms.update((repr(bytes(value))[2:-1], bytes(value).decode("utf-8", "replace"), bytes(value).hex()))
    elif isinstance(value, str) and not isinstance(value, Enum):
        forms.update((value, repr(value)[1:-1], ascii(value)[1:-1], json.dumps(value)[1:-1]))
    elif isinstance(value, int | float | decimal.Decimal | datetime.date | datetime.time | uuid.UUID | Enum):
        forms.update((str(value), repr(value)))
        if isinstance(value, Enum):
            return _spell(value.value, forms)
    else:
        return False
    return True


def _declared(cls: type) -> list[tuple[str, str | None, Any, bool]]:
    """Name, alias, annotation and whether it is hidden, of every field that a class declares."""
    if issubclass(cls, BaseModel):
        return [
            (
                name,
                field.alias,
                typing.Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation,
                not field.repr or hides(field.annotation) or any(map(hides, field.metadata)),
            )
            for name, field in cls.model_fields.items()
        ]
    if (
        dataclasses.is_dataclass(cls)
        or typing_extensions.is_typeddict(cls)
        or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
    ):
        try:
            hints = typing.get_type_hints(cls, include_extras=True)
        except NameError:  # what can't be read can't be trusted either
            return [(name, None, None, True) for name in getattr(cls, "__annotations__", {})]
        if issubclass(cls, tuple):
            fields: tuple[str, ...] = getattr(cls, "_fields", ())
            return [(name, None, hints.get(name, Any), hides(hints.get(name, Any))) for name in fields]
        shown = {field.name: field.repr for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
        return [(name, None, hint, hides(hint) or not shown.get(name, True)) for name, hint in hints.items()]
    return []


def _parts(annotation: Any) -> tuple[Any, ...]:
    if _is_alias(annotation):
        return (annotation.__value__,)
    if isinstance(annotation, TableMark):
        return (annotation.model,)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ()
    if origin is typing.Annotated:
        return (*annotation.__metadata__, parts[0])
    return (origin, *parts) if _is_alias(origin) else parts


def _is_alias(annotation: Any) -> bool:
    """``type X = ...``; by name, because before Python 3.12 the class is one of typing_extensions."""
    return type(annotation).__name__ == "TypeAliasType"


# What pydantic puts into the location of a union's member.
_TAGS = ("int", "float", "str", "bool", "bytes", "none", "list", "tuple", "dict", "set", "date", "datetime", "decimal")

# Types of violations whose words are pydantic's or mlguard's own. All others are those of somebody's validator or
# property, which may quote any value it can see: its own field's, those beside it, those below it.
_WITHOUT_VALUES: Final = {
    "array_category", "array_columns", "array_depth", "array_dimension", "array_dtype", "array_duplicate", "array_nan",
    "array_not_finite", "array_order", "array_ragged", "array_range", "array_shape", "array_type", "array_value",
    "more_violations", "null", "table_columns", "table_ragged", "table_rows", "table_type", "too_large",
    *typing.get_args(core_schema.ErrorType),
} - {"value_error", "assertion_error", "get_attribute_error", "iteration_error", "mapping_type"}  # fmt: skip
