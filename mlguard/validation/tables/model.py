"""The class that declares a row, compiled once: which columns there must be, and what each of them must be.

Read from the core schema that pydantic made of the class, so that constraints, configuration and validators are
pydantic's own, however they were declared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
from pydantic import BaseModel
from pydantic.errors import PydanticUndefinedAnnotation
from pydantic_core import SchemaValidator, ValidationError, core_schema

from mlguard.errors import PolicyError
from mlguard.section import nearest
from mlguard.validation.tables.by_value import MANY, Grouped, Values, add_to, of_one_value
from mlguard.validation.tables.columns import MISSING, ListColumn
from mlguard.validation.tables.fields import Field, Problem
from mlguard.validation.tables.reading import Table

__all__ = ["RowModel", "completed"]

_CHUNK = 4_096
_MOST_UNKNOWN = 20
"""So many unknown columns are named; a table may have any number of them."""
_MOST_COMPARED = 500
"""So many columns are compared with one that is missing, which takes some 20 us each."""


class RowModel:
    """What a table must be.

    Args:
        model: The class that declares a row.
        strict: Nothing may be converted, whatever the class says.
    """

    def __init__(self, model: type[BaseModel], *, strict: bool) -> None:
        self.model = model
        self._strict = True if strict else None
        parts = _Parts(model)
        config = parts.config
        by_alias = config.get("validate_by_alias", True) is not False
        by_name = bool(config.get("validate_by_name") or config.get("populate_by_name"))
        self.fields: list[Field] = []
        self.whole = parts.whole
        """Why rows are looked at one by one, as a whole; empty where columns tell all."""
        self._only_whole = parts.only_whole
        hidden = _hidden(model)
        skipped = set()
        for name, entry in parts.fields.items():
            keys = _keys(name, entry.get("validation_alias"), by_alias=by_alias, by_name=by_name)
            if keys is None:
                self.whole.append(f"{name} is read by a path into a column")
                skipped.add(name)
                continue
            if _takes_info(entry["schema"]):
                self.whole.append(f"the validator of {name} may look at other columns")
                skipped.add(name)
            if self._only_whole:
                continue
            schema = entry["schema"] if name not in skipped else core_schema.any_schema()
            self.fields.append(
                Field(
                    name, keys, schema, required=_required(entry["schema"]), hidden=name in hidden,
                    definitions=parts.definitions, config=config, strict=strict, read_by=entry["schema"],
                )
            )  # fmt: skip
        self._hidden = hidden
        self._extra = parts.extra
        self._extra_values = (
            Values(parts.extra_schema, parts.definitions, config, strict=strict) if parts.extra_schema else None
        )
        self._known = {key for field in self.fields for key in field.keys}
        self._rows = _rows_of(model) if self.whole else None
        self._columns = None if self._only_whole or self._extra == "allow" or skipped else self._known

    def holds(self, table: Table) -> bool:
        """Whether every row is surely right, at the speed of columns."""
        places = table.places
        if table.holes or self._rows is not None:
            return False
        for field in self.fields:
            place = places.get(field.key)
            if place is None:
                place = _place_of(field, places)
                if place is None:
                    if field.required and (table.size or not table.ragged):
                        return False
                    continue
            if table.size and not field.holds(table.column(place)):
                return False
        checks_extra = self._extra == "forbid" or self._extra_values is not None
        return not checks_extra or len(places) == len(self._known.intersection(places))

    def misfits(self, table: Table) -> list[Problem]:
        """What is wrong with the columns and their types, whatever the values are."""
        found: list[Problem] = []
        for field in self.fields:
            place = _place_of(field, table.places)
            if place is None:
                found += self._problems_of(field, table)
            elif table.size and not table.ragged:
                found += field.misfit(table.column(place))
        return found if self._only_whole else found + self._unknown(table)

    def problems(self, table: Table) -> list[Problem]:
        """What is wrong with a table, field by field; nothing where `holds` was more careful than needed."""
        found: list[Problem] = []
        for field in self.fields:
            found += self._problems_of(field, table)
        if not self._only_whole:
            found += self._unknown(table)
        if self._rows is not None and all(len(problem.rows) for problem in found):
            found += self._whole_rows(table, found)
        return found

    def _problems_of(self, field: Field, table: Table) -> list[Problem]:
        place = _place_of(field, table.places)
        if place is None:
            if not field.required or (table.ragged and not table.size):
                return []
            if table.ragged:
                return [Problem(field.key, "missing", "is required", np.arange(table.size), {})]
            hint = nearest(field.key, [str(name)[:80] for name in table.names[:_MOST_COMPARED]]).strip()
            return [Problem(field.key, "missing", "is required, but there is no such column", _NONE, _fix(hint))]
        column = table.column(place)
        if not table.ragged:
            return field.problems(column)
        values = column.objects()
        absent = np.fromiter((value is MISSING for value in values), bool, len(values))
        if not absent.any():
            return field.problems(column)
        rest = np.flatnonzero(~absent)
        inner = field.problems(ListColumn([values[row] for row in rest]))
        found = [problem.moved(rest) for problem in inner]
        if field.required:
            found.insert(0, Problem(field.key, "missing", "is required", np.flatnonzero(absent), {}))
        return found

    def _unknown(self, table: Table) -> list[Problem]:
        if self._extra == "forbid":
            unknown = [name for name in table.names if name not in self._known]
            listed, rest = unknown[:_MOST_UNKNOWN], set(unknown[_MOST_UNKNOWN:])
            found = [self._unknown_column(table, name) for name in listed]
            if rest:
                rows = _NONE if table.having is None else table.having(rest)
                found.append(
                    Problem("", "extra_forbidden", f"has {len(rest):,} more columns that are not known", rows, {})
                )
            return found
        if self._extra_values is None:
            return []
        return [
            problem
            for name in table.names
            if name not in self._known
            for problem in self._wrong_extra(name, table.column(table.places[name]).objects(), self._extra_values)
        ]

    def _unknown_column(self, table: Table, name: Any) -> Problem:
        rows = _NONE if table.having is None else table.having({name})
        hint = _fix(nearest(str(name)[:80], sorted(self._known)).strip())
        return Problem(str(name)[:40], "extra_forbidden", "is not known", rows, hint)

    def _wrong_extra(self, name: Any, values: list[Any], right: Values) -> list[Problem]:
        rows = [row for row, value in enumerate(values) if value is not MISSING]
        grouped: Grouped[tuple[str, str]] = {}
        for place, (kind, text, _) in right.wrong([values[row] for row in rows]).items():
            add_to(grouped, (kind, text), (kind, MANY), rows[place], {})
        return [Problem(str(name)[:40], *key, np.array(where), {}) for key, (where, _) in grouped.items()]

    def _whole_rows(self, table: Table, known: list[Problem]) -> list[Problem]:
        """What the validators of the class say of the rows that are right, column by column."""
        assert self._rows is not None  # noqa: S101 - for the type checker
        good = np.ones(table.size, bool)
        for problem in known:
            good[problem.rows] = False
        rows = np.flatnonzero(good)
        names = [name for name in table.names if self._columns is None or name in self._columns]
        columns = [table.column(table.places[name]).objects() for name in names]
        grouped: Grouped[tuple[str, str, str]] = {}
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK].tolist()
            entries = [
                {name: values[row] for name, values in zip(names, columns, strict=True) if values[row] is not MISSING}
                for row in part
            ]
            try:
                self._rows(entries, strict=self._strict)
            except ValidationError as error:
                told = set()
                for details in error.errors(include_url=False, include_input=False):
                    place, *path = details["loc"]
                    column = str(path[0])[:40] if path else ""
                    if (place, column) in told:
                        continue
                    told.add((place, column))
                    kind, text, context = of_one_value(details, path[1:])
                    if self._hidden and (not path or path[0] in self._hidden_keys()) and kind not in _OWN_WORDS:
                        text, context = "is invalid; something of it is hidden, so no more is told", {}
                    add_to(grouped, (column, kind, text), (column, kind, MANY), part[int(place)], context)
        return [Problem(*key, np.array(where), context) for key, (where, context) in grouped.items()]

    def _hidden_keys(self) -> set[str]:
        return {key for field in self.fields if field.hidden for key in (field.name, *field.keys)} | self._hidden

    def explain(self) -> list[str]:
        """Which columns are not looked at as a whole, and why."""
        lines = [
            f"column {field.key} is looked at row by row, through pydantic: {field.by_value}."
            for field in self.fields
            if field.by_value
        ]
        if self.whole:
            lines.append(f"its rows are looked at one by one, through pydantic: {'; '.join(self.whole)}.")
        return lines


def completed(model: type[BaseModel]) -> None:
    """Makes sure that pydantic knows all of a class.

    Raises:
        PydanticUndefinedAnnotation: A field names something that is not defined yet; a NameError too.
    """
    if not model.__pydantic_complete__ and not model.model_rebuild(raise_errors=False):
        raise PydanticUndefinedAnnotation(
            model.__name__, f"a field of {model.__qualname__} names something that is not defined yet"
        )


class _Parts:
    """What a class's core schema says: its fields, its configuration, and who else looks at a row."""

    def __init__(self, model: type[BaseModel]) -> None:
        self.definitions: list[Any] = []
        self.whole: list[str] = []
        self.only_whole = False
        self.config: dict[str, Any] = {}
        self.extra = "ignore"
        self.extra_schema: Any = None
        schema: Any = model.__pydantic_core_schema__
        while schema["type"] != "model-fields":
            kind = schema["type"]
            if kind == "definitions":
                self.definitions = schema["definitions"]
            elif kind == "definition-ref":
                known = {each.get("ref"): each for each in self.definitions}
                schema = {"schema": known[schema["schema_ref"]]}
            elif kind == "model":
                self.config = dict(schema.get("config") or {})
                if schema.get("root_model"):
                    raise PolicyError(f"Rows({model.__name__}): a root model has no columns. Fix: a class with fields.")
                if schema.get("custom_init"):
                    self._by_rows(f"{model.__name__} has an __init__ of its own", only=True)
                if schema.get("post_init"):
                    self._by_rows(f"{model.__name__} has a {schema['post_init']}")
            elif kind == "function-after":
                self._by_rows(f"{model.__name__} has a model validator")
            elif kind in ("function-before", "function-wrap"):
                self._by_rows(f"{model.__name__} has a model validator that sees the raw row", only=True)
            elif kind == "function-plain":
                raise PolicyError(
                    f"Rows({model.__name__}): a plain model validator leaves no fields to read columns for. "
                    "Fix: a validator of mode 'after'."
                )
            schema = schema["schema"]
        self.fields: dict[str, Any] = dict(schema["fields"])
        self.extra = schema.get("extra_behavior") or self.config.get("extra_fields_behavior") or "ignore"
        if self.extra == "allow":
            self.extra_schema = schema.get("extras_schema")

    def _by_rows(self, why: str, *, only: bool = False) -> None:
        if why not in self.whole:
            self.whole.append(why)
        self.only_whole = self.only_whole or only


def _rows_of(model: type[BaseModel]) -> Any:
    """Pydantic's validation of a list of rows."""
    schema: Any = model.__pydantic_core_schema__
    definitions: list[Any] = []
    if schema["type"] == "definitions":
        definitions, schema = schema["definitions"], schema["schema"]
    listed: Any = core_schema.list_schema(schema, strict=False)
    if definitions:
        listed = core_schema.definitions_schema(listed, definitions)
    return SchemaValidator(listed).validate_python


def _keys(name: str, alias: Any, *, by_alias: bool, by_name: bool) -> tuple[str, ...] | None:
    """The names a field's column may have; None where an alias is a path."""
    keys: list[str] = []
    if alias is None:
        return (name,)
    if by_alias:
        choices: Iterable[Any] = [alias] if isinstance(alias, str) or not isinstance(alias, list) else alias
        if isinstance(alias, list) and alias and not isinstance(alias[0], list):
            choices = [alias]  # one path
        for choice in choices:
            path = [choice] if isinstance(choice, str) else list(choice)
            if len(path) != 1 or not isinstance(path[0], str):
                return None
            keys.append(path[0])
    if by_name or not keys:
        keys.append(name)
    return tuple(dict.fromkeys(keys))


def _place_of(field: Field, places: Mapping[Any, int]) -> int | None:
    return next((places[key] for key in field.keys if key in places), None)


def _required(schema: Any) -> bool:
    while schema["type"] in ("nullable", "function-after", "function-before", "function-wrap"):
        schema = schema["schema"]
    return bool(schema["type"] != "default")


def _takes_info(schema: Any) -> bool:
    """A validator of the field is told of the fields before it."""
    if isinstance(schema, dict):
        function = schema.get("function")
        if isinstance(function, dict) and function.get("type") == "with-info":
            return True
        inner = ("schema", "items_schema", "keys_schema", "values_schema", "choices", "steps", "lax_schema")
        return any(_takes_info(part) for key, part in schema.items() if key in inner)
    return isinstance(schema, Sequence) and not isinstance(schema, str) and any(map(_takes_info, schema))


def _hidden(model: type[BaseModel], _seen: frozenset[Any] = frozenset()) -> set[str]:
    """The fields whose values no message may tell: hidden, or of a model that hides something."""
    from mlguard.monitor.redaction import hides  # the marks are the monitor's

    seen = _seen | {model}
    hidden = set()
    for name, field in model.model_fields.items():
        marked = not field.repr or hides(field.annotation) or any(map(hides, field.metadata))
        if marked or any(_hidden(inner, seen) for inner in _models_in(field.annotation) if inner not in seen):
            hidden.add(name)
    return hidden


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _fix(hint: str) -> dict[str, Any]:
    return {"fix": hint[0].lower() + hint[1:]} if hint else {}


_NONE = np.array([], np.intp)
_OWN_WORDS = ("missing", "extra_forbidden")
