"""What reading a record raises."""

from __future__ import annotations

__all__ = ["RecordError"]


class RecordError(ValueError):
    """A record can't be read, or SQL over it can't be run. The message names the place and the fix."""
