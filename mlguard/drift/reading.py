"""From the values of a call to the counts of fields: which argument, field or column is which field of the profile.

A field's path is looked for as it is (``patient.age``), then by its last name (``age``), whichever argument it stands
in. An array with as many columns as the profile has fields is read by position, so that a model trained on a frame can
serve arrays. What a value of a class is made of is found out once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
from pydantic import BaseModel

from mlguard.drift.columns import series
from mlguard.drift.reference import FieldReference
from mlguard.drift.tallies import MOST_VALUES, Look, Matrix, Tally, spread
from mlguard.monitor.redaction import fields_of, held_by

__all__ = ["Fields", "Place"]

_SINGLE: Final = frozenset({float, int, bool, str, type(None)})
_CHILDREN: Final = 2_000  # places below one place; more would be the keys of a caller's own
_PROBLEMS: Final = 16


class Table:
    """An array of a profile: its columns of numbers at once, others one by one."""

    def __init__(self, fields: Sequence[FieldReference], positions: Sequence[int], width: int) -> None:
        pairs = [(field, position) for field, position in zip(fields, positions, strict=True)]
        numbers = [pair for pair in pairs if pair[0].kind == "number"]
        self.width = width
        self.names = tuple(field.name for field in fields)
        self.matrix = Matrix([field for field, _ in numbers]) if numbers else None
        self._columns = [position for _, position in numbers]
        self._whole = self._columns == list(range(width))
        self.others = [(Tally(field), position) for field, position in pairs if field.kind != "number"]

    def many(self, rows: np.ndarray[Any, Any], look: Look) -> None:
        if self.matrix is not None:
            self.matrix.many(rows if self._whole else rows[:, self._columns], look)
        for tally, position in self.others:
            tally.many(rows[:, position], look)


class Fields:
    """The fields that are watched on one side of a function, and what counts them.

    Args:
        fields: Those of the profile.
        sample: Rows of one call that are looked at.
    """

    def __init__(self, fields: Sequence[FieldReference], sample: int) -> None:
        self.sample = sample
        self._alone = {field.path: Tally(field) for field in fields if field.index is None}
        self._tables: dict[str, Table] = {}
        for path in dict.fromkeys(field.path for field in fields if field.index is not None):
            group = [field for field in fields if field.path == path and field.index is not None]
            self._tables[path] = Table(group, [field.index or 0 for field in group], group[0].width or 1)
        self._claimed: dict[str, str] = {}
        self.problems: dict[str, None] = {}
        """What could not be read, each told once."""

    def find(self, path: str) -> Tally | Table | None:
        """What counts the values at a place; the first place that asks for a field keeps it."""
        for name in (path, path.rpartition(".")[2]):
            found = self._alone.get(name) or self._tables.get(name)
            if found is not None:
                owner = self._claimed.setdefault(name, path)
                if owner == path:
                    return found
                self.problem(f"{path} and {owner} could both be the field {name!r}: only {owner} is counted")
        return None

    def nameless(self, value: Any, path: str) -> Tally | Table | None:
        """What counts an array at a place that has no field: the only array of the profile, or its fields in order."""
        unnamed = self._tables.get("") or self._alone.get("")
        if unnamed is not None:
            return unnamed if self._claimed.setdefault("", path) == path else None
        width = value.shape[-1] if len(value.shape) in (1, 2) else 0
        alone = [tally.field for tally in self._alone.values()]
        if len(alone) < 2 or len(alone) != width or self._tables or self._claimed:
            return None
        table = Table(alone, range(width), width)
        self._claimed[""] = path
        self._alone, self._tables = {}, {"": table}
        return table

    def problem(self, text: str) -> None:
        if len(self.problems) < _PROBLEMS:
            self.problems[text] = None

    def names(self) -> list[str]:
        """Where fields are looked for: their paths, and those of arrays."""
        return [*self._alone, *self._tables]

    def tables(self) -> dict[str, list[int]]:
        """The counts of each field, by name."""
        found = {tally.field.name: tally.counts[:] for tally in self._alone.values()}
        for table in self._tables.values():
            if table.matrix is not None:
                counts = table.matrix.tables()
                found |= {field.name: each for field, each in zip(table.matrix.fields, counts, strict=True)}
            found |= {tally.field.name: tally.counts[:] for tally, _ in table.others}
        return found


class Place:
    """An argument, a field of a model, a column: whatever has a name and holds values.

    Args:
        fields: Where fields are looked for.
        path: The dotted name.
    """

    def __init__(self, fields: Fields, path: str) -> None:
        self._fields = fields
        self._path = path
        found = fields.find(path)
        self._tally = found if isinstance(found, Tally) else None
        self._table = found if isinstance(found, Table) else None
        self._children: dict[str, Place] = {}
        self._parts: dict[type, tuple[tuple[str, Place], ...]] = {}
        self._keys: set[Any] = set()

    def read(self, value: Any, look: Look) -> int:
        """Counts a value; says how many rows it is: 0 for one that is no field of the profile."""
        kind = type(value)
        if kind in _SINGLE:
            tally = self._tally
            if tally is None:
                return 0
            try:
                cell = tally.quick(value)
            except TypeError:  # None among numbers, a text
                cell = None
            if cell is None or tally.odd[cell]:
                tally.one(value, look)
            else:
                tally.counts[cell] += 1
            return 1
        return self._read_other(value, kind, look)

    def _read_other(self, value: Any, kind: type, look: Look) -> int:
        if issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind):
            return max([0, *(place.read(held_by(value, name), look) for name, place in self._of_class(kind))])
        if isinstance(value, Mapping):
            return self._mapping(value, look)
        if hasattr(value, "columns") and (hasattr(value, "shape") or hasattr(value, "num_rows")):
            return self._frame(value, look)
        if hasattr(value, "shape") and hasattr(value, "dtype"):
            return self._array(value, look)
        if isinstance(value, list | tuple):
            return self._list(value, look)
        if self._tally is None:
            return 0
        if hasattr(value, "__getitem__") and not isinstance(value, str | bytes):
            return self._many(value, look)  # a series
        self._tally.one(value, look)
        return 1

    def _of_class(self, kind: type) -> tuple[tuple[str, Place], ...]:
        parts = self._parts.get(kind)
        if parts is None:
            parts = tuple((name, self._child(name)) for name, hidden in fields_of(kind) if not hidden)
            self._parts[kind] = parts
        return parts

    def _child(self, name: str) -> Place:
        place = self._children.get(name)
        if place is None:
            place = self._children[name] = Place(self._fields, f"{self._path}.{name}" if self._path else name)
        return place

    def _below(self, keys: Collection[Any]) -> list[tuple[str, Place]]:
        """The names below this place that are fields, those that were there before and are not now among them."""
        if not self._keys.issuperset(keys) and len(self._keys) < _CHILDREN:
            self._keys.update(keys)
            for name in self._fields.names():
                short = name.removeprefix(f"{self._path}.")
                if short not in self._children and short in keys:
                    self._child(short)
        return [*self._children.items()]

    def _mapping(self, value: Mapping[Any, Any], look: Look) -> int:
        rows = 0
        absent = []
        for name, place in self._below(value.keys()):
            if name in value:
                rows = max(rows, place.read(value[name], look))
            else:
                absent.append(place)
        for place in absent:
            place.none(rows or 1, look)
        return rows

    def none(self, rows: int, look: Look) -> None:
        """Rows in which the place is not there."""
        if self._tally is not None:
            self._tally.none(min(rows, self._fields.sample), look)

    def _frame(self, value: Any, look: Look) -> int:
        rows = int(value.num_rows if hasattr(value, "num_rows") else value.shape[0])
        if not rows:
            return 0
        names = getattr(value, "column_names", None) or [str(name) for name in value.columns]
        if self._table is not None or (self._tally is None and self._fields.names() == [""]):
            return self._array(_matrix_of(value, names, self._table, self._fields.sample), look)
        places = {str(name): number for number, name in enumerate(names)}
        read = 0
        for name, place in self._below(places.keys()):
            if name in places:
                read = max(read, place.read(_column(value, places[name]), look))
            else:
                place.none(rows, look)
        return read

    def _array(self, value: Any, look: Look) -> int:
        names = getattr(getattr(value, "dtype", None), "names", None)
        if names:
            return self._mapping({name: value[name] for name in names}, look)
        if not value.shape:  # a scalar of numpy or a tensor of one number
            return self.read(value.item(), look) if type(value.item()) in _SINGLE else 0
        if self._tally is None and self._table is None:
            found = self._fields.nameless(value, self._path)
            self._tally = found if isinstance(found, Tally) else None
            self._table = found if isinstance(found, Table) else None
        if self._table is not None:
            return self._rows(value, self._table, look)
        if self._tally is None:
            return 0
        if len(value.shape) == 2 and value.shape[1] == 1:
            value = value[:, 0]
        if len(value.shape) != 1:
            self._fields.problem(f"{self._path} has {len(value.shape)} dimensions; the profile has one column of it")
            return 0
        return self._many(value, look)

    def _rows(self, value: Any, table: Table, look: Look) -> int:
        if len(value.shape) == 1:
            value = value[None]  # one row
        if len(value.shape) != 2 or value.shape[1] != table.width:
            shape = " x ".join(map(str, value.shape))
            self._fields.problem(f"{self._path} came as {shape}; the profile has {table.width} columns of it")
            return 0
        rows = _numbers(spread(value, value.shape[0], max(1, min(self._fields.sample, MOST_VALUES // table.width))))
        if len(rows):
            table.many(rows, look)
        return len(rows)

    def _many(self, value: Any, look: Look) -> int:
        if self._tally is None or not len(value):
            return 0
        seen = spread(value, len(value), self._fields.sample)
        if hasattr(seen, "detach"):
            seen = _numbers(seen)
        self._tally.many(seen, look)
        return len(seen)

    def _list(self, value: Sequence[Any], look: Look) -> int:
        if not value:
            return 0
        first = value[0]
        if isinstance(first, BaseModel | Mapping) or dataclasses.is_dataclass(first):
            seen = spread(value, len(value), self._fields.sample)
            return sum(self.read(each, look) for each in seen)
        if self._table is not None or (self._tally is None and isinstance(first, float | int | list | tuple)):
            limit = self._fields.sample if isinstance(first, list | tuple) else len(value)
            try:
                return self._array(np.asarray(spread(value, len(value), limit), dtype=float), look)
            except (TypeError, ValueError):
                self._fields.problem(f"{self._path} holds lists that are no rows of numbers")
                return 0
        return self._many(value, look)


def _numbers(value: Any) -> np.ndarray[Any, Any]:
    """Rows as numpy has them, tensors from their device."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    found = series(value) if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
    return found if found.dtype.kind in "biuf" else found.astype(np.float64)


def _column(frame: Any, place: int) -> Any:
    if hasattr(frame, "iloc"):
        return frame.iloc[:, place]
    return frame.column(place) if hasattr(frame, "column_names") else frame.to_series(place)


def _matrix_of(frame: Any, names: Sequence[str], table: Table | None, most: int) -> np.ndarray[Any, Any]:
    """A frame in place of the array the profile knows: by name where the names are the same, otherwise in order."""
    order = list(range(len(names)))
    if table is not None and set(table.names) == set(names):
        order = [names.index(name) for name in table.names]
    columns = [_column(frame, place) for place in order]
    return np.column_stack([np.asarray(series(spread(one, len(one), most)), dtype=float) for one in columns])
