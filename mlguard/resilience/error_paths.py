"""Exception classes by import path, as a policy file names them: ``"httpx.TimeoutException"``.

A path is data, so it must not be able to run code: nothing is imported but the exact modules listed here; any other
module has to be imported already.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from typing import Any

__all__ = ["error_at", "path_of"]

IMPORTABLE = frozenset(
    {
        "aiohttp",
        "anthropic",
        "asyncio",
        "botocore.exceptions",
        "concurrent.futures",
        "google.api_core.exceptions",
        "grpc",
        "http.client",
        "httpx",
        "json",
        "openai",
        "redis",
        "redis.exceptions",
        "requests",
        "requests.exceptions",
        "socket",
        "sqlalchemy.exc",
        "sqlite3",
        "ssl",
        "subprocess",
        "urllib.error",
        "urllib3.exceptions",
    }
)
"""Modules that a path may import: where the usual clients, and Python itself, keep their exceptions."""

_INSTALLED_AS = {"google": "google-api-core", "grpc": "grpcio"}


def error_at(path: str) -> type[Exception]:
    """The exception class at an import path; a bare name is one of Python's own.

    Raises:
        ValueError: There is none, or its module may not be imported from here; the message names the path and the fix.
    """
    module, _, name = path.rpartition(".")
    owner = _module(module, path) if module else builtins
    found = getattr(owner, name, None)
    if found is None:
        where = f"{module} has no '{name}'" if module else f"Python has no exception '{name}'"
        raise ValueError(f"must name exception classes, but '{path}' is none: {where}. Fix: correct the path")
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise ValueError(
            f"must name classes that derive from Exception, but '{path}' does not. Fix: name one that a call may raise"
        )
    return found


def path_of(error: type[Exception]) -> str:
    """The import path of an exception class; Python's own go by their bare name."""
    return error.__qualname__ if error.__module__ == "builtins" else f"{error.__module__}.{error.__qualname__}"


def _module(module: str, path: str) -> Any:
    if sys.modules.get(module) is not None:
        return sys.modules[module]
    if module in IMPORTABLE:
        try:
            return importlib.import_module(module)
        except ImportError:
            package = module.partition(".")[0]
            raise ValueError(
                f"must name classes that exist here, but '{path}' needs {module}, which is not installed. "
                f"Fix: pip install {_INSTALLED_AS.get(package, package)}, or drop the path"
            ) from None
    outer, _, name = module.rpartition(".")  # perhaps a class within a class
    owner = _module(outer, path) if outer else None
    if isinstance(getattr(owner, name, None), type):
        return getattr(owner, name)
    raise ValueError(
        f"must not import {module}, and '{path}' lies there: a path in a policy can't run code. "
        "Fix: import the module before the policy is read, or give the class itself in Python"
    )
