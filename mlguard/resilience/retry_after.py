"""How long a callee asks its callers to wait: Retry-After and its likes, wherever an exception keeps them."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

__all__ = ["retry_after"]


def retry_after(error: Exception) -> float | None:
    """How long the callee asks to wait, in seconds; None: it does not say."""
    with suppress(Exception):  # whatever a stranger's exception answers, a call must not fail because of it
        headers = _headers(error)
        asked = _seconds(getattr(error, "retry_after", None), None)
        if asked is None and headers:
            milliseconds = _number(_header(headers, "retry-after-ms"))  # OpenAI and Azure
            asked = _seconds(_header(headers, "retry-after"), headers) if milliseconds is None else milliseconds / 1000
        return asked
    return None


def _headers(error: Any) -> Any:
    """The headers of the answer an exception carries, where httpx, requests, aiohttp, urllib and botocore keep them."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response["ResponseMetadata"]["HTTPHeaders"]
    return getattr(response, "headers", None) or getattr(error, "headers", None)


def _header(headers: Any, name: str) -> Any:
    """A header by its name, however it is spelt; a plain dict tells the spellings apart."""
    found = headers.get(name)
    if found is None and isinstance(headers, dict):
        found = next((headers[each] for each in headers if str(each).lower() == name), None)
    return found


def _seconds(given: Any, headers: Any) -> float | None:
    """Seconds from seconds, a duration, or an HTTP date; None: it is none of these."""
    if isinstance(given, timedelta):
        given = given.total_seconds()
    seconds = _number(given)
    if seconds is None and isinstance(given, str):
        then = _time(given)
        if then is not None:  # reckoned from the callee's own clock where it tells it
            told = _time(_header(headers, "date")) if headers else None
            seconds = max(0.0, then - (time.time() if told is None else told))
    return seconds


def _number(given: Any) -> float | None:
    """Seconds of 0 and more, infinity for a row of digits that no float holds; None: it is no such number."""
    try:
        number = float(given)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return None
    if not math.isfinite(number):
        return math.inf if isinstance(given, str) and given.strip().isdigit() else None
    return max(0.0, number)


def _time(given: Any) -> float | None:
    """Seconds since 1970 from an HTTP date; None: it is none."""
    with suppress(Exception):
        from email.utils import parsedate_to_datetime

        return parsedate_to_datetime(given).timestamp()
    return None
