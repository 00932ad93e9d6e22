"""The questions that need no SQL: which calls, by policy, function, outcome, time and so on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["Filters"]

_LOCATIONS: Final = """TRY(json->>'$."mlguard.violations"[*].loc')"""
# Each place on a line of its own and with a dot behind it, so that `age` finds age and age.years, and not page.
_PLACES: Final = f"(chr(10) || array_to_string({_LOCATIONS}, '.' || chr(10)) || '.')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Conditions on calls; all that are given must hold."""

    policy: str | None = None
    """The policy's name."""
    function: str | None = None
    """Module and name of the function, or the last parts of it."""
    outcome: str | None = None
    """`success`, `failure` or `unknown`."""
    disposition: str | None = None
    """How the call ended, or the beginning of it: `rejected` are all rejections."""
    error: str | None = None
    """The exception's class, with its module or without."""
    field: str | None = None
    """A place in the input or output that broke its schema, or one that has broken ones below it."""
    slow: float | None = None
    """Seconds: calls that took at least so long."""
    call_id: str | None = None
    """A call, and those that ran directly inside it."""
    trace_id: str | None = None
    """A trace of OpenTelemetry."""
    since: datetime | None = None
    """Calls that ended at this time or later; without a zone it is UTC."""
    until: datetime | None = None
    """Calls that ended before this time; without a zone it is UTC."""

    def given(self) -> dict[str, Any]:
        """The conditions that there are, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def where(self) -> tuple[str, list[Any]]:
        """SQL over the view `calls`, and its parameters."""
        parts: list[tuple[str, list[Any]]] = []
        for name, value in self.given().items():
            if isinstance(value, str) and _spelt_once(value):
                parts.append(("contains(json, ?)", [value]))  # spares most lines from being picked apart
            condition = _CONDITIONS.get(name, f"{name} = ?")
            parts.append((condition, [_plain(value)] * condition.count("?")))
        return " AND ".join(sql for sql, _ in parts) or "true", [value for _, values in parts for value in values]


_CONDITIONS: Final = {
    "function": "(function = ? OR ends_with(function, '.' || ?))",
    "disposition": "starts_with(disposition, ?)",
    "error": "(error = ? OR ends_with(error, '.' || ?))",
    "field": f"contains({_PLACES}, chr(10) || ? || '.')",
    "slow": "duration >= ?",
    "call_id": "(call_id = ? OR parent_call_id = ?)",
    "since": "time >= ?",
    "until": "time < ?",
}


def _spelt_once(text: str) -> bool:
    """Whether JSON spells a text in one way only."""
    return text.isascii() and text.isprintable() and not set(text) & set('"\\/')


def _plain(value: Any) -> Any:
    """Times as the view has them: in UTC, without a zone."""
    return value.astimezone(UTC).replace(tzinfo=None) if isinstance(value, datetime) and value.tzinfo else value
