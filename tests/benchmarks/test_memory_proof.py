"""The long proof's judgement: what counts as kept, what as broken, and where it is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import memory_proof
from benchmarks.memory_box import MIB
from benchmarks.memory_table import LIMIT, Row, markdown, text


def row(name: str = 'mlguard, need="3x"', **figures: object) -> Row:
    made = Row(name, 200, 200, 0, 0, False, 0, 2.0, 0.1, 0.2, 300 * MIB, LIMIT)
    return replace(made, **figures)


KILLED = {"killed": True, "served": 7, "seconds": None, "p50": None, "p99": None, "peak": LIMIT}
TUNED = {"semaphore of 4": [row("semaphore of 4", seconds=1.5)] * 3, "semaphore of 8": [row(**KILLED)]}


def test_a_good_run_keeps_every_promise() -> None:
    """Never killed, all served, below the limit, and no more than 1.6 times the best semaphore that survived."""
    assert all(memory_proof._verdicts([row()] * 3, TUNED).values())


@pytest.mark.parametrize(
    ("figures", "broken"),
    [
        (KILLED, {"never killed", "every call served", "peak below the limit", "within 1.6 x the best semaphore"}),
        ({"served": 199, "shed": 1}, {"every call served"}),
        ({"peak": LIMIT}, {"peak below the limit"}),
        ({"seconds": 2.5}, {"within 1.6 x the best semaphore"}),
    ],
)
def test_each_promise_can_be_broken(figures: dict[str, object], broken: set[str]) -> None:
    """What went wrong is named."""
    verdicts = memory_proof._verdicts([row(**figures)], TUNED)
    assert {promise for promise, kept in verdicts.items() if not kept} == broken
    assert sum(line.startswith("BROKEN") for line in memory_proof._summary([row(**figures)], TUNED, verdicts)) == len(
        broken
    )


def test_a_semaphore_that_was_killed_is_no_bar() -> None:
    """The fastest of those that never got the service killed is the one to compare with."""
    assert memory_proof._best(TUNED) == ("semaphore of 4", 1.5)
    assert memory_proof._best({"semaphore of 8": [row(**KILLED)]}) is None


def test_the_worst_of_all_runs_is_shown() -> None:
    """The line of twenty runs has the highest peak, and says so where one of them was killed."""
    shown = memory_proof._median_of([row(seconds=1.0), row(seconds=3.0, peak=350 * MIB), row(**KILLED)])
    assert (shown.peak, shown.killed, shown.served) == (LIMIT, True, 7)
    assert shown.seconds == 3.0


def test_the_table_goes_into_its_place(tmp_path: Path) -> None:
    """What stood between the marks is replaced, the rest stays; a page without marks is refused."""
    page = tmp_path / "page.md"
    page.write_text(f"before\n{memory_proof._BEGIN}\nold\n{memory_proof._END}\nafter\n")
    for _ in range(2):
        memory_proof._into_page(page, markdown([row(), row("no guard", **KILLED)]))
    words = page.read_text()
    assert words.startswith("before\n")
    assert words.endswith("\nafter\n")
    assert "old" not in words
    assert '| mlguard, need="3x" | 200 of 200 | 0 | 0 | no | 2.00 | 0.10 | 0.20 | 300 |' in words
    assert "| no guard | 7 of 200 | 0 | 0 | **killed** | - | - | - | 400 |" in words
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="has no place for the table"):
        memory_proof._into_page(page, "table")


def test_workers_that_were_killed_are_counted() -> None:
    """A row of eight workers says how many of them died."""
    assert "4 of 8" in text([row(killed=True, workers_killed=4)])


def test_the_picture_shows_both_runs(tmp_path: Path) -> None:
    """Memory over time, the killed run up to its kill."""
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    from benchmarks.memory_plot import draw

    rise = [(0.01 * step, step * 8 * MIB) for step in range(50)]
    file = tmp_path / "memory.svg"
    draw(row(timeline=rise), row("no guard", **KILLED, timeline=[*rise, (0.5, 0)]), file)
    assert file.read_text().count("<path") > 10


def test_where_no_cgroup_can_be_made_it_is_skipped(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The reason is printed, and nothing fails."""
    monkeypatch.setattr(memory_proof, "why_not", lambda: "this is not Linux")
    assert memory_proof.main([]) == 0
    assert "Skipped: the proof needs a real cgroup with a limit, and this is not Linux." in capsys.readouterr().out
