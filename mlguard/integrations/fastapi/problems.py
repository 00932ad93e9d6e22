"""mlguard's errors as answers: a status, `application/problem+json` (RFC 9457), and Retry-After where it helps.

A client is told what it can act on: what is wrong with its input, or when to come back. Figures of the machine, names
of inner functions and values stay in the log; `call_id` says where to look there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any, Final

import structlog
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket

from mlguard.context import Call
from mlguard.errors import (
    CircuitOpenError,
    ConcurrencyLimitError,
    DeadlineExceededError,
    GuardError,
    InvalidInputError,
    InvalidOutputError,
    MemoryPressureError,
    PolicyError,
    RejectedError,
)
from mlguard.integrations.fastapi import blame
from mlguard.integrations.fastapi.counts import Counts
from mlguard.monitor import failures
from mlguard.monitor.parameters import Parameters
from mlguard.monitor.redaction import Words
from mlguard.wrapper import Wrapper

__all__ = ["STATUSES", "Problem", "Problems"]

STATUSES: Final[Mapping[type[GuardError], int]] = {
    InvalidInputError: 422,
    InvalidOutputError: 500,
    ConcurrencyLimitError: 429,
    CircuitOpenError: 503,
    MemoryPressureError: 503,
    RejectedError: 503,
    DeadlineExceededError: 504,
    PolicyError: 500,
    GuardError: 500,
}
"""The status of each error. 429 for a full line, and not 503: the process is well, and whoever counts 5xx must not take
it for ill; it asks for fewer calls at once."""

_TOO_LARGE: Final = 413
"""For a call that needs more memory than there will ever be: a smaller request may pass, the same one never does."""

_WORDS: Final[Mapping[type[GuardError], tuple[str, str, str]]] = {
    InvalidInputError: ("invalid-input", "The input is invalid", "What is wrong is listed under 'violations'."),
    InvalidOutputError: (
        "invalid-output",
        "The result was invalid",
        "It broke its schema, so that it is not handed on. The failure is logged.",
    ),
    ConcurrencyLimitError: (
        "concurrency-limit",
        "Too many calls at once",
        "As many calls run and wait as may. Send fewer at once, or try again later.",
    ),
    CircuitOpenError: (
        "circuit-open",
        "Paused after failures",
        "Too many recent calls failed, so that this one was not tried. Try again later.",
    ),
    MemoryPressureError: (
        "memory-pressure",
        "Not enough memory now",
        "The call was not run, because it could exhaust the memory. Try again later.",
    ),
    RejectedError: ("rejected", "Refused for now", "The call was not run. Try again later."),
    DeadlineExceededError: (
        "deadline-exceeded",
        "Out of time",
        "The call did not end, or could not begin, within its time.",
    ),
    GuardError: ("failure", "The service failed", "The failure is logged."),
}
_FOR_GOOD: Final = ("too-large", "Too large for this machine", "The call needs more memory than there is. Send less.")
_FURTHER_IN: Final = ("failure", "The service failed", "It refused what it had made itself. The failure is logged.")

_log = structlog.get_logger("mlguard.fastapi")


class Problem(JSONResponse):
    """An answer as RFC 9457 describes it."""

    media_type = "application/problem+json"


class Problems:
    """Answers for the errors of mlguard that come out of an application.

    Args:
        statuses: Statuses that the application wants otherwise.
        client_input: Guarded functions further in whose refused input is the client's fault as well.
        counts: Where answers are counted.
    """

    def __init__(
        self, statuses: Mapping[type[GuardError], int], client_input: Collection[Wrapper], counts: Counts
    ) -> None:
        self._statuses = statuses
        self._client_input = client_input
        self._counts = counts

    async def answer(self, connection: Any, error: Exception) -> Any:
        """The exception handler: the answer to a `Request`; a `WebSocket` is closed, with None as answer."""
        assert isinstance(error, GuardError)  # noqa: S101 - Starlette looks handlers up by class
        status, content = self._content(connection.scope, error)
        self._counts.answered(status, error)
        if isinstance(connection, WebSocket):
            await connection.close(code=_close_code(status), reason=content["title"])
            return None
        headers = {"Retry-After": str(content["retry_after"])} if "retry_after" in content else None
        return Problem(content, status, headers=headers)

    def expired(self, scope: Mapping[str, Any]) -> Response:
        """The answer to a request whose deadline had passed when it came."""
        error = DeadlineExceededError("the request's deadline had passed when it came")
        status = self._status(error)
        self._counts.answered(status, error)
        return Problem(_problem(_WORDS[DeadlineExceededError], status, scope), status)

    def _content(self, scope: Mapping[str, Any], error: GuardError) -> tuple[int, dict[str, Any]]:
        words, status = _of_class(error, _WORDS), self._status(error)
        ours = isinstance(error, InvalidInputError) or status == HTTPStatus.INTERNAL_SERVER_ERROR
        found = blame.refusal(error) if ours else None  # under overload nobody asks
        refuser = None if found is None else found.refuser
        violations: list[dict[str, Any]] | None = None
        if isinstance(error, InvalidInputError):
            if found and refuser and blame.by_client(found, scope, self._client_input):
                violations = _violations(error, refuser)
            else:
                words, status = _FURTHER_IN, self._statuses.get(GuardError, STATUSES[GuardError])
        elif isinstance(error, MemoryPressureError) and error.permanent:
            words, status = _FOR_GOOD, self._status(error, _TOO_LARGE)
        content = _problem(words, status, scope)
        call_id = self._told(scope, error, status, refuser)
        if call_id is not None:
            content["call_id"] = call_id
        if violations is not None:
            content["violations"] = violations
        after = _whole_seconds(error)
        if after is not None:
            content["retry_after"] = after
        return status, content

    def _status(self, error: GuardError, otherwise: int | None = None) -> int:
        """The application's own status for the error or a class above it, before ours."""
        return int(_of_class(error, self._statuses, otherwise) or _of_class(error, STATUSES))

    def _told(self, scope: Mapping[str, Any], error: GuardError, status: int, refuser: Wrapper | None) -> str | None:
        """The id under which the log tells of the error. Where no event did and the server is to blame, it does so now.

        A refusal of further in may have been told of as a warning about input. Here it is a failure, so that it is told
        once more, with the id of that event.
        """
        recorded = failures.recorded_by(error)
        if status != HTTPStatus.INTERNAL_SERVER_ERROR or (recorded and not isinstance(error, InvalidInputError)):
            return recorded
        call_id = recorded or Call().id
        fields = {
            "code.function.name": None if refuser is None else refuser.target.name,
            "mlguard.call_id": call_id,
            "error.type": failures.error_type(error),
            "exception.message": failures.message(
                error, None, _without_values if refuser is None else _words_of(refuser).violation
            ),
            "http.request.method": scope.get("method"),
            "http.route": getattr(scope.get("route"), "path", None),
            "http.response.status_code": status,
        }
        try:
            _log.error("mlguard.http.failure", **{key: value for key, value in fields.items() if value is not None})
        except Exception:  # a logging set-up that fails must not cost the client its answer
            self._counts.log_failures += 1
        return call_id


def _of_class(error: GuardError, by_class: Mapping[type[GuardError], Any], otherwise: Any = None) -> Any:
    return next((by_class[cls] for cls in type(error).__mro__ if cls in by_class), otherwise)


def _problem(words: tuple[str, str, str], status: int, scope: Mapping[str, Any]) -> dict[str, Any]:
    kind, title, detail = words
    path = scope.get("raw_path") or scope["path"].encode()
    return {
        "type": f"urn:problem-type:mlguard:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": path.partition(b"?")[0].decode("ascii", "replace"),
    }


def _violations(error: InvalidInputError, wrapper: Wrapper) -> list[dict[str, Any]]:
    """What is wrong, without any value: as the function's own events tell it, with the place in parts."""
    words = _words_of(wrapper)
    told = []
    for found in error.errors():
        said: dict[str, Any] = dict(words.violation(found))
        said["loc"] = [part if isinstance(part, int) or part in words.known else "*" for part in found["loc"]]
        fix = found.get("ctx", {}).get("fix")
        if fix and said["msg"] == found["msg"]:
            said["fix"] = fix
        told.append(said)
    return told


def _words_of(wrapper: Wrapper) -> Words:
    """What the function's schemas name, and which of it they hide."""
    options = wrapper.options
    return Parameters(wrapper.target.declared(options.schema, options.output)).words


def _without_values(found: Mapping[str, Any]) -> dict[str, str]:
    """A violation for the log, where it is not known what the schema hides: the argument and the type."""
    return {"loc": str(found["loc"][0]) if found["loc"] else "", "msg": found["type"]}


def _whole_seconds(error: GuardError) -> int | None:
    after = error.retry_after
    if error.permanent or after is None or not math.isfinite(after):
        return None
    return max(1, math.ceil(after))


def _close_code(status: int) -> int:
    """WebSocket's word for a status: policy violation, try again later, internal error."""
    if status in (429, 503, 504):
        return 1013
    return 1008 if status < HTTPStatus.INTERNAL_SERVER_ERROR else 1011
