"""Wheel and sdist: what they hold, what they say of themselves, and that they are the same wherever they are built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from packaging.metadata import Metadata
from packaging.specifiers import SpecifierSet
from trove_classifiers import classifiers

import mlguard

from .conftest import ROOT, build

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Metadata:
    """What the wheel says of itself, refused where a field breaks its specification."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        return Metadata.from_email(archive.read(name), validate=True)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """Every module and data file of mlguard, the door of the pytest plugin, the licence, and nothing from elsewhere."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        text = archive.read("mlguard/call.txt")
    shipped = {name for name in names if ".dist-info/" not in name}
    present = {path for path in (ROOT / "mlguard").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert shipped == {path.relative_to(ROOT).as_posix() for path in present} | {"mlguard_pytest.py"}
    assert {"mlguard/py.typed", "mlguard/call.txt", "mlguard/policies/presets.toml"} <= shipped
    assert text == (ROOT / "mlguard" / "call.py").read_bytes()
    about = {name.partition(".dist-info/")[2] for name in names} - {""}
    assert about == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert len(names) == len(set(names))


def test_the_sdist_holds_what_the_project_is_made_of(sdist: Path) -> None:
    """Package, tests, docs and what builds them, as git knows them; nothing that lies about on the developer's disk."""
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    links = {member.name.partition("/")[2]: member.linkname for member in members if not member.isfile()}
    assert links == {"mlguard/call.txt": "call.py"}
    shipped = {member.name.partition("/")[2] for member in members}
    assert {
        "SECURITY.md",
        "noxfile.py",
        "zensical.toml",
        "requirements.lock",
        "tests/packaging/features.py",
        "LICENSE",
    } <= shipped
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git here to say which files are the project's")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    known = set(subprocess.run(listed, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split("\n"))
    assert shipped - known == {"PKG-INFO"}
    missing = {name for name in known if name.startswith(("mlguard/", "tests/", "schemas/", "benchmarks/"))} - shipped
    assert not {name for name in missing if (ROOT / name).exists()}


def test_the_metadata_is_complete_and_true(metadata: Metadata, wheel: Path) -> None:
    """Name, version, licence, Python versions, classifiers and entry points say what is the case."""
    assert (metadata.name, str(metadata.version)) == ("mlguard", mlguard.__version__)
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.license_files == ["LICENSE"]
    assert metadata.summary == PROJECT["description"]
    assert set(metadata.classifiers or []) <= classifiers
    pythons = {each.rpartition(" ")[2] for each in metadata.classifiers or [] if "Python :: 3." in each}
    assert metadata.requires_python == SpecifierSet(PROJECT["requires-python"])
    assert pythons == {f"3.{minor}" for minor in range(30) if f"3.{minor}.1" in metadata.requires_python}
    with zipfile.ZipFile(wheel) as archive:
        read = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert read["LICENSE"] == (ROOT / "LICENSE").read_text()
    assert "Root-Is-Purelib: true\nTag: py3-none-any" in read["WHEEL"]
    assert read["entry_points.txt"].split() == [
        *("[console_scripts]", "mlguard", "=", "mlguard.cli:main"),
        *("[pytest11]", "mlguard", "=", "mlguard_pytest"),
    ]


def test_every_dependency_has_a_bound_and_every_extra_is_in_all(metadata: Metadata) -> None:
    """No dependency is asked for without the oldest version that works; `all` brings what each extra brings."""
    required = metadata.requires_dist or []
    assert all(
        each.name == "mlguard" or any(bound.operator == ">=" for bound in each.specifier) for each in required
    ), required
    assert {each.name for each in required if each.marker is None} == {
        *("numpy", "psutil", "pydantic", "structlog", "tenacity")
    }
    extras = set(metadata.provides_extra or [])
    assert extras == set(PROJECT["optional-dependencies"])

    def brought(extra: str) -> set[str]:
        return {str(each.name) for each in required if each.marker and each.marker.evaluate({"extra": extra})}

    assert all(brought(extra) for extra in extras)
    assert brought("all") == set().union(*(brought(extra) for extra in extras - {"all"}))


def test_the_readme_renders(metadata: Metadata, source: Path) -> None:
    """An index shows tables, code and headings, not their spelling; what the text links to is in the sdist."""
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text()
    page = MarkdownIt("commonmark").enable("table").render(metadata.description)
    prose = re.sub(r"<(pre|code)\b.*?</\1>", "", page, flags=re.DOTALL)
    assert "<table>" in page
    assert '<code class="language-python">' in page
    assert not re.search(r"^\s*(#{1,6} |\|.*\||```)|\*\*|\]\(", re.sub(r"<[^>]+>", "", prose), re.MULTILINE)
    links = re.findall(r'(?:href|src)="([^"#]+)', page)
    assert links
    assert not [link for link in links if "://" not in link and not (source / link).exists()]


def test_builds_are_the_same_everywhere(
    dist: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sdist, built elsewhere at another time under another umask, gives the same wheel and sdist, byte by byte."""
    for path in source.rglob("*"):
        os.utime(path, (10**9, 10**9))
    before = os.umask(0o077)
    try:
        build(source, tmp_path, "wheel", "sdist")
    finally:
        os.umask(before)
    built = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert built == {path.name: path.read_bytes() for path in dist.iterdir()}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    build(source, tmp_path, "wheel")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert {each.date_time for each in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}
