"""FastAPI's own answer to invalid requests, where it would fail itself.

Its body quotes the input. NaN and infinities, which Python reads from a JSON body, can't be written as JSON, nor half a
surrogate pair as UTF-8, so that a request with one missing value would be answered with 500. They are written as text
and as an escape instead; all else stays FastAPI's.
"""

from __future__ import annotations

import json
import math
from typing import Any

from fastapi.encoders import jsonable_encoder
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response

__all__ = ["DEFAULT", "answer"]

DEFAULT = request_validation_exception_handler
"""FastAPI's handler, which an application has that did not set its own."""


async def answer(request: Request, error: Exception) -> Response:
    """FastAPI's answer, also where the input has values that JSON has not."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - Starlette looks handlers up by class
    try:
        return await DEFAULT(request, error)
    except ValueError:
        body = json.dumps({"detail": _writable(jsonable_encoder(error.errors()))}, allow_nan=False)
        return Response(body, status_code=422, media_type="application/json")


def _writable(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: _writable(item) for key, item in value.items()}
    return [_writable(item) for item in value] if isinstance(value, list) else value
