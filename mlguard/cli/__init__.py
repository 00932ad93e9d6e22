"""The command line, `mlguard`: one file per command, each a thin reading of the library.

It needs the extra `cli` (typer and rich), and `mlguard demo` the extra `demo`; without them one line says so.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

_PACKAGES = {"cli": "typer rich", "demo": "scikit-learn matplotlib", "query": "duckdb"}
"""What an extra brings, as names to install: the `mlguard` that pip would find is another project."""


def main() -> None:
    """The entry point of the console script."""
    try:
        from mlguard.cli.app import app
    except ModuleNotFoundError as missing:
        sys.exit(absent("mlguard's command line", missing, "cli"))
    from mlguard.errors import PolicyError

    try:
        app(prog_name="mlguard")
    except PolicyError as error:
        sys.exit(f"mlguard: {error}")


def absent(what: str, missing: ModuleNotFoundError, extra: str) -> str:
    """What to say where a package of an extra is not installed; an absent module of our own is raised again."""
    if (missing.name or "mlguard").partition(".")[0] == "mlguard":
        raise missing
    return (
        f"{what} needs {missing.name}, which is not installed. "
        f"Fix: pip install {_PACKAGES[extra]} (mlguard's extra '{extra}')."
    )
