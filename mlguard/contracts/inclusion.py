"""Is everything that one schema accepts accepted by another? Both as JSON Schema, as `json_schema` writes it.

The answer is a list of findings, empty where it is yes. What is judged is said in docs/contracts.md, rule by rule;
what can't be judged is a finding of its own, never a silent yes. Arrays are judged in `array_inclusion.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlguard.contracts.array_inclusion import judge_arrays
from mlguard.contracts.object_inclusion import judge_objects
from mlguard.contracts.scalar_inclusion import judge_numbers, judge_sizes, judge_texts, whole_range
from mlguard.contracts.values import accepts, bare, shown, type_of

__all__ = ["Finding", "Inclusion"]

_SILENT = frozenset(
    {
        *(
            "$schema",
            "$id",
            "$defs",
            "$comment",
            "title",
            "description",
            "default",
            "examples",
            "deprecated",
            "readOnly",
        ),
        *("writeOnly", "discriminator", "validators", "aliases", "result", "items_of", "contentMediaType"),
    }
)
"""Keywords that refuse nothing."""
_JUDGED = frozenset(
    {
        *("type", "enum", "const", "$ref", "minimum", "maximum", "exclusiveMinimum"),
        *("exclusiveMaximum", "multipleOf", "minLength", "maxLength", "pattern", "format", "items", "prefixItems"),
        *("minItems", "maxItems", "uniqueItems", "properties", "required", "additionalProperties", "minProperties"),
        *("maxProperties", "patternProperties", "propertyNames", "dtype", "shape", "finite", "allow_nan", "strict"),
    }
)
_FEW = 1000
"""Whole numbers in a range up to which each is tried against categories."""


@dataclass(frozen=True)
class Finding:
    """One difference between two schemas."""

    path: str
    """The field, dotted, with [] for the items of an array; empty for the whole."""
    verdict: str
    """incompatible: there is data that is refused. unknown: nobody can tell from the schemas. note: nothing is refused,
    but somebody should know."""
    rule: str
    """Which rule of docs/contracts.md says so, such as ``field-added-required``."""
    reason: str
    """What differs, and who meets it."""


class Inclusion:
    """What the writer's schema accepts, against what the reader's schema accepts.

    Args:
        writer: The document by which data is made.
        reader: The document by which it is checked.
        names: What messages call the two, such as ``("old", "new")``.
    """

    def __init__(self, writer: dict[str, Any], reader: dict[str, Any], names: tuple[str, str]) -> None:
        self.writer, self.reader, self.names = writer, reader, names
        self.findings: list[Finding] = []
        self._open: set[tuple[str, str]] = set()

    def judge(self, writer: Any, reader: Any, path: str = "") -> list[Finding]:
        """The findings of these two parts of the documents."""
        kept, self.findings = self.findings, []
        self._judge(writer, reader, path)
        found, self.findings = self.findings, kept
        return found

    def find(self, path: str, verdict: str, rule: str, reason: str) -> None:
        """Adds a finding."""
        self.findings.append(Finding(path, verdict, rule, reason))

    def resolved(self, schema: Any, document: dict[str, Any]) -> dict[str, Any]:
        """What it refers to, with the keywords beside the reference; True and False as schemas."""
        if isinstance(schema, bool):
            return {} if schema else {"not": {}}
        seen: set[str] = set()
        while "$ref" in schema and "dtype" not in schema:
            name = schema["$ref"]
            beside = {key: part for key, part in schema.items() if key != "$ref"}
            if name in seen or not name.startswith("#/$defs/"):
                return {**beside, "$ref": name}
            seen.add(name)
            schema = {**document.get("$defs", {}).get(name[8:], {"$ref": name}), **beside}
        return dict(schema)

    def _judge(self, writer: Any, reader: Any, path: str) -> None:
        pair = bare(writer), bare(reader)
        if pair in self._open:
            return  # a class that holds itself: this pair is being judged further out
        self._open.add(pair)
        try:
            w, r = self.resolved(writer, self.writer), self.resolved(reader, self.reader)
            self._validators(w, r, path)
            self._resolved_pair(w, r, path)
        finally:
            self._open.discard(pair)

    def _validators(self, w: dict[str, Any], r: dict[str, Any], path: str) -> None:
        added = [name for name in r.get("validators", []) if name not in w.get("validators", [])]
        if added:
            text = f"the {self.names[1]} schema runs {', '.join(added)}, the {self.names[0]} one does not"
            self.find(path, "unknown", "validator", f"{text}; what it refuses, no schema can say")
        same = [name for name in r.get("validators", []) if name in w.get("validators", [])]
        if same:
            self.find(
                path, "note", "validator", f"both run {', '.join(same)}; whether its code changed is not looked at"
            )

    def _resolved_pair(self, w: dict[str, Any], r: dict[str, Any], path: str) -> None:
        if _accepts_nothing(w) or _accepts_all(r):
            return
        outside = {each["$ref"] for each in (w, r) if "$ref" in each and "dtype" not in each}
        if outside:
            if w != r:
                text = f"{', '.join(sorted(outside))} is outside of the document, and not followed"
                self.find(path, "unknown", "keyword", text)
            return
        if "dtype" in w:
            judge_arrays(self, w, r, path)
            return
        if _accepts_all(w):
            text = f"anything in the {self.names[0]} schema, {_type_text(r)} in the {self.names[1]} one"
            self.find(path, "incompatible", "type", text)
            return
        values = _values(w)
        if values is not None:
            if w.get("type") in ("null", "boolean") and not any(accepts(self._plain(r), value) for value in values):
                self._refuse_type(w, r, path)
            else:
                self._each_value(values, r, path)
            return
        branches = _branches(w)
        if branches is not None:
            for branch in branches:
                self._judge(branch, r, path)
            return
        choices = _branches(r)
        if choices is not None:
            self._alternatives(w, choices, path)
            return
        wanted = _values(r)
        if wanted is not None:
            self._categories(w, r, wanted, path)
            return
        self._typed(w, r, path)

    def _alternatives(self, w: dict[str, Any], choices: list[Any], path: str) -> None:
        """One alternative that covers it is enough; where none alone does, several together might."""
        if "type" not in w:
            self.find(path, "unknown", "keyword", f"the {self.names[0]} schema says no type")
            return
        resolved = [self.resolved(choice, self.reader) for choice in choices]
        tried = [(plain, self.judge(w, choice, path)) for plain, choice in zip(resolved, choices, strict=True)]
        blamed = [[each for each in found if each.verdict != "note"] for _, found in tried]
        if [] in blamed:
            self.findings += tried[blamed.index([])][1]
            return
        near = [found for (choice, found), _ in zip(tried, blamed, strict=True) if _may_share(w, choice)]
        if not near:
            self._refuse_type(w, {"anyOf": resolved}, path)
        elif len(near) == 1:
            self.findings += near[0]
        else:
            text = f"none of {len(near)} alternatives of the {self.names[1]} schema alone accepts all of it"
            self.find(path, "unknown", "union", f"{text}: {near[0][0].reason}")

    def _each_value(self, values: list[Any], r: dict[str, Any], path: str) -> None:
        plain = self._plain(r)
        judged = [(value, accepts(plain, value)) for value in values]
        refused = [value for value, found in judged if found is False]
        unsure = [value for value, found in judged if found is None]
        writer, reader = self.names
        if refused:
            text = f"{shown(refused)}: allowed by the {writer} schema, refused by the {reader} one"
            self.find(path, "incompatible", "categories", text)
        elif unsure:
            self.find(path, "unknown", "categories", f"whether the {reader} schema takes {shown(unsure)} can't be told")

    def _plain(self, schema: Any) -> dict[str, Any]:
        found = self.resolved(schema, self.reader)
        for key in ("anyOf", "oneOf"):
            if key in found:
                found[key] = [self._plain(part) for part in found[key]]
        return found

    def _categories(self, w: dict[str, Any], r: dict[str, Any], wanted: list[Any], path: str) -> None:
        if "enum" not in r and "const" not in r:
            self._refuse_type(w, r, path)
            return
        if w.get("type") == "integer":
            low, high = whole_range(w)
            if low is not None and high is not None and high - low < _FEW:
                self._each_value(list(range(low, high + 1)), r, path)
                return
        verdict = "unknown" if "pattern" in w or "format" in w or "multipleOf" in w else "incompatible"
        text = f"the {self.names[0]} schema takes any {_type_text(w)}, the {self.names[1]} one only {shown(wanted)}"
        self.find(path, verdict, "categories", text)

    def _typed(self, w: dict[str, Any], r: dict[str, Any], path: str) -> None:
        kind = w.get("type")
        if kind is None:
            if bare(w) != bare(r):
                self.find(path, "unknown", "keyword", f"the {self.names[0]} schema says no type")
            return
        strange = [key for key in r if key not in _SILENT | _JUDGED and w.get(key) != r[key]]
        if strange:
            text = f"the {self.names[1]} schema says {', '.join(strange)}, which is not judged"
            self.find(path, "unknown", "keyword", text)
        r = {"type": "array", **r} if "dtype" in r else r
        if "type" in r and kind != r["type"] and not (kind == "integer" and r["type"] == "number"):
            step = w.get("multipleOf")
            if not (kind == "number" and r["type"] == "integer" and isinstance(step, int)):
                self._refuse_type(w, r, path)
                return
        if kind in ("integer", "number"):
            judge_numbers(self, w, r, path)
        elif kind == "string":
            judge_texts(self, w, r, path)
        elif kind == "array":
            self._lists(w, r, path)
        elif kind == "object":
            judge_objects(self, w, r, path)

    def _refuse_type(self, w: dict[str, Any], r: dict[str, Any], path: str) -> None:
        text = f"{_type_text(w)} in the {self.names[0]} schema, {_type_text(r)} in the {self.names[1]} one"
        rule = "nullability" if w.get("type") == "null" else "type"
        self.find(path, "incompatible", rule, text)

    def _lists(self, w: dict[str, Any], r: dict[str, Any], path: str) -> None:
        if "dtype" in r:
            text = f"a list in the {self.names[0]} schema, an array of {r['dtype']} in the {self.names[1]} one"
            why = "lists of unequal length, and numbers that the dtype can't hold exactly, are refused"
            self.find(path, "unknown", "type", f"{text}: {why}")
        judge_sizes(self, w, r, path, "Items", "items")
        if r.get("uniqueItems") and not w.get("uniqueItems"):
            self.find(path, "incompatible", "unique", f"items may repeat in the {self.names[0]} schema only")
        mine, other = w.get("prefixItems", []), r.get("prefixItems", [])
        most = w.get("maxItems")
        for place in range(max(len(mine), len(other))):
            if most is not None and place >= most:
                break
            item = mine[place] if place < len(mine) else w.get("items", True)
            wanted = other[place] if place < len(other) else r.get("items", True)
            self._judge(item, wanted, f"{path}[{place}]")
        if most is None or most > max(len(mine), len(other)):
            self._judge(w.get("items", True), r.get("items", True), f"{path}[]")


def _accepts_all(schema: dict[str, Any]) -> bool:
    free = any(part is True or part == {} for part in schema.get("anyOf", []))
    return all(key in _SILENT or (free and key == "anyOf") for key in schema)


def _accepts_nothing(schema: dict[str, Any]) -> bool:
    return schema.get("not") == {}


def _branches(schema: dict[str, Any]) -> list[Any] | None:
    """The alternatives of a union, each with what stands beside it. A oneOf counts where a tag tells them apart."""
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": name} for name in schema["type"]]
    key = "anyOf" if "anyOf" in schema else "oneOf" if "oneOf" in schema and "discriminator" in schema else None
    if key is None or any(name not in _SILENT for name in schema if name != key):
        return None
    return list(schema[key])


def _values(schema: dict[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    if "enum" in schema:
        return list(schema["enum"])
    plain: dict[str, list[Any]] = {"boolean": [True, False], "null": [None]}
    return plain.get(str(schema.get("type")))


def _may_share(w: dict[str, Any], choice: dict[str, Any]) -> bool:
    named = choice.get("type")
    kinds: set[Any] = {type_of(value) for value in _values(choice) or ()}
    kinds = kinds or (set(named) if isinstance(named, list) else {named})
    return w.get("type") in kinds or {w.get("type"), *kinds} >= {"integer", "number"} or kinds == {None}


def _type_text(schema: dict[str, Any] | bool) -> str:
    if isinstance(schema, bool):
        return "anything" if schema else "nothing"
    if "dtype" in schema:
        return f"an array of {schema['dtype']}"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type_text(part) for part in schema["anyOf"]))
    values = _values(schema)
    if values is not None and schema.get("type") not in ("boolean", "null"):
        return f"one of {shown(values)}"
    found = schema.get("type", "anything")
    return " or ".join(found) if isinstance(found, list) else str(found)
