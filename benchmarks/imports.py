"""Claim: importing mlguard costs little more than importing what it is built on."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from importlib.metadata import requires

from benchmarks.case import OURS, Budget, Case

__all__ = ["cases"]

_DEPENDENCIES = "its core dependencies"


def cases() -> list[Case]:
    """Fresh processes, each of which times its own statements."""
    dependencies = "import " + ", ".join(core_dependencies())
    # `import pydantic` alone loads little of pydantic; whoever declares a schema pays for the rest, with or without us
    a_model = f"{dependencies}\nclass Model(pydantic.BaseModel):\n    field: int"
    statements = {
        OURS: "import mlguard",
        _DEPENDENCIES: dependencies,
        "its core dependencies, and a model made": a_model,
    }
    return [
        Case(
            name="imports",
            claim="the import statement alone, in a fresh process that has its bytecode",
            self_timed=True,
            most_rounds=15,
            contestants={name: functools.partial(seconds_of, text) for name, text in statements.items()},
            budgets=(Budget(_DEPENDENCIES, 1.15),),
        ),
    ]


def core_dependencies() -> list[str]:
    """The modules of mlguard's requirements without extras; each is named as its distribution."""
    found = [line for line in requires("mlguard") or () if "extra ==" not in line]
    return sorted(re.split(r"[^\w]", line)[0] for line in found)


def seconds_of(statements: str) -> float:
    """Seconds that the statements take in a new process, its start not counted."""
    code = f"from time import perf_counter as now\nstarted = now()\n{statements}\nprint(now() - started)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    return float(ran.stdout)
