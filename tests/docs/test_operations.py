"""docs/operations.md has a row for everything that a person on call may meet."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mlguard
import mlguard.errors
from mlguard.drift.event import DriftEvent
from mlguard.monitor.event import Event
from mlguard.outcome import Disposition

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"
PACKAGE = ROOT / "mlguard"
METRICS = "mlguard.monitor.metrics"
NAME = re.compile(r"mlguard(\.[a-z_]+)+")


def rows(*titles: str) -> set[str]:
    """What the first cells of the tables under these headings name; without titles, those of the whole page."""
    found: set[str] = set()
    for part in re.split(r"^#+ ", PAGE.read_text(), flags=re.MULTILINE):
        if titles and part.split("\n", 1)[0] not in titles:
            continue
        for line in part.splitlines():
            if line.startswith("|"):
                found.update(re.findall(r"`([^`]+)`", line.split("|")[1]))
    return found


@functools.cache
def nodes() -> list[ast.AST]:
    """The code of mlguard, every node of it."""
    return [node for path in sorted(PACKAGE.rglob("*.py")) for node in ast.walk(ast.parse(path.read_text()))]


def logged() -> set[str]:
    """The name of every event that is logged anywhere in mlguard, found in its code."""
    names: set[str] = set()
    for node in nodes():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            if node.func.attr in {"debug", "info", "warning", "warn", "error", "exception", "critical"}:
                names.update(dotted(node.args[0]))
        elif isinstance(node, ast.AnnAssign) and node.value and ast.unparse(node.target).endswith("EVENT"):
            names.update(dotted(node.value))
    return names


def told() -> set[str]:
    """The name of every field that is put into an event anywhere in mlguard: a key, or an argument of `tell`."""
    names: set[str] = set()
    for node in nodes():
        if isinstance(node, ast.Dict):
            names.update(name for key in node.keys if key is not None for name in dotted(key))
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            names.update(dotted(node.slice))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "tell":
            names.update(k.arg.replace("__", ".") for k in node.keywords if k.arg and k.arg.startswith("mlguard"))
    return names


def dotted(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value):
        yield node.value


def public_errors() -> set[str]:
    """The exceptions that the packages of mlguard export, which are those a user can name.

    Those of the codec never leave the cache: an entry that can't be read is a miss.
    """
    found = set(mlguard.errors.__all__)
    for info in pkgutil.walk_packages(mlguard.__path__, "mlguard."):
        if not info.ispkg or info.name == "mlguard.cache.codec":
            continue
        package = importlib.import_module(info.name)
        for name in getattr(package, "__all__", ()):
            exported = getattr(package, name)
            if isinstance(exported, type) and issubclass(exported, BaseException):
                found.add(name)
    return found


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def aliases(model: Any) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_every_error() -> None:
    """Each error that can be caught by name has its row."""
    assert not public_errors() - rows("Errors")


def test_every_disposition() -> None:
    """Each way in which a call ends has its row."""
    assert {str(each) for each in Disposition} == rows("Dispositions")


def test_every_logged_event() -> None:
    """Each event that mlguard logs has its row, and no row is of one that is gone."""
    here = rows("Log events")
    states = {f"mlguard.breaker.{state}" for state in ("opened", "half_opened", "closed")}  # made from the state
    assert logged() >= {"mlguard.call", "mlguard.policies.reloaded", "mlguard.memory.pressure"}, "the search works"
    assert here == logged() | states


@pytest.mark.parametrize("model", [Event, DriftEvent])
def test_every_declared_field(model: Any) -> None:
    """Each field that an event's schema declares has its row."""
    assert not aliases(model) - rows()


def test_every_told_field() -> None:
    """Each field that any concern adds to an event has its row, whether or not the schema declares it."""
    assert told() >= {"mlguard.retry.stopped", "mlguard.memory.used", "mlguard.cache"}, "the search works"
    assert not {name for name in told() - rows() if not is_module(name)}


def test_every_finding_of_the_doctor() -> None:
    """Each piece of advice that `mlguard doctor` gives has its row, by its first words."""
    page = PAGE.read_text()
    tree = ast.parse((PACKAGE / "memory" / "checkup.py").read_text())
    advice = [
        node.args[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "advise"
    ]
    assert len(advice) >= 8, "the search works"
    for said in advice:
        first = said.values[0] if isinstance(said, ast.JoinedStr) else said
        assert isinstance(first, ast.Constant)
        words = str(first.value)[:24].strip()
        assert f'"{words}' in page


@pytest.mark.skipif(importlib.util.find_spec(METRICS) is None, reason="this version exports no metrics")
def test_every_metric() -> None:
    """Each metric that is exported has its row."""
    registry = importlib.import_module(METRICS).METRICS
    names = {each if isinstance(each, str) else each.name for each in registry}
    assert names
    assert not names - rows("Metrics")
