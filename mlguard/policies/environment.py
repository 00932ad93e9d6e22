"""Policy settings in environment variables: ``MLGUARD__REALTIME__RETRY__MAX_RETRIES=5``.

The words are separated by two underscores, because names of policies and settings contain single ones. A value is read
as TOML where it is TOML (``5``, ``true``, ``["a", "b"]``), and as text where it is not (``30s``).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from mlguard.policies.entries import Entry, OriginOf, read_entry
from mlguard.policies.policy import section_classes
from mlguard.section import nearest

__all__ = ["PREFIX", "read_environment"]

PREFIX = "MLGUARD__"


def read_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Entry]:
    """What the variables say, by policy; what is wrong with them is added to the problems."""
    tables: dict[str, dict[str, Any]] = {}
    variables: dict[tuple[str, ...], str] = {}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX):
            continue
        address = _address(variable)
        if address is None:
            problems.append(_misaddressed(variable))
            continue
        name, section, key = address
        table = tables.setdefault(name, {})
        value = _value(environ[variable])
        variables.setdefault((name, section), variable)
        if not key:  # comes first, because a shorter name sorts first
            table[section] = value
            continue
        variables[name, section, key] = variable
        around = {} if table.get(section, True) is True else table[section]
        if isinstance(around, dict):
            table[section] = {**around, key: value}
        else:
            problems.append(f"{variable}: contradicts {variables[name, section]}. Fix: drop one of them")
    return {name: read_entry(name, table, _origins(name, variables), problems) for name, table in tables.items()}


def _origins(name: str, variables: Mapping[tuple[str, ...], str]) -> OriginOf:
    def origin_of(path: tuple[str, ...]) -> str:
        found = variables.get((name, *path[:2])) or variables.get((name, *path[:1]))
        return f"variable {found}" if found else "environment"

    return origin_of


def _address(variable: str) -> tuple[str, str, str] | None:
    """Policy, section and setting that a variable names; no setting (an empty one): the section as a whole."""
    sections = "|".join(section.upper() for section in section_classes())
    match = re.fullmatch(rf"{PREFIX}([A-Z][A-Z0-9_]*)__({sections})(?:__([A-Z][A-Z0-9_]*))?", variable)
    return (match[1].lower(), match[2].lower(), (match[3] or "").lower()) if match else None


def _misaddressed(variable: str) -> str:
    words = variable.removeprefix(PREFIX).split("__")
    known = [section.upper() for section in section_classes()]
    hint = nearest(words[1].upper(), known) if len(words) > 1 else ""
    return (
        f"{variable}: does not name a setting.{hint} "
        f"Write MLGUARD__POLICY__SECTION__SETTING in capitals; sections: {', '.join(known)}"
    )


def _value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return table["value"] if len(table) == 1 else text
