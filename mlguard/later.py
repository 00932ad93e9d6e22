"""Names of a package that are loaded when they are first asked for.

Most programs use a few rooms of mlguard only: what a room is made of waits for the first who needs it. Type checkers
don't see this; the package imports the same names for them under ``TYPE_CHECKING``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["later"]


def later(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package.

    Args:
        package: Its name.
        modules: The names it has, each with the module within the package that it comes from; a name that stands for
            its own module is that module.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f"{package}.{modules[name]}")
        return module if name == modules[name] else getattr(module, name)

    return get
