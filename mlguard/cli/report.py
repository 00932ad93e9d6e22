"""`mlguard report`: a record of guarded calls as one page to look at.

A thin reading of `mlguard.report`, which needs the extra `query` (DuckDB).
"""

from __future__ import annotations

import contextlib
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from mlguard.cli import absent
from mlguard.cli.times import time_of
from mlguard.drift import Profile, ProfileError
from mlguard.record import RecordError
from mlguard.record.filters import Filters
from mlguard.report import Figures, ReportError, as_json, gather, page, save
from mlguard.report.files import check

__all__ = ["report"]

FAILED = 2


def report(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="The folder of Monitor(record=...), or files of JSON lines.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page to write.")] = Path(
        "report.html"
    ),
    since: Annotated[str | None, typer.Option(help='How long ago ("1h"), or a time in UTC.')] = None,
    until: Annotated[str | None, typer.Option(help="The same, for the end.")] = None,
    function: Annotated[str | None, typer.Option(help="The function: module and name, or the last part.")] = None,
    policy: Annotated[str | None, typer.Option(help="The policy's name.")] = None,
    profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What 'mlguard drift profile' wrote: compare the calls with it.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="For the head of the page.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the same figures as JSON as well.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Show how far it is.")] = True,
) -> None:
    """Draw a record: calls over time, latency, what each concern did, failures, drift. One file, no network."""
    with _errors_end_it():
        if json_file is not None and json_file.absolute() == output.absolute():
            raise ReportError(f"--output and --json both name {output}. Fix: name two files.")
        for file in (output, json_file):
            if file is not None:
                check(file)  # before the work rather than after it
        reference = None if profile is None else Profile.load(profile)
        filters = Filters(since=time_of(since), until=time_of(until), function=function, policy=policy)
        with _bar(shown=progress) as tell:
            figures = gather(paths, filters=filters, profile=reference, title=title, progress=tell)
        save(page(figures), output)
        if json_file is not None:
            save(as_json(figures), json_file)
    typer.echo(_summary(figures, output, json_file))
    if show:
        webbrowser.open(output.absolute().as_uri())


def _summary(figures: Figures, output: Path, json_file: Path | None) -> str:
    source = figures.source
    files = f"{output} and {json_file}" if json_file else str(output)
    said = f"{files}: {source.records:,} records, functions: {source.functions:,}"
    if source.damaged:
        said += f"; {source.damaged:,} damaged lines left out"
    return said


@contextlib.contextmanager
def _bar(*, shown: bool) -> Iterator[Callable[[float], object] | None]:
    """A bar on the error stream where that is a terminal."""
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield None
        return
    columns = (TextColumn("reading"), BarColumn(40), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share: bar.update(task, completed=share)


@contextlib.contextmanager
def _errors_end_it() -> Iterator[None]:
    try:
        yield
    except (RecordError, ReportError, ProfileError) as error:
        typer.echo(f"mlguard: {error}", err=True)
        raise typer.Exit(FAILED) from None
    except ModuleNotFoundError as missing:
        typer.echo(f"mlguard: {absent('mlguard report', missing, 'query')}", err=True)
        raise typer.Exit(FAILED) from None
