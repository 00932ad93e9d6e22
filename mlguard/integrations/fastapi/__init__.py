"""mlguard at home in FastAPI and Starlette: `install(app)`, and errors become answers.

It maps mlguard's errors to HTTP statuses, shows a health page, and lets guarded functions share the deadline that a
request brings. Guarded path operations and dependencies work without it: they keep their signature, so FastAPI reads
them as it reads the functions themselves.

It needs the extra `fastapi`; Starlette alone is enough for a Starlette application.
"""

from __future__ import annotations

try:
    import starlette  # noqa: F401 - so that its absence is told here, once
except ModuleNotFoundError as missing:
    if missing.name != "starlette":
        raise
    raise ModuleNotFoundError(
        "mlguard.integrations.fastapi needs starlette, which is not installed. "
        "Fix: pip install fastapi (mlguard's extra 'fastapi').",
        name="starlette",
    ) from None

from mlguard.integrations.fastapi.installation import install

__all__ = ["install"]
