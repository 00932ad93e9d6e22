"""``on_invalid="quarantine"``: invalid rows are taken out, the fallback answers for them, the result is put together.

The rows are taken out by the check of the arguments (`rejected.py`); here they come back. Under quarantine a fallback
speaks row by row: a fixed value stands for the result of one row, and a function is called with the rejected rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol, get_args

from pydantic import BaseModel

from mlguard.batch import length_of, scatter, take
from mlguard.context import Call
from mlguard.errors import InvalidInputError, PolicyError
from mlguard.forks import in_children
from mlguard.monitor import metrics
from mlguard.target import Target
from mlguard.validation.annotations import returned
from mlguard.validation.array import Array
from mlguard.validation.dimensions import names_of
from mlguard.validation.rows import Rows
from mlguard.validation.tables.rejected import EveryRowRejectedError, Rejected, taken_out
from mlguard.validation.tables.repeated import repeat_of
from mlguard.validation.tables.report import as_error, rejections

__all__ = ["Quarantine"]

MOST = 100
"""So many rejected rows are listed with their reasons; the rest is counted."""


_ROWS = "mlguard.rows"
"""Where the dict of a call says how many rows the fallback has to answer for."""


class Answers(Protocol):
    """What the quarantine asks of a fallback, plain and awaited; both give the results of the rows in the arguments."""

    def for_rows(self, this: Call | None, error: Exception, args: Any, kwargs: Any, like: Any) -> Any: ...
    async def for_rows_async(self, this: Call | None, error: Exception, args: Any, kwargs: Any, like: Any) -> Any: ...


class Quarantine:
    """Puts rejected rows back in their places, with what the fallback says of them.

    Args:
        target: The function, with the annotations in force.
        bound: Spreads checked values as arguments again; None where they are passed by position.
        check: Checks a whole result; None: nothing to check.
        violations: Words an error of pydantic's about an argument, hidden values left out.
        by_call: The fallback is a function; else a value that stands for one row.
        depth: How thoroughly the policy looks at values.

    Raises:
        PolicyError: The function has not exactly one argument declared with `Rows`, or rows can't be told apart.
    """

    def __init__(
        self,
        target: Target,
        *,
        spread: Callable[[Any], tuple[Any, dict[str, Any]]] | None,
        check: Callable[[Call | None, Any, Any], None] | None,
        violations: Callable[[Any, str], list[dict[str, Any]]],
        by_call: bool,
        depth: str = "full",
    ) -> None:
        self._target = target
        self._spread = spread
        self._check = check
        self._violations = violations
        self._made_of = (target, spread, check, violations, by_call, depth)
        self.parameter, rows = _the_table(target)
        self._row_name = rows.name
        _refuse_beside(target, self.parameter, rows.name)
        if (rows.check or depth) != "full":
            raise PolicyError(
                f"{target.name}: validation.on_invalid = 'quarantine' needs to look at every row, but check = "
                f"{rows.check or depth!r}. Fix: check='full'."
            )
        kinds = [each for each in target.parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
        names = [each.name for each in kinds]
        self._position = names.index(self.parameter) if self.parameter in names else None
        self._repeat = None if by_call else repeat_of(returned(target))
        if not by_call and self._repeat is None:
            raise PolicyError(
                f"{target.name}: under validation.on_invalid = 'quarantine' a fixed fallback stands for one row, but "
                "the return annotation doesn't say what holds the rows. Fix: annotate the result, such as "
                "-> npt.NDArray[np.float64] or -> list[float], or give a function that makes the rows."
            )
        self._answers: Answers | None = None
        self.reset()

    def answered_by(self, fallback: Answers) -> None:
        """Says who answers for rejected rows."""
        self._answers = fallback

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        return {"rejoin": self.rejoin_async if asynchronous else self.rejoin}

    def rejoin(self, this: Call, result: Any, args: Any, kwargs: Any, dims: Any) -> Any:
        """The result of all rows: those of the function, and the fallback's where a row was rejected."""
        rejected = taken_out(dims)
        if rejected is None:
            return result
        assert self._answers is not None  # noqa: S101 - for the type checker
        error, args, kwargs = self._for_rejected(rejected, args, kwargs)
        return self._whole(this, rejected, result, self._answers.for_rows(this, error, args, kwargs, result))

    async def rejoin_async(self, this: Call, result: Any, args: Any, kwargs: Any, dims: Any) -> Any:
        """The same for an asynchronous function; the fallback may be asynchronous or not."""
        rejected = taken_out(dims)
        if rejected is None:
            return result
        assert self._answers is not None  # noqa: S101 - for the type checker
        error, args, kwargs = self._for_rejected(rejected, args, kwargs)
        answer = await self._answers.for_rows_async(this, error, args, kwargs, result)
        return self._whole(this, rejected, result, answer)

    def covers(self, error: BaseException) -> bool:
        """Whether the fallback has to answer for this, whatever its own settings say."""
        return isinstance(error, EveryRowRejectedError)

    def all_rows(
        self, this: Call | None, error: Exception, args: Any, kwargs: Any, dims: Any
    ) -> tuple[Exception, Any, Any, Any]:
        """The error, arguments and dimensions of a call that the fallback has to answer for in full."""
        rejected = taken_out(dims)
        if isinstance(error, EveryRowRejectedError):
            args, kwargs = self._spread(error.values) if self._spread else (error.values, {})
        if rejected is not None:
            args, kwargs = self._with(args, kwargs, rejected.table)
            if isinstance(error, EveryRowRejectedError):
                error = self._error(rejected)
            self._tell(this, rejected)
            return error, args, kwargs, self._dims(rejected.dims, rejected.size)
        try:
            size = length_of(self._table(args, kwargs))
        except (TypeError, ValueError, LookupError):  # no table at all: the caller's own mistake
            raise error from None
        return error, args, kwargs, self._dims(dims or {}, size)

    def refuse_incomplete(self, answer: Any, dims: Any) -> None:
        """Makes sure that a fallback answered for every row.

        Raises:
            PolicyError: It gave another number of rows.
        """
        try:
            rows = length_of(answer)
        except (TypeError, ValueError) as error:
            raise self._no_rows(str(error)) from None
        if rows != dims[_ROWS]:
            raise self._no_rows(f"it gave {rows:,} for {dims[_ROWS]:,} rows")

    def repeated_for(self, args: Any, kwargs: Any, value: Any, like: Any) -> Any:
        """A fixed value, once for each row in these arguments; in pandas, under the index of those rows."""
        table = self._table(args, kwargs)
        answer = self.repeated(value, length_of(table), like)
        return answer.set_axis(table.index) if hasattr(answer, "iloc") and hasattr(table, "iloc") else answer

    def repeated(self, value: Any, rows: int, like: Any = None) -> Any:
        """A fixed value, once a row.

        Raises:
            PolicyError: It is no result of one row.
        """
        assert self._repeat is not None  # noqa: S101 - for the type checker
        try:
            return self._repeat(value, rows, like)
        except PolicyError as error:
            raise self._no_row(value, str(error)) from None
        except Exception as error:
            raise self._no_row(value, f"can't be repeated ({type(error).__name__}: {error})") from None

    def explain(self) -> list[str]:
        return [
            f"Rows of {self.parameter} that break their schema are taken out; the fallback answers for them, and for "
            "all rows where the call fails or no row is left. They are listed in Outcome.rejected."
        ]

    def stats(self) -> dict[str, Any]:
        """Calls with rejected rows, and how many rows those were."""
        with _lock:
            return {"calls": self._calls, "rejected_rows": self._rejected}

    def metrics(self) -> Iterator[metrics.Figure]:
        yield metrics.REJECTED_ROWS, (), self._rejected

    def reset(self) -> None:
        """Forgets the counts."""
        self._calls = self._rejected = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # The fallback knows its quarantine in turn, so that it can't be among what this is made of.
        return _again, self._made_of, self._answers

    def __setstate__(self, answers: Answers) -> None:
        self.answered_by(answers)

    def _for_rejected(self, rejected: Rejected, args: Any, kwargs: Any) -> tuple[Exception, Any, Any]:
        """What the fallback is asked: why, and the arguments with the rejected rows alone."""
        return self._error(rejected), *self._with(args, kwargs, take(rejected.table, rejected.rows))

    def _whole(self, this: Call, rejected: Rejected, result: Any, answer: Any) -> Any:
        try:
            whole = _joined(rejected, result, answer)
        except (TypeError, ValueError) as error:
            raise PolicyError(
                f"{self._target.name}: the results of {len(rejected.kept):,} valid and {len(rejected.rows):,} rejected "
                f"rows don't fit together: {error}. Fix: one result a row, of the same kind, from the function and "
                "from its fallback."
            ) from None
        self._tell(this, rejected)
        this.degraded = True
        if self._check is not None:
            self._check(this, whole, self._dims(rejected.dims, rejected.size))
        return whole

    def _tell(self, this: Call | None, rejected: Rejected) -> None:
        if rejected.told:  # the result could not be handed on, so that the fallback answers for all rows now
            return
        rejected.told = True
        with _lock:
            self._calls += 1
            self._rejected += len(rejected.rows)
        if this is not None:
            found = rejections(rejected.problems, self.parameter, MOST)
            this.violations = [*(this.violations or []), *found]
            this.tell(mlguard__rejected_rows=len(rejected.rows))

    def _error(self, rejected: Rejected) -> InvalidInputError:
        found = self._violations(as_error(rejected.problems, rejected.size), self.parameter)
        return InvalidInputError.of(f"{self._target.label}()", found)

    def _table(self, args: Any, kwargs: Any) -> Any:
        if self._position is not None and self._position < len(args):
            return args[self._position]
        return kwargs[self.parameter]

    def _with(self, args: Any, kwargs: Any, table: Any) -> tuple[Any, Any]:
        if self._position is not None and self._position < len(args):
            return (*args[: self._position], table, *args[self._position + 1 :]), kwargs
        return args, {**kwargs, self.parameter: table}

    def _dims(self, dims: Any, size: int) -> Any:
        """The dimensions of a call of so many rows."""
        named = {} if self._row_name is None else {self._row_name: size}
        return {name: known for name, known in dims.items() if type(known) is int} | named | {_ROWS: size}

    def _no_rows(self, why: str) -> PolicyError:
        return PolicyError(
            f"{self._target.name}: under validation.on_invalid = 'quarantine' the fallback answers row by row, but "
            f"{why}. Fix: one result a row, in order."
        )

    def _no_row(self, value: Any, why: str) -> PolicyError:
        return PolicyError(
            f"{self._target.name}: Fallback.value of type {type(value).__qualname__} stands for the result of one row "
            f"under validation.on_invalid = 'quarantine', but {why}. Fix: the result of one row, or a function."
        )


def _joined(rejected: Rejected, result: Any, answer: Any) -> Any:
    """The rows of both, in order."""
    parts = [(rejected.kept, result), (rejected.rows, answer)]
    if not hasattr(result, "iloc") or not hasattr(answer, "iloc"):
        return scatter(rejected.size, parts)
    if hasattr(rejected.table, "iloc"):
        index = rejected.table.index
        if result.index.equals(index[rejected.kept]):  # the function kept the index of the table's rows
            return scatter(rejected.size, [parts[0], (rejected.rows, answer.set_axis(index[rejected.rows]))])
    whole = scatter(rejected.size, parts)
    counted = result.index.equals(result.reset_index(drop=True).index)
    return whole.reset_index(drop=True) if counted else whole


def _again(target: Target, spread: Any, check: Any, violations: Any, by_call: bool, depth: str) -> Quarantine:
    return Quarantine(target, spread=spread, check=check, violations=violations, by_call=by_call, depth=depth)


def _the_table(target: Target) -> tuple[str, Rows]:
    found = {
        parameter.name: mark
        for parameter in target.parameters
        for mark in getattr(target.hints.get(parameter.name), "__metadata__", ())
        if isinstance(mark, Rows)
    }
    variable = [
        each.name
        for each in target.parameters
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) and each.name in found
    ]
    if len(found) != 1 or variable:
        has = f"has {' and '.join(found)}" if found else "has none"
        raise PolicyError(
            f"{target.name}: validation.on_invalid = 'quarantine' takes rows out of one table, an argument of its own "
            f"declared as Annotated[..., Rows(...)], but the function {has}. Fix: one such argument, or "
            "on_invalid='raise'."
        )
    return next(iter(found.items()))


def _refuse_beside(target: Target, parameter: str, name: str | None) -> None:
    """Refuses what would no longer match, and other tables, whose rows could be taken for those of the first."""
    for other in target.parameters:
        if other.name == parameter:
            continue
        for mark in _marks_in(target.hints.get(other.name), set()):
            if isinstance(mark, Rows) and (name is None or mark.name != name):
                raise PolicyError(
                    f"{target.name}: validation.on_invalid = 'quarantine' takes rows out of one table, {parameter}, "
                    f"but {other.name} holds another one. Fix: one table a function, or on_invalid='raise'."
                )
            if name is not None and name in _names_of(mark):
                raise PolicyError(
                    f"{target.name}: validation.on_invalid = 'quarantine' takes rows out of {parameter}, and then they "
                    f"no longer match {other.name}, which shares the dimension '{name}'. Fix: make {other.name} a "
                    "column of the table, or give it a name of its own."
                )


def _marks_in(annotation: Any, seen: set[Any]) -> Iterator[Array | Rows]:
    """The arrays and tables that an annotation declares, in the fields of models as well."""
    yield from (mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Array | Rows))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        for field in annotation.model_fields.values():
            yield from (mark for mark in field.metadata if isinstance(mark, Array | Rows))
            yield from _marks_in(field.annotation, seen)
    for part in get_args(annotation):
        yield from _marks_in(part, seen)


def _names_of(mark: Array | Rows) -> tuple[str, ...]:
    if isinstance(mark, Rows):
        return () if mark.name is None else (mark.name,)
    return names_of(mark.dimensions)


def _renew() -> None:
    global _lock
    _lock = threading.Lock()


_lock = threading.Lock()  # held for two additions only
in_children(_renew)
