"""A named policy in words: every value in force, and where it came from."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from mlguard.clock import bytes_of, duration_text, seconds, size_text
from mlguard.policies.lineage import Resolved
from mlguard.policies.policy import section_classes
from mlguard.section import Section, shown

__all__ = ["explained", "origins", "words_of"]


def explained(resolved: Resolved) -> str:
    """The whole text; a policy that is abstract shows what it says, and not the defaults of what it leaves open."""
    policy = resolved.policy
    head = [f"{resolved.name}: {f'fingerprint {policy.fingerprint}' if policy else 'abstract'}"]
    head.append(f"written at {' and '.join(resolved.origins)}")
    if resolved.parents:
        head.append(f"extends {', '.join(resolved.parents)}")
    rows: list[tuple[str, str]] = []
    where = origins(resolved)
    for key, section in section_classes().items():
        if key in where and where[key].startswith("removed"):
            rows.append((f"{key} = false", where[key]))
            continue
        if key in where and not any(name.startswith(f"{key}.") for name in where):
            rows.append((f"{key} = true", where[key]))
        for name, setting in _values(resolved, key).items():
            words = _words(section, name, setting)
            rows.append((f"{key}.{name} = {words}", where.get(f"{key}.{name}", "default")))
    width = max((len(left) for left, _ in rows if len(left) <= 60), default=0)
    lines = ["; ".join(head)]
    if resolved.description:
        lines.append(f"  {resolved.description}")
    return "\n".join(lines + [f"  {left:{width}}  {right}" for left, right in rows])


def origins(resolved: Resolved) -> dict[str, str]:
    """Where each value that is no default was written, by its dotted name; and each section that was asked for."""
    found: dict[str, str] = {}
    for key, written in resolved.sections.items():
        if written.settings is None:
            found[key] = f"removed at {written.origin}"
            continue
        found[key] = written.origin
        found.update({f"{key}.{name}": setting.origin for name, setting in written.settings.items()})
    return found


def words_of(resolved: Resolved) -> dict[str, str]:
    """Every value in force by its dotted name, as one would write it in a file."""
    return {
        f"{key}.{name}": _words(section, name, setting)
        for key, section in section_classes().items()
        for name, setting in _values(resolved, key).items()
    }


def _values(resolved: Resolved, key: str) -> dict[str, Any]:
    if resolved.policy is not None:
        section = getattr(resolved.policy, key)
        return {} if section is None else {name: getattr(section, name) for name in type(section).model_fields}
    written = resolved.sections.get(key)
    return {name: setting.value for name, setting in ((written and written.settings) or {}).items()}


def _words(section: type[Section], name: str, value: Any) -> str:
    """A value as one would write it in a file; durations and sizes in units, where these say it exactly."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_words(section, name, item) for item in value)}]"
    if isinstance(value, int | float):
        if _reads(section, name, "1h", 3600) and seconds(words := duration_text(value)) == value:
            return words
        if _reads(section, name, "1KiB", 1024) and bytes_of(words := size_text(int(value))) == value:
            return words
    return shown(value)


@cache
def _reads(section: type[Section], name: str, text: str, meaning: int) -> bool:
    """True where a setting takes a text with a unit, and understands it so: how a duration or size is recognised."""
    field = section.model_fields[name]
    accepted: Any = Annotated[field.annotation, field]
    try:
        return bool(TypeAdapter(accepted).validate_python(text) == meaning)
    except ValidationError:
        return False
