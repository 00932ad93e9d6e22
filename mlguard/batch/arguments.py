"""`Batch`: which arguments of one function are its batch, as ``guarded(rows=...)`` says or their annotations show."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from mlguard.batch.tables import Rows, length_of, take
from mlguard.errors import PolicyError
from mlguard.section import nearest
from mlguard.target import Target, spelt_out

__all__ = ["Batch", "RowArguments"]

RowArguments: TypeAlias = str | Sequence[str] | Mapping[str, int] | None
"""``"features"``, ``("input_ids", "mask")``, ``{"images": 1}`` with the axis, or ``"patient.features"`` for a field."""


class _Place(NamedTuple):
    """Where one table of the batch is."""

    name: str
    """As the decorator spells it."""
    position: int | None
    """Among the positional arguments; None: it is passed by name alone."""
    parameter: str
    fields: tuple[str, ...]
    """The way from the argument, a model, to the table."""
    axis: int
    row_name: str | None
    """The name its annotation gives to the number of rows."""


class Batch:
    """The arguments of one function whose rows belong together: the first of each is one row, and so on.

    The result has its rows along the first axis.

    Args:
        target: The function.
        rows: Its arguments with rows. None: the one argument, or the one field of an argument, that its annotation
            calls a table (`Rows`) or an `Array` whose first dimension has a name.

    Raises:
        PolicyError: There is no such argument or field, or none was named and not exactly one shows.
        NameError: An annotation names something that is not defined yet.
    """

    def __init__(self, target: Target, rows: RowArguments = None) -> None:
        self.target = target
        self.rows = rows
        if rows is None:
            self._places = [_the_only_one(target)]
        else:
            self._places = [_place(target, name, axis) for name, axis in _named(target, rows).items()]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters that hold the batch, or a part of it."""
        return tuple(dict.fromkeys(place.parameter for place in self._places))

    @property
    def axes(self) -> dict[str, int]:
        """The axis of the rows of each table of the batch, by the name that the decorator gives it."""
        return {place.name: place.axis for place in self._places}

    @property
    def fields(self) -> dict[str, frozenset[tuple[str, ...]]]:
        """For each parameter the ways to its fields that hold the batch; none where the argument itself does."""
        found: dict[str, set[tuple[str, ...]]] = {}
        for place in self._places:
            found.setdefault(place.parameter, set()).update({place.fields} if place.fields else ())
        return {parameter: frozenset(fields) for parameter, fields in found.items()}

    @property
    def label(self) -> str:
        """How a sentence names the batch: ``'features' and 'mask'``."""
        return " and ".join(f"'{place.name}'" for place in self._places)

    def tables(self, args: Any, kwargs: Any) -> list[tuple[Any, int]]:
        """The tables of a call, each with its axis; an argument that is None or was left out is none."""
        return [(table, place.axis) for place in self._places if (table := _table(place, args, kwargs)) is not None]

    def size(self, args: Any, kwargs: Any) -> int:
        """How many rows a call has.

        Raises:
            ValueError: Its tables have different numbers of rows, or there is none.
            TypeError: One of them is no table.
        """
        sizes = {length_of(table, axis) for table, axis in self.tables(args, kwargs)}
        if len(sizes) != 1:
            found = " and ".join(f"{size:,}" for size in sorted(sizes)) or "no"
            raise ValueError(f"{self.target.name}: the batch {self.label} has {found} rows; it must have one number.")
        return sizes.pop()

    def take(self, args: Any, kwargs: Any, rows: Rows) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call on some of its rows; what is not of the batch is handed on as it is."""
        changed, named = list(args), dict(kwargs)
        for place in self._places:
            if _table(place, args, kwargs) is None:
                continue
            if place.position is not None and place.position < len(changed):
                changed[place.position] = _narrowed(changed[place.position], place.fields, rows, place.axis)
            else:
                named[place.parameter] = _narrowed(named[place.parameter], place.fields, rows, place.axis)
        return tuple(changed), named

    def dims(self, dims: Any, size: int) -> Any:
        """The dimension names of a call, for a part of so many rows."""
        if dims is None:
            return None
        return {**dims, **{place.row_name: size for place in self._places if place.row_name is not None}}

    def __reduce__(self) -> tuple[Any, ...]:
        return Batch, (self.target, self.rows)


def _named(target: Target, rows: Any) -> dict[str, int]:
    if isinstance(rows, str):
        rows = (rows,)
    if not isinstance(rows, Mapping):
        if not isinstance(rows, Sequence) or not all(isinstance(name, str) for name in rows):
            raise PolicyError(
                f"{target.name}: rows={rows!r} names no arguments. Fix: rows='features', rows=('ids', 'mask'), or "
                "rows={'images': 1} with the axis."
            )
        rows = dict.fromkeys(rows, 0)
    if not rows:
        raise PolicyError(f"{target.name}: rows= names no argument. Fix: rows='features', or leave it out.")
    for name, axis in rows.items():
        if type(axis) is not int or axis < 0:
            raise PolicyError(f"{target.name}: rows={{{name!r}: {axis!r}}}: an axis is 0, 1, 2, ... Fix: the axis.")
    return dict(rows)


def _place(target: Target, name: str, axis: int) -> _Place:
    parameter, *fields = name.split(".")
    known = target.signature.parameters
    if parameter not in known or known[parameter].kind in (2, 4):  # *args and **kwargs
        hint = nearest(parameter, known)
        raise PolicyError(f"{target.name}: rows= names '{parameter}', but it has no such parameter.{hint}")
    annotation = target.hints.get(parameter)
    for field in fields:
        model = _plain(annotation)
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise PolicyError(
                f"{target.name}: rows= names '{name}', but what comes before '.{field}' is no Pydantic model. "
                "Fix: name an argument, or a field of an argument declared as a model."
            )
        if field not in model.model_fields:
            hint = nearest(field, model.model_fields)
            raise PolicyError(f"{target.name}: rows= names '{name}', but {model.__name__} has no '{field}'.{hint}")
        annotation = _annotation_of(model, field)
    return _Place(name, _position(target, parameter), parameter, tuple(fields), axis, _row_name(annotation, axis))


def _the_only_one(target: Target) -> _Place:
    found = [name for name in target.signature.parameters for name in _shown(name, target.hints.get(name))]
    if len(found) != 1:
        which = f"{' and '.join(found)} could be" if found else "none of its arguments is shown to be"
        raise PolicyError(
            f"{target.name}: which argument is the batch? {which[0].upper()}{which[1:]} one (a Rows, or an Array whose "
            "first dimension has a name). Fix: guarded(rows='NAME')."
        )
    return _place(target, found[0], 0)


def _shown(name: str, annotation: Any) -> Iterator[str]:
    """The argument, or its fields, whose rows have a name."""
    if _row_name(annotation, 0) is not None:
        yield name
        return
    model = _plain(annotation)
    if isinstance(model, type) and issubclass(model, BaseModel):
        for field in model.model_fields:
            if _row_name(_annotation_of(model, field), 0) is not None:
                yield f"{name}.{field}"


def _annotation_of(model: type[BaseModel], field: str) -> Any:
    return get_type_hints(model, include_extras=True).get(field)


def _position(target: Target, parameter: str) -> int | None:
    by_position = [each.name for each in target.parameters if each.kind in (0, 1)]
    return by_position.index(parameter) if parameter in by_position else None


def _plain(annotation: Any) -> Any:
    annotation = spelt_out(annotation)
    return _plain(get_args(annotation)[0]) if hasattr(annotation, "__metadata__") else annotation


def _row_name(annotation: Any, axis: int) -> str | None:
    """The name that an `Array` or a `Rows` beside a type gives to its rows."""
    from mlguard.validation.array import Array

    rows_mark = getattr(sys.modules.get("mlguard.validation.rows"), "Rows", ())  # not imported: nothing carries one

    for branch in (annotation, *get_args(annotation)) if get_origin(annotation) is not None else (annotation,):
        for mark in getattr(branch, "__metadata__", ()):
            if isinstance(mark, rows_mark) and mark.name is not None:
                return mark.name if axis == 0 else None
            if isinstance(mark, Array) and axis < len(mark.shape) and ... not in mark.shape[: axis + 1]:
                entry = mark.shape[axis]
                if isinstance(entry, str):
                    return entry
    return None


def _table(place: _Place, args: Any, kwargs: Any) -> Any:
    if place.position is not None and place.position < len(args):
        value = args[place.position]
    else:
        value = kwargs.get(place.parameter)
    for field in place.fields:
        value = getattr(value, field, None)
    return value


def _narrowed(value: Any, fields: tuple[str, ...], rows: Rows, axis: int) -> Any:
    if not fields:
        return take(value, rows, axis)
    field, *rest = fields
    narrowed = _narrowed(getattr(value, field), tuple(rest), rows, axis)
    return value.model_copy(update={field: narrowed})
