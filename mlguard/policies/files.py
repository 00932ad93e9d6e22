"""Policy files: which one is meant, and what it says.

Formats: ``mlguard.toml``, ``mlguard.yaml`` and ``[tool.mlguard]`` in ``pyproject.toml``. Reading one imports
nothing but the exception classes that a policy's ``retry.on`` names.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from mlguard.clock import size_text
from mlguard.errors import PolicyError
from mlguard.policies.entries import Entry, OriginOf, below, read_entry
from mlguard.policies.lines import key_lines
from mlguard.section import nearest, shown

__all__ = ["FILE_VARIABLE", "State", "find", "places_of", "read", "state_of"]

FILE_VARIABLE = "MLGUARD_POLICIES"
"""The environment variable that names the policy file, in place of the search."""

NAMES = ("mlguard.toml", "mlguard.yaml", "mlguard.yml")
_LIMIT = 1024 * 1024  # a policy file of a megabyte is a mistake, or an attack
State: TypeAlias = tuple[int, ...] | None
"""What tells one state of a file from another; that it is not there (None) is a state too."""

_Lines: TypeAlias = Mapping[tuple[str, ...], int]


def find(environ: Mapping[str, str], start: Path | None = None) -> tuple[Path | None, list[str]]:
    """The policy file of this process, if there is one, and every place that was searched.

    ``MLGUARD_POLICIES`` names it; else it is the one in the nearest directory, from `start` (the working directory)
    upwards.

    Raises:
        PolicyError: One directory holds several.
    """
    named = environ.get(FILE_VARIABLE)
    if named:
        return Path(named).expanduser().absolute(), [f"{named} (from {FILE_VARIABLE})"]
    try:
        here = start or Path.cwd()
    except OSError:
        return None, ["the working directory, which is gone"]
    searched = []
    for folder in (here, *here.parents):
        searched.append(str(folder))
        found = [folder / name for name in NAMES if _is_file(folder / name)]
        if _mentions_us(folder / "pyproject.toml"):
            found.append(folder / "pyproject.toml")
        if len(found) > 1:
            names = " and ".join(path.name for path in found)
            raise PolicyError(
                f"{folder} holds several policy files: {names}. Fix: keep one, or set {FILE_VARIABLE} to one."
            )
        if found:
            return found[0], searched
    return None, searched


def places_of(file: Path | None, searched: list[str]) -> list[Path]:
    """The files that `find`, having answered so, would look at again: the one it was told, or all it may find."""
    if file is not None and str(file.parent) not in searched:
        return [file]
    return [Path(folder, name) for folder in searched for name in (*NAMES, "pyproject.toml")]


def state_of(path: Path) -> State:
    """The state of a file, for telling later whether it changed."""
    try:
        found = path.stat()  # follows links: Kubernetes changes a mounted file by turning a link
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


class PolicyFile(NamedTuple):
    """What a policy file says."""

    entries: dict[str, Entry]
    use: dict[str, str]
    """The policy packages it takes policies from, each with where it says so."""


def read(path: Path, problems: list[str], *, label: str | None = None) -> PolicyFile:
    """What a policy file says; what is wrong with it is added to the problems.

    Args:
        path: The file.
        problems: What is wrong so far.
        label: How origins call the file, where they are not to show its path: that of a package, which may use none.

    Raises:
        PolicyError: There is no such file, it is too large, or it can't be read as what its name says it is.
    """
    text = _text_of(path)
    prefix: tuple[str, ...] = ()
    try:
        if path.suffix in (".yaml", ".yml"):
            from mlguard.policies.yaml import load_yaml

            data, lines = load_yaml(text, path)
        elif path.suffix == ".toml":
            data, lines = _load_toml(text, path)
        else:
            raise PolicyError(f"{path}: a policy file ends in .toml, .yaml or .yml.")
    except RecursionError:
        raise PolicyError(f"{path}: is nested too deeply for a policy file.") from None
    if path.name == "pyproject.toml":
        prefix = ("tool", "mlguard")
        tool = data.get("tool", {})
        data = tool.get("mlguard", {}) if isinstance(tool, dict) else {}
    origin_of = _origins(label or str(path), prefix, lines)
    return PolicyFile(
        _entries(data, origin_of, problems), _use(data, origin_of, problems, in_package=label is not None)
    )


def _entries(data: Any, origin_of: OriginOf, problems: list[str]) -> dict[str, Entry]:
    if not isinstance(data, dict):
        problems.append(f"{origin_of(())}: must be a table that holds [policies.NAME], not {shown(data)}")
        return {}
    problems.extend(
        f"{origin_of((key,))}: there is no setting '{key}' here.{nearest(str(key), ['policies', 'use'])} "
        "A policy is a table [policies.NAME]"
        for key in data
        if key not in ("use", "policies")
    )
    tables = data.get("policies", {})
    if not isinstance(tables, dict):
        problems.append(f"{origin_of(('policies',))}: policies = {shown(tables)}: must be a table of policies by name")
        return {}
    return {
        name: read_entry(name, table, below(origin_of, "policies", name), problems) for name, table in tables.items()
    }


def _use(data: Any, origin_of: OriginOf, problems: list[str], *, in_package: bool) -> dict[str, str]:
    """The packages behind `use`, which may be one text or a list."""
    given = data.get("use", []) if isinstance(data, dict) else []
    names = [given] if isinstance(given, str) else given
    where = origin_of(("use",))
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        problems.append(f'{where}: use = {shown(given)}: must list policy packages, such as ["acme_policies"]')
        return {}
    if names and in_package:
        problems.append(f"{where}: use: a policy package can't use others. Fix: the service's own file lists them all")
        return {}
    return dict.fromkeys(names, where)


def _origins(path: str, prefix: tuple[str, ...], lines: _Lines) -> OriginOf:
    def origin_of(field: tuple[str, ...]) -> str:
        field = (*prefix, *field)
        while field and field not in lines:
            field = field[:-1]
        return f"{path}:{lines[field]}" if field else path

    return origin_of


def _load_toml(text: str, path: Path) -> tuple[Any, _Lines]:
    try:
        return tomllib.loads(text), key_lines(text.replace("\r\n", "\n"))
    except ValueError as error:
        message = str(error)
        line = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", message)
        number = "" if line is None else f":{line[1] or text.count(chr(10)) + 1}"
        raise PolicyError(f"{path}{number}: is not valid TOML: {message}.") from None


def _text_of(path: Path) -> str:
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PolicyError(f"{path}: is not a regular file. Fix: name a policy file such as mlguard.toml.")
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise PolicyError(
            f"{path}: the policy file can't be read: {error.strerror}. "
            f"Fix: correct the path, or {FILE_VARIABLE} where it is set."
        ) from None
    if len(data) > _LIMIT:
        raise PolicyError(f"{path}: is larger than {size_text(_LIMIT)}, which no policy file needs.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"{path}:{line}: is not UTF-8 text. Fix: save it as UTF-8.") from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a named pipe would wait for its writer


def _is_file(path: Path) -> bool:
    return _quietly(path.is_file) or False


def _mentions_us(path: Path) -> bool:
    """True where a pyproject.toml has a table for mlguard, or might have one but is broken."""
    if not _is_file(path):
        return False
    data = _quietly(path.read_bytes) or b""
    if b"mlguard" not in data:
        return False
    try:
        tool = tomllib.loads(data.decode()).get("tool")
    except (ValueError, RecursionError):
        return b"tool.mlguard" in data
    return isinstance(tool, dict) and "mlguard" in tool


def _quietly(ask: Callable[[], Any]) -> Any:
    """The answer about a directory on the way up, or None where this process may not look."""
    try:
        return ask()
    except OSError:
        return None
