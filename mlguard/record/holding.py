"""Files under names of a query's own, so that it reads what was there when it began.

While a service runs, its segments are packed and removed. Where the temporary folder is on the same file system, each
file gets a second name there, a hard link, under which it stays until the query is done. Elsewhere the name leads to
the file's own, and a query that finds one gone looks again. The names have nothing in them that DuckDB would take for a
pattern.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Held"]


class Held:
    """Files by the names under which they can be read until this is closed.

    Args:
        files: Which.
        folder: An empty folder for the names.

    Raises:
        FileNotFoundError: One is gone.

    Attributes:
        names: The file behind each name.
    """

    def __init__(self, files: Sequence[Path], folder: Path) -> None:
        self.names: dict[Path, Path] = {}
        try:
            for number, path in enumerate(files):
                name = folder / f"{number}{path.suffix}"
                try:
                    os.link(path.resolve(), name)
                except FileNotFoundError:
                    raise
                except OSError:  # another file system, or a file of somebody else's
                    name.symlink_to(path.absolute())
                self.names[name] = path
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Takes the names away."""
        for name in self.names:
            with contextlib.suppress(OSError):
                name.unlink()
