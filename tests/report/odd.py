"""Records that are out of the ordinary, made by real guarded functions and then, where it says so, damaged."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from mlguard import Monitor, guarded, note
from mlguard.testing import FakeClock
from tests.report.shop import START, record_to

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "</style></script><svg onload=document.title='owned'>",
    "\x1b[31mred\x1b]0;owned\x07 \x00 nul",
    "\u202eright to left\u202c and \u2066isolated\u2069",
    "العربية עברית",
    "half a pair: \ud800.",
    "'; DROP TABLE facts; --",
    "javascript:alert(1)",
    "x" * 20_000,
    "word " * 5_000,
    "line\nline\r\nline\ttab",
    "",
    " ",
    "{{7*7}} ${7*7} <%= 7*7 %>",
)


def calls(
    file: Path, functions: list[Callable[..., Any]], times: int, *, step: timedelta, seed: int = 0, back_at: int = -1
) -> Path:
    """Calls functions in turn, each `step` after the one before; at call `back_at` the clock goes back by a year."""
    chance = random.Random(seed)
    when = START

    def stamp() -> str:
        return when.isoformat()

    with FakeClock(start=0.0) as clock, record_to(file, stamp):
        for number in range(times):
            if number == back_at:
                when -= timedelta(days=365)
            elif number == back_at + 1 and back_at >= 0:
                when += timedelta(days=365)
            clock.advance(chance.lognormvariate(-4, 0.5))
            with contextlib.suppress(Exception):
                functions[number % len(functions)](clock, chance)
            when += step
    return file


def worker(
    name: str = "work", median: float = 0.02, failing: float = 0.0, *, message: str = "no luck"
) -> Callable[..., Any]:
    """A guarded function that takes its time, and fails at times."""

    def work(clock: FakeClock, chance: random.Random) -> float:
        clock.advance(chance.lognormvariate(0, 0.4) * median)
        if chance.random() < failing:
            raise RuntimeError(message)
        return chance.random()

    work.__qualname__ = name
    return guarded(monitor=Monitor(summaries=False))(work)


def hostile(file: Path) -> Path:
    """Names, messages, notes and fields that would like to be obeyed."""
    functions: list[Callable[..., Any]] = []
    for number, text in enumerate(HOSTILE):

        class Row(BaseModel):
            value: Annotated[int, Field(alias=_key(text), ge=0)]

        def work(clock: FakeClock, chance: random.Random, text: str = text, Row: Any = Row) -> float:
            clock.advance(0.01)
            note(said=text)

            @guarded(monitor=Monitor(), model_version=text[:150])
            def inner(row: Row) -> int:  # type: ignore[valid-type]
                raise type(f"Odd{text[:30]}", (ValueError,), {"__module__": _key(text[:20])})(text)

            inner.__qualname__ = "inner"
            if chance.random() < 0.5:
                return float(inner({_key(text): -1}))
            return float(inner({_key(text): 1}))

        work.__qualname__ = f"{text[:300]}.f{number}" if number % 2 else f"{text}"
        functions.append(guarded(monitor=Monitor())(work))
    return calls(file, functions, 200, step=timedelta(seconds=1))


def bare(file: Path, source: Path) -> Path:
    """A record of which every optional field is gone, and some that are not."""
    kept = ("event", "mlguard.call_id", "mlguard.disposition")
    with source.open(encoding="utf-8") as lines, file.open("w", encoding="utf-8") as out:
        for number, line in enumerate(lines):
            event = json.loads(line)
            if event["event"].startswith("mlguard.call"):
                out.write(json.dumps({key: event[key] for key in kept[: 3 if number % 3 else 2]}) + "\n")
    return file


def damaged(file: Path, source: Path) -> int:
    """A record with torn, foreign and nonsensical lines in it; returns how many are no JSON."""
    broken = ['{"mlguard.call_id": "torn', "not json at all", "[1, 2]", "\x00\x00\x00", "{}}"]
    odd = [
        {"mlguard.call_id": "a", "mlguard.duration": "soon", "mlguard.sample_rate": 0, "mlguard.violations": "none"},
        {
            "mlguard.call_id": 7,
            "mlguard.duration": -1,
            "mlguard.sample_rate": 17,
            "mlguard.violations": [1, {"loc": 3}],
        },
        {"mlguard.call_id": "c", "mlguard.disposition": "rejected_by_the_future", "mlguard.duration": 1e300},
        {"mlguard.call_id": "d", "mlguard.disposition": ["list"], "timestamp": "yesterday", "mlguard.violations": {}},
        {"mlguard.call_id": "e", "event.outcome": None, "mlguard.attempts": 1e40, "timestamp": "0001-01-01T00:00:00Z"},
        {"mlguard.drift.field": "age", "event": "mlguard.drift", "mlguard.drift.bins": "none"},
    ]
    with source.open(encoding="utf-8") as lines, file.open("w", encoding="utf-8") as out:
        for number, line in enumerate(lines):
            out.write(line)
            if number == 3:
                out.writelines(f"{one}\n" for one in (*broken, *(json.dumps(one) for one in odd)))
        out.write(line[: len(line) // 2])  # as a killed process leaves it
    os.utime(file, (0, 0))  # a line that is still on its way would be none of the damaged ones
    return len(broken) + 1


def later(times: int) -> datetime:
    """When the last of so many calls, a second apart, was made."""
    return START + timedelta(seconds=times - 1)


def _key(text: str) -> str:
    """As pydantic can name a field."""
    return text.replace("\ud800", "?") or "empty"
