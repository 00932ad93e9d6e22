"""Every command of `mlguard`, in the order `mlguard --help` lists them."""

from __future__ import annotations

from typing import Annotated

import typer

import mlguard
from mlguard.cli import demo, doctor, drift, export, policies, query, report, schema

__all__ = ["app"]

app = typer.Typer(
    help="Schemas, retry, caching, memory and monitoring for models in production.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.add_typer(policies.app, name="policies")
app.add_typer(schema.app, name="schema")
app.add_typer(drift.app, name="drift")
app.command("query")(query.query)
app.command("report")(report.report)
app.add_typer(export.app, name="export")
app.command("doctor")(doctor.doctor)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mlguard {mlguard.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Schemas, retry, caching, memory and monitoring for models in production."""
