"""The schema a profile belongs to: written down when the profile is made, compared when a function is guarded with it.

A feature that changed its unit or its column gives wrong alarms at best; a schema that changed says so before traffic.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from typing import Any, Final

from mlguard.contracts import ContractError, json_schema
from mlguard.drift.errors import ProfileError
from mlguard.drift.reference import Contract
from mlguard.errors import PolicyError
from mlguard.monitor.redaction import Words, hides
from mlguard.target import Target, spelt_out

__all__ = ["contract_of", "hidden_names", "refuse_another_schema"]

_IGNORED: Final = {"title", "description", "default", "examples", "deprecated", "$schema", "$defs"}
_DEPTH: Final = 16
_MOST: Final = 5  # differences that an error lists


def contract_of(schema: Any) -> Contract:
    """What an input class, or the arguments of a function, must be.

    Raises:
        ProfileError: It is neither.
    """
    if isinstance(schema, type):
        try:
            described = json_schema(schema)
        except ContractError as error:
            raise ProfileError(f"schema: {error}") from None
        fields = _inlined(described, described.get("$defs", {}), 0).get("properties", {})
        if not fields:
            raise ProfileError(f"schema: {schema.__name__} has no fields. Fix: name the input class, or the function.")
        return Contract(of="class", name=schema.__name__, fields={name: _text(each) for name, each in fields.items()})
    if callable(schema):
        target = Target(getattr(schema, "__wrapped__", schema))
        return Contract(of="function", name=target.label, fields=_arguments(target))
    raise ProfileError(
        f"schema is an object of type {type(schema).__name__}. Fix: name an input class or a guarded function."
    )


def hidden_names(schema: Any) -> frozenset[str]:
    """The fields and arguments whose values no event may show."""
    if isinstance(schema, type):
        return frozenset(Words({"schema": schema}, ()).hidden)
    return frozenset(Words(Target(getattr(schema, "__wrapped__", schema)).hints, ()).hidden)


def refuse_another_schema(profile: str, contract: Contract, target: Target) -> None:
    """Compares the schema a profile was made with and the one a function has now.

    Raises:
        PolicyError: They differ; the message names the fields.
    """
    fix = "Fix: make the profile anew with this schema, or use the profile of this model."
    if contract.of == "function":
        now: dict[str, str] = _arguments(target)
    else:
        found = [cls for hint in target.hints.values() for cls in _classes(hint) if cls.__name__ == contract.name]
        if not found:
            raise PolicyError(
                f"{target.name}: monitor.drift: the profile {profile} was made with the schema {contract.name}, which "
                f"no argument has. {fix}"
            )
        now = contract_of(found[0]).fields
    before = contract.fields
    said = [f"'{name}' is gone" for name in before if name not in now]
    said += [f"'{name}' is new" for name in now if name not in before]
    said += [
        f"'{name}' was {before[name]} and is {now[name]}"
        for name in before
        if now.get(name, before[name]) != before[name]
    ]
    if said:
        more = f"; and {len(said) - _MOST} more" if len(said) > _MOST else ""
        raise PolicyError(
            f"{target.name}: monitor.drift: the profile {profile} was made with another schema of {contract.name}: "
            f"{'; '.join(said[:_MOST])}{more}. {fix}"
        )


def _arguments(target: Target) -> dict[str, str]:
    hints = target.hints
    found = {}
    for parameter in target.parameters:
        hint = hints.get(parameter.name)
        if hint is None or hides(hint):
            found[parameter.name] = "anything" if hint is None else "hidden"
            continue
        try:
            described = json_schema(hint)
        except ContractError:
            found[parameter.name] = getattr(hint, "__name__", None) or repr(hint)[:200]
        else:
            found[parameter.name] = _text(_inlined(described, described.get("$defs", {}), 0))
    return found


def _classes(annotation: Any) -> Iterator[type]:
    annotation = spelt_out(annotation)
    if isinstance(annotation, type) and not typing.get_args(annotation):
        yield annotation
    model = getattr(annotation, "model", None)  # the mark of a table's rows
    if isinstance(model, type):
        yield model
    for part in (*typing.get_args(annotation), *getattr(annotation, "__metadata__", ())):
        yield from _classes(part)


def _inlined(schema: Any, definitions: dict[str, Any], depth: int) -> Any:
    """The schema without references and without what says nothing of values, so that equal schemas are equal."""
    if isinstance(schema, list):
        return [_inlined(each, definitions, depth) for each in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = reference.rpartition("/")[2]
        if depth > _DEPTH or name not in definitions:  # a class that holds itself
            return {"$ref": name}
        return _inlined(definitions[name], definitions, depth + 1)
    kept = {key: value for key, value in schema.items() if key == "properties" or key not in _IGNORED}
    return {
        key: {name: _inlined(each, definitions, depth) for name, each in value.items()}
        if key == "properties"
        else _inlined(value, definitions, depth)
        for key, value in kept.items()
    }


def _text(schema: Any) -> str:
    return json.dumps(schema, sort_keys=True, separators=(",", ":"))
