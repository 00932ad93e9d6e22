"""Values at the corners of a JSON Schema: what it just accepts, each field taken to its ends in turn."""

from __future__ import annotations

from typing import Any

import pytest

PATTERNED = {"^[a-z]+$": ["a", "zebra"], "^[a-z]{2}$": ["en"], "^[A-Z]": ["A", "Zebra 9"], r"^\d+$": ["0", "0123"]}
FORMATTED = {"date": ["2024-02-29"], "date-time": ["2024-02-29T12:00:00Z"]}


def corners_of(schema: Any, document: dict[str, Any], depth: int = 0) -> list[Any]:
    if not isinstance(schema, dict) or depth > 24:
        return [None, 1, "x"]
    if "$ref" in schema:
        beside = {key: part for key, part in schema.items() if key != "$ref"}
        return corners_of({**document["$defs"][schema["$ref"].rpartition("/")[2]], **beside}, document, depth + 1)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return [value for part in schema[key] for value in corners_of(part, document, depth + 1)]
    if "enum" in schema:
        return list(schema["enum"])
    if "const" in schema:
        return [schema["const"]]
    return _OF[schema.get("type", "any")](schema, document, depth)


def _numbers(schema, document, depth):
    whole = schema["type"] == "integer"
    step = 1 if whole else 1e-6
    low = schema.get("minimum", schema.get("exclusiveMinimum", None))
    high = schema.get("maximum", schema.get("exclusiveMaximum", None))
    low = low + step if low is not None and "exclusiveMinimum" in schema else low
    high = high - step if high is not None and "exclusiveMaximum" in schema else high
    low = (high if high is not None else 0) - 10**9 if low is None else low
    high = (low if low is not None else 0) + 2 * 10**9 if high is None else high
    values = [low, high, (low + high) // 2 if whole else low + (high - low) * 0.43210987654321]
    return [int(value) if whole else value for value in values]


def _texts(schema, document, depth):
    if "pattern" in schema:
        return list(PATTERNED[schema["pattern"]])
    if "format" in schema:
        return FORMATTED[schema["format"]]
    least, most = schema.get("minLength", 0), schema.get("maxLength", 200)
    return ["a" * least, "Z" * most, "é 9"[:most] if least <= 3 else "0" * least]


def _lists(schema, document, depth):
    least, most = schema.get("minItems", 0), min(schema.get("maxItems", 40), 40)
    if "prefixItems" in schema:
        columns = [corners_of(part, document, depth + 1) for part in schema["prefixItems"]]
        return [[column[min(number, len(column) - 1)] for column in columns] for number in range(3)]
    items = corners_of(schema.get("items", {}), document, depth + 1)[:6]
    if schema.get("uniqueItems"):
        return [items[: max(least, 1)]] if len(items) >= least else []
    made = [[item] * max(least, 1) for item in items] if most >= max(least, 1) else []
    return [*made, [items[0]] * least, [items[0]] * most]


def _objects(schema, document, depth):
    properties = schema.get("properties", {})
    values = {name: corners_of(part, document, depth + 1) for name, part in properties.items()}
    required = schema.get("required", [])
    full = {name: found[0] for name, found in values.items() if found}
    if set(required) - set(full):
        return []
    made = [full, {name: full[name] for name in required}]
    made += [{**full, name: value} for name, found in values.items() for value in found[:12]]
    rest = schema.get("additionalProperties")
    if rest is not False:
        extra = corners_of(rest, document, depth + 1) if isinstance(rest, dict) else [None, "x"]
        made += [{**full, "never_declared": value} for value in extra]
    if rest is True:
        made += [
            {**full, name: value} for name in ("a", "b", "c") if name not in properties for value in (None, "x", 1.5)
        ]
    return made


_OF = {
    "integer": _numbers, "number": _numbers, "string": _texts, "array": _lists, "object": _objects,
    "boolean": lambda *_: [True, False], "null": lambda *_: [None], "any": lambda *_: [None, 1.5, "x", [], {}],
}  # fmt: skip


@pytest.fixture
def corners():
    return lambda document: corners_of(document, document)
