"""Without any extra: the core works, and each feature that needs one says which, with the line that installs it.

The same in environments that pip made, one for each extra, is `nox -s extras`.
"""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import metadata
from pathlib import Path

import pytest

from . import features
from .conftest import Python

SCRIPT = features.__file__
EXTRAS = sorted({*(metadata("mlguard").get_all("Provides-Extra") or [])} - {"all"})

# What an extra brings as pip calls it, and what must be there for its feature to be reached at all.
BRINGS = {
    "cli": ("typer rich", ()),
    "datadog": ("datadog", ()),
    "demo": ("scikit-learn matplotlib", ("cli",)),
    "fastapi": ("fastapi", ()),
    "opentelemetry": ("opentelemetry-api", ()),
    "prometheus": ("prometheus-client", ()),
    "query": ("duckdb", ("cli",)),
    "redis": ("redis", ()),
    "yaml": ("pyyaml", ()),
}


pytestmark = pytest.mark.long


def test_every_extra_has_a_feature() -> None:
    """An extra that nothing is tried for would be a promise that nobody holds."""
    assert sorted(features.FEATURES) == sorted(BRINGS) == EXTRAS


@pytest.fixture(scope="module")
def told(python: Python, installed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each feature said: those of the command line with the extra `cli` alone, the others with none."""
    folder = tmp_path_factory.mktemp("empty")
    bare = [extra for extra in EXTRAS if not BRINGS[extra][1]]
    reached = [extra for extra in EXTRAS if BRINGS[extra][1]]
    found = _told(python(installed, _run(*bare), cwd=folder))
    found |= _told(python(installed, _run(*reached), extras=("cli",), cwd=folder))
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_feature_without_its_extra_names_what_to_install(told: dict[str, str], extra: str) -> None:
    """The error names what is missing and the line that installs it, instead of failing somewhere inside."""
    said = told[extra]
    assert "not installed" in said or "needs PyYAML" in said
    assert any(f"Fix: pip install {quote}{BRINGS[extra][0]}" in said for quote in ("", "'")), said


def test_a_feature_works_where_its_extra_is_there(python: Python, installed: Path, tmp_path: Path) -> None:
    """The same attempts succeed with the extra, so that what the test above sees is its absence."""
    wanted = ("cli", "prometheus", "yaml")
    assert _told(python(installed, _run(*wanted), extras=wanted, cwd=tmp_path)) == dict.fromkeys(wanted, "works")


def _told(result: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert result.returncode == 0, result.stderr
    found: dict[str, str] = json.loads(result.stdout.splitlines()[-1])
    return found


def _run(*extras: str) -> str:
    return f"import runpy, sys; sys.argv[1:] = {list(extras)!r}; runpy.run_path({SCRIPT!r}, run_name='__main__')"
