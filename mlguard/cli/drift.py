"""`mlguard drift`: the reference of a model made from its training data, and data checked against it.

A thin reading of `mlguard.drift`. Code is imported only where the command line names it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlguard import clock
from mlguard.contracts import ContractError, load
from mlguard.drift import Comparison, Profile, ProfileError, compare
from mlguard.drift import profile as profile_of
from mlguard.drift.columns import columns_of
from mlguard.drift.files import data_of
from mlguard.errors import PolicyError

__all__ = ["app"]

app = typer.Typer(help="Drift: make a reference profile, check data against it.", no_args_is_help=True)

SAME, DRIFTED, UNKNOWN = 0, 1, 2
"""What `check` ends with. 2 is also the status of every error, so that a broken job is no green one."""

_EVERY = 2.0
"""Seconds between two lines of progress."""

_Source = Annotated[
    str, typer.Argument(metavar="DATA", help="A .csv, .tsv, .jsonl, .parquet or .npy file, or MODULE:NAME of data.")
]
_Predictions = Annotated[
    str | None, typer.Option(help="The column that holds the model's predictions, or a file or MODULE:NAME of them.")
]
_Encoding = Annotated[str, typer.Option(help="How a text file is written.")]
_Delimiter = Annotated[str | None, typer.Option(help="What stands between the cells of a CSV file.")]


@app.command("profile")
def profile_command(
    data: _Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="The profile to write, beside the model.")],
    predictions: _Predictions = None,
    schema: Annotated[str | None, typer.Option(metavar="MODULE:NAME", help="The input class, or the function.")] = None,
    categorical: Annotated[
        list[str] | None, typer.Option(help="A column of numbers that are codes; repeatable.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="A column that is not watched; repeatable.")] = None,
    bins: Annotated[int, typer.Option(help="Quantile bins of a column of numbers.")] = 10,
    encoding: _Encoding = "utf-8-sig",
    delimiter: _Delimiter = None,
) -> None:
    """What the training data looks like, as JSON. Keep the rows in the order they came."""
    if not output.absolute().parent.is_dir() or output.is_dir():
        raise typer.BadParameter(f"{output} is a folder, or its folder does not exist.", param_hint="--output")
    with _errors_end_it(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        inputs, outputs = _read(data, predictions, encoding, delimiter)
        made = profile_of(
            inputs,
            outputs,
            schema=load(schema) if schema else None,
            categorical=categorical or (),
            exclude=exclude or (),
            bins=bins,
        )
        made.save(output)
    for one in said:
        typer.echo(f"mlguard: {one.message}", err=True)
    typer.echo(f"{output}: {made.rows:,} rows, {len(made.fields)} fields, design effect {_effects(made)}")
    for name, why in made.left_out.items():
        typer.echo(f"  without {name}: {why}")


@app.command()
def check(
    profile: Annotated[Path, typer.Argument(metavar="PROFILE", help="What 'mlguard drift profile' wrote.")],
    data: _Source,
    predictions: _Predictions = None,
    p_value: Annotated[float, typer.Option(help="How unlikely a difference must be.")] = 1e-4,
    psi: Annotated[float, typer.Option(help="How large it must be.")] = 0.02,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    encoding: _Encoding = "utf-8-sig",
    delimiter: _Delimiter = None,
) -> None:
    """All rows as one window: 0 where nothing drifted, 1 where something did or is absent, 2 for an error."""
    with _errors_end_it():
        reference = Profile.load(profile)
        inputs, outputs = _read(data, predictions, encoding, delimiter)
        found = compare(reference, inputs, outputs, p_value=p_value, psi=psi)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        _print(found)
    absent = [name for name in found.absent if outputs is not None or not name.startswith("output")]
    raise typer.Exit(DRIFTED if found.drifted or absent else SAME)


def _read(data: str, predictions: str | None, encoding: str, delimiter: str | None) -> tuple[Any, Any]:
    if delimiter is not None and len(delimiter) != 1:
        raise typer.BadParameter(f"{delimiter!r} is not one character.", param_hint="--delimiter")
    inputs = data_of(data, _progress, encoding=encoding, delimiter=delimiter)
    if predictions is None:
        return inputs, None
    by_name = {column.name: column.values for column in columns_of(inputs, data)}
    if predictions in by_name:
        outputs = by_name.pop(predictions)
        return by_name, outputs
    outputs = data_of(predictions, _progress, encoding=encoding, delimiter=delimiter)
    if isinstance(outputs, dict) and len(outputs) == 1:  # a file of one column is the predictions
        outputs = next(iter(outputs.values()))
    return inputs, outputs


def _effects(made: Profile) -> str:
    effects = sorted(field.design_effect for field in made.fields)
    return f"{effects[0]:.3g}" if effects[0] == effects[-1] else f"{effects[0]:.3g} to {effects[-1]:.3g}"


def _print(found: Comparison) -> None:
    table = Table(box=SIMPLE_HEAD)
    for heading in ("field", "drift", "p", "PSI", "JS", "Wasserstein"):
        table.add_column(heading, justify="left" if heading in ("field", "drift") else "right")
    for one in found.differences:
        moved = "-" if one.wasserstein is None else f"{one.wasserstein:.3f} sd"
        said = "yes" if one.field in found.drifted else "no"
        row = (one.field, said, f"{one.p_value:.2g}", f"{one.psi:.4f}", f"{one.jensen_shannon:.4f}", moved)
        table.add_row(*(Text(cell) for cell in row))
    console = Console()
    console.print(table)
    console.print(f"{len(found.drifted)} of {len(found.differences)} fields drifted in {found.rows:,} rows.")
    if found.absent:
        console.print(Text(f"In the profile only: {', '.join(found.absent[:20])}"))
    if found.new:
        console.print(Text(f"In the data only: {', '.join(found.new[:20])}"))


@contextmanager
def _errors_end_it() -> Iterator[None]:
    try:
        yield
    except (ProfileError, ContractError, PolicyError) as error:
        typer.echo(f"mlguard: {error}", err=True)
        raise typer.Exit(UNKNOWN) from None


def _progress(rows: int) -> None:
    global _told
    if clock.now() - _told >= _EVERY:
        _told = clock.now()
        typer.echo(f"{rows:,} rows so far", err=True)


_told = clock.now()
