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

from mlguard import policies
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
        policy = policies.get(name)
        table.add_row(name, policy.fingerprint, policy.description or "")
    Console(highlight=False).print(table)
    if not own:
        typer.echo("No policy of your own is in force here: write mlguard.toml, or set MLGUARD_POLICIES to a file.")


@app.command()
def show(name: _Name) -> None:
    """One policy in force as JSON, defaults included, for other programs."""
    typer.echo(json.dumps(policies.get(name).model_dump(mode="json", exclude_none=True), indent=2))


@app.command()
def explain(name: _Name) -> None:
    """Every value of one policy in force, and where it was written: file and line, variable or default."""
    typer.echo(policies.explain(name))
