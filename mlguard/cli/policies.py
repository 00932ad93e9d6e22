"""`mlguard policies`: the named policies in force here, where their values come from, and whether code uses them well.

Reads what a service started in the same folder, with the same environment, would read; policies that are defined in
its code are not seen.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlguard import policies
from mlguard.errors import PolicyError
from mlguard.policies import lint
from mlguard.policies.catalogue import of_this_process
from mlguard.policies.difference import difference
from mlguard.policies.lineage import Resolved
from mlguard.policies.presets import presets

__all__ = ["app"]

app = typer.Typer(help="Named policies: list, show, explain, diff, check.", no_args_is_help=True)

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


@app.command()
def diff(first: _Name, second: _Name) -> None:
    """What differs between two policies in force, and where each value was written."""
    resolved = [_resolved(name) for name in (first, second)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", no_wrap=True, style="bold")
    for name in (first, second):
        table.add_column(Text(name), overflow="fold")
    for each in difference(*resolved):
        table.add_row(each.setting, _cell(each.first, each.first_origin), _cell(each.second, each.second_origin))
    if not table.row_count:
        typer.echo(f"{first} and {second} say the same.")
        return
    Console(highlight=False).print(table)


@app.command()
def check(
    paths: Annotated[list[Path], typer.Argument(help="Python files, and folders of them.")],
    file: Annotated[Path | None, typer.Option(help="The policy file; otherwise found as a service would.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For other programs.")] = False,
) -> None:
    """Policies against the code that uses them, for CI. Reads the code by its syntax; imports and runs nothing.

    Exit code 0: nothing is wrong; 1: something is (an error, or with --strict a warning); 2: a path does not exist.
    """
    absent = [str(path) for path in paths if not path.exists()]
    if absent:
        typer.echo(f"mlguard: there is no {' and no '.join(absent)}.", err=True)
        raise typer.Exit(2)
    report = lint.check(paths, file)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in report.findings], indent=2))
    else:
        for finding in report.findings:
            typer.echo(f"{finding.where}: {finding.level}: {finding.text}")
        counts = ", ".join(f"{report.count(level)} {level}s" for level in ("error", "warning", "note"))
        typer.echo(f"{report.files} Python files, {report.uses} uses of policies: {counts}.")
    if report.count("error") or (strict and report.count("warning")):
        raise typer.Exit(1)


def _resolved(name: str) -> Resolved:
    return of_this_process.get(name)


def _cell(words: str | None, origin: str) -> Text:
    return Text(f"{words or '-'}\n").append(origin, style="dim")


def _warn() -> None:
    """What `check` refuses. A warning only, because the code of the service may define what is missing here."""
    try:
        policies.check()
    except PolicyError as error:
        typer.echo(f"Warning, unless your code defines what is missing: {error}", err=True)
