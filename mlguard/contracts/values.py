"""Does a schema accept one plain value? Enough of JSON Schema to judge categories and constants one by one."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["accepts", "bare", "shown", "type_of"]

_UNIONS = ("anyOf", "oneOf")
_STRANGE = ("allOf", "not", "if", "$ref", "$dynamicRef")
"""What may refuse any value, and is not judged here."""
_SILENT = ("title", "description", "default", "examples", "aliases", "validators", "discriminator", "deprecated")


def accepts(schema: Any, value: Any) -> bool | None:
    """True or False; None where a keyword is met that this does not know.

    Args:
        schema: A schema without references.
        value: Null, a boolean, a number or text; of arrays and objects only the type is judged.
    """
    if isinstance(schema, bool):
        return schema
    if schema.get("not") == {}:
        return False
    found = [_accepts_alone(schema, value), *(_accepts_one(schema[key], value) for key in _UNIONS if key in schema)]
    if any(key in schema for key in _STRANGE):
        found.append(None)
    return False if False in found else None if None in found else True


def _accepts_one(choices: list[Any], value: Any) -> bool | None:
    found = [accepts(part, value) for part in choices]
    return True if True in found else None if None in found else False


def _accepts_alone(schema: dict[str, Any], value: Any) -> bool | None:
    """The same without the alternatives."""
    if all(key in _UNIONS or key in _SILENT for key in schema):
        return True
    if "enum" in schema and not any(_same(value, each) for each in schema["enum"]):
        return False
    if "const" in schema and not _same(value, schema["const"]):
        return False
    types = schema.get("type")
    if types is not None:
        allowed = [types] if isinstance(types, str) else types
        own = type_of(value)
        if own not in allowed and not (own == "integer" and "number" in allowed):
            return False
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int | float):
        return _within(schema, value)
    if isinstance(value, str):
        return _fits(schema, value)
    return None


def type_of(value: Any) -> str:
    """JSON Schema's word for what a value is."""
    if isinstance(value, float) and value.is_integer():
        return "integer"
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def shown(values: list[Any], most: int = 5) -> str:
    """Values for a message, not too many."""
    text = ", ".join(map(repr, values[:most]))
    return text if len(values) <= most else f"{text} and {len(values) - most} more"


def bare(schema: Any) -> str:
    """A schema without its descriptions, as text: equal for equal fields."""
    if not isinstance(schema, dict):
        return json.dumps(schema)
    kept = {key: part for key, part in schema.items() if key not in ("title", "description", "default", "aliases")}
    return json.dumps(kept, sort_keys=True)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _within(schema: dict[str, Any], value: float) -> bool | None:
    if value < schema.get("minimum", value) or value > schema.get("maximum", value):
        return False
    if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
        return False
    if "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"]:
        return False
    step = schema.get("multipleOf")
    return True if step is None or value % step == 0 else False if isinstance(step, int) else None


def _fits(schema: dict[str, Any], value: str) -> bool | None:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return False
    if "pattern" in schema:
        try:
            if re.search(schema["pattern"], value) is None:
                return False
        except re.error:
            return None
    return None if "format" in schema else True
