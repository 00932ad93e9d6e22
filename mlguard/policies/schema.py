"""The JSON Schema of policy files, for editors: generated from the sections, so that it says what the loader does.

``python -m mlguard.policies.schema`` prints it; `schemas/policy.schema.json` is a copy that a test keeps current.
"""

from __future__ import annotations

import json
from typing import Any

from mlguard.policies.entries import accepts_none
from mlguard.policies.policy import NAME, Policy, section_classes
from mlguard.section import Section, descriptions

__all__ = ["policy_schema"]


def policy_schema() -> dict[str, Any]:
    """What `mlguard.toml`, `mlguard.yaml` and `[tool.mlguard]` may hold, as JSON Schema (draft 2020-12)."""
    sections = section_classes()
    described = descriptions(Policy)
    reference = rf"^(mlguard:)?{NAME.pattern}$"
    settings: dict[str, Any] = {
        "extends": {
            "description": "The policies this one builds on; later ones count over earlier ones.",
            "anyOf": [
                {"type": "string", "pattern": reference},
                {"type": "array", "items": {"type": "string", "pattern": reference}},
            ],
        },
        "abstract": {"description": described["abstract"], "type": "boolean", "default": False},
        "description": {"description": described["description"], "type": "string"},
    }
    for name in sections:
        settings[name] = {
            "description": f"{described[name]} true: with its defaults; false: removes what was inherited.",
            "anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "boolean"}],
        }
    shared: dict[str, Any] = {}
    definitions = {name: _section_schema(section, shared) for name, section in sections.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mlguard policies",
        "description": "Named policies for guarded functions: mlguard.toml, mlguard.yaml, or [tool.mlguard].",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "use": {
                "description": "Installed policy packages whose policies count here, by the name of their entry point.",
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {"type": "array", "items": {"type": "string", "minLength": 1}},
                ],
            },
            "policies": {
                "description": "Policies by name.",
                "type": "object",
                "propertyNames": {"pattern": f"^{NAME.pattern}$"},
                "additionalProperties": {"$ref": "#/$defs/policy"},
            },
        },
        "$defs": {
            "policy": {"type": "object", "additionalProperties": False, "properties": settings},
            **definitions,
            **shared,
        },
    }


def _section_schema(section: type[Section], shared: dict[str, Any]) -> dict[str, Any]:
    """A section as a file may write it: nothing is required, as it may be inherited; `shared` takes its types."""
    schema = section.model_json_schema()
    schema.pop("required", None)
    shared.update(schema.pop("$defs", {}))
    for name, field in section.model_fields.items():
        setting = schema["properties"].get(name)
        if setting is None:
            continue  # what only code can say
        setting.pop("title", None)
        if accepts_none(field.annotation):
            setting["anyOf"] = [*setting.get("anyOf", []), {"const": False, "description": "None."}]
    return schema


if __name__ == "__main__":
    print(json.dumps(policy_schema(), indent=2))
