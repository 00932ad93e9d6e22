"""The fields of one object schema against those of another: added, removed, renamed, required, and what else may come.

An object without a word on further keys is a class that ignores them: data made for it has the declared fields, so that
a new optional field refuses nothing. Where further keys are welcome (``extra="allow"``), they are part of the data.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from mlguard.contracts.scalar_inclusion import judge_sizes
from mlguard.contracts.values import bare

if TYPE_CHECKING:
    from mlguard.contracts.inclusion import Inclusion

__all__ = ["judge_objects"]

_ALIKE = 0.4
"""How alike two names must be for a hint that one became the other, by difflib's ratio."""


def judge_objects(judge: Inclusion, w: dict[str, Any], r: dict[str, Any], path: str) -> None:
    """Adds what data of the writer's object meets at the reader's."""
    mine, other = w.get("properties", {}), r.get("properties", {})
    required = set(w.get("required", []))
    mine = {**mine, **dict.fromkeys(sorted(required - mine.keys()), True)}  # only required: anything
    pairs = {name: _read_as(name, other) for name in mine}
    for name, wanted in pairs.items():
        where = f"{path}.{name}" if path else name
        if wanted is None:
            _only_written(judge, mine[name], r, name, where)
            continue
        if wanted in r.get("required", []) and name not in required:
            text = f"may be left out by the {judge.names[0]} schema, the {judge.names[1]} one requires it"
            judge.find(where, "incompatible", "became-required", text)
        judge.findings += judge.judge(mine[name], other[wanted], where)
        _default(judge, mine[name], other[wanted], where)
    for name in other:
        if name not in pairs.values():
            _only_read(judge, w, r, name, f"{path}.{name}" if path else name)
    for name in sorted(set(r.get("required", [])) - set(other) - required):
        text = f"required by the {judge.names[1]} schema, may be left out by the {judge.names[0]} one"
        judge.find(f"{path}.{name}" if path else name, "incompatible", "became-required", text)
    _renamed(judge, {name for name, wanted in pairs.items() if wanted is None}, w, r, set(pairs.values()), path)
    _further_keys(judge, w, r, path)
    judge_sizes(judge, w, r, path, "Properties", "keys")
    for keyword in ("patternProperties", "propertyNames"):
        if keyword in r and bare(r[keyword]) != bare(w.get(keyword)):
            judge.find(path, "unknown", "keyword", f"the {judge.names[1]} schema says {keyword}, which is not judged")


def _read_as(name: str, properties: dict[str, Any]) -> str | None:
    """The field that reads this name: the one called so, or one that has it among its aliases."""
    if name in properties:
        return name
    return next(
        (key for key, part in properties.items() if isinstance(part, dict) and name in part.get("aliases", [])), None
    )


def _only_written(judge: Inclusion, schema: Any, r: dict[str, Any], name: str, where: str) -> None:
    writer, reader = judge.names
    rest = r.get("additionalProperties")
    if rest is False:
        text = f"a field of the {writer} schema only, and the {reader} one refuses keys it does not know"
        judge.find(where, "incompatible", "field-removed", text)
    elif isinstance(rest, dict) and rest:
        judge.findings += judge.judge(schema, rest, where)
    elif rest is None:
        text = f"a field of the {writer} schema only: the {reader} one ignores its value"
        judge.find(where, "note", "field-removed", text)


def _only_read(judge: Inclusion, w: dict[str, Any], r: dict[str, Any], name: str, where: str) -> None:
    writer, reader = judge.names
    if name in r.get("required", []):
        text = f"required by the {reader} schema, unknown to the {writer} one"
        judge.find(where, "incompatible", "field-added-required", text)
        return
    rest = w.get("additionalProperties")
    if rest is True or isinstance(rest, dict):
        before = len(judge.findings)
        judge.findings += judge.judge(rest, r["properties"][name], where)
        if len(judge.findings) > before:
            text = f"the {writer} schema takes further keys, so this one may hold what the {reader} one refuses"
            judge.find(where, "note", "field-added-optional", text)
    else:
        text = f"optional in the {reader} schema, unknown to the {writer} one: it gets its default"
        judge.find(where, "note", "field-added-optional", text)


def _further_keys(judge: Inclusion, w: dict[str, Any], r: dict[str, Any], path: str) -> None:
    mine, other = w.get("additionalProperties"), r.get("additionalProperties")
    if mine is False or other is None or other is True or other == {}:
        if mine is True and other is None:
            text = f"further keys are kept by the {judge.names[0]} schema, ignored by the {judge.names[1]} one"
            judge.find(path, "note", "extra", text)
        return
    if other is False:
        text = f"keys that it does not know are refused by the {judge.names[1]} schema, not by the {judge.names[0]} one"
        judge.find(path, "incompatible", "extra", text)
        return
    judge.findings += judge.judge(True if mine is None else mine, other, f"{path}.*" if path else "*")


def _default(judge: Inclusion, mine: Any, other: Any, where: str) -> None:
    if not (isinstance(mine, dict) and isinstance(other, dict)) or "default" not in mine or "default" not in other:
        return
    if mine["default"] != other["default"]:
        writer, reader = judge.names
        text = (
            f"left out, it is {mine['default']!r} in the {writer} schema and {other['default']!r} in the {reader} one"
        )
        judge.find(where, "note", "default", text)


def _renamed(
    judge: Inclusion, gone: set[str], w: dict[str, Any], r: dict[str, Any], read: set[str | None], path: str
) -> None:
    """A field that went and one like it that came: probably one field under another name."""
    came = [name for name in r.get("properties", {}) if name not in read]
    for name in sorted(gone & w.get("properties", {}).keys()):
        same = [new for new in came if bare(w["properties"][name]) == bare(r["properties"][new])]
        same.sort(key=lambda new: -difflib.SequenceMatcher(None, name, new).ratio())
        if not same:
            continue
        alike = difflib.SequenceMatcher(None, name, same[0]).ratio() >= _ALIKE
        if alike or (len(gone) == 1 and len(came) == 1):
            old, new = (name, same[0]) if judge.names[0] == "old" else (same[0], name)
            fix = f"validation_alias=AliasChoices({new!r}, {old!r}) reads both"
            text = f"looks like a rename of {old!r} to {new!r}. Fix: {fix}"
            judge.find(f"{path}.{name}" if path else name, "note", "rename", text)
