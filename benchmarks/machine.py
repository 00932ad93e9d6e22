"""Where and with what a run was made: without it nobody can compare two of them."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["machine", "versions"]

_PACKAGES = (
    "mlguard", "numpy", "psutil", "pydantic", "pydantic-core", "structlog", "tenacity",
    "backoff", "cachebox", "cachetools", "nopanic", "orjson", "pyresilience", "stamina",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """Processor, cores, system, Python, and how busy the machine was at the start."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "implementation": platform.python_implementation(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str | None]:
    """Installed versions of ours and of everything we are measured against."""
    return {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
