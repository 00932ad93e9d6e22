"""What went wrong, by field and by cause, each with an example."""

# ruff: noqa: S608 - the SQL is put together from this package's own names; values are bound or quoted

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from mlguard.report.figures.facts import ANSWERED, CAUSE, Facts

__all__ = ["MOST", "CauseFigures", "Failures", "FieldFigures", "failures_of"]

MOST: Final = 25
"""Fields, and causes, that are told one by one."""


@dataclass(frozen=True)
class FieldFigures:
    """One field that broke its schema in one way."""

    function: str
    where: str
    """`input`: the call was refused. `result`: the result was. `let pass`: report mode let it pass."""
    field: str
    """Dotted place; empty for the whole."""
    kind: str
    """The type of the violation, such as `greater_than_equal`."""
    calls: float
    """Calls with such a violation."""
    first: datetime | None
    last: datetime | None
    message: str
    """What one record says of it."""
    call_id: str
    """Of that record."""


@dataclass(frozen=True)
class CauseFigures:
    """One class of error of one function; broken schemas apart, which are told by field."""

    function: str
    cause: str
    """The class of the exception, or else the disposition."""
    disposition: str
    calls: float
    passed_on: float
    """Of these, calls around the one that failed: the same exception, met again on its way out."""
    first: datetime | None
    last: datetime | None
    message: str
    """What one record says of it; empty where none does."""
    traceback: str
    """The end of that record's traceback; empty where it has none."""
    call_id: str
    """Of that record."""


@dataclass(frozen=True)
class Failures:
    """Everything that was not answered, and what was let pass."""

    fields: tuple[FieldFigures, ...]
    """The most frequent first, `MOST` at most."""
    fields_in_all: int
    causes: tuple[CauseFigures, ...]
    """The most frequent first, `MOST` at most."""
    causes_in_all: int
    refused_by_field: tuple[tuple[str, str, float], ...]
    """Calls whose input was refused, by function and the field that their record names first."""


_PLACE = r"\.\d+\b"  # which row or item it was says nothing about the cause
_BROKEN = "json_array_length(violations) > 0"
_SINCE = "coalesce(moment, TIMESTAMP '9999-01-01')"

_BY_FIELD = f"""
    SELECT function, place, one.field AS field, one.kind AS kind, sum(calls) AS calls, min(moment), max(moment),
        arg_min(violations, {_SINCE}), arg_min(coalesce(call_id, ''), {_SINCE}), count(*) OVER () AS of
    FROM (
        SELECT function, calls, moment, call_id, violations,
            CASE WHEN disposition = 'rejected_validation' THEN 'input'
                WHEN outcome = 'success' THEN 'let pass' ELSE 'result' END AS place,
            unnest(list_distinct(list_transform(violations::JSON[], lambda one: {{
                'field': regexp_replace(coalesce(one->>'loc', ''), '{_PLACE}', '[]', 'g'),
                'kind': coalesce(one->>'type', '')}}))) AS one
        FROM facts WHERE {_BROKEN}
    ) GROUP BY function, place, field, kind ORDER BY calls DESC, function, place, field, kind LIMIT {MOST}
"""

_BY_CAUSE = f"""
    SELECT function, {CAUSE} AS cause, disposition, sum(calls) AS calls,
        coalesce(sum(calls) FILTER (passed_on), 0), min(moment), max(moment),
        coalesce(arg_min(message, {_SINCE}) FILTER (message IS NOT NULL), ''),
        coalesce(arg_min(coalesce(traceback, ''), {_SINCE}) FILTER (message IS NOT NULL), ''),
        coalesce(arg_min(call_id, {_SINCE}) FILTER (message IS NOT NULL), arg_min(call_id, {_SINCE}), ''),
        count(*) OVER () AS of
    FROM facts
    WHERE disposition NOT IN {ANSWERED} AND outcome IS DISTINCT FROM 'success' AND NOT coalesce({_BROKEN}, FALSE)
    GROUP BY function, cause, disposition ORDER BY calls DESC, function, cause LIMIT {MOST}
"""

_REFUSED = f"""
    SELECT function, regexp_replace(coalesce(violations->0->>'loc', ''), '{_PLACE}', '[]', 'g') AS field,
        sum(calls) AS calls
    FROM facts WHERE disposition = 'rejected_validation' AND {_BROKEN}
    GROUP BY function, field ORDER BY calls DESC, function, field LIMIT {MOST}
"""


def failures_of(facts: Facts) -> Failures:
    """Counted in the table `facts`."""
    fields = facts.ask(_BY_FIELD)
    causes = facts.ask(_BY_CAUSE)
    refused = facts.ask(_REFUSED)
    return Failures(
        fields=tuple(
            FieldFigures(function, where, field, kind, calls, first, last, _message(violations, field, kind), call_id)
            for function, where, field, kind, calls, first, last, violations, call_id, _ in fields
        ),
        fields_in_all=fields[0][-1] if fields else 0,
        causes=tuple(CauseFigures(*row[:-1]) for row in causes),
        causes_in_all=causes[0][-1] if causes else 0,
        refused_by_field=tuple(refused),
    )


def _message(violations: str, field: str, kind: str) -> str:
    """What the record says of this field."""
    for one in json.loads(violations):
        if not isinstance(one, dict) or str(one.get("type", "")) != kind:
            continue
        if re.sub(_PLACE, "[]", str(one.get("loc", ""))) == field:
            return str(one.get("msg", ""))
    return ""
