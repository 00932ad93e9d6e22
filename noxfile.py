"""The slow, true checks of the package: each session in an environment of its own, from the registry.

``nox`` runs them all, ``nox -s tests-3.12`` one. What is quick enough runs in `make test`, by tests/packaging; nothing
here is part of it. An interpreter that the machine lacks is skipped, with that as the reason. Those of pyenv must be
switched on: ``PYENV_VERSION=3.11.7:3.12.1:3.13.0 nox``.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = False

ROOT = Path(__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PYTHONS = ["3.11", "3.12", "3.13"]
EXTRAS = sorted(PROJECT["project"]["optional-dependencies"])

# What the tests of the core need beside mlguard. The others (frameworks, servers, models) are for the locked versions.
TOOLS = [
    "aiohttp", "botocore", "cloudpickle", "httpx", "hypothesis", "jsonschema", "opentelemetry-sdk", "pandas", "polars",
    "pytest", "pytest-asyncio", "pytest-cov", "pytest-timeout", "pytest-xdist", "pyyaml", "redis", "requests", "rich",
    "scikit-learn", "scipy", "typer", "urllib3",
]  # fmt: skip
CORE_TESTS = [
    "tests/batch", "tests/cache", "tests/contracts", "tests/drift", "tests/memory", "tests/monitor", "tests/policies",
    "tests/resilience", "tests/validation", "tests/integrations/test_pytest_plugin.py",
    *sorted(
        str(path.relative_to(ROOT)) for path in (ROOT / "tests").glob("test_*.py")
        if path.name not in ("test_docs.py", "test_first_example.py", "test_chaos.py")  # the demo's, or the docs'
    ),
]  # fmt: skip


def build(session: nox.Session) -> Path:
    """The wheel, made from the sdist, as an index would have it."""
    folder = Path(session.create_tmp()).absolute() / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    session.install("build")
    session.run("python", "-m", "build", "--outdir", str(folder), str(ROOT), silent=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def run_core_tests(session: nox.Session) -> None:
    """The tests of the core against the installed wheel: the checkout's own package is out of reach."""
    folder = Path(session.create_tmp()).absolute() / "checkout"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("tests", "schemas", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "Makefile"):
        shutil.copy(ROOT / name, folder)
    session.chdir(folder)
    needs_ray = "tests/monitor/test_identity.py::test_a_ray_that_is_only_imported_is_left_alone"
    chosen = session.posargs or [*CORE_TESTS, f"--deselect={needs_ray}", "-n", "2", "--dist=loadfile"]
    session.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen)


def say_versions(session: nox.Session) -> None:
    """Which versions this run is about."""
    names = ["numpy", "psutil", "pydantic", "structlog", "tenacity"]
    session.run("python", "-c", f"from importlib.metadata import version; print({{n: version(n) for n in {names}}})")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The core on every Python that is supported, with the locked versions of what it needs."""
    wheel = build(session)
    session.install(str(wheel), *TOOLS, "pyarrow", "-c", str(constraints(session)))
    say_versions(session)
    run_core_tests(session)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """The core with the oldest versions that pyproject.toml allows: the lower bounds are true."""
    wheel = build(session)
    pins = [each.replace(">=", "==") for each in PROJECT["project"]["dependencies"]]
    # pyarrow 19 is the first that needs NumPy 2.
    session.install(str(wheel), *pins, *TOOLS, "pyarrow<19")
    say_versions(session)
    run_core_tests(session)


@nox.session(python=PYTHONS[-1])
def newest(session: nox.Session) -> None:
    """The core with the newest versions that the registry has, pre-releases left out, on the newest Python."""
    wheel = build(session)
    session.install("--upgrade", str(wheel), *TOOLS, "pyarrow")
    say_versions(session)
    run_core_tests(session)


@nox.session(python=PYTHONS[0])
@nox.parametrize("extra", [None, *EXTRAS], ids=["none", *EXTRAS])
def extras(session: nox.Session, extra: str | None) -> None:
    """Each extra by itself: what it is for works where it is installed, and all others say what they lack.

    What one brings may bring another, as FastAPI does opentelemetry-api.
    """
    wheel = build(session)
    session.install(f"{wheel}[{extra}]" if extra else str(wheel))
    session.chdir(session.create_tmp())
    result = session.run("python", str(ROOT / "tests/packaging/features.py"), silent=True)
    told = json.loads(str(result).splitlines()[-1])
    brought = {"all": set(told), "demo": {"demo", "cli"}, "query": {"query", "cli"}}.get(extra or "", {extra} - {None})
    wrong = {name: said for name, said in told.items() if name in brought and said != "works"}
    wrong |= {name: said for name, said in told.items() if said != "works" and "Fix: pip install" not in said}
    wrong |= {} if extra else {name: said for name, said in told.items() if said == "works"}
    if wrong:
        session.error(json.dumps(wrong, indent=2))
    session.log(f"{len(told)} features looked at: {sum(said == 'works' for said in told.values())} work.")


@nox.session(python=PYTHONS)
def demo(session: nox.Session) -> None:
    """What a new user does first: the wheel with the extra `demo`, and the demo from an empty folder."""
    wheel = build(session)
    session.install(f"{wheel}[demo]")
    folder = Path(session.create_tmp()) / "empty"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    session.chdir(folder)
    session.run("mlguard", "demo", "--quick", "--no-progress")
    session.run("mlguard", "doctor")


def constraints(session: nox.Session) -> Path:
    """What requirements.lock pins, without hashes and without what is for other machines."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line.rstrip(" \\") for line in lines if "==" in line and not line.startswith((" ", "#"))]
    path = Path(session.create_tmp()) / "constraints.txt"
    path.write_text("\n".join(pins))
    return path.absolute()
