"""Open Inference (V2) metadata, held against the schema that the protocol publishes."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

import jsonschema
import numpy as np
import numpy.typing as npt
import pytest
from pydantic import BaseModel, create_model

from mlguard import Array, guarded
from mlguard.contracts import ContractError, json_schema, model_metadata
from schemas import Message, Patient, Photo, Transaction

TENSOR = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "datatype": {
            "enum": [
                *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
                *("FP16", "FP32", "FP64", "BYTES"),
            ]
        },
        "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}, "minItems": 1},
    },
    "required": ["name", "datatype", "shape"],
    "additionalProperties": False,
}
METADATA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "versions": {"type": "array", "items": {"type": "string"}},
        "platform": {"type": "string"},
        "inputs": {"type": "array", "items": TENSOR},
        "outputs": {"type": "array", "items": TENSOR},
    },
    "required": ["name", "platform", "inputs", "outputs"],
    "additionalProperties": False,
}
"""metadata_model_response and the table of tensor data types of the protocol, in JSON Schema."""


def metadata(subject: Any, **options: Any) -> dict[str, Any]:
    made = model_metadata(json_schema(subject), name="m", **options)
    jsonschema.validate(made, METADATA)
    return made


def tensors(found: list[dict[str, Any]]) -> list[tuple[str, str, list[int]]]:
    return [(each["name"], each["datatype"], each["shape"]) for each in found]


def test_the_fields_of_a_class_are_inputs():
    """Arrays by dtype and shape, -1 where a size is free; numbers and texts as one value."""
    assert tensors(metadata(Patient)["inputs"]) == [("features", "FP64", [-1, 30]), ("request_id", "BYTES", [1])]
    assert tensors(metadata(Photo)["inputs"]) == [("pixels", "UINT8", [-1, -1, -1, 3]), ("mask", "BOOL", [-1, -1, -1])]
    assert [each[1] for each in tensors(metadata(Transaction)["inputs"])] == [
        "FP64",
        "BYTES",
        "INT64",
        "BYTES",
        "BYTES",
    ]
    assert metadata(Patient)["outputs"] == []


@guarded
def predict(patient: Patient) -> Annotated[npt.NDArray[np.float32], Array("batch", ge=0, le=1)]:
    return np.zeros(len(patient.features), np.float32)


@guarded
def score(patient: Patient, weights: Annotated[npt.NDArray[np.float16], Array(3)], best: int = 1) -> Message: ...


@guarded
def nothing(flag: bool) -> None: ...


def test_a_function_has_inputs_and_outputs():
    """The fields of an only model by their names, of one among several below its argument."""
    assert tensors(metadata(predict)["inputs"]) == [("features", "FP64", [-1, 30]), ("request_id", "BYTES", [1])]
    assert tensors(metadata(predict)["outputs"]) == [("result", "FP32", [-1])]
    assert tensors(metadata(score)["inputs"]) == [
        ("patient.features", "FP64", [-1, 30]),
        ("patient.request_id", "BYTES", [1]),
        ("weights", "FP16", [3]),
        ("best", "INT64", [1]),
    ]
    assert tensors(metadata(score)["outputs"]) == [("result.role", "BYTES", [1]), ("result.content", "BYTES", [1])]
    assert metadata(nothing)["outputs"] == []


def test_name_versions_and_platform_are_the_callers():
    """What the class can't know is said by whoever serves it."""
    made = metadata(Patient, versions=("3", "4"), platform="sklearn_sklearn")
    assert (made["name"], made["versions"], made["platform"]) == ("m", ["3", "4"], "sklearn_sklearn")
    assert "versions" not in metadata(Patient)


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        *[
            (Annotated[npt.NDArray[dtype], Array("n")], (name, [-1]))
            for dtype, name in [
                *((np.bool_, "BOOL"), (np.uint8, "UINT8"), (np.uint16, "UINT16"), (np.uint32, "UINT32")),
                *((np.uint64, "UINT64"), (np.int8, "INT8"), (np.int16, "INT16"), (np.int32, "INT32")),
                *((np.int64, "INT64"), (np.float16, "FP16"), (np.float32, "FP32"), (np.float64, "FP64")),
                (np.str_, "BYTES"),
            ]
        ],
        (Annotated[np.ndarray, Array(2, (1, 9), dtype="U5")], ("BYTES", [2, -1])),
        (Annotated[npt.NDArray[np.int8], Array(2)] | None, ("INT8", [2])),
        (list[list[float]], ("FP64", [-1, -1])),
        (Annotated[list[str], Array(3)], ("BYTES", [3])),
        (Literal[1, 2], ("INT64", [1])),
        (Literal["a", None], ("BYTES", [1])),
        (bool, ("BOOL", [1])),
    ],
)
def test_each_type_has_its_datatype(annotation, expected):
    """The table of the protocol, one by one."""
    assert tensors(metadata(create_model("M", x=(annotation, ...)))["inputs"]) == [("x", *expected)]


def test_rows_of_a_table_are_one_tensor_a_column():
    """A list of objects is a table: its columns travel side by side."""
    found = metadata(create_model("M", rows=(list[Transaction], ...)))["inputs"]
    assert tensors(found)[:2] == [("rows.amount", "FP64", [-1]), ("rows.currency", "BYTES", [-1])]


class Node(BaseModel):
    value: int
    next: Node | None = None


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Annotated[npt.NDArray[np.float64], Array(..., 8)], "any number of dimensions"),
        (Annotated[npt.NDArray[np.floating], Array("n")], "covers several datatypes"),
        (Annotated[npt.NDArray[np.complex128], Array("n")], "dtype complex128 has no datatype"),
        (Annotated[np.ndarray, Array("n", dtype="M8[s]")], "has no datatype"),
        (datetime.date, "date has no datatype"),
        (int | str, "a choice of types has no datatype"),
        (dict[str, int], "object has no datatype"),
        (Any, "a free value has no datatype"),
        (Literal["a", 1], "a choice of types has no datatype"),
        (Node, "holds itself"),
    ],
)
def test_what_the_protocol_has_no_word_for_is_refused(annotation, words):
    """Named with its field and what to declare instead."""
    with pytest.raises(ContractError, match="Fix: ") as raised:
        metadata(create_model("M", x=(annotation, ...)))
    assert str(raised.value).startswith("x")
    assert words in str(raised.value)


def test_a_class_that_holds_itself_is_refused_by_the_field():
    """The error names the field without end, rather than saying that there are none."""

    class Node(BaseModel):
        value: int
        children: list[Node] = []

    with pytest.raises(ContractError, match="holds itself"):
        metadata(Node)


def test_a_class_without_fields_has_no_inputs():
    """Nothing to describe is said, rather than an empty model."""
    with pytest.raises(ContractError, match="no fields"):
        metadata(create_model("M"))
