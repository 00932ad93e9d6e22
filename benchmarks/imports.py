"""Claim: importing mlguard costs little more than importing what it is built on.

The bar imports the core dependencies and declares one pydantic model of one field. Without a model the bar would be too
low: `import pydantic` loads next to nothing until a name of it is asked for, and `BaseModel` alone not yet what every
model needs (fields, types, the search for plugins), which whoever uses pydantic pays with or without mlguard. Both
lower bars are shown as well.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from importlib.metadata import requires

from benchmarks.case import OURS, Budget, Case

__all__ = ["cases"]

_BARE = "its core dependencies"
_BASE_MODEL = "its core dependencies, BaseModel loaded"
_MODEL = "its core dependencies, one model declared"


def cases() -> list[Case]:
    """Fresh processes, each of which times its own statements."""
    dependencies = "import " + ", ".join(core_dependencies())
    statements = {
        OURS: "import mlguard",
        _BARE: dependencies,
        _BASE_MODEL: f"{dependencies}\npydantic.BaseModel",
        _MODEL: f"{dependencies}\nclass Model(pydantic.BaseModel):\n    field: int",
    }
    for text in statements.values():
        seconds_of(text)  # leaves the bytecode behind
    return [
        Case(
            name="imports",
            claim="the import statement alone, in a fresh process that has its bytecode",
            self_timed=True,
            most_rounds=15,
            contestants={name: functools.partial(seconds_of, text) for name, text in statements.items()},
            budgets=(Budget(_MODEL, 1.15), Budget(_BASE_MODEL, None), Budget(_BARE, None)),
        ),
    ]


def core_dependencies() -> list[str]:
    """The modules of mlguard's requirements without extras; each is named as its distribution."""
    found = [line for line in requires("mlguard") or () if "extra ==" not in line]
    return sorted(re.split(r"[^\w]", line)[0] for line in found)


def seconds_of(statements: str) -> float:
    """Seconds that the statements take in a new process, its start not counted."""
    code = f"from time import perf_counter as now\nstarted = now()\n{statements}\nprint(now() - started)"
    # Where bytecode may not be written, every run would compile whatever of mlguard was edited since it last was.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)  # noqa: S603
    return float(ran.stdout)
