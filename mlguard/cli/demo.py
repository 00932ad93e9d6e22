"""`mlguard demo`: the main job on real data, unguarded against guarded."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mlguard.cli import absent

__all__ = ["demo"]

QUICK = 400


def _writable(file: Path | None) -> Path | None:
    """Refuses a path before the run rather than after it."""
    if file is not None and file.is_dir():
        raise typer.BadParameter(f"{file} is a folder.")
    if file is not None and not file.absolute().parent.is_dir():
        raise typer.BadParameter(f"the folder {file.absolute().parent} does not exist.")
    return file


def _pictures(files: list[Path] | None) -> list[Path]:
    for file in files or []:
        if file.suffix not in (".svg", ".png"):
            raise typer.BadParameter(f"{file} is neither .svg nor .png.")
        _writable(file)
    return files or []


def _page(file: Path | None) -> Path | None:
    if file is None:
        return None
    try:
        from mlguard.report import ReportError
        from mlguard.report.files import check
    except ModuleNotFoundError as missing:
        typer.echo(absent("mlguard demo --report", missing, "query"), err=True)
        raise typer.Exit(1) from None
    try:
        check(file)
    except ReportError as error:
        raise typer.BadParameter(str(error)) from None
    return file


@contextlib.contextmanager
def _kept(events: Path | None, *, needed: bool) -> Iterator[Path | None]:
    """Where the events go: where the user wants them, or for as long as they are needed."""
    if events is not None or not needed:
        yield events
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "events.jsonl"


def _draw_page(events: Path, file: Path) -> None:
    from mlguard.report import gather, page, save

    save(page(gather([str(events)], title="mlguard demo: the guarded run")), file)


def demo(
    calls: Annotated[int, typer.Option(min=100, max=1_000_000, help="How many calls to make.")] = 3000,
    seed: Annotated[int, typer.Option(help="Decides patients, mistakes and faults.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK} calls, whatever --calls says.")] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Show counts while it runs.")] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", callback=_writable, help="Write every count as JSON.")
    ] = None,
    picture: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", callback=_pictures, help="Draw both runs as .svg or .png; may be repeated."),
    ] = None,
    events: Annotated[
        Path | None, typer.Option(metavar="FILE", callback=_writable, help="Keep the log events, one JSON line each.")
    ] = None,
    report_page: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", callback=_page, help="Draw the events, as 'mlguard report' does."),
    ] = None,
) -> None:
    """Serve a real model through a bad day, without guards and with them.

    Takes about a quarter of a minute, and needs no network beyond loopback.
    """
    try:
        from mlguard.demo.compare import compare
        from mlguard.demo.events import logging_to
        from mlguard.demo.picture import draw
        from mlguard.demo.report import Report
    except ModuleNotFoundError as missing:
        typer.echo(absent("mlguard demo", missing, "demo"), err=True)
        raise typer.Exit(1) from None
    if quick:
        calls = QUICK
    console = Console(highlight=False)
    report = Report(console)
    report.opening(calls)
    with _kept(events, needed=report_page is not None) as lines:
        with logging_to(lines) as written:
            if progress and console.is_terminal:
                with report.live(calls) as watch:
                    comparison = compare(calls, seed, watch)
            else:
                comparison = compare(calls, seed)
        if report_page and lines:
            _draw_page(lines, report_page)
    report.result(comparison, written, events)
    if json_file:
        json_file.write_text(json.dumps(comparison.as_dict(), indent=2) + "\n", encoding="utf-8")
    for file in picture or []:
        draw(comparison, file)
    kept = [str(file) for file in (json_file, *(picture or []), events, report_page) if file]
    if kept:
        console.print(f"[dim]Written: {', '.join(kept)}[/]")
