"""How long a callee asks its callers to wait: Retry-After and its likes, wherever an exception keeps them."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import Any

__all__ = ["retry_after"]


def retry_after(error: Exception) -> float | None:
    """How long the callee asks to wait, in seconds; None: it does not say."""
    with suppress(Exception):  # whatever a stranger's exception answers, a call must not fail because of it
        headers = _headers(error)
        given = getattr(error, "retry_after", None)
        if given is None and headers:
            milliseconds = headers.get("retry-after-ms") or headers.get("Retry-After-Ms")  # OpenAI and Azure
            if milliseconds is not None:
                return _seconds(float(milliseconds) / 1000, headers)
            given = headers.get("Retry-After") or headers.get("retry-after")
        if given is not None:
            return _seconds(given, headers)
    return None


def _headers(error: Any) -> Any:
    """The headers of the answer an exception carries, where httpx, requests, aiohttp, urllib and botocore keep them."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response["ResponseMetadata"]["HTTPHeaders"]
    return getattr(response, "headers", None) or getattr(error, "headers", None)


def _seconds(given: Any, headers: Any) -> float | None:
    try:
        seconds = given.total_seconds() if hasattr(given, "total_seconds") else float(given)
    except ValueError:  # an HTTP date; reckoned from the callee's own clock where it tells it
        from email.utils import parsedate_to_datetime

        told = headers.get("Date") or headers.get("date") if headers else None
        now = parsedate_to_datetime(told).timestamp() if told else time.time()
        seconds = parsedate_to_datetime(given).timestamp() - now
    return max(0.0, seconds) if math.isfinite(seconds) else None
