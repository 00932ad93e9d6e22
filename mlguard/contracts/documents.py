"""A contract by name: a file with a JSON Schema, standard input, or what ``module:name`` names in code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mlguard.contracts.json_schema import json_schema
from mlguard.contracts.subject import ContractError, load

__all__ = ["document"]

_SCHEMA = {"type", "properties", "$ref", "anyOf", "oneOf", "allOf", "enum", "const", "items", "$schema", "not"}
"""At least one of these is in every schema that says something."""
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", *("minLength", "maxLength"),
            *("minItems", "maxItems", "minProperties", "maxProperties"))  # fmt: skip
_SHAPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("properties", "patternProperties", "$defs"), (dict,)),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems", "enum", "required", "aliases", "validators"), (list,)),
    **dict.fromkeys(("columns", "shape"), (list,)),
    **dict.fromkeys(("$ref", "pattern", "format", "dtype"), (str,)),
    **dict.fromkeys(_NUMBERS, (int, float)),
    "type": (str, list),
}


def document(name: str) -> dict[str, Any]:
    """The JSON Schema that a name stands for.

    Args:
        name: A file, "-" for standard input, or ``module:Class``, whose schema is made now.

    Raises:
        ContractError: Nothing is there, or it is no JSON Schema.
    """
    path = Path(name)
    if name != "-" and not path.exists() and ":" in name and path.suffix != ".json":
        return json_schema(load(name))
    try:
        text = sys.stdin.read() if name == "-" else path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ContractError(f"there is no file {name}. Fix: check the name, or say MODULE:CLASS.") from None
    except IsADirectoryError:
        raise ContractError(f"{name} is a folder. Fix: name a file in it.") from None
    except UnicodeDecodeError:
        raise ContractError(f"{name} is no text in UTF-8. Fix: name a JSON Schema.") from None
    except OSError as error:
        raise ContractError(f"{name} can't be read: {error.strerror}. Fix: check its permissions.") from None
    return _schema(text, "standard input" if name == "-" else name)


def _schema(text: str, name: str) -> dict[str, Any]:
    if not text.strip():
        raise ContractError(f"{name} is empty. Fix: write it with 'mlguard schema export MODULE:CLASS -o FILE'.")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ContractError(f"{name} is no JSON: {error}. Fix: export it again.") from None
    except RecursionError:
        raise ContractError(f"{name} is nested too deeply to be a schema. Fix: export it again.") from None
    if isinstance(found, dict) and {"inputs", "platform"} <= set(found):
        raise ContractError(f"{name} is V2 metadata, which has no bounds to compare. Fix: export it as json-schema.")
    if not isinstance(found, dict) or not (_SCHEMA & set(found)):
        raise ContractError(
            f"{name} is no JSON Schema of an input. Fix: write it with 'mlguard schema export MODULE:CLASS -o FILE'."
        )
    _refuse_malformed(found, name, "")
    return found


def _is_dimension(entry: Any) -> bool:
    """A size, a name or "...", or a range with or without a name."""
    if not isinstance(entry, list):
        return isinstance(entry, str) or _is_size(entry)
    *name, low, high = entry if len(entry) in (2, 3) else (None, None, None)
    return _is_size(low) and (high is None or _is_size(high)) and all(isinstance(each, str) for each in name)


def _is_size(entry: Any) -> bool:
    return type(entry) is int and entry >= 0


def _refuse_malformed(node: Any, name: str, path: str) -> None:
    """What follows reads the keywords as the standard has them."""
    if isinstance(node, bool):
        return
    problem = None if isinstance(node, dict) else "must be an object or a boolean"
    for key, part in node.items() if problem is None else ():
        if key in _SHAPES and (not isinstance(part, _SHAPES[key]) or (isinstance(part, bool) and key in _NUMBERS)):
            problem = f"{key} is {json.dumps(part)[:60]}, which the standard does not allow"
    strange = [entry for entry in node.get("shape", []) if not _is_dimension(entry)] if problem is None else []
    if problem is None and not all(isinstance(name, str) for name in node.get("required", [])):
        problem = "required must hold names"
    if strange:
        problem = f"shape has {json.dumps(strange[0])[:60]}, which is no dimension"
    if problem is None and node.get("multipleOf", 1) <= 0:
        problem = "multipleOf must be above 0"
    if problem is not None:
        raise ContractError(f"{name}: {path or 'the schema'}: {problem}. Fix: export it again.")
    for key in ("properties", "patternProperties", "$defs"):
        for field, part in node.get(key, {}).items():
            _refuse_malformed(part, name, f"{path}.{field}" if path else field)
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for part in node.get(key, []):
            _refuse_malformed(part, name, path)
    for key in ("items", "additionalProperties", "result"):
        if key in node:
            _refuse_malformed(node[key], name, path)
