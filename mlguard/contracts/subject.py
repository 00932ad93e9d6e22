"""From what a person names on the command line, ``module:attribute``, to the object itself; and the error of this room.

Only what was named is imported, from the working folder or what is installed; nothing that a file says is.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from mlguard.errors import GuardError
from mlguard.section import nearest

__all__ = ["ContractError", "load"]


class ContractError(GuardError, ValueError):
    """A contract can't be read, written or compared. The message names the place and the fix."""

    permanent = True


def load(name: str) -> Any:
    """The object that ``"service.schemas:Patient"`` names; dots after the colon reach into classes.

    Raises:
        ContractError: The name is no such name, or nothing is there. What the module's own code raises is quoted.
    """
    module_name, colon, path = name.partition(":")
    parts = path.split(".")
    if not colon or not all(part.isidentifier() for part in [*module_name.split("."), *parts]):
        raise ContractError(
            f"{name!r} names no object. Fix: MODULE:NAME as Python would import it, such as service.schemas:Patient."
        )
    found: Any = _imported(module_name)
    for number, part in enumerate(parts):
        if not hasattr(found, part):
            where = ".".join([module_name, *parts[:number]])
            public = [each for each in dir(found) if not each.startswith("_")]
            raise ContractError(f"{where} has no {part!r}.{nearest(part, public)} Fix: name what is defined there.")
        found = getattr(found, part)
    return found


def _imported(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:  # a console script has its own folder there, not the one it was started in
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ContractError(
                f"importing {name} fails: it needs {error.name}, which is not installed. Fix: install it."
            ) from error
        raise ContractError(
            f"there is no module {error.name!r}, looked for in {folder} and the installed packages. "
            "Fix: run from the folder it lies in, or install its package."
        ) from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ContractError(
            f"importing {name} fails: {type(error).__name__}: {error}. Fix: make 'python -c \"import {name}\"' work."
        ) from error
