"""A contract as Open Inference metadata (the V2 protocol of KServe, Triton, MLServer): what GET v2/models/NAME answers.

The protocol knows tensors only: a name, a datatype and a shape, -1 for a dimension of any size. What does not fit into
that is refused; bounds, categories and patterns have no place there and are left to the JSON Schema.
"""

from __future__ import annotations

import re
from typing import Any

from mlguard.contracts.subject import ContractError

__all__ = ["model_metadata"]

_DATATYPES = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}
_SCALARS = {"boolean": "BOOL", "integer": "INT64", "number": "FP64", "string": "BYTES"}
_DEEPEST = 16
_TEXT = re.compile(r"(str|bytes|U|S)\d+")
"""Text of a length."""
_NO_TEXT = ("date", "date-time", "time", "duration", "binary")
"""Formats of strings that are other types in Python: as bytes a server would not know how to read them."""


def model_metadata(
    document: dict[str, Any], *, name: str, versions: tuple[str, ...] = (), platform: str = "python"
) -> dict[str, Any]:
    """The metadata of a model that takes what the document describes.

    Args:
        document: What `json_schema` made of an input class (whose outputs nobody knows: they are empty) or of a guarded
            function. The fields of an only argument are inputs by their own names, those of one among several are
            called ``argument.field``.
        name: What clients call the model.
        versions: The versions that clients may ask for.
        platform: The framework behind it, as the protocol's "platform".

    Raises:
        ContractError: Something in it has no datatype or no shape in the protocol.
    """
    definitions = document.get("$defs", {})
    properties = _plain(document, definitions).get("properties", {})
    if "result" in document and len(properties) == 1:
        only = _plain(next(iter(properties.values())), definitions)
        if "properties" in only:
            properties = only["properties"]
    if not properties:
        raise ContractError(f"{name} has no fields or arguments that could be inputs. Fix: name a class with fields.")
    result = document.get("result")
    outputs = [] if result is None else _tensors("result", result, definitions)
    return {
        "name": name,
        **({"versions": list(versions)} if versions else {}),
        "platform": platform,
        "inputs": [tensor for key, part in properties.items() for tensor in _tensors(key, part, definitions)],
        "outputs": outputs,
    }


def _tensors(name: str, schema: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """The tensors of one field: several where it is a model."""
    if name.count(".") > _DEEPEST:
        raise ContractError(f"{name} holds itself, so its tensors have no end. Fix: leave the field out of the class.")
    found = _plain(schema, definitions)
    if found.get("type") == "null":
        return []  # a function that returns nothing has no output
    if "dtype" in found:
        return [_tensor(name, _datatype(name, found["dtype"]), _shape(name, found["shape"]))]
    columns = found.get("items") if found.get("type") == "array" else None
    table = _plain(columns, definitions) if isinstance(columns, dict) else {}
    if "properties" in table:  # rows of a table: one tensor a column
        return [
            _tensor(tensor["name"], tensor["datatype"], [-1, *([] if tensor["shape"] == [1] else tensor["shape"])])
            for key, part in table["properties"].items()
            for tensor in _tensors(f"{name}.{key}", part, definitions)
        ]
    if "properties" in found:
        return [
            tensor
            for key, part in found["properties"].items()
            for tensor in _tensors(f"{name}.{key}", part, definitions)
        ]
    shape = []
    while found.get("type") == "array" and isinstance(found.get("items"), dict):
        fixed = found.get("minItems") if found.get("minItems") == found.get("maxItems") else None
        shape.append(-1 if fixed is None else fixed)
        found = _plain(found["items"], definitions)
    return [_tensor(name, _scalar(name, found), shape or [1])]


def _tensor(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _plain(schema: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """What it refers to, without the null of an optional field: the protocol says None by leaving the tensor out."""
    while True:
        if not isinstance(schema, dict):
            return {}
        if "$ref" in schema and "dtype" not in schema:
            schema = definitions.get(schema["$ref"].rpartition("/")[2], {})
            continue
        choices = [part for part in schema.get("anyOf", []) if part.get("type") != "null"]
        if "dtype" in schema or len(choices) != 1:
            return schema
        schema = choices[0]


def _datatype(name: str, dtype: str) -> str:
    if dtype in _DATATYPES:
        return _DATATYPES[dtype]
    if dtype in ("str_", "bytes_", "str", "bytes") or _TEXT.fullmatch(dtype):
        return "BYTES"
    if dtype in ("any dtype", "number", "integer", "signedinteger", "unsignedinteger", "inexact", "floating"):
        raise ContractError(
            f"{name}: {dtype!r} covers several datatypes of the V2 protocol. "
            "Fix: declare one, such as npt.NDArray[np.float32]."
        )
    raise ContractError(
        f"{name}: dtype {dtype} has no datatype in the V2 protocol, which has {', '.join(_known())}. "
        "Fix: declare one of these, such as int64 for times and two float64 for complex numbers."
    )


def _known() -> list[str]:
    return [*_DATATYPES.values(), "BYTES"]


def _shape(name: str, shape: list[Any]) -> list[int]:
    if "..." in shape:
        raise ContractError(
            f"{name}: an array of any number of dimensions has no shape in the V2 protocol. "
            'Fix: declare each dimension, by a name such as "batch" where the size is free.'
        )
    return [entry if isinstance(entry, int) else -1 for entry in shape]


def _scalar(name: str, schema: dict[str, Any]) -> str:
    kinds = {_kind_of_value(value) for value in schema.get("enum", [schema["const"]] if "const" in schema else [])}
    kinds -= {"null"}
    kinds |= {schema["type"]} if isinstance(schema.get("type"), str) and not kinds else set()
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    found = kinds.pop() if len(kinds) == 1 else None
    if found in _SCALARS and schema.get("format") not in _NO_TEXT:
        return _SCALARS[found]
    what = schema.get("format") or found or ("a choice of types" if "anyOf" in schema or kinds else "a free value")
    raise ContractError(
        f"{name}: {what} has no datatype in the V2 protocol, which has {', '.join(_known())}. "
        "Fix: declare a number, a boolean, text or an array of these, or leave the field out of the class."
    )


def _kind_of_value(value: Any) -> str:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return kinds.get(type(value), "null" if value is None else type(value).__name__)
