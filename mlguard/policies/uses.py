"""Where code uses policies by name: read from its syntax tree, nothing is imported or run."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Use", "Uses", "read_uses"]

_SKIPPED = {"node_modules", "site-packages", "__pycache__", "build", "dist"}


@dataclass(frozen=True)
class Use:
    """One mention of a policy in code."""

    where: str
    """File and line."""
    name: str | None
    """The policy; None: the code does not say it plainly."""
    text: str
    """What stands there, for a name that can't be told."""
    removed: frozenset[str] = frozenset()
    """Sections that the decorator takes away or gives itself, so that the policy's own do not count."""
    deterministic: bool = True
    fallback: bool = False
    """The decorator brings a fallback of its own."""


@dataclass
class Uses:
    """What the code under some paths says about policies."""

    used: list[Use] = field(default_factory=list)
    defined: dict[str, str] = field(default_factory=dict)
    """Policies that code defines itself, with file and line."""
    unreadable: list[str] = field(default_factory=list)
    """Files that could not be read as Python, and why."""
    files: int = 0


def read_uses(paths: list[Path]) -> Uses:
    """Reads every Python file under the paths; hidden folders, virtual environments and builds are left out."""
    found = Uses()
    for file in sorted({each for path in paths for each in _python_files(path)}):
        found.files += 1
        try:
            tree = ast.parse(file.read_bytes(), filename=str(file))
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            reason = error.msg if isinstance(error, SyntaxError) else getattr(error, "strerror", None) or str(error)
            found.unreadable.append(f"{file}{line}: {reason}")
            continue
        _Reader(str(file), found).read(tree)
    return found


def _python_files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, folders, files in os.walk(path):
        here = Path(folder)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and name not in _SKIPPED and not (here / name / "pyvenv.cfg").exists()
        ]
        yield from (here / name for name in files if name.endswith((".py", ".pyi")))


class _Reader(ast.NodeVisitor):
    """Finds the calls of mlguard in one file, under whatever name it was imported."""

    def __init__(self, file: str, found: Uses) -> None:
        self._file = file
        self._found = found
        self._names: dict[str, str] = {}  # a local name, and what of mlguard it means: "mlguard.policies.get"
        self._texts: dict[str, str | None] = {}  # module-level constants; None: assigned more than once

    def read(self, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            self._note_import(node)
            self._note_text(node)
        self.visit(tree)

    def visit_Call(self, node: ast.Call) -> None:
        what = self._meaning(node.func)
        if what in ("mlguard.guarded", "mlguard.guard.guarded"):
            self._use_of_guarded(node)
        elif what in ("mlguard.policies.get", "mlguard.policies.explain", "mlguard.policies.origins") and node.args:
            self._found.used.append(Use(self._where(node), self._text(node.args[0]), ast.unparse(node.args[0])))
        elif what == "mlguard.policies.define":
            self._definition(node)
        self.generic_visit(node)

    def _use_of_guarded(self, node: ast.Call) -> None:
        if not node.args or self._is_policy(node.args[0]):
            return
        keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        deterministic = keywords.get("deterministic")
        self._found.used.append(
            Use(
                self._where(node),
                self._text(node.args[0]),
                ast.unparse(node.args[0]),
                frozenset(name for name, value in keywords.items() if _is_false(value)),
                deterministic is None or not _is_false(deterministic),
                "fallback" in keywords and not _is_false(keywords["fallback"]),
            )
        )

    def _definition(self, node: ast.Call) -> None:
        given = node.args[0] if node.args else None
        name = self._text(given) if given is not None else None
        if name is None and isinstance(given, ast.Call):
            name = next((self._text(each.value) for each in given.keywords if each.arg == "name"), None)
        if name is not None:
            self._found.defined.setdefault(name, self._where(node))
        else:
            self._found.used.append(Use(self._where(node), None, ast.unparse(node)))

    def _is_policy(self, node: ast.expr) -> bool:
        """True for what is no name: ``Policy(...)``, or a function that is guarded by a call."""
        if isinstance(node, ast.Call):
            return self._meaning(node.func) in ("mlguard.Policy", "mlguard.policies.Policy")
        return isinstance(node, ast.Lambda)

    def _text(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        return self._texts.get(node.id) if isinstance(node, ast.Name) else None

    def _note_import(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "mlguard" or alias.name.startswith("mlguard."):
                    whole = alias.name if alias.asname else "mlguard"
                    self._names[alias.asname or "mlguard"] = whole
        elif isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("mlguard."):
            self._names.update({each.asname or each.name: f"{node.module}.{each.name}" for each in node.names})

    def _note_text(self, node: ast.AST) -> None:
        """A name that always means the same text stands for it."""
        for target in _targets(node):
            if isinstance(target, ast.Name):
                value = getattr(node, "value", None)
                text = value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
                self._texts[target.id] = None if target.id in self._texts else text

    def _meaning(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return self._names.get(node.id)
        if isinstance(node, ast.Attribute) and (owner := self._meaning(node.value)) is not None:
            return f"{owner}.{node.attr}"
        return None

    def _where(self, node: ast.expr) -> str:
        return f"{self._file}:{node.lineno}"


def _targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    if isinstance(node, ast.AnnAssign | ast.AugAssign | ast.For | ast.AsyncFor | ast.NamedExpr | ast.comprehension):
        return [node.target]
    return []


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False
