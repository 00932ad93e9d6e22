"""What an event says of an exception: its type, a bounded message, and where it happened, without any local variable.

A traceback is rendered here, to text, because what formats it otherwise is the application's choice, and the richer
formatters print local variables: the arguments. The text goes under structlog's own key for it, ``exception``, which
console renderers print below the line and JSON renderers keep as a field.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from mlguard.context import Call
from mlguard.errors import GuardError

__all__ = ["LONGEST", "error_type", "mark", "message", "recorded", "recorded_by", "stack"]

LONGEST: Final = 500
"""Characters of an exception's message that an event quotes."""

_UNSEEN: Final = 10_000  # characters that are looked through for hidden values
_FRAMES: Final = 20  # the last of each traceback
_CHAIN: Final = 4  # exceptions that led to this one

_MEMBERS: Final = 5  # of an exception group

_MARK: Final = "__mlguard_recorded__"


def error_type(error: BaseException) -> str:
    """The class with its module, as OpenTelemetry wants it; builtins without."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def message(
    error: BaseException, scrub: Callable[[str], str] | None, violation: Callable[[Any], Mapping[str, str]]
) -> str:
    """What the exception says, at most `LONGEST` characters, never with an input that pydantic quotes."""
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_context=False, include_input=False)
        shown = [violation(item) for item in found[:3]]
        text = "; ".join(f"{item['loc'] or 'value'}: {item['msg']}" for item in shown)
        return _cut(f"{text}; and {len(found) - 3} more" if len(found) > 3 else text)
    try:
        text = str(error)[:_UNSEEN]
    except Exception:  # an exception of the user's that can't even say what it is
        return "[its message can't be shown: __str__ raised]"
    if scrub is not None and not isinstance(error, GuardError):
        text = scrub(text)
    return _cut(text)


def stack(error: BaseException, say: Callable[[BaseException], str]) -> str:
    """The traceback and those of its causes as Python prints them, bounded, with messages as in `message`."""
    parts: list[str] = []
    current: BaseException | None = error
    for _ in range(_CHAIN):
        if current is None:
            break
        frames = traceback.extract_tb(current.__traceback__)
        heading = "Traceback (most recent call last):\n"
        if len(frames) > _FRAMES:
            heading += f"  ... {len(frames) - _FRAMES} more frames\n"
        lines = traceback.format_list(frames[-_FRAMES:])
        members = current.exceptions[:_MEMBERS] if isinstance(current, BaseExceptionGroup) else ()
        said = [f"{error_type(current)}: {say(current)}", *(f"  + {error_type(one)}: {say(one)}" for one in members)]
        parts.append(heading + "".join(lines) + "\n".join(said))
        if current.__cause__ is not None:
            current, link = current.__cause__, "The above exception was the direct cause of the following exception:"
        elif current.__context__ is not None and not current.__suppress_context__:
            current, link = current.__context__, "During handling of the above exception, another exception occurred:"
        else:
            break
        parts.append(f"\n\n{link}\n\n")
    if len(parts) % 2 == 0:  # the chain was cut after a link
        parts.pop()
    return "".join(reversed(parts))


def mark(error: BaseException, this: Call, recorded_by: str, now: float, where: str = _MARK) -> None:
    """Notes on the exception that an event tells of it, for the guards around this one to see; keeps no reference."""
    with contextlib.suppress(AttributeError, TypeError):  # one that takes no attributes is told of again further out
        object.__setattr__(error, where, (recorded_by, this.parent.id if this.parent is not None else None, now))


def recorded(error: BaseException, this: Call, where: str = _MARK) -> str | None:
    """The id of the inner call whose event tells of this exception; None: nobody has told of it during this call.

    An exception object that is raised again and again carries an old mark, which must not silence a later call.
    """
    found = getattr(error, "__dict__", {}).get(where)
    if found is None:
        return None
    recorded_by, parent, when = found
    return str(recorded_by) if when > this.started or (parent is not None and parent == this.id) else None


def recorded_by(error: BaseException) -> str | None:
    """The id of the last event that tells of this exception, whoever's call it was; None: no event does."""
    found = getattr(error, "__dict__", {}).get(_MARK)
    return None if found is None else str(found[0])


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
