"""The classes in schemas/ and the JSON Schemas beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from sklearn import datasets

import schemas
from mlguard.contracts import json_schema

HERE = Path(__file__).parents[2]
SHIPPED = sorted(schemas.__all__)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_schema_in_the_repository_is_current(name):
    """Update it with: make schemas."""
    written = json.loads((HERE / "schemas" / f"{name.lower()}.schema.json").read_text(encoding="utf-8"))
    assert written == json_schema(getattr(schemas, name))


def test_make_writes_the_schema_of_every_class():
    """A class added to schemas/ is exported by `make schemas` too."""
    loop = re.search(r"for name in ([\w ]+); do", (HERE / "Makefile").read_text())
    assert sorted(loop[1].split()) == SHIPPED


GOOD = {
    "Completion": {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0.2},
    "Digits": {"images": datasets.load_digits().images[:3].tolist()},
    "Document": {"text": "Hello", "language": "en"},
    "Flower": dict(zip(datasets.load_iris().feature_names, datasets.load_iris().data[0].tolist(), strict=True)),
    "Message": {"role": "user", "content": "Hello"},
    "Patient": {"features": datasets.load_breast_cancer().data[:2].tolist()},
    "Photo": {"pixels": np.zeros((1, 2, 2, 3), int).tolist()},
    "Query": {"vectors": [[0.1] * 8]},
    "Transaction": {"amount": 1.5, "currency": "EUR", "hour": 3},
}
BAD = {
    "Completion": {"messages": []},
    "Digits": {"images": []},
    "Document": {"text": ""},
    "Flower": {"sepal length (cm)": 5.1},
    "Message": {"role": "robot", "content": "Hello"},
    "Patient": {"features": [[-1.0] * 30]},
    "Photo": {"pixels": [[[[0, 0, 256]]]]},
    "Query": {"vectors": [0.1] * 7},
    "Transaction": {"amount": 0, "currency": "EUR", "hour": 3},
}


@pytest.mark.parametrize("name", SHIPPED)
def test_class_and_schema_agree_on_real_and_on_bad_input(name):
    """Real rows of the data sets pass both, bad ones neither."""
    model = getattr(schemas, name)
    validator = jsonschema.Draft202012Validator(json_schema(model))
    model.model_validate_json(json.dumps(GOOD[name]))
    validator.validate(GOOD[name])
    assert not validator.is_valid(BAD[name])
    with pytest.raises(ValueError, match="validation error"):
        model.model_validate_json(json.dumps(BAD[name]))
