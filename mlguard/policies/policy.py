"""`Policy`: everything one guarded call is held to, as data.

What a section means lives in the room of its concern. Here lives what concerns the whole: which sections there are, how
overrides merge over them, and which of them contradict each other. Anything that belongs to one function (callables,
schemas, a model version) is given at the decorator and stays out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias, get_args

import numpy as np
from pydantic import BaseModel, Field, field_validator, model_validator

from mlguard.cache import Cache
from mlguard.clock import duration_text, seconds
from mlguard.errors import PolicyError
from mlguard.memory import Memory
from mlguard.monitor import Monitor
from mlguard.resilience.breaker import Breaker
from mlguard.resilience.concurrency import Concurrency
from mlguard.resilience.deadline import Timeout
from mlguard.resilience.fallback import Fallback
from mlguard.resilience.retry import Retry
from mlguard.section import Section, nearest, shown
from mlguard.validation import Validation

__all__ = ["NAME", "PRESET", "Overrides", "Policy", "required_settings", "section_classes"]

Overrides: TypeAlias = Mapping[str, Section | Mapping[str, Any] | bool | None]
"""Sections by name: a section or its settings to merge, False to remove, True for the defaults, None to leave alone."""

NAME: Final = re.compile(r"[a-z][a-z0-9_]*")
"""What a name may look like, so that it can be part of an environment variable in every shell."""

PRESET: Final = "mlguard:"
"""What the name of a preset begins with; a name without it never means a preset."""


class Policy(Section):
    """What every call of a guarded function is held to. Without arguments: the annotated schema and nothing else.

    A section may be given as an instance, as a mapping of its settings, as ``True`` for its defaults, or as ``False``
    for "without". An absent section does nothing.

    Raises:
        PolicyError: A section or setting is unknown, a value impossible, or two of them contradict each other.
    """

    name: str | None = None
    """What decorators, events and `explain` call it; letters, digits and underscores in lower case."""
    description: str | None = None
    """What it is for, in a sentence, for the people who choose between policies."""
    abstract: bool = False
    """True: only there to be extended; using it on a function is refused."""
    validation: Validation | None = Field(default_factory=Validation)
    """Enforcement of the annotated schemas; the only section that is there without being asked for."""
    fallback: Fallback | None = None
    """A safe value in place of a failure."""
    timeout: Timeout | None = None
    """How long a call, and each attempt of it, may take."""
    cache: Cache | None = None
    """Results kept for equal arguments."""
    retry: Retry | None = None
    """Further attempts after a failure that may pass."""
    breaker: Breaker | None = None
    """A pause for a callee that keeps failing."""
    concurrency: Concurrency | None = None
    """How many calls may run at once."""
    memory: Memory | None = None
    """Calls that would exhaust memory wait or are refused."""
    monitor: Monitor | None = None
    """One event for each call, and running summaries."""

    if TYPE_CHECKING:  # says to type checkers what the validator below accepts

        def __init__(
            self,
            *,
            name: str | None = None,
            description: str | None = None,
            abstract: bool = False,
            validation: Validation | Mapping[str, Any] | bool | None = ...,
            fallback: Fallback | Mapping[str, Any] | Literal[False] | None = None,
            timeout: Timeout | Mapping[str, Any] | bool | None = None,
            cache: Cache | Mapping[str, Any] | Literal[False] | None = None,
            retry: Retry | Mapping[str, Any] | bool | None = None,
            breaker: Breaker | Mapping[str, Any] | bool | None = None,
            concurrency: Concurrency | Mapping[str, Any] | Literal[False] | None = None,
            memory: Memory | Mapping[str, Any] | bool | None = None,
            monitor: Monitor | Mapping[str, Any] | bool | None = None,
        ) -> None: ...

    @field_validator("name")
    @classmethod
    def _well_named(cls, name: str | None) -> str | None:
        if name is not None and not NAME.fullmatch(name.removeprefix(PRESET)):
            raise ValueError(
                "must be small letters, digits and underscores, beginning with a letter, such as 'realtime'"
            )
        return name

    @model_validator(mode="before")
    @classmethod
    def _switches(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {key: cls._switched(key, value) for key, value in values.items()}

    @classmethod
    def _switched(cls, key: str, value: Any) -> Any:
        section = section_classes().get(key)
        if section is None or not isinstance(value, bool):
            return value
        if value and (required := required_settings(section)):
            raise ValueError(f"{key} = True: {key} has no default for {' and '.join(required)}; give its settings")
        return {} if value else None

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        checks_output = self.validation is not None and self.validation.output
        if self.retry is not None and self.retry.on_invalid_output and not checks_output:
            raise ValueError(
                "retry.on_invalid_output = True: no output is ever invalid where outputs are not checked. "
                "Fix: validation.output = True, or drop retry.on_invalid_output"
            )
        timeout = self.timeout
        if timeout is not None and timeout.total is not None and timeout.attempt is not None:
            total, attempt = seconds(timeout.total), seconds(timeout.attempt)
            if attempt > total:
                raise ValueError(
                    f"timeout.attempt = {duration_text(attempt)}: is longer than "
                    f"timeout.total = {duration_text(total)}, so no attempt could use it. "
                    "Fix: lower timeout.attempt, or raise timeout.total"
                )
        return self

    @property
    def sections(self) -> dict[str, Section]:
        """The sections in force, by name."""
        return {name: section for name in section_classes() if (section := getattr(self, name)) is not None}

    @property
    def values(self) -> dict[str, Any]:
        """Every setting in force, with defaults, as ``{"retry.max_retries": 3, ...}``; absent sections have none."""
        return {
            f"{name}.{key}": getattr(section, key)
            for name, section in self.sections.items()
            for key in type(section).model_fields
        }

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change when, and only when, a setting in force changes.

        Name and description don't count. The same on every machine; a value that is no plain data (a callable, an
        object) counts with the name of its class or its own.
        """
        stable = json.dumps(_stable(self.values), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(stable.encode()).hexdigest()[:12]

    def merged(self, overrides: Overrides) -> Policy:
        """This policy with the overrides merged over it: of each section, only the fields set explicitly count.

        Args:
            overrides: By section name: a section or a mapping of its settings; ``False`` removes the section, ``True``
                asks for it (with its defaults, where it was absent), ``None`` changes nothing.

        Raises:
            PolicyError: A section is unknown or of the wrong class, or the result contradicts itself.
        """
        values: dict[str, Any] = {key: getattr(self, key) for key in self.model_fields_set}
        for name, override in overrides.items():
            if override is None:
                continue
            current = getattr(self, name) if name in section_classes() else None
            values[name] = _merged_section(name, current, override)
        return Policy(**values)


@cache
def section_classes() -> dict[str, type[Section]]:
    """The sections a policy may have, by name."""
    found = {}
    for name, field in Policy.model_fields.items():
        for candidate in get_args(field.annotation):
            if isinstance(candidate, type) and issubclass(candidate, Section):
                found[name] = candidate
    return found


def required_settings(section: type[Section]) -> list[str]:
    """The settings of a section that have no default."""
    return [key for key, field in section.model_fields.items() if field.is_required()]


def _merged_section(name: str, current: Section | None, override: Section | Mapping[str, Any] | bool) -> Any:
    known = section_classes()
    if name not in known:
        raise PolicyError(f"Policy has no section '{name}'.{nearest(name, known)} Known: {', '.join(known)}.")
    if isinstance(override, bool):
        return (current or True) if override else False
    if isinstance(override, Mapping):
        settings = dict(override)
    elif isinstance(override, known[name]):
        settings = _explicit(override)
    else:
        wanted = known[name].__name__
        raise PolicyError(
            f"Policy.{name} = {shown(override)}: must be {wanted}(...), a mapping of its settings, or False."
        )
    return (_explicit(current) if current else {}) | settings


def _explicit(section: Section) -> dict[str, Any]:
    return {key: getattr(section, key) for key in section.model_fields_set}


def _stable(value: Any) -> Any:
    """The value as JSON knows it, the same in every process."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _stable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_stable(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_stable(item) for item in value), key=repr)
    if isinstance(value, BaseModel):
        return [_stable(type(value)), _stable(dict(value))]
    if isinstance(value, np.ndarray | np.generic):
        data = repr(_stable(value.tolist())).encode() if value.dtype.hasobject else value.tobytes()
        return [str(value.dtype), list(value.shape), hashlib.sha256(data).hexdigest()]
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if hasattr(value, "__qualname__"):
        return f"{getattr(value, '__module__', '')}.{value.__qualname__}"
    return f"an object of {_stable(type(value))}"
