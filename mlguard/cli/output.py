"""Where a command writes what it made: a file that is whole at any moment, or standard output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Output", "refuse_unwritable", "write"]

Output = Annotated[Path | None, typer.Option("--output", "-o", help="A file to write; otherwise it is printed.")]

FAILED = 2
"""What a command ends with that could not write."""


def refuse_unwritable(output: Path | None) -> None:
    """Before the work rather than after it."""
    if output is None:
        return
    if output.is_dir():
        raise typer.BadParameter(f"{output} is a folder.", param_hint="--output")
    if not output.absolute().parent.is_dir():
        raise typer.BadParameter(f"the folder of {output} does not exist.", param_hint="--output")


def write(text: str, output: Path | None) -> None:
    """Writes the text, or prints it where there is no file."""
    if output is None:
        typer.echo(text, nl=False)
        return
    beside = output.with_name(f".{output.name}.new")  # so that the old file stays whole until the new one is
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, output)
    except OSError as error:
        typer.echo(f"mlguard: {output} can't be written: {error.strerror}. Fix: check the permissions.", err=True)
        raise typer.Exit(FAILED) from None
