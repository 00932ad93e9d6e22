"""Policies from installed packages, as far as the service's own file lists them in `use`.

A package brings its policies as a file, `mlguard.toml` in its own folder, and says so with an entry point:

    [project.entry-points."mlguard.policies"]
    acme_policies = "acme_policies"             # the package that holds mlguard.toml

The file is found and read; nothing of the package is imported.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from mlguard.errors import PolicyError
from mlguard.policies.entries import Entry
from mlguard.section import nearest

__all__ = ["GROUP", "Used", "read_packages"]

GROUP = "mlguard.policies"
"""The entry point group of policy packages."""

_FILE = "mlguard.toml"
_PACKAGE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, slots=True)
class Used:
    """What the packages brought."""

    entries: Mapping[str, Entry]
    files: tuple[Path, ...]


def read_packages(
    use: Mapping[str, str], read: Callable[[Path, str, list[str]], Mapping[str, Entry]], problems: list[str]
) -> Used:
    """The policies of the packages that a file uses; what is wrong with them is added to the problems.

    Args:
        use: The names of their entry points, each with where the file says so.
        read: Reads one policy file, given what its origins are to be called.
        problems: What is wrong so far.
    """
    if not use:
        return Used({}, ())
    known: dict[str, list[EntryPoint]] = {}
    for each in entry_points(group=GROUP):
        known.setdefault(each.name, []).append(each)
    entries: dict[str, Entry] = {}
    brought_by: dict[str, str] = {}
    files: list[Path] = []
    for name, origin in use.items():
        try:
            path, package = _file_of(name, known)
            found = read(path, f"{package}, {path.name}", problems)
        except PolicyError as error:
            problems.append(f"{origin}: use = [{name!r}]: {error}")
            continue
        files.append(path)
        for policy, entry in found.items():
            if policy in entries:
                problems.append(
                    f"{entry.origin}: '{policy}' is defined by two packages, {brought_by[policy]} and {package}. "
                    "Fix: use one of them, or rename the policy in one"
                )
                continue
            entries[policy], brought_by[policy] = entry, package
    return Used(entries, tuple(files))


def _file_of(name: str, known: Mapping[str, list[EntryPoint]]) -> tuple[Path, str]:
    """The policy file behind the name of an entry point, and its package with version.

    Raises:
        PolicyError: There is no such entry point, or no file behind it, or several packages claim the name.
    """
    if name not in known:
        raise PolicyError(
            f"no installed package has policies of that name (entry point group '{GROUP}').{nearest(name, known)} "
            f"Installed: {', '.join(sorted(known)) or 'none'}. Fix: install the package, or correct the name"
        )
    points = {_described(point): point for point in known[name]}
    if len(points) > 1:
        raise PolicyError(f"{' and '.join(sorted(points))} both call themselves so. Fix: uninstall one")
    package, point = next(iter(points.items()))
    folders = _folders(point.value)
    if not folders:
        raise PolicyError(f"{package} names '{point.value}', which is no installed package. Fix: mend its entry point")
    path = next((path for folder in folders if (path := folder / _FILE).is_file()), None)
    if path is None:
        raise PolicyError(f"{package} has no {folders[0] / _FILE}. Fix: ship {_FILE} in the package {point.value}")
    return path, package


def _folders(package: str) -> list[Path]:
    """Where a package lies, found without importing anything; one without __init__.py may lie in several places."""
    if not _PACKAGE.fullmatch(package):
        return []
    top, *rest = package.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return []
    places = [] if spec is None else [Path(place, *rest) for place in spec.submodule_search_locations or ()]
    return [place for place in places if place.is_dir()]


def _described(point: EntryPoint) -> str:
    about: Any = {} if point.dist is None else point.dist.metadata  # which may be broken
    return f"{about.get('Name')} {about.get('Version')}" if about.get("Name") else point.value
