"""`Rows`: a table whose rows are declared as a Pydantic class, enforced a column at a time.

Type checkers see a plain frame; pydantic sees the checks. How tables are read and looked at is in `tables/`.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from mlguard.batch import length_of, take
from mlguard.errors import PolicyError
from mlguard.validation.depth import SAMPLE, Depth, current
from mlguard.validation.dimensions import dims_of, fit
from mlguard.validation.tables.marks import TableCheck, TableMark
from mlguard.validation.tables.model import RowModel, completed
from mlguard.validation.tables.reading import Table, reader_of
from mlguard.validation.tables.rejected import rejected_of
from mlguard.validation.tables.report import as_error

__all__ = ["Rows", "RowsCheck"]


class Rows(TableMark):
    """What the rows of a table must be: metadata for ``Annotated[pl.DataFrame, Rows(Patient, "n")]``.

    Stands beside a pandas, polars or Arrow frame, ``dict[str, np.ndarray]``, a structured ``np.ndarray`` or
    ``list[dict]``. The table is handed on as the very same object: nothing in it is converted, so what pydantic would
    read "12" for stays refused where a number is declared. The fields' constraints are looked at a column at a time;
    what only Python can say, such as a validator, is asked row by row, of that column alone.

    Args:
        model: The class that declares one row. Its aliases name columns; a field with a default may have no column;
            ``extra="forbid"`` refuses columns that are no field.
        name: What the number of rows is called: the same number wherever the name appears in the arguments, model
            fields and result of one call.
        strict: Take no value for another type's, such as 1.0 for an int. None: as the class and the policy say.
        min_rows: The least number of rows. Default 0, because an empty batch is a batch.
        max_rows: The greatest number of rows. None: any.
        check: "full", "sample" (of at most 16,384 rows, evenly spread, the values are looked at; what is bad elsewhere
            passes) or "metadata" (no value is; columns and their types always are). None: what the policy's
            Validation.check says.

    Raises:
        PolicyError: A declaration that no table could meet, or that does not fit the annotation.
    """

    def __init__(
        self,
        model: type[BaseModel],
        name: str | None = None,
        *,
        strict: bool | None = None,
        min_rows: int = 0,
        max_rows: int | None = None,
        check: Depth | None = None,
    ) -> None:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise PolicyError(f"Rows: {model!r} is no Pydantic model. Fix: pass a subclass of pydantic.BaseModel.")
        if name is not None and not (isinstance(name, str) and name.isidentifier()):
            raise PolicyError(f'Rows: {name!r} is no name for the number of rows. Fix: a name such as "n", or none.')
        for what, number in (("min_rows", min_rows), ("max_rows", max_rows)):
            if number is not None and (type(number) is not int or number < 0):
                raise PolicyError(f"Rows: {what} = {number!r} must be a number of rows, 0 or more.")
        if max_rows is not None and max_rows < min_rows:
            raise PolicyError(f"Rows: max_rows = {max_rows} is less than min_rows = {min_rows}. Fix: swap them.")
        if check not in (None, "full", "sample", "metadata"):
            raise PolicyError(f"Rows: check = {check!r} must be 'full', 'sample' or 'metadata'.")
        self.model = model
        self.name = name
        self.strict = strict
        self.min_rows = min_rows
        self.max_rows = max_rows
        self.check: Depth | None = check

    def __repr__(self) -> str:
        given = [self.model.__name__]
        given += [repr(self.name)] if self.name is not None else []
        given += [f"strict={self.strict}"] if self.strict is not None else []
        given += [f"min_rows={self.min_rows}"] if self.min_rows else []
        given += [f"max_rows={self.max_rows}"] if self.max_rows is not None else []
        given += [f"check={self.check!r}"] if self.check is not None else []
        return f"Rows({', '.join(given)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return self.model, self.name, self.strict, self.min_rows, self.max_rows, self.check

    def check_of(self, source: Any) -> RowsCheck:
        """What checks an annotation ``Annotated[source, self]``."""
        return RowsCheck(self, source)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        check = RowsCheck(self, source)
        function = core_schema.with_info_plain_validator_function(check.check)
        return core_schema.json_or_python_schema(
            function,
            function,
            serialization=core_schema.plain_serializer_function_ser_schema(check.as_json, when_used="json"),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        check: RowsCheck = cast(Any, schema)["python_schema"]["function"]["function"].__self__
        row = self.model.__pydantic_core_schema__
        if check.reader.by_rows:
            limits = {"minItems": self.min_rows or None, "maxItems": self.max_rows}
            rows = {"type": "array", "items": handler(row), **self._ties()}
            return rows | {name: limit for name, limit in limits.items() if limit is not None}
        described = handler.resolve_ref_schema(handler(row))
        columns = {name: {"type": "array", "items": part} for name, part in described.get("properties", {}).items()}
        return {**described, "properties": columns, **self._ties()}

    def _ties(self) -> dict[str, Any]:
        """The name of the number of rows, as arrays have it in JSON Schema."""
        return {} if self.name is None else {"shape": [self.name]}


class RowsCheck(TableCheck):
    """A `Rows` and the table of its annotation: the function pydantic calls."""

    def __init__(self, rows: Rows, source: Any) -> None:
        completed(rows.model)
        self.rows = self.array = rows
        self.reader = reader_of(source)
        self.names = () if rows.name is None else (rows.name,)
        self._strict: RowModel | None = None
        self._lax: RowModel | None = None
        self.model_for(strict=bool(rows.strict))

    def check(self, value: Any, info: ValidationInfo) -> Any:
        """The very same table, where it is right; in a call that quarantines, its rows that are."""
        strict = self.rows.strict
        if strict is None:
            config = info.config
            strict = bool(config and config.get("strict"))
        model = (self._strict if strict else self._lax) or self.model_for(strict=strict)
        table = self.reader(value)
        size = table.size
        self._refuse_size(size)
        depth = self.rows.check or current.get()
        if depth != "full":
            self._look_less(model, value, table, depth)
        elif not model.holds(table) and (problems := model.problems(table)):
            rejected = rejected_of(info.context)
            if rejected is None or not all(len(problem.rows) for problem in problems):
                raise as_error(problems, size)
            value = rejected.narrowed(value, size, problems)
            size -= len(rejected.rows)
        if self.names:
            fit(self.names, (size,), dims_of(info))
        return value

    def bind(self, value: Any, dims: dict[str, int]) -> bool:
        """Binds the name to the number of rows of a table that was checked before the call."""
        if not isinstance(value, self.reader.accepts):
            return False
        if self.names:
            empty = isinstance(value, dict) and not value
            fit(self.names, (0 if empty else length_of(value),), dims)
        return True

    def model_for(self, *, strict: bool) -> RowModel:
        """The compiled class, made when first needed."""
        if strict:
            self._strict = self._strict or RowModel(self.rows.model, strict=True)
            return self._strict
        self._lax = self._lax or RowModel(self.rows.model, strict=False)
        return self._lax

    def as_json(self, value: Any) -> Any:
        """Rows as dicts, or columns as lists, for `model_dump_json`."""
        table = self.reader(value)
        columns = {name: table.column(place).objects() for name, place in table.places.items()}
        if not self.reader.by_rows:
            return columns
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def explain(self) -> list[str]:
        """What of this table is not looked at as whole columns."""
        return self.model_for(strict=bool(self.rows.strict)).explain()

    def _look_less(self, model: RowModel, value: Any, table: Table, depth: Depth) -> None:
        """Columns and their types, and of a sample the values of some rows."""
        step = -(-table.size // SAMPLE) if depth == "sample" else 0
        if step > 1:
            table = self.reader(take(value, slice(None, None, step)))
        if step and model.holds(table):
            return
        problems = model.problems(table) if step else model.misfits(table)
        if problems:
            looked_at = np.arange(table.size) * max(step, 1)
            raise as_error([problem.moved(looked_at) for problem in problems], table.size)

    def _refuse_size(self, size: int) -> None:
        least, most = self.rows.min_rows, self.rows.max_rows
        if size < least or (most is not None and size > most):
            wanted = f"at least {least}" if size < least else f"at most {most}"
            raise PydanticCustomError(
                "table_rows",
                "must have {wanted} rows, got {received}",
                {"wanted": wanted, "received": size, "fix": "send a batch of that size"},
            )
