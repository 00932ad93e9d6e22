"""Records that several tests look at: made once, by real guarded calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from mlguard.report import Figures, gather
from tests.report import odd
from tests.report.shop import keep


@pytest.fixture(scope="session")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop's day, of two hours."""
    file = tmp_path_factory.mktemp("day") / "day.jsonl"
    keep(file, 5_000, span=timedelta(hours=2))
    return file


@pytest.fixture(scope="session")
def figures(day: Path) -> Figures:
    """What that day came to."""
    return gather([day], title="A day")


@pytest.fixture(scope="session")
def oddities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Records out of the ordinary, by name."""
    folder = tmp_path_factory.mktemp("odd")
    work = odd.worker
    failing = [work(failing=1.0), work("other", failing=1.0, message="something else")]
    many = [work(f"team{number % 7}.model_{number}.predict", 0.001 * (number + 1)) for number in range(300)]
    small = folder / "small.jsonl"
    keep(small, 400)
    keep(folder / "untimed.jsonl", 200, stamped=False)
    (folder / "empty.jsonl").touch()
    odd.damaged(folder / "damaged.jsonl", small)
    return {
        "empty": folder / "empty.jsonl",
        "one": odd.calls(folder / "one.jsonl", [work()], 1, step=timedelta(1)),
        "failures": odd.calls(folder / "failures.jsonl", failing, 45, step=timedelta(seconds=20)),
        "minute": odd.calls(folder / "minute.jsonl", [work(failing=0.05)], 300, step=timedelta(seconds=0.2)),
        "year": odd.calls(folder / "year.jsonl", [work(), work("b", 0.3)], 400, step=timedelta(hours=23)),
        "many": odd.calls(folder / "many.jsonl", many, 600, step=timedelta(seconds=7)),
        "back": odd.calls(folder / "back.jsonl", [work()], 200, step=timedelta(seconds=7), back_at=100),
        "hostile": odd.hostile(folder / "hostile.jsonl"),
        "untimed": folder / "untimed.jsonl",
        "bare": odd.bare(folder / "bare.jsonl", small),
        "damaged": folder / "damaged.jsonl",
    }


@pytest.fixture(scope="session")
def told(oddities: dict[str, Path]) -> Callable[[str], Figures]:
    """The figures of one of these, counted once."""
    return functools.cache(lambda name: gather([oddities[name]]))
