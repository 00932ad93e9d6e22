"""What one source (a file, the environment, code) says about one policy, checked setting by setting.

A source may say only part of a policy: what is missing, and what contradicts what, shows when `lineage.py` has put the
parts together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import ValidationError

from mlguard.policies.policy import NAME, PRESET, Policy, section_classes
from mlguard.section import Section, nearest, problems_by_field, shown

__all__ = ["Entry", "OriginOf", "Setting", "Written", "accepts_none", "below", "entry_of_policy", "read_entry"]

OriginOf: TypeAlias = Callable[[tuple[str, ...]], str]
"""Where a source says something, such as ``"/srv/mlguard.toml:12"``, by its path within the policy."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A value, and where it was written."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Written:
    """A section as one source writes it; no settings (None): it removes what was inherited."""

    origin: str
    settings: Mapping[str, Setting] | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A policy as one source writes it."""

    name: str
    origin: str
    description: str | None = None
    abstract: bool = False
    parents: tuple[str, ...] = ()
    sections: Mapping[str, Written] = field(default_factory=dict)


def entry_of_policy(name: str, policy: Policy, origin: str) -> Entry:
    """What a policy made in code says explicitly."""
    sections: dict[str, Written] = {}
    for key in section_classes():
        section = getattr(policy, key)
        if key not in policy.model_fields_set:
            continue
        settings = section and {name: Setting(getattr(section, name), origin) for name in section.model_fields_set}
        sections[key] = Written(origin, settings)
    return Entry(name, origin, policy.description, policy.abstract, sections=sections)


def read_entry(name: str, table: Any, origin_of: OriginOf, problems: list[str]) -> Entry:
    """A policy as a file or the environment writes it; what is wrong with it is added to the problems."""
    here = origin_of(())
    if not NAME.fullmatch(name):
        problems.append(
            f"{here}: '{name}' can't be the name of a policy: names are [a-z][a-z0-9_]*, such as 'realtime'"
        )
    if not isinstance(table, dict):
        problems.append(f"{here}: {name} = {shown(table)}: must be a table, such as [policies.{name}]")
        return Entry(name, here)
    sections: dict[str, Written] = {}
    about: dict[str, Any] = {}
    for key, value in table.items():
        origin = origin_of((key,))
        if key in section_classes():
            section = _read_section(f"{name}.{key}", key, value, below(origin_of, key), problems)
            if section is not None:
                sections[key] = section
        elif key == "extends":
            about["parents"] = _read_parents(name, value, origin, problems)
        elif key in ("description", "abstract"):
            wanted = str if key == "description" else bool
            if isinstance(value, wanted):
                about[key] = value
            else:
                words = "text" if wanted is str else "true or false"
                problems.append(f"{origin}: {name}.{key} = {shown(value)}: must be {words}")
        else:
            known = [*section_classes(), "extends", "abstract", "description"]
            problems.append(
                f"{origin}: {name}.{key}: a policy has no section or setting '{key}'.{nearest(str(key), known)} "
                f"Known: {', '.join(known)}"
            )
    return Entry(name, here, **about, sections=sections)


def _read_parents(name: str, value: Any, origin: str, problems: list[str]) -> tuple[str, ...]:
    """The names behind `extends`, which may be one text or a list."""
    parents = [value] if isinstance(value, str) else value
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        problems.append(
            f'{origin}: {name}.extends = {shown(value)}: must be a name or a list of names, such as ["remote"]'
        )
        return ()
    problems.extend(
        f"{origin}: {name}.extends = {shown(parent)}: can't be the name of a policy: names are [a-z][a-z0-9_]*, such "
        "as 'remote' or 'mlguard:realtime'"
        for parent in parents
        if not NAME.fullmatch(parent.removeprefix(PRESET))
    )
    return tuple(parents)


def below(origin_of: OriginOf, *prefix: str) -> OriginOf:
    """Where things are written, by their path below a prefix."""
    return lambda path: origin_of((*prefix, *path))


def accepts_none(annotation: Any) -> bool:
    """True where a file writes ``false`` for None, because the setting accepts None, and false means nothing else."""
    types = _plain_types(annotation)
    return NoneType in types and bool not in types and Any not in types


def _read_section(field: str, key: str, value: Any, origin_of: OriginOf, problems: list[str]) -> Written | None:
    here = origin_of(())
    if value is False:
        return Written(here, None)
    if value is True:
        return Written(here, {})
    if not isinstance(value, dict):
        problems.append(
            f"{here}: {field} = {shown(value)}: must be a table of its settings, true for the defaults, "
            "or false for without"
        )
        return None
    section = section_classes()[key]
    settings = {name: _none_for_false(section, name, raw) for name, raw in value.items()}
    wrong = _wrong_kinds(section, settings)
    try:
        section.model_validate({name: raw for name, raw in settings.items() if name not in wrong})
    except ValidationError as error:
        for path, texts in problems_by_field(error, section).items():
            if path and path[0] in settings:  # what is missing may be inherited, what contradicts may be overridden
                wrong.setdefault(path[0], []).extend(".".join(["", *path[1:]]).rstrip(".") + text for text in texts)
    for name, texts in wrong.items():
        problems.extend(f"{origin_of((name,))}: {field}.{name}{text}" for text in texts)
    return Written(
        here, {name: Setting(raw, origin_of((name,))) for name, raw in settings.items() if name not in wrong}
    )


def _none_for_false(section: type[Section], name: str, value: Any) -> Any:
    known = section.model_fields.get(name)
    return None if value is False and known is not None and accepts_none(known.annotation) else value


def _wrong_kinds(section: type[Section], settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """What pydantic would convert, but a file can say properly: "3" for 3, 1 for true."""
    wrong: dict[str, list[str]] = {}
    for name, value in settings.items():
        known = section.model_fields.get(name)
        types = _plain_types(known.annotation) if known else {Any}
        kind = type(value)
        if kind not in (str, bool, int) or Any in types or kind in types or (kind is int and float in types):
            continue
        if bool in types and not types & {int, float, str}:
            quotes = ", without quotes" if value in ("true", "false") else ""
            wrong[name] = [f" = {shown(value)}: must be true or false{quotes}"]
        elif types & {int, float} and kind in (str, bool):
            quotes = ", without quotes" if _spells_number(value) else ""
            wrong[name] = [f" = {shown(value)}: must be a number{quotes}"]
    return wrong


def _spells_number(value: Any) -> bool:
    """True where quotes are all that is wrong with a value. That of a variable has some only if they were typed."""
    try:
        return isinstance(value, str) and type(json.loads(value)) in (int, float)
    except (ValueError, RecursionError):
        return False


def _plain_types(annotation: Any) -> set[Any]:
    """The types a setting accepts, with unions and annotations taken apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _plain_types(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return set().union(*map(_plain_types, get_args(annotation)))
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    return {annotation if origin is None else origin}
