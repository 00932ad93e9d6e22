"""Which arguments of a function are its batch."""

from __future__ import annotations

from typing import Annotated, Any

import cloudpickle
import numpy as np
import numpy.typing as npt
import pytest
from pydantic import BaseModel

from mlguard import Array, PolicyError
from mlguard.batch import Batch
from mlguard.target import Target

Matrix = Annotated[npt.NDArray[np.float64], Array("batch", 2)]


class Patient(BaseModel):
    features: Matrix
    site: str = "a"


def scored(features: Matrix, mask: Any = None, *, scale: float = 1.0) -> Any: ...
def of_model(patient: Patient, top: int = 1) -> Any: ...
def unmarked(a: Any, b: Any, *more: Any) -> Any: ...
def by_name(*, images: Annotated[npt.NDArray[np.float64], Array(3, "n")]) -> Any: ...
def several(a: Matrix, b: Matrix) -> Any: ...


def test_the_argument_whose_rows_have_a_name_is_the_batch() -> None:
    """Without rows=, the one Array with a named first dimension is found."""
    batch = Batch(Target(scored))
    data = np.arange(8.0).reshape(4, 2)
    assert batch.parameters == ("features",)
    assert batch.size((data, None), {}) == 4
    args, kwargs = batch.take((data, "rest"), {"scale": 2.0}, slice(1, 3))
    np.testing.assert_array_equal(args[0], data[1:3])
    assert args[1] == "rest"
    assert kwargs == {"scale": 2.0}
    assert batch.dims({"batch": 4, "other": 1}, 2) == {"batch": 2, "other": 1}
    assert batch.dims(None, 2) is None


def test_a_field_of_a_model_can_be_the_batch() -> None:
    """The one field whose rows have a name is found, and a part of the batch is a model with part of its rows."""
    batch = Batch(Target(of_model))
    patient = Patient(features=np.zeros((3, 2)), site="b")
    assert batch.label == "'patient.features'"
    (part,), _ = batch.take((patient,), {}, np.array([2, 0]))
    assert (part.site, part.features.shape, patient.features.shape) == ("b", (2, 2), (3, 2))


def test_several_arguments_have_their_rows_together() -> None:
    """A mask that is given goes with the ids, one that is None stays None."""
    batch = Batch(Target(scored), ("features", "mask"))
    data = np.zeros((2, 2))
    assert batch.take((data, [1, 2]), {}, slice(1, 2))[0][1] == [2]
    assert batch.take((data, None), {}, slice(1, 2))[0][1] is None
    assert batch.size((data,), {}) == 2
    with pytest.raises(ValueError, match="the batch 'features' and 'mask' has 2 and 3 rows; it must have one number"):
        batch.size((data, [1, 2, 3]), {})


def test_arguments_by_name_and_other_axes() -> None:
    """The rows may lie along another axis of an argument that is passed by name."""
    batch = Batch(Target(by_name), {"images": 1})
    images = np.zeros((3, 5))
    assert batch.size((), {"images": images}) == 5
    assert batch.take((), {"images": images}, slice(0, 2))[1]["images"].shape == (3, 2)
    assert batch.dims({"n": 5}, 2) == {"n": 2}


@pytest.mark.parametrize(
    ("function", "rows", "said"),
    [
        (unmarked, None, r"which argument is the batch\? None of its arguments is shown to be one"),
        (several, None, r"which argument is the batch\? A and b could be one"),
        (scored, "feature", r"no such parameter.*'features'"),
        (unmarked, "more", "no such parameter"),
        (of_model, "patient.feature", r"Patient has no 'feature'.*'features'"),
        (of_model, "top.x", "what comes before '.x' is no Pydantic model"),
        (scored, {"features": -1}, "an axis is 0, 1, 2"),
        (scored, {"features": True}, "an axis is 0, 1, 2"),
        (scored, (), "names no argument"),
        (scored, 3, "names no arguments"),
    ],
)
def test_what_is_no_batch_is_refused_with_the_fix(function: Any, rows: Any, said: str) -> None:
    """A wrong rows= is told at decoration."""
    with pytest.raises(PolicyError, match=said):
        Batch(Target(function), rows)


def test_batches_cross_processes() -> None:
    """A batch pickles by what it was made of."""
    revived = cloudpickle.loads(cloudpickle.dumps(Batch(Target(scored), {"features": 0})))
    assert revived.parameters == ("features",)
