"""Arrays against arrays: dtype by NumPy's safe casts, dimensions one by one, bounds as the dtype rounds them.

Judged as an array in memory, and as the nested lists of JSON: both must pass. The names of dimensions, which tie sizes
together across a whole contract, are judged by `judge_ties`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mlguard.contracts.values import accepts, shown
from mlguard.validation.convert import is_safe

if TYPE_CHECKING:
    from mlguard.contracts.inclusion import Inclusion

__all__ = ["judge_arrays", "judge_ties"]

_JUDGED = frozenset(
    {
        *("type", "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "$ref", "dtype", "shape", "finite"),
        *("allow_nan", "strict", "unique", "monotonic", "max_bytes", "columns", "values"),
    }
)
_SAID = frozenset({"title", "description", "default", "examples", "aliases", "validators", "deprecated"})
_ABSTRACT: dict[str, Any] = {
    each.__name__: each
    for each in (
        *(np.number, np.integer, np.signedinteger, np.unsignedinteger, np.inexact, np.floating, np.complexfloating),
        *(np.flexible, np.character),
    )
} | {"any dtype": np.generic, "str": np.str_, "bytes": np.bytes_}
_BECOMES = {"b": "biufc", "i": "ifc", "u": "iufc", "f": "fc", "c": "c", "U": "U", "S": "S", "M": "M", "m": "m"}
"""The kinds of dtype that values of a kind may become, as array and as list alike."""
_EXACT = 2**53


def judge_arrays(judge: Inclusion, w: dict[str, Any], r: dict[str, Any], path: str) -> None:
    """Adds what an array of the writer's meets at the reader's."""
    if "dtype" not in r:
        _at_no_array(judge, w, r, path)
        return
    writer, reader = judge.names
    strange = [key for key in r if key not in _JUDGED | _SAID and w.get(key) != r[key]]
    if strange:
        text = f"the {reader} schema says {', '.join(strange)}, which is not judged"
        judge.find(path, "unknown", "keyword", text)
    _shape(judge, w.get("shape", ["..."]), r.get("shape", ["..."]), path)
    mine, other = _values(w, judge.writer), _values(r, judge.reader)
    if not _dtype(judge, w["dtype"], r["dtype"], mine, path):
        return
    if r.get("strict") and not w.get("strict"):
        text = f"the {reader} schema takes arrays of exactly {r['dtype']} only, the {writer} one converts"
        judge.find(path, "incompatible", "dtype", text)
    count = max(len(mine), len(other))
    if count > 1 and w.get("columns") != r.get("columns") and r.get("columns"):
        text = f"columns {', '.join(r['columns'])} in the {reader} schema, others or another order in the {writer} one"
        judge.find(path, "unknown", "columns", text)
    for number in range(count):
        one, wanted = (each[number if len(each) > 1 else 0] for each in (mine, other))
        names = r.get("columns") or w.get("columns") or range(count)
        _value(judge, w, r, one, wanted, f"{path}[{names[number]}]" if count > 1 else path)
        if len(mine) > 1 and len(other) > 1 and len(mine) != len(other):
            break  # the shape has said so
    _whole(judge, w, r, path)


def judge_ties(judge: Inclusion, *, results: bool) -> None:
    """Adds sizes that the reader's contract holds equal and the writer's does not.

    Args:
        judge: The two documents.
        results: Judge the ties that a function's result takes part in, rather than those among its arguments.
    """
    there = dict(_dimensions(judge.writer, judge.writer, ""))
    groups: dict[str, list[str]] = {}
    for place, entry in _dimensions(judge.reader, judge.reader, ""):
        name = _name(entry)
        if name is not None and place in there:
            groups.setdefault(name, []).append(place)
    for name, places in groups.items():
        inputs = [place for place in places if not place.startswith("result ")]
        outputs = [place for place in places if place not in inputs]
        places = places if results and outputs else [] if results else inputs
        if results and inputs:  # whoever reads the result has sent equal sizes, so that one of them is enough
            known = {_fixed(there[place]) for place in inputs} - {None}
            untied = any(_fixed(there[place]) not in known for place in outputs)
        else:
            sizes = {_fixed(there[place]) for place in places}
            several = len(places) > 1 or any("[]" in place for place in places)
            untied = several and (len(sizes) > 1 or None in sizes)
        if untied:
            tied = ", ".join(_place_text(place) for place in places)
            text = f"the {judge.names[1]} schema holds '{name}' equal in {tied}; the {judge.names[0]} one does not"
            judge.find(places[0].partition(" ")[2].partition("#")[0], "incompatible", "dimension-names", text)


def _name(entry: Any) -> str | None:
    if isinstance(entry, list):
        return entry[0] if len(entry) > 2 else None
    return entry if isinstance(entry, str) and entry != "..." else None


def _fixed(entry: Any) -> str | int | None:
    """A name or a size: equal ones are equal sizes in every call. None: a dimension of its own."""
    return entry if isinstance(entry, int) else _name(entry)


def _dimensions(node: Any, document: dict[str, Any], path: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every dimension of every array, with its place: ``"input features#0"``."""
    if not isinstance(node, dict) or depth > 12:
        return
    if "shape" in node:
        part, _, field = path.partition(":")
        for number, entry in enumerate(node["shape"]):
            yield f"{'result' if part == 'result' else 'input'} {field}#{number}", entry
        if "dtype" in node:
            return
    elif node.get("type") in ("array", "object") and path:  # a list, or a table whose rows have no name
        part, _, field = path.partition(":")
        yield f"{'result' if part == 'result' else 'input'} {field}#0", [0, None]
    if str(node.get("$ref", "")).startswith("#/$defs/"):
        yield from _dimensions(document.get("$defs", {}).get(node["$ref"][8:]), document, path, depth + 1)
    for name, part in node.get("properties", {}).items():
        inner = f"{path}.{name}" if path else f":{name}"
        yield from _dimensions(part, document, inner, depth + 1)
    for part in [*node.get("anyOf", []), *node.get("oneOf", [])]:
        yield from _dimensions(part, document, path, depth + 1)
    if isinstance(node.get("items"), dict):
        yield from _dimensions(node["items"], document, f"{path or ':'}[]", depth + 1)
    if "result" in node and not path:
        yield from _dimensions(node["result"], document, "result:return", depth + 1)


def _place_text(place: str) -> str:
    field, _, number = place.partition(" ")[2].partition("#")
    return f"{field} (dimension {number})"


def _at_no_array(judge: Inclusion, w: dict[str, Any], r: dict[str, Any], path: str) -> None:
    """An array where the reader wants something else: its lists may pass, the array itself does not."""
    text = f"an array of {w['dtype']} in the {judge.names[0]} schema, no array in the {judge.names[1]} one"
    choices = [judge.resolved(part, judge.reader) for part in r.get("anyOf", [])]
    arrays = [part for part in choices if "dtype" in part]
    if not arrays:
        judge.find(path, "incompatible", "type", f"{text}; lists in JSON may pass, arrays in memory do not")
        return
    found = [judge.judge(w, part, path) for part in arrays]
    good = next((each for each in found if all(one.verdict == "note" for one in each)), None)
    if good is not None or len(found) == 1:
        judge.findings += found[0] if good is None else good
    else:
        text = f"none of {len(found)} arrays of the {judge.names[1]} schema alone takes all of them"
        judge.find(path, "unknown", "union", f"{text}: {found[0][0].reason}")


def _shape(judge: Inclusion, mine: list[Any], other: list[Any], path: str) -> None:
    writer, reader = judge.names
    text = f"shape {_shape_text(other)} in the {reader} schema, {_shape_text(mine)} in the {writer} one"
    if "..." in other:
        at = other.index("...")
        head, tail = other[:at], other[at + 1 :]
        own = mine.index("...") if "..." in mine else len(mine)
        own_tail = len(mine) - own - 1 if "..." in mine else len(mine)
        fits = len(head) <= own and len(tail) <= own_tail and len(head) + len(tail) <= len([*mine]) - ("..." in mine)
        pairs = [*zip(mine, head, strict=False), *zip(mine[len(mine) - len(tail) :], tail, strict=False)]
    else:
        fits = "..." not in mine and len(mine) == len(other)
        pairs = list(zip(mine, other, strict=False))
    if not fits or any(not _size(one, wanted) for one, wanted in pairs):
        judge.find(path, "incompatible", "shape", text)


def _size(mine: Any, other: Any) -> bool:
    """Every size that the one dimension may have, the other may have."""
    if isinstance(other, str):
        return True
    (low, high), (least, most) = _ends_of_size(mine), _ends_of_size(other)
    return low >= least and high <= most


def _ends_of_size(entry: Any) -> tuple[float, float]:
    if isinstance(entry, int):
        return entry, entry
    if isinstance(entry, str):
        return 0, math.inf
    return entry[-2], math.inf if entry[-1] is None else entry[-1]


def _shape_text(shape: list[Any]) -> str:
    entries = [_size_text(entry) if isinstance(entry, list) else str(entry) for entry in shape]
    return f"({', '.join(entries)}{',' if len(entries) == 1 else ''})"


def _size_text(entry: list[Any]) -> str:
    sizes = f"{entry[-2]}..{'' if entry[-1] is None else entry[-1]}"
    return f"{entry[0]}: {sizes}" if len(entry) > 2 else sizes


def _dtype(judge: Inclusion, mine: str, other: str, values: list[dict[str, Any]], path: str) -> bool:
    writer, reader = judge.names
    text = f"dtype {other} in the {reader} schema, {mine} in the {writer} one"
    if mine == other:
        return True
    one, wanted = _ABSTRACT.get(mine), _ABSTRACT.get(other)
    source, target = _numpy(mine), _numpy(other)
    if (one is None and source is None) or (wanted is None and target is None):
        judge.find(path, "unknown", "dtype", f"{text}, of which NumPy does not know both")
        return False
    if wanted is not None:
        own: Any = source.type if source is not None else one
        fits = issubclass(own, wanted)
        if not fits:
            judge.find(path, "incompatible", "dtype", f"{text}, which does not cover it")
        return fits
    if source is None or target is None:
        judge.find(path, "incompatible", "dtype", f"{text}: others that {mine} covers are refused")
        return False
    if target.kind not in _BECOMES.get(source.kind, "") or not is_safe(source, target):
        judge.find(path, "incompatible", "dtype", f"{text}: no safe cast leads there, so arrays are refused")
        return False
    if source.kind in "iu" and source.itemsize == 8 and target.kind in "fc":
        lows = [value.get("minimum", value.get("exclusiveMinimum", -math.inf)) for value in values]
        highs = [value.get("maximum", value.get("exclusiveMaximum", math.inf)) for value in values]
        if min(lows) < -_EXACT or max(highs) > _EXACT:
            fix = "Fix: declare ge and le within 2**53 in the old one, or keep the dtype"
            why = f"whole numbers beyond 2**53 have no exact {other} and are refused. {fix}"
            judge.find(path, "incompatible", "dtype", f"{text}: {why}")
            return False
    return True


def _numpy(dtype: str) -> np.dtype[Any] | None:
    """The dtype a name stands for; None for an abstract one, or none at all."""
    text = dtype
    for word, letter, size in (("str", "U", 32), ("bytes", "S", 8)):
        if dtype.startswith(word) and dtype[len(word) :].isdecimal():
            text = f"{letter}{int(dtype[len(word) :]) // size}"
    try:
        return None if dtype in _ABSTRACT else np.dtype(text)
    except TypeError:
        return None


def _values(schema: dict[str, Any], document: dict[str, Any]) -> list[dict[str, Any]]:
    """The schema of one value of an array; of one a column, where they differ."""
    node: Any = schema
    while isinstance(node, dict):
        if "$ref" in node:
            node = document.get("$defs", {}).get(node["$ref"].rpartition("/")[2], {})
        elif "anyOf" in node:
            node = node["anyOf"][0]
        elif "prefixItems" in node:
            return list(node["prefixItems"])
        elif node.get("type") == "array":
            node = node.get("items", node.get("values", {}))
        else:
            return [node]
    return [{}]


def _value(
    judge: Inclusion, w: dict[str, Any], r: dict[str, Any], mine: dict[str, Any], other: dict[str, Any], path: str
) -> None:
    """What one value of the writer's meets at the reader's."""
    writer, reader = judge.names
    if "enum" in other or "enum" in mine:
        refused = [value for value in mine.get("enum", []) if accepts(other, value) is False]
        if "enum" not in mine:
            text = f"any value in the {writer} schema, only {shown(other['enum'])} in the {reader} one"
            judge.find(path, "incompatible", "categories", text)
        elif refused:
            text = f"{shown(refused)}: allowed by the {writer} schema, refused by the {reader} one"
            judge.find(path, "incompatible", "categories", text)
        return
    if "maxLength" in other and other["maxLength"] < mine.get("maxLength", math.inf):
        text = f"text of at most {other['maxLength']} letters in the {reader} schema, longer in the {writer} one"
        judge.find(path, "incompatible", "size", text)
    for low, side in ((True, "least"), (False, "greatest")):
        one, wanted = (_end(value, schema["dtype"], low=low) for value, schema in ((mine, w), (other, r)))
        if wanted is not None and (one is None or (one < wanted if low else one > wanted)):
            had = "free" if one is None else one[0]
            text = f"the {side} value is {wanted[0]} in the {reader} schema, {had} in the {writer} one"
            judge.find(path, "incompatible", "bounds", text)
    if _may_be_nan(w, mine) and not _may_be_nan(r, other):
        text = f"NaN passes in the {writer} schema, not in the {reader} one"
        judge.find(path, "incompatible", "nan", text)
    elif r.get("finite") and not w.get("finite") and _floats(w["dtype"]):
        ends = (_end(mine, w["dtype"], low=low) for low in (True, False))
        if None in ends:
            judge.find(path, "incompatible", "nan", f"infinities pass in the {writer} schema, not in the {reader} one")


def _whole(judge: Inclusion, w: dict[str, Any], r: dict[str, Any], path: str) -> None:
    """What the values must be together, and how many bytes they may take."""
    writer, reader = judge.names
    order, own = r.get("monotonic"), w.get("monotonic")
    if order is not None and own not in (order, f"strictly_{order}"):
        text = f"values must be {order} in the {reader} schema, {own or 'in any order'} in the {writer} one"
        judge.find(path, "incompatible", "order", text)
    if r.get("unique") and not w.get("unique"):
        judge.find(path, "incompatible", "unique", f"values may repeat in the {writer} schema only")
    most, own = r.get("max_bytes"), w.get("max_bytes")
    if most is not None and (own is None or own > most):
        text = f"at most {most} bytes in the {reader} schema, {own or 'any number'} in the {writer} one"
        free = own is None and any(isinstance(entry, str) for entry in w["shape"])
        judge.find(path, "incompatible" if free else "unknown", "size", text)


def _floats(dtype: str) -> bool:
    abstract, concrete = _ABSTRACT.get(dtype), _numpy(dtype)
    if abstract is not None:
        return any(issubclass(each, abstract) for each in (np.float64, np.complex128))
    return concrete is not None and concrete.kind in "fcMm"  # NaT is a time's NaN


def _may_be_nan(schema: dict[str, Any], value: dict[str, Any]) -> bool:
    bounded = any(key in value for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))
    return _floats(schema["dtype"]) and not schema.get("finite") and (not bounded or bool(schema.get("allow_nan")))


def _end(value: dict[str, Any], dtype: str, *, low: bool) -> tuple[Any, int] | None:
    """The end of the range as the dtype rounds it, and one more where the bound itself is out."""
    closed, opened = ("minimum", "exclusiveMinimum") if low else ("maximum", "exclusiveMaximum")
    if value.get("type") == "boolean":
        return (0 if low else 1), 0
    concrete = _numpy(dtype)
    rounded: Any = concrete.type if concrete is not None and concrete.kind == "f" else (lambda bound: bound)
    ends = [(_number(rounded(value[closed])), 0)] if closed in value else []
    ends += [(_number(rounded(value[opened])), 1 if low else -1)] if opened in value else []
    return (max(ends) if low else min(ends)) if ends else None


def _number(bound: Any) -> Any:
    return bound.item() if isinstance(bound, np.generic) else bound
