"""What `mlguard demo` prints: live counts, the two runs side by side, what each concern did, and the code of it."""

from __future__ import annotations

import contextlib
import inspect
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from mlguard.clock import size_text
from mlguard.demo import guarded
from mlguard.demo.compare import Comparison, Run
from mlguard.demo.service import FAULTS, PATIENCE, UNSEEN
from mlguard.demo.traffic import MISTAKES

__all__ = ["Report"]


class Report:
    """Prints to one console.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def opening(self, calls: int) -> None:
        """What is about to happen."""
        self._console.print(
            f"\n[bold]One model, one bad day, {calls:,} calls.[/] The same calls go to the same prediction function "
            "twice, plain and guarded. Its features come over HTTP from a service that "
            f"gets {sum(FAULTS.values()):.0%} of its requests wrong: errors, stalls, corrupt rows. "
            f"The callers get {sum(MISTAKES.values()):.0%} wrong. For a while, memory is short.\n"
        )

    @contextlib.contextmanager
    def live(self, calls: int) -> Iterator[Callable[[int, Comparison, str], None]]:
        """Counts that move while the calls are made; yields what to tell them."""
        progress = Progress(
            TextColumn("{task.description:<16}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn()
        )
        task = progress.add_task("training", total=calls)
        page: Table | Progress = progress
        with Live(console=self._console, refresh_per_second=8, transient=True, get_renderable=lambda: page) as live:

            def tell(done: int, so_far: Comparison, phase: str) -> None:
                nonlocal page
                progress.update(task, completed=done, description=phase)
                if done % 25 == 0 or done == calls:
                    page = Table.grid()
                    page.add_row(progress)
                    page.add_row(_side_by_side(so_far))

            yield tell
            live.refresh()

    def result(self, comparison: Comparison, events: Counter[str], events_file: Path | None) -> None:
        """The tables, and the code."""
        out = self._console
        out.print(_side_by_side(comparison))
        out.print(_legend(comparison))
        out.print(_concerns(comparison, events, events_file))
        if comparison.guarded.told:
            out.print("[bold]What a caller who sends a NaN is told[/], where the plain function answered:")
            out.print(textwrap.indent(comparison.guarded.told, "  "), markup=False)
        out.print("\n[bold]The code that did it[/] (demo/guarded.py; the plain one has no decorators):")
        out.print(Syntax(code(), "python", theme="ansi_light", background_color="default"))
        out.print(
            f"\n[dim]{comparison.model}, right on {comparison.accuracy:.0%} of {comparison.patients} held-out "
            f"patients. Seed {comparison.seed}, {comparison.seconds:.0f} s.[/]"
        )


def code() -> str:
    """The guarded functions as they are written, without the line that returns them."""
    lines = inspect.getsource(guarded.build).splitlines()
    start = next(index for index, line in enumerate(lines) if line.lstrip().startswith("@"))
    return textwrap.dedent("\n".join(lines[start:-1])).strip()


def _side_by_side(comparison: Comparison) -> Table:
    plain, ours = comparison.unguarded, comparison.guarded
    table = Table(box=SIMPLE_HEAD, pad_edge=False, min_width=74)
    table.add_column(f"of {comparison.calls:,} calls")
    table.add_column("unguarded", justify="right", min_width=12)
    table.add_column("guarded", justify="right", min_width=12, style="bold")
    table.add_row("right", *_pair(plain.right, ours.right))
    table.add_row(Text("wrong, and nobody was told", style="red"), *_pair(plain.wrong, ours.wrong, style="red"))
    table.add_row("  of these, the opposite diagnosis", *_pair(plain.opposite, ours.opposite))
    table.add_row(Text("failed", style="yellow"), *_pair(plain.failed.total(), ours.failed.total(), style="yellow"))
    table.add_row("rejected: the caller's mistake, named", *_pair(plain.rejected.total(), ours.rejected.total()))
    table.add_row("shed: memory was short, try elsewhere", *_pair(plain.shed, ours.shed), end_section=True)
    table.add_row("requests to the feature service", *_pair(plain.requests, ours.requests))
    if plain.seconds and ours.seconds:
        table.add_row("latency, median", *(_milliseconds(run, 50) for run in (plain, ours)))
        table.add_row("latency, 99th percentile", *(_milliseconds(run, 99) for run in (plain, ours)))
    return table


def _legend(comparison: Comparison) -> str:
    plain, ours = comparison.unguarded, comparison.guarded
    said = []
    if plain.failed_on_mistake:
        said.append(
            f"Of the plain function's {plain.failed.total()} failures, {plain.failed_on_mistake} were the caller's "
            "mistake, answered with a traceback from inside."
        )
    if ours.wrong:
        repeated = sum(count for cause, count in ours.wrong_because.items() if "repeated" in cause)
        unseen = sum(count for cause, count in ours.wrong_because.items() if UNSEEN in cause)
        said.append(
            f"Of the {ours.wrong} wrong guarded answers, {unseen} come from rows in the wrong unit whose values stay "
            f"in range, which the schema can't see; {repeated} are repeats of such an answer from the cache."
        )
    return "[dim]" + " ".join(said) + "[/]\n" if said else ""


def _concerns(comparison: Comparison, events: Counter[str], events_file: Path | None) -> Table:
    plain, ours = comparison.unguarded, comparison.guarded
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("concern", style="bold", no_wrap=True)
    table.add_column("what it did for the guarded function")
    fields: Counter[str] = Counter()
    for reason, count in ours.rejected.items():
        fields[reason.partition(":")[0]] += count
    by_field = ", ".join(f"{name} {count}" for name, count in fields.most_common())
    table.add_row(
        "validation",
        f"{ours.rejected.total()} calls rejected before the model ran, by field: {by_field or 'none'}. "
        "Corrupt rows from the service refused, and asked for again.",
    )
    table.add_row(
        "retry",
        f"{ours.saved} calls saved: first request failed, stalled ({PATIENCE * 1000:.0f} ms) or was corrupt. "
        f"{ours.retried} further attempts.",
    )
    asked = ours.from_cache + _reached(ours)
    table.add_row(
        "cache",
        f"{ours.from_cache:,} calls answered from memory, hit rate {ours.from_cache / max(1, asked):.0%}; "
        f"{plain.requests - ours.requests:,} requests fewer.",
    )
    squeezed = (
        f"{ours.shed - ours.shed_unplanned} calls shed while {size_text(comparison.ballast)} of ballast crossed the "
        "threshold; cached answers went on."
    )
    if ours.shed_unplanned:
        squeezed += f" {ours.shed_unplanned} more were shed when other programs on this machine took as much."
    table.add_row("memory", squeezed if comparison.ballast else "Too little memory is free here to squeeze it.")
    kept = f"in {events_file}" if events_file else "not kept (--events FILE keeps them)"
    table.add_row("monitor", f"{events.total():,} structured events, {events['warning']} of them warnings, {kept}.")
    return table


def _reached(run: Run) -> int:
    """Calls that passed validation and were not in the cache."""
    return run.right + run.wrong + run.failed.total() + run.shed - run.from_cache


def _pair(plain: int, ours: int, style: str = "") -> tuple[Text, Text]:
    return Text(f"{plain:,}", style=style if plain else "dim"), Text(f"{ours:,}", style=style if ours else "dim")


def _milliseconds(run: Run, percent: float) -> str:
    return f"{run.percentile(percent) * 1000:.2f} ms"
