"""One field of a row's class, compiled: what a column must be for it, and which rows break it and why.

The fast question is asked of `kinds.py`; after a no, or where no kind fits, pydantic validates the column's values one
by one. So the verdict is pydantic's own; where it differs on purpose is in `docs/tables.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema

from mlguard.validation.tables.columns import Array, Column
from mlguard.validation.tables.kinds import Anything, Choice, Kind, Number, Temporal, Text

__all__ = ["Field", "Problem", "Values", "of_one_value"]

_CHUNK = 4_096
"""Values that pydantic gets at once, so that the errors of a bad table don't pile up."""


class Problem(NamedTuple):
    """A rule and the rows that break it."""

    column: str
    kind: str
    """As pydantic calls it, such as ``greater_than_equal``."""
    text: str
    """What must be, without any value."""
    rows: Array
    """The numbers of the rows, ascending; empty where the whole table is at fault."""
    context: dict[str, Any]
    values: Callable[[Array], list[Any]] | None = None
    """What stands in some of these rows; None: not to be shown."""
    ends: tuple[Any, Any] | None = None
    """The least and the greatest value of the column; None: not to be shown."""

    def moved(self, rows: Array) -> Problem:
        """The same problem of a table in which the first row has the first of these numbers, and so on."""
        shown = self.values
        values = None if shown is None else (lambda where: shown(np.asarray(np.searchsorted(rows, where))))
        return self._replace(rows=rows[self.rows], values=values)


class Values:
    """What pydantic says of single values of a field.

    Args:
        schema: The field's core schema.
        definitions: The schemas it refers to.
        config: The configuration of its model.
        strict: Whatever the configuration says, nothing may be converted.
    """

    def __init__(
        self, schema: CoreSchema, definitions: Sequence[CoreSchema], config: Mapping[str, Any], *, strict: bool
    ) -> None:
        listed: CoreSchema = core_schema.list_schema(schema, strict=False)
        if definitions:
            listed = core_schema.definitions_schema(listed, list(definitions))
        self._validate = SchemaValidator(listed, config=_core_config(config)).validate_python
        self._strict = True if strict else None

    def accepts(self, values: list[Any]) -> bool:
        """Whether each value is right."""
        try:
            self._validate(values, strict=self._strict)
        except ValidationError:
            return False
        return True

    def accepts_only_numbers(self, values: list[Any]) -> bool:
        """The same, where nothing has to be converted."""
        try:
            self._validate(values, strict=True)
        except ValidationError:
            return False
        return True

    def accepts_converted(self, values: list[Any]) -> bool:
        """The same, where an Enum may be spelt by its values, also where nothing else is converted."""
        try:
            self._validate(values, strict=False)
        except ValidationError:
            return False
        return True

    def wrong_words(self, words: list[Any], *, convert: bool) -> dict[int, tuple[str, str, dict[str, Any]]]:
        """`wrong` for texts and nulls, which pydantic sees once each: an error of it takes some 6 us."""
        different = list(dict.fromkeys(words))
        known = {different[place]: what for place, what in self.wrong(different, convert=convert).items()}
        return {row: known[word] for row, word in enumerate(words) if word in known}

    def wrong(self, values: list[Any], *, convert: bool = False) -> dict[int, tuple[str, str, dict[str, Any]]]:
        """The values that are wrong, by their place: type, words and figures of the first thing about each."""
        found: dict[int, tuple[str, str, dict[str, Any]]] = {}
        strict = False if convert else self._strict
        for start in range(0, len(values), _CHUNK):
            try:
                self._validate(values[start : start + _CHUNK], strict=strict)
            except ValidationError as error:
                for details in error.errors(include_url=False, include_input=False):
                    row = start + int(details["loc"][0])
                    if row not in found:
                        found[row] = of_one_value(details, details["loc"][1:])
        return found


def of_one_value(details: Any, path: Sequence[Any]) -> tuple[str, str, dict[str, Any]]:
    """Type, words and figures of an error of pydantic's."""
    kind, text = details["type"], str(details["msg"])
    if kind == "missing":
        text = "is required"
    elif kind == "union_tag_invalid":  # the one message of pydantic's own that quotes the input
        text = "must have one of the expected tags"
    limits = details.get("ctx") or {}
    if kind in _WORDS and len(limits) == 1:
        text = _WORDS[kind].format(*limits.values())
    for subject in ("Input", "String", "Value", "Decimal input", "Date", "Datetime", "Data"):
        text = text.replace(f"{subject} should", "must", 1) if text.startswith(subject) else text
    text = text.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if path:
        text = f"{'.'.join(map(str, path))[:80]}: {text}"
    context = {} if kind == "union_tag_invalid" else dict(details.get("ctx") or {})
    return kind, text[:300], {key: value for key, value in context.items() if key != "error"}


class Field:
    """A field, and the column that is held to it.

    Args:
        name: The field's.
        keys: The names its column may have, the first that is there counts.
        required: The column must be there.
        hidden: No message may tell its values.
        schema: Its core schema.
        definitions: The schemas that refers to.
        config: The configuration of its model.
        strict: Nothing may be converted.
    """

    def __init__(
        self,
        name: str,
        keys: tuple[str, ...],
        schema: Any,
        *,
        required: bool,
        hidden: bool,
        definitions: Sequence[Any] = (),
        config: Mapping[str, Any] | None = None,
        strict: bool = False,
    ) -> None:
        self.name = name
        self.keys = keys
        self.key = keys[0] if keys else name
        self.required = required
        self.hidden = hidden
        config = dict(config or {})
        known = {each["ref"]: each for each in definitions if "ref" in each}
        inner, self.nullable = _inner(schema, known)
        self._values = Values(_without_defaults(schema), definitions, config, strict=strict)
        strict = strict or bool(inner.get("strict", config.get("strict")))
        self.by_value = ""
        """Why its values are looked at one by one; empty where the column is looked at as a whole."""
        made = self._kind_of(inner, config, strict=strict)
        self._kind: Kind | None = None if isinstance(made, str) else made
        if isinstance(made, str):
            self.by_value = made
        self._numbers = isinstance(made, Number)
        self._choice = isinstance(made, Choice)
        self._convert = self._choice and inner["type"] == "enum"
        self.holds: Callable[[Column], bool] = self._passes_by_value if self._kind is None else self._kind.passes
        """Whether every value of a column is surely right."""

    def problems(self, column: Column) -> list[Problem]:
        """What is wrong with a column; nothing where `holds` was more careful than pydantic is."""
        size = len(column)
        if not size:
            return []
        kind = self._kind
        if kind is None or isinstance(kind, Anything):
            return self._one_by_one(column, np.zeros(size, bool))
        nulls = column.null_mask()
        found = []
        if not self.nullable and nulls.any():
            found.append(Problem(self.key, "null", "must not be null", np.flatnonzero(nulls), {"fix": _OPTIONAL}))
        if misfit := self.misfit(column):
            return found + misfit
        broken = kind.wrong(column)
        if broken is None:
            return found + self._one_by_one(column, nulls)
        ends = self._ends(column, nulls)
        return found + [
            Problem(
                self.key, rule, _WORDS[rule].format(*limits.values()), np.flatnonzero(where), limits,
                self._shown(column), ends,
            )
            for rule, limits, where in broken
        ]  # fmt: skip

    def misfit(self, column: Column) -> list[Problem]:
        """A type of column whose values are all wrong; at once, because a table is not converted."""
        kind = self._kind
        if kind is None or isinstance(kind, Anything) or column.family in (*kind.families, *_BY_VALUE):
            return []
        rows = np.flatnonzero(~column.null_mask())
        if not len(rows):
            return []
        text = f"must be {kind.named}, but the column has dtype {column.dtype[:60]}"
        context = {"fix": "cast the column before the call; a table is not converted"}
        return [Problem(self.key, f"{_type_of(kind)}_type", text, rows, context)]

    def _passes_by_value(self, column: Column) -> bool:
        return self._values.accepts(column.objects())

    def _one_by_one(self, column: Column, nulls: Array) -> list[Problem]:
        values = column.objects()
        by_word = isinstance(self._kind, Text | Choice) and set(map(type, values)) <= _WORD_TYPES
        look = self._values.wrong_words if by_word else self._values.wrong
        wrong = look(values, convert=self._convert)
        if self._numbers:  # a table is not converted, so that text for a number would reach the function
            words = f"must be {self._kind.named if self._kind else 'a number'}; text is no number"
            for row, value in enumerate(values):
                if isinstance(value, str | bytes):
                    wrong[row] = (f"{_type_of(self._kind)}_type", words, {"fix": "convert it before the call"})
        grouped: dict[tuple[str, str], tuple[list[int], dict[str, Any]]] = {}
        for row in sorted(wrong):
            if self.nullable or self._kind is None or not nulls[row]:
                kind, text, context = wrong[row]
                if self.hidden:
                    text, context = "is invalid; it is hidden, so no more is told", {}
                grouped.setdefault((kind, text), ([], context))[0].append(row)
        shown = self._shown(column)
        return [
            Problem(self.key, kind, text, np.array(rows), context, shown)
            for (kind, text), (rows, context) in grouped.items()
        ]

    def _shown(self, column: Column) -> Callable[[Array], list[Any]] | None:
        """Values of hidden fields are not shown, and text only where the field says which words there are."""
        if self.hidden or self._kind is None or isinstance(self._kind, Text):
            return None
        words = self._choice

        def values(rows: Array) -> list[Any]:
            objects = column.objects()
            return [_told(objects[row], words=words) for row in rows]

        return values

    def _ends(self, column: Column, nulls: Array) -> tuple[Any, Any] | None:
        if self.hidden:
            return None
        numbers = column.numbers()[~nulls]
        numbers = numbers[~np.isnan(numbers)] if numbers.dtype.kind == "f" else numbers
        return (_told(numbers.min().item()), _told(numbers.max().item())) if len(numbers) else None

    def _kind_of(self, inner: Any, config: Mapping[str, Any], *, strict: bool) -> Kind | str:
        """The kind of a schema; or why its values have to be looked at one by one."""
        kind, values, nullable = inner["type"], self._values, self.nullable
        if kind == "any":
            return Anything(values.accepts, nullable=True)
        if kind in ("int", "float", "bool"):
            rules = {"allow_inf_nan": config.get("allow_inf_nan", True), **inner} if kind == "float" else inner
            return Number(values.accepts_only_numbers, nullable=nullable, named=kind, strict=strict, rules=rules)
        if kind == "str":
            if inner.get("coerce_numbers_to_str", config.get("coerce_numbers_to_str")):
                return "its text may be numbers"
            return Text(values.accepts, nullable=nullable, rules=inner, config=dict(config))
        if kind in ("literal", "enum"):
            return Choice(values.accepts_converted if kind == "enum" else values.accepts, nullable=nullable)
        if kind in _TEMPORAL:
            ordered = not set(inner) - _ORDER and not (kind == "decimal" and inner.get("allow_inf_nan"))
            return Temporal(values.accepts, nullable=nullable, named=_TEMPORAL[kind], strict=strict, ordered=ordered)
        return _WHY.get(kind, f"a {kind.replace('-', ' ')} is no type of columns")


_OPTIONAL = "fill it in, or declare the field `... | None` where it may be missing"
_BY_VALUE = ("object", "category", "null")
_WORD_TYPES = {str, type(None)}
_TEMPORAL = {"date": "date", "datetime": "datetime", "time": "time", "timedelta": "timedelta", "decimal": "decimal"}
_ORDER = frozenset(
    {"type", "strict", "ref", "metadata", "serialization", "ge", "gt", "le", "lt", "now_op", "now_utc_offset"}
    | {"tz_constraint", "microseconds_precision", "allow_inf_nan"}
)
"""What two values, the least and the greatest, can be asked instead of all."""
_WHY = {
    **dict.fromkeys(("function-after", "function-before", "function-wrap", "function-plain"), "it has a validator"),
    **dict.fromkeys(("model", "dataclass", "typed-dict", "dataclass-args", "model-fields"), "it is a model of its own"),
    **dict.fromkeys(("list", "set", "frozenset", "tuple", "dict", "generator"), "it holds several values a row"),
    **dict.fromkeys(("union", "tagged-union"), "it may be of several types"),
}
_WORDS = {
    "multiple_of": "must be a multiple of {}",
    "less_than_equal": "must be <= {}",
    "less_than": "must be < {}",
    "greater_than_equal": "must be >= {}",
    "greater_than": "must be > {}",
    "finite_number": "must be finite",
}


def _type_of(kind: Kind | None) -> str:
    named = "" if kind is None else kind.named
    return {"text": "string", "one of the values": "literal", "timedelta": "time_delta"}.get(named, named)


def _inner(schema: Any, known: Mapping[str, Any]) -> tuple[Any, bool]:
    """The schema of a value that is no null, and whether null is allowed."""
    nullable = False
    while True:
        if schema["type"] == "definition-ref" and schema["schema_ref"] in known:
            schema = known[schema["schema_ref"]]
        elif schema["type"] == "nullable":
            schema, nullable = schema["schema"], True
        elif schema["type"] == "default":
            schema = schema["schema"]
        else:
            break
    if schema["type"] == "literal" and None in schema["expected"]:
        nullable = True
    return schema, nullable or schema["type"] in ("any", "none")


def _without_defaults(schema: Any) -> Any:
    """A column that is there has values; a default stands for one that is not."""
    while schema["type"] == "default":
        schema = schema["schema"]
    return schema


def _core_config(config: Mapping[str, Any]) -> Any:
    return {key: value for key, value in config.items() if key not in ("title", "extra_fields_behavior")}


def _told(value: Any, *, words: bool = False) -> Any:
    """A value as a message shows it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= 63 else "a very large number"
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, str) and not words:
        return f"text of length {len(value)}"
    if isinstance(value, str) or hasattr(value, "isoformat") or type(value).__name__ in ("Decimal", "timedelta"):
        text = str(value)
        return text if len(text) <= 40 else text[:37] + "..."
    return type(value).__qualname__
