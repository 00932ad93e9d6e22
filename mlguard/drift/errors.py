"""The error of this room."""

from __future__ import annotations

from mlguard.errors import GuardError

__all__ = ["ProfileError"]


class ProfileError(GuardError, ValueError):
    """A reference profile can't be made, read or compared. The message names the place and the fix."""

    permanent = True
