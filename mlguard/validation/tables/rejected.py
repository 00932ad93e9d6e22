"""The rows of one call that were refused and taken out, on their way through the call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from mlguard.batch import take
from mlguard.errors import GuardError
from mlguard.validation.tables.columns import Array
from mlguard.validation.tables.fields import Problem

__all__ = ["EveryRowRejectedError", "Rejected", "quarantined", "rejected_of", "taken_out"]

_KEY: Final = "mlguard.rejected"
"""Where the dict of a call keeps them, beside the names of dimensions."""


class EveryRowRejectedError(GuardError):
    """No row is left to call the function with; the fallback answers, so that only warming up shows this."""

    def __init__(self, values: Any) -> None:
        super().__init__("no row of the table fits its schema. Fix: warm up with valid rows.")
        self.values = values
        """The arguments as they were checked, in the order of the parameters."""


class Rejected:
    """What was taken out of the table of one call; nothing, before a table was looked at."""

    def __init__(self) -> None:
        self.open = True
        """The arguments are being checked; later tables, such as the result, are not cut."""
        self.table: Any = None
        self.size = 0
        self.rows: Array = np.array([], np.intp)
        """The numbers of the rows that were taken out, ascending."""
        self.kept: Array = self.rows
        self.problems: Sequence[Problem] = ()
        self.told = False
        """The event and the counts know of them."""
        self.dims: dict[str, Any] = {}
        """The dimensions that the arguments named; the result of some of the rows may have named more since."""

    def narrowed(self, table: Any, size: int, problems: Sequence[Problem]) -> Any:
        """The rows of a table that have no problem; the others are remembered."""
        good = np.ones(size, bool)
        for problem in problems:
            good[problem.rows] = False
        self.table, self.size, self.problems = table, size, problems
        self.rows, self.kept = np.flatnonzero(~good), np.flatnonzero(good)
        return take(table, self.kept)


class quarantined:  # noqa: N801 - reads as a function, is a class so that it pickles
    """A validator of arguments; invalid rows of their table are taken out instead of refused.

    Raises:
        EveryRowRejectedError: No row is left.
    """

    def __init__(self, validate: Callable[..., Any]) -> None:
        self._validate = validate

    def __call__(self, values: Any, *, context: dict[str, Any], **options: Any) -> Any:
        context[_KEY] = rejected = Rejected()
        values = self._validate(values, context=context, **options)
        rejected.open = False
        rejected.dims = {name: size for name, size in context.items() if name != _KEY}
        if rejected.size and not len(rejected.kept):
            raise EveryRowRejectedError(values)
        return values


def rejected_of(context: Any) -> Rejected | None:
    """Where the rows that a table check finds go; None: a bad row refuses the call."""
    found = context.get(_KEY) if type(context) is dict else None
    return found if found is not None and found.open else None


def taken_out(dims: Any) -> Rejected | None:
    """What was taken out in a call; None: nothing."""
    found = dims.get(_KEY) if dims else None
    return found if found is not None and found.size and not found.open else None
