"""What is built once for the tests of the package, and an environment that has nothing else but what the core needs."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]

Python = Callable[..., subprocess.CompletedProcess[str]]


def build(folder: Path, into: Path, *targets: str) -> None:
    """Builds what is in a folder, as pip and build do it, without an environment of its own."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(into)]
    for target in targets:
        command += ["--target", target]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of the working tree."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "wheel", "sdist")
    return folder


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="session")
def sdist(dist: Path) -> Path:
    return next(dist.glob("*.tar.gz"))


@pytest.fixture(scope="session")
def source(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return unpacked


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the path in which the wheel is installed, metadata included."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Python:
    """``python(path, code, *options, extras=..., cwd=...)``: runs code where only mlguard's own dependencies are there.

    They are links to those of this environment, beside nothing else: no other package can be imported, or found by its
    metadata. `path` is what mlguard is imported from, `extras` names what is there besides.
    """
    folders: dict[tuple[str, ...], Path] = {}

    def run(
        path: Path, code: str, *options: str, extras: tuple[str, ...] = (), cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        if extras not in folders:
            folders[extras] = tmp_path_factory.mktemp("core")
            for name in _needed("mlguard", extras):
                _link(name, folders[extras])
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
        environment |= {"PYTHONPATH": os.pathsep.join([str(path), str(folders[extras])])}
        return subprocess.run(
            [sys.executable, "-S", "-P", *options, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=cwd or path.parent,
        )

    return run


def _needed(name: str, extras: tuple[str, ...]) -> set[str]:
    """The distributions that one needs on this machine, at any depth."""
    found: set[str] = set()
    rest = [Requirement(f"{name}[{','.join(extras)}]" if extras else name)]
    while rest:
        requirement = rest.pop()
        for each in map(Requirement, distribution(requirement.name).requires or []):
            wanted = [{"extra": extra} for extra in (*requirement.extras, "")]
            if each.marker is None or any(each.marker.evaluate(about) for about in wanted):
                if each.name not in found or each.extras:
                    rest.append(each)
                found.add(each.name)
    return found - {name}


def _link(name: str, folder: Path) -> None:
    files = distribution(name).files or []
    for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
        link = folder / top
        if not link.exists():
            link.symlink_to(Path(str(distribution(name).locate_file(top))))
