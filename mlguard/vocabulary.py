"""The words of `call.py`: its flags, and the names that the runtime objects of the concerns bring.

For type checkers and readers; at run time only its list of flags and `Runtime` are used.
Waits are declared in their asynchronous form; a plain function gets plain twins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from mlguard.context import Call

# Flags: True where the policy asks for the concern. RECORD: a `Call` is kept; OUTCOME: `f.guard.call`; POSITIONAL: each
# argument can be passed by position; DIMS: array dimensions have names; STREAM: the function is a generator;
# QUARANTINE: rejected rows of a table are put back with their fallback; SPLIT: a batch may run in parts; THREAD: an
# attempt runs in a thread that may outlive it; ON_RESULT: a result may be unwanted.
RECORD: bool
MONITOR: bool
OUTCOME: bool
VALIDATE: bool
POSITIONAL: bool
DIMS: bool
CHECK: bool
FALLBACK: bool
TIMEOUT: bool
CACHE: bool
RETRY: bool
BREAKER: bool
CONCURRENCY: bool
MEMORY: bool
STREAM: bool
QUARANTINE: bool
SPLIT: bool
THREAD: bool
ON_RESULT: bool

FLAGS: Final = (
    "RECORD", "MONITOR", "OUTCOME", "VALIDATE", "POSITIONAL", "DIMS", "CHECK", "FALLBACK", "TIMEOUT", "CACHE",
    "RETRY", "BREAKER", "CONCURRENCY", "MEMORY", "STREAM", "QUARANTINE", "SPLIT", "THREAD", "ON_RESULT",
)  # fmt: skip


class Tries(Protocol):
    """What retry remembers between two attempts."""

    pause: float


class Opened(Protocol):
    """A generator whose first item is there; see `streams.py`."""

    permit: Any
    slot: Any
    claim: Any
    value: Any
    count: int

    def blamed(self, error: BaseException) -> BaseException: ...
    def hold(self, permit: Any, slot: Any, claim: Any) -> None: ...
    def first(self) -> Any: ...
    async def next(self, sent: Any, thrown: BaseException | None) -> Any: ...
    async def close(self) -> None: ...


function: Callable[..., Any]  # the user's function; for a generator, what opens it
returned: Callable[[Any], None]  # a generator's `return value`, which an async generator can't have
sleep: Callable[[float], Awaitable[Any]]
END: Any  # stands for a stream's end
begin: Callable[[], Call]
enter: Callable[[Call], Any]  # the call is the one in progress, until `leave`
leave: Callable[[Call, Any], Any]

# monitor
succeeded: Callable[[Call, Any, Any, Any], None]
failed: Callable[[Call, BaseException, Any, Any], None]
outcome: Callable[[Call, Any], Any]

# validation
arity: int  # with as many positional arguments and no others, `shape` has nothing to do
shape: Callable[..., tuple[Any, ...]]
bind: Callable[..., Any]
spread: Callable[[Any], tuple[Any, dict[str, Any]]]
INVALID: tuple[type[Exception], ...]
NO_KEYWORDS: dict[str, Any]
refuse: Callable[[Call | None, Exception, Any, Any], tuple[Any, dict[str, Any]]]
check: Callable[[Call | None, Any, Any], None]
exact: type | None  # a class whose own instances need no look
check_item: Callable[[Call | None, Any, Any], None]
rejoin: Callable[[Call, Any, Any, Any, Any], Awaitable[Any]]

# cache
key_of: Callable[[Any, Any], Any]
lookup: Callable[[Any], Any]
share: Callable[..., Awaitable[Any]]
MISS: Any

# resilience
deadline_from: Callable[[Call], float | None]
attempt_limit: Callable[[Call, float | None], AbstractAsyncContextManager[None]]
idle_limit: Callable[[Call, float | None], AbstractAsyncContextManager[None]]
counted: Callable[[], Any]  # the number of the call
unwanted: Callable[[Call | None, Any, Any, float | None], Tries | None]  # None: the result is the call's
in_thread: Callable[[Callable[..., Any]], Callable[..., Any]]  # what runs the function in a thread
left_running: Callable[..., tuple[Any, Any]]  # the slot and the claim still to be given back
again: Callable[[Call | None, Any, BaseException, float | None], Tries | None]
breaker_enter: Callable[[], Any]
breaker_succeeded: Callable[[Any], None]
breaker_failed: Callable[[Any, BaseException], None]
slot_enter: Callable[[], Any]
slot_wait: Callable[[Call | None, float | None], Awaitable[Any]]
slot_exit: Callable[[Any], None]
covered: Callable[[Exception], bool]
fallback: Callable[[Call | None, Exception, Any, Any, Any], Awaitable[Any]]

# memory
memory_enter: Callable[[Any, Any], Any]  # True: admitted, and nothing to give back
memory_wait: Callable[[Call | None, Any, Any, float | None], Awaitable[Any]]
memory_exit: Callable[[Any], None]
in_parts: Callable[[Any], Callable[..., Any]]  # the function, or what runs it on the parts a claim is for


class Runtime(Protocol):
    """What a section of a policy becomes for one function: what `call.py` calls, and the answers of `f.guard`."""

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        """The names this object brings to `call.py`; waits as coroutines where the function is asynchronous."""
        ...

    def explain(self) -> list[str]:
        """What this does to a call, in sentences with every number in force."""
        ...

    def stats(self) -> dict[str, Any]:
        """Plain counts and states so far, JSON-serialisable."""
        ...

    def reset(self) -> None:
        """Forgets state and counts, as if the function had just been decorated."""
        ...
