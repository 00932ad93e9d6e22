"""How far a long query is, on standard error."""

from __future__ import annotations

import sys
from typing import Final

import typer

from mlguard import clock

__all__ = ["Progress"]

_EVERY: Final = 2.0
"""Seconds between two lines of progress where there is no terminal."""


class Progress:
    """Says on standard error how far a query is, once it takes a second."""

    def __init__(self) -> None:
        self._began = self._told = clock.now()
        self._line = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, share: float) -> None:
        now = clock.now()
        if now - self._began < 1.0:
            return
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{share:4.0%} of the record")
            sys.stderr.flush()
            self._line = True
        elif now - self._told >= _EVERY:
            self._told = now
            typer.echo(f"{share:.0%} of the record", err=True)

    def close(self) -> None:
        """Takes the line away, so that what was found begins on an empty one."""
        if self._line:
            sys.stderr.write("\r" + " " * 24 + "\r")
            sys.stderr.flush()
            self._line = False
