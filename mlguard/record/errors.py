"""What reading a record raises, and what of DuckDB's own errors is worth reading."""

from __future__ import annotations

__all__ = ["RecordError", "first_lines", "place_of"]


class RecordError(ValueError):
    """A record can't be read, or SQL over it can't be run. The message names the place and the fix."""


def first_lines(error: Exception) -> str:
    """What DuckDB says, with the place in the query, without its guesses at names of its own."""
    said, _, rest = str(error).partition("\n")
    return f"{said.removeprefix('Invalid Input Error: ')}\n{place_of(error)}".rstrip() if "LINE " in rest else said


def place_of(error: Exception) -> str:
    """The line of the query with the mark below it, where DuckDB gives one."""
    text = str(error)
    start = text.find("LINE ")
    return text[start:].rstrip() + "\n" if start >= 0 else ""
