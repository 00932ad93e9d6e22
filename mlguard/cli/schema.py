"""`mlguard schema`: contracts written down, learnt from data, and compared in CI.

A thin reading of `mlguard.contracts`. Code is imported only where the command line names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlguard import clock
from mlguard.cli.output import Output, refuse_unwritable, write
from mlguard.contracts import Comparison, ContractError, compare, infer, json_schema, load, model_metadata
from mlguard.contracts.documents import document

__all__ = ["app"]

app = typer.Typer(help="Contracts: infer, export, diff.", no_args_is_help=True)

COMPATIBLE, INCOMPATIBLE, UNKNOWN = 0, 1, 2
"""What `diff` ends with. 2 is also the status of every error, so that a broken job is no green one."""
_EVERY = 2.0
"""Seconds between two lines of progress."""


class Format(StrEnum):
    """What `export` writes."""

    JSON_SCHEMA = "json-schema"
    V2 = "v2"


class Way(StrEnum):
    """`Mode` as typer wants it."""

    BACKWARD = "backward"
    FORWARD = "forward"
    FULL = "full"


@app.command("infer")
def infer_command(
    source: Annotated[str, typer.Argument(help="A .csv, .tsv, .jsonl, .parquet or .npy file, or MODULE:NAME of data.")],
    name: Annotated[str | None, typer.Option(help="What the class is called; otherwise after the source.")] = None,
    margin: Annotated[float, typer.Option(help="How much wider than observed a range is, as a share of it.")] = 0.1,
    encoding: Annotated[str, typer.Option(help="How a text file is written.")] = "utf-8-sig",
    delimiter: Annotated[str | None, typer.Option(help="What stands between the cells of a CSV file.")] = None,
    output: Output = None,
) -> None:
    """A Python class to start from: what the data holds, with a comment on each field."""
    if delimiter is not None and len(delimiter) != 1:
        raise typer.BadParameter(f"{delimiter!r} is not one character.", param_hint="--delimiter")
    refuse_unwritable(output)
    with _errors_end_it():
        text = infer(source, name=name, margin=margin, encoding=encoding, delimiter=delimiter, progress=_progress())
    write(text, output)


@app.command()
def export(
    target: Annotated[str, typer.Argument(metavar="MODULE:NAME", help="An input class or a guarded function.")],
    format: Annotated[Format, typer.Option(help="JSON Schema, or metadata of the V2 protocol.")] = Format.JSON_SCHEMA,  # noqa: A002
    name: Annotated[str | None, typer.Option(help="V2: what clients call the model; otherwise NAME.")] = None,
    version: Annotated[list[str] | None, typer.Option(help="V2: a version clients may ask for; repeatable.")] = None,
    platform: Annotated[str, typer.Option(help="V2: the framework behind the model.")] = "python",
    output: Output = None,
) -> None:
    """The contract as JSON, for other programs."""
    if format is not Format.V2 and (name or version or platform != "python"):
        raise typer.BadParameter("--name, --version and --platform belong to --format v2.")
    refuse_unwritable(output)
    with _errors_end_it():
        contract = json_schema(load(target))
        if format is Format.V2:
            called = name or target.rpartition(":")[2].rpartition(".")[2]
            contract = model_metadata(contract, name=called, versions=tuple(version or ()), platform=platform)
    write(json.dumps(contract, indent=2, allow_nan=False) + "\n", output)


@app.command()
def diff(
    old: Annotated[str, typer.Argument(help="A JSON Schema file, - for standard input, or MODULE:CLASS.")],
    new: Annotated[str, typer.Argument(help="The one that shall follow it; the same choice.")],
    mode: Annotated[Way, typer.Option(help="Which way must hold.")] = Way.BACKWARD,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="What can't be judged does not count: end with 0.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Whether a new contract breaks those who rely on the old one.

    Ends with 0 where it breaks nobody, with 1 where it does, and with 2 where that can't be told or the command failed.
    """
    if old == new == "-":
        raise typer.BadParameter("only one of the two can be standard input.")
    with _errors_end_it():
        found = compare(document(old), document(new), mode.value)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        _tell(found)
    status = {"compatible": COMPATIBLE, "incompatible": INCOMPATIBLE, "unknown": UNKNOWN}[found.verdict]
    raise typer.Exit(COMPATIBLE if status == UNKNOWN and allow_unknown else status)


def _tell(found: Comparison) -> None:
    marks = {"incompatible": "red", "unknown": "yellow", "note": "dim"}
    if found.judgements:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        both = found.mode == "full"
        table.add_column("field", style="bold", overflow="fold")
        if both:
            table.add_column("way", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        table.add_column("rule", no_wrap=True, style="dim")
        table.add_column("why", overflow="fold")
        for each in found.judgements:
            verdict = each.finding.verdict
            table.add_row(
                Text(each.finding.path or "(all)"),
                *([each.direction] if both else []),
                Text(verdict, style=marks[verdict]),
                each.finding.rule,
                Text(each.finding.reason),
            )
        Console(highlight=False).print(table)
    for meets in dict.fromkeys(each.meets for each in found.judgements if each.meets):
        typer.echo(f"{meets[0].upper()}{meets[1:]}.")
    typer.echo(f"{found.verdict} ({found.mode})")


class _errors_end_it:  # noqa: N801 - reads as a statement
    """An error of the contract is one line on standard error and status 2."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, ContractError):
            typer.echo(f"mlguard: {error}", err=True)
            raise typer.Exit(UNKNOWN) from None


def _progress() -> Callable[[int], None]:
    last = clock.now()

    def tell(rows: int) -> None:
        nonlocal last
        if clock.now() - last >= _EVERY:
            last = clock.now()
            typer.echo(f"{rows:,} rows so far", err=True)

    return tell
