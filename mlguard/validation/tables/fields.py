"""One field of a row's class, compiled: what a column must be for it, and which rows break it and why.

The fast question is asked of `kinds.py`; after a no, or where no kind fits, pydantic validates the column's values one
by one. So the verdict is pydantic's own; where it differs on purpose is in `docs/tables.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlguard.validation.tables.by_value import MANY, WORDS, Grouped, Values, add_to
from mlguard.validation.tables.columns import Array, Column
from mlguard.validation.tables.kinds import Anything, Choice, Kind, Number, Temporal, Text

__all__ = ["Field", "Problem"]


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
        read_by: The core schema that the whole row is read with, where the column is let pass before.
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
        read_by: Any = None,
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
        self._numbers = _number_inside(schema if read_by is None else read_by, known)
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
                self.key, rule, WORDS[rule].format(*limits.values()), np.flatnonzero(where), limits,
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
        values = column.objects()
        return self._values.accepts(values) and not (self._numbers and any(map(_is_text, values)))

    def _one_by_one(self, column: Column, nulls: Array) -> list[Problem]:
        values = column.objects()
        by_word = isinstance(self._kind, Text | Choice) and set(map(type, values)) <= _WORD_TYPES
        look = self._values.wrong_words if by_word else self._values.wrong
        wrong = look(values, convert=self._convert)
        if self._numbers:  # a table is not converted, so that text for a number would reach the function
            words = f"must be {self._numbers}; text is no number"
            for row, value in enumerate(values):
                if _is_text(value):
                    wrong[row] = (f"{self._numbers}_type", words, {"fix": "convert it before the call"})
        grouped: Grouped[tuple[str, str]] = {}
        for row in sorted(wrong):
            if self.nullable or self._kind is None or not nulls[row]:
                kind, text, context = wrong[row]
                if self.hidden:
                    text, context = "is invalid; it is hidden, so no more is told", {}
                add_to(grouped, (kind, text), (kind, MANY), row, context)
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


def _number_inside(schema: Any, known: Mapping[str, Any]) -> str:
    """int, float or bool, where pydantic would make one of text before anybody else sees it; else empty."""
    while schema["type"] in ("function-after", "nullable", "default", "definition-ref"):
        schema = schema["schema"] if "schema" in schema else known.get(schema["schema_ref"], {"type": "any"})
    return schema["type"] if schema["type"] in ("int", "float", "bool") else ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes)


def _without_defaults(schema: Any) -> Any:
    """A column that is there has values; a default stands for one that is not."""
    while schema["type"] == "default":
        schema = schema["schema"]
    return schema


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
