"""Points in time as the command line takes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import typer

from mlguard import clock

__all__ = ["time_of"]


def time_of(text: str | None) -> datetime | None:
    """A point in time from "1h" (ago), or from ISO 8601; without a zone it is UTC. None stays None.

    Raises:
        typer.BadParameter: It is neither.
    """
    if text is None:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=clock.seconds(text))
    except (ValueError, OverflowError):
        pass
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f'{text!r} is no time. Write how long ago, such as "15m", "1h" or "2d", or a time in UTC, such as '
            "2026-11-30T21:00."
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
