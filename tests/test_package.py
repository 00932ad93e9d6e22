"""The package as a whole: its public names, and that it works where source files are not where Python likes them."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import mlguard

PACKAGE = Path(mlguard.__file__).parent
USE = (
    "import mlguard; assert {where!r} in mlguard.__file__, mlguard.__file__\n"
    "@mlguard.guarded(retry=mlguard.Retry())\n"
    "def f(x: int) -> int: return x + 1\n"
    "print(f('1'), 'again(' in f.guard.source)\n"
)


def test_public_names() -> None:
    """The public names are sorted, all there, and nothing is public by accident."""
    assert mlguard.__all__ == sorted(mlguard.__all__)
    assert all(hasattr(mlguard, name) for name in mlguard.__all__)
    assert (PACKAGE / "py.typed").exists()


def test_works_from_a_zip_archive(tmp_path: Path) -> None:
    """mlguard works when it is imported from a zip archive."""
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in PACKAGE.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                file.write(path, path.relative_to(PACKAGE.parent))
    assert _run(str(archive), "app.zip") == "2 True"


def test_works_without_source_files(tmp_path: Path) -> None:
    """mlguard works where only compiled files were shipped, by call.txt, the same text as data."""
    copy = tmp_path / "frozen" / "mlguard"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(copy, legacy=True, quiet=1)
    for source in copy.rglob("*.py"):
        source.unlink()
    assert _run(str(copy.parent), "frozen") == "2 True"
    (copy / "call.txt").unlink()
    assert "Fix: ship mlguard/call.py" in _run(str(copy.parent), "frozen")


def test_the_wheel_is_complete(tmp_path: Path) -> None:
    """The wheel holds every module and data file of the package, and works from where nothing else is."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, check=True, capture_output=True, cwd=PACKAGE.parent)
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as file:
        shipped = {name for name in file.namelist() if name.startswith("mlguard/")}
        metadata = next(file.read(name).decode() for name in file.namelist() if name.endswith("/METADATA"))
    present = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert shipped == {path.relative_to(PACKAGE.parent).as_posix() for path in present}
    assert f"Version: {mlguard.__version__}\n" in metadata
    assert _run(str(wheel), wheel.name) == "2 True"


def _run(path: str, where: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", USE.format(where=where)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        cwd=Path(path).parent,
    )
    return result.stdout.strip() or result.stderr
