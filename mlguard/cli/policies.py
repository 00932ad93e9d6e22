"""`mlguard policies`: which named policies are in force here, what each says, and where every value comes from.

Reads what a service started in the same folder, with the same environment, would read; policies that are defined in
its code are not seen.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlguard import policies
from mlguard.errors import PolicyError
from mlguard.policies.presets import presets

__all__ = ["app"]

app = typer.Typer(help="Named policies: list, show, explain.", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(help="A name of yours, or of a preset, such as mlguard:realtime.")]


@app.command("list")
def list_policies() -> None:
    """The names that can be used on functions, your own first, then the presets."""
    own = policies.names()
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("fingerprint", no_wrap=True, style="dim")
    table.add_column("what it is for")
    for name in [*own, *(preset for preset in sorted(presets()) if preset not in own)]:
        try:
            policy = policies.get(name)
        except PolicyError as error:  # one that can't be used must not hide the others
            table.add_row(name, "-", Text(str(error)))
        else:
            table.add_row(name, policy.fingerprint, Text(policy.description or ""))
    Console(highlight=False).print(table)
    if not own:
        typer.echo("No policy of your own is in force here: write mlguard.toml, or set MLGUARD_POLICIES to a file.")
    _warn()


@app.command()
def show(name: _Name) -> None:
    """One policy in force as JSON, defaults included, for other programs."""
    typer.echo(json.dumps(policies.get(name).model_dump(mode="json", exclude_none=True), indent=2))


@app.command()
def explain(name: _Name) -> None:
    """Every value of one policy in force, and where it was written: file and line, variable or default."""
    typer.echo(policies.explain(name))
    _warn()


def _warn() -> None:
    """What `check` refuses. A warning only, because the code of the service may define what is missing here."""
    try:
        policies.check()
    except PolicyError as error:
        typer.echo(f"Warning, unless your code defines what is missing: {error}", err=True)
