"""Where code uses policies by name: read from its syntax tree, nothing is imported or run."""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Use", "Uses", "read_uses"]

_STAR = {
    "mlguard": ("Policy", "guarded", "policies"),
    "mlguard.policies": ("Policy", "define", "explain", "get", "load", "origins"),
}
"""What a star import brings of what is looked for."""

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
    loads: list[str] = field(default_factory=list)
    """Where code says which policy file counts, so that the one that would be found may not."""
    files: int = 0


def read_uses(paths: list[Path]) -> Uses:
    """Reads every Python file under the paths; hidden folders, virtual environments and builds are left out."""
    found = Uses()
    for file in sorted({each for path in paths for each in _python_files(path)}):
        found.files += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of "\\d" and the like, which is no matter here
                tree = ast.parse(file.read_bytes(), filename=str(file))
            _Reader(str(file), found).read(tree)
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            reason = error.msg if isinstance(error, SyntaxError) else getattr(error, "strerror", None) or str(error)
            found.unreadable.append(f"{file}{line}: {reason}")
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


class _Reader:
    """Finds the calls of mlguard in one file, under whatever name it was imported."""

    def __init__(self, file: str, found: Uses) -> None:
        self._file = file
        self._found = found
        self._names: dict[str, str] = {}  # a local name, and what of mlguard it means: "mlguard.policies.get"
        self._bound: dict[str, int] = {}  # how often the file gives a name a meaning, wherever
        self._values: dict[str, ast.AST] = {}  # what a name is assigned, or the function of that name

    def read(self, tree: ast.Module) -> None:
        for node in ast.walk(tree):
            self._note_import(node)
            self._note_value(node)
            for name in _bound_by(node):
                self._bound[name] = self._bound.get(name, 0) + 1
        rest: list[tuple[ast.AST, frozenset[str]]] = [(tree, frozenset())]
        while rest:  # not by recursion: generated code nests deeply
            node, hidden = rest.pop()
            if isinstance(node, ast.Call):
                self._call(node, hidden)
            inside = _own_names(node) if isinstance(node, _FUNCTIONS) else frozenset()
            for name, child in ast.iter_fields(node):
                within = hidden | inside if name == "body" else hidden
                children = child if isinstance(child, list) else [child]
                rest.extend((each, within) for each in children if isinstance(each, ast.AST))

    def _call(self, node: ast.Call, hidden: frozenset[str]) -> None:
        what = self._meaning(node.func, hidden)
        if what in ("mlguard.guarded", "mlguard.guard.guarded"):
            self._use_of_guarded(node)
        elif what in ("mlguard.policies.get", "mlguard.policies.explain", "mlguard.policies.origins") and node.args:
            self._found.used.append(Use(self._where(node), self._text(node.args[0]), ast.unparse(node.args[0])))
        elif what == "mlguard.policies.define":
            self._definition(node)
        elif what == "mlguard.policies.load":
            self._found.loads.append(self._where(node))

    def _use_of_guarded(self, node: ast.Call) -> None:
        if not node.args or self._is_no_name(node.args[0]):
            return
        keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        unknown = len(keywords) < len(node.keywords)  # **options may say anything
        deterministic = keywords.get("deterministic")
        self._found.used.append(
            Use(
                self._where(node),
                self._text(node.args[0]),
                ast.unparse(node.args[0]),
                frozenset(name for name, value in keywords.items() if name == "validation" or _is_false(value)),
                unknown or deterministic is None or not _is_false(deterministic),
                unknown or ("fallback" in keywords and not _is_false(keywords["fallback"])),
            )
        )

    def _definition(self, node: ast.Call) -> None:
        given = node.args[0] if node.args else None
        name = self._text(given) if given is not None else None
        policy = self._value(given) if isinstance(given, ast.Name) else given
        if name is None and isinstance(policy, ast.Call):
            name = next((self._text(each.value) for each in policy.keywords if each.arg == "name"), None)
        if name is not None:
            self._found.defined.setdefault(name, self._where(node))
        else:
            self._found.used.append(Use(self._where(node), None, ast.unparse(node)))

    def _is_no_name(self, node: ast.AST | None) -> bool:
        """True for a policy that is an object, and for a function that is guarded by a call."""
        if isinstance(node, ast.Name):
            node = self._value(node)
        if isinstance(node, ast.Call):
            merged = isinstance(node.func, ast.Attribute) and node.func.attr == "merged"
            made_by = ("mlguard.Policy", "mlguard.policies.Policy", "mlguard.policies.get")
            return merged or self._meaning(node.func) in made_by
        return isinstance(node, _FUNCTIONS)

    def _text(self, node: ast.expr) -> str | None:
        value = self._value(node) if isinstance(node, ast.Name) else node
        return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None

    def _value(self, name: ast.Name) -> ast.AST | None:
        """What a name stands for, where the file gives it one meaning only."""
        return self._values.get(name.id) if self._bound.get(name.id) == 1 else None

    def _note_import(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "mlguard" or alias.name.startswith("mlguard."):
                    whole = alias.name if alias.asname else "mlguard"
                    self._names[alias.asname or "mlguard"] = whole
        elif isinstance(node, ast.ImportFrom) and not node.level and f"{node.module}.".startswith("mlguard."):
            for each in node.names:
                names = _STAR.get(str(node.module), ()) if each.name == "*" else (each.name,)
                self._names.update({each.asname or name: f"{node.module}.{name}" for name in names})

    def _note_value(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    self._values[target.id] = node.value
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            self._values[node.name] = node

    def _meaning(self, node: ast.expr, hidden: frozenset[str] = frozenset()) -> str | None:
        if isinstance(node, ast.Name):
            return None if node.id in hidden else self._names.get(node.id)
        if isinstance(node, ast.Attribute) and (owner := self._meaning(node.value, hidden)) is not None:
            return f"{owner}.{node.attr}"
        return None

    def _where(self, node: ast.expr) -> str:
        return f"{self._file}:{node.lineno}"


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def _own_names(function: ast.AST) -> frozenset[str]:
    """The names that mean something else within a function: its parameters, and what it assigns."""
    return frozenset(
        name
        for node in ast.walk(function)
        if isinstance(node, ast.arg | ast.Name) and node is not function
        for name in _bound_by(node)
    )


def _bound_by(node: ast.AST) -> list[str]:
    """The names that a node gives a meaning."""
    if isinstance(node, ast.Name):
        return [] if isinstance(node.ctx, ast.Load) else [node.id]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.alias):
        return [node.asname or node.name.partition(".")[0]]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    name = getattr(node, "name", None) or getattr(node, "rest", None)  # of an except clause or a pattern
    return [name] if isinstance(name, str) else []


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False
