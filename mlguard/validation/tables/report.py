"""What is wrong with a table, as pydantic's errors: one entry a rule and column, with counts and the first rows.

Rows are numbered by their position, from 0, whatever index a data frame has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from mlguard.validation.tables.fields import Problem

__all__ = ["as_error", "reason", "rejections"]

_FIRST = 5
"""So many rows and values of a violation are told."""
_LONGEST = 40


def as_error(problems: Sequence[Problem], size: int) -> ValidationError:
    """The problems as one error, to be raised inside of pydantic, which puts the argument's name before each column."""
    return ValidationError.from_exception_data("table", [_details(problem, size) for problem in problems])


def reason(problem: Problem) -> str:
    """Why each of its rows is wrong."""
    return problem.text


def rejections(problems: Sequence[Problem], argument: str, most: int) -> list[dict[str, Any]]:
    """Row by row what is wrong, as pydantic's ``errors()`` lists it; bounded, the last entry counts the rest."""
    entries = sorted(
        (int(row), place) for place, problem in enumerate(problems) for row in problem.rows[:most].tolist()
    )
    total = sum(len(problem.rows) for problem in problems)
    listed: list[dict[str, Any]] = [
        {
            "type": problems[place].kind,
            "loc": (argument, row, problems[place].column) if problems[place].column else (argument, row),
            "msg": reason(problems[place]),
            "ctx": {"row": row, "column": problems[place].column},
        }
        for row, place in entries[:most]
    ]
    if total > len(listed):
        more = total - len(listed)
        listed.append(
            {"type": "more_violations", "loc": (), "msg": f"{more} more are not listed", "ctx": {"count": more}}
        )
    return listed


def _details(problem: Problem, size: int) -> InitErrorDetails:
    words, context = problem.text, {**problem.context, "column": problem.column}
    count = len(problem.rows)
    if count:
        first = problem.rows[:_FIRST]
        words = f"{words}: wrong in {_rows(count, size)}, first in row {int(first[0])}"
        context |= {"count": count, "size": size, "row": int(first[0]), "rows": first.tolist()}
        if problem.values is not None:
            context["values"] = problem.values(first)
            words = f"{words} ({', '.join(map(str, context['values'][:3]))}{', ...' if count > 3 else ''})"
        if problem.ends is not None:
            context["min"], context["max"] = problem.ends
            words = f"{words}; min {problem.ends[0]}, max {problem.ends[1]}"
    # A brace in a validator's own words must not be taken for a placeholder.
    error = PydanticCustomError(cast(Any, problem.kind), "{words}", {**context, "words": words, "table": True})
    return InitErrorDetails(type=error, loc=(problem.column,) if problem.column else (), input=None)


def _rows(count: int, size: int) -> str:
    return f"{count:,} of {size:,} row{'' if size == 1 else 's'}"
