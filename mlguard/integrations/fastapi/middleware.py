"""What goes around every request of an application: its deadline, and the status of a stream until its first chunk.

Plain ASGI, so that context variables reach path operations and chunks pass one by one.
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Final

from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlguard import clock
from mlguard.context import Until, outside
from mlguard.errors import GuardError
from mlguard.integrations.fastapi.deadlines import seconds_of
from mlguard.outcome import members_of

if TYPE_CHECKING:
    from mlguard.integrations.fastapi.installation import Installed

__all__ = ["GuardMiddleware"]


class GuardMiddleware:
    """Wraps the application that `install` was called for.

    Args:
        app: What is wrapped.
        installed: What `install` was told.
    """

    def __init__(self, app: ASGIApp, installed: Installed) -> None:
        self._app = app
        self._installed = installed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._installed.begin()
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            if scope["type"] == "lifespan":
                self._installed.end()
            return
        until = self._deadline(scope)
        if until is not None and until.at is not None and until.at <= clock.now():
            await self._installed.problems.expired(scope)(scope, receive, send)
            return
        if until is None:  # an application around this one may have set one
            await self._answer(scope, receive, send, None)
            return
        token = outside.set(until)
        try:
            await self._answer(scope, receive, send, until)
        finally:
            outside.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, until: Until | None) -> None:
        answer = _Answer(send, until, hold=self._installed.hold_streams)
        try:
            await self._app(scope, receive, answer)
            await answer.release()
            self._count_left(answer)
        except (ClientDisconnect, asyncio.CancelledError):  # how servers of ASGI 2.4 and newer tell
            self._count_left(answer)
            raise
        except Exception as error:
            cause = _handled(error)
            if not answer.held:
                if answer.begun and isinstance(cause, GuardError):
                    self._installed.counts.broken_streams += 1
                raise
            await _answer_late(cause, scope, receive, send)
        finally:
            if answer.begun and not answer.complete:
                asyncio.get_running_loop().call_soon(gc.collect, _YOUNG)

    def _count_left(self, answer: _Answer) -> None:
        if answer.begun and not answer.complete:
            self._installed.counts.clients_left += 1

    def _deadline(self, scope: Scope) -> Until | None:
        """The earliest deadline that the request's headers ask for, or that an application around this one has."""
        header = self._installed.deadline_header
        sent = [] if header is None else header.sent(scope)
        if header is None or not sent:
            return None
        counts = self._installed.counts.deadlines
        if not header.trusts(scope):
            counts["untrusted"] += 1
            return None
        read = [seconds for name, text in sent if (seconds := seconds_of(name, text)) is not None]
        if len(read) < len(sent):
            counts["ignored"] += 1
        if not read:
            return None
        counts["taken" if min(read) > 0 else "expired"] += 1
        around = outside.get()
        limits = [clock.now() + min(read), None if around is None else around.at]
        return Until(min(each for each in limits if each is not None))


class _Answer:
    """Passes an answer on. Its start waits for the first chunk: an error until then can still have a status."""

    def __init__(self, send: Send, until: Until | None, *, hold: bool) -> None:
        self._send = send
        self._until = until
        self._hold = hold
        self._start: Message | None = None
        self.begun = False
        """Whether the client knows the status."""
        self.complete = False
        """Whether the last chunk was handed to the server."""

    @property
    def held(self) -> bool:
        """Whether there is a status that the client does not know yet."""
        return self._start is not None

    async def release(self) -> None:
        """Sends the start, if it waits."""
        if self._start is not None:
            start, self._start, self.begun = self._start, None, True
            await self._send(start)

    async def __call__(self, message: Message) -> None:
        if message["type"] == _START:
            if self._hold:
                self._start = message
                return
            self.begun = True
        else:
            await self.release()
        last = message["type"] == "http.response.body" and not message.get("more_body")
        if last and self._until is not None:
            self._until.at = None  # what the request does after its answer, such as background tasks, has its own time
        await self._send(message)
        self.complete |= last


_YOUNG: Final = 1
"""The generations of Python's collector that hold what a request has just left behind.

Where a client leaves while a chunk is on its way, anyio keeps the cancellation in a reference cycle, and with it the
suspended generator, its slot and its memory, until the collector comes by. In a big process that takes minutes. Looking
at the young objects alone takes less than a millisecond.
"""

_START: Final = "http.response.start"
_LATE: Final = "Caught handled exception, but response already started"


def _handled(error: Exception) -> Exception:
    """What went wrong: the error itself, but for what Starlette and FastAPI put around it.

    Starlette complains that it has an answer for an error that comes too late; server-sent events are made by a group
    of tasks.
    """
    if type(error) is RuntimeError and isinstance(error.__cause__, Exception) and str(error).startswith(_LATE):
        return _handled(error.__cause__)
    members = list(members_of(error))
    return members[0] if len(members) == 1 else error


async def _answer_late(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers as the application would have, had the error come before the start of the answer; else raises it."""

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    handlers = {of: each for of, each in scope["app"].exception_handlers.items() if of not in (500, Exception)}
    await ExceptionMiddleware(fail, handlers)(scope, receive, send)
