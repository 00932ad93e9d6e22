"""The error tree: what each error is, carries, and keeps when it crosses a process."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pydantic
import pytest

import mlguard
from mlguard import errors

REJECTIONS = [
    errors.CircuitOpenError("open", retry_after=3.0),
    errors.ConcurrencyLimitError("full", retry_after=0.5, permanent=False),
    errors.MemoryPressureError("tight", used=9, limit=10, need=2, source="host", permanent=True),
    errors.DeadlineExceededError("late"),
    errors.PolicyError("no"),
]


@pytest.mark.parametrize("error", REJECTIONS, ids=lambda error: type(error).__name__)
def test_pickle_keeps_everything(error: errors.GuardError) -> None:
    """An error that crosses a process pool keeps its message and every figure."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.__dict__) == (str(error), error.__dict__)
    assert (again.retry_after, again.permanent) == (error.retry_after, error.permanent)


@pytest.mark.parametrize("base", [errors.GuardError, errors.RejectedError, errors.DeadlineExceededError])
def test_a_subclass_may_take_more(base: type[errors.GuardError]) -> None:
    """An application's own error below one of ours has the arguments it likes."""

    class Mine(base):  # type: ignore[misc, valid-type]
        def __init__(self, message: str, *, tenant: str) -> None:
            super().__init__(message)
            self.tenant = tenant

    error = Mine("late", tenant="acme")
    assert (str(error), error.tenant) == ("late", "acme")


VIOLATION = {"type": "custom", "loc": ("a", 0), "msg": "must be {odd}", "ctx": {"n": 1}}


@pytest.mark.parametrize(
    "error", [*REJECTIONS, errors.InvalidInputError.of("f()", [VIOLATION])], ids=lambda error: type(error).__name__
)
def test_an_error_made_of_an_error(error: errors.GuardError) -> None:
    """Ray raises a worker's error as a class below it and one of its own, made from the error alone: nothing is lost.

    The real Ray is in tests/integrations/scale_out.
    """

    class TaskError(Exception):
        pass

    class Dual(TaskError, type(error)):  # type: ignore[misc]
        def __init__(self, cause: errors.GuardError) -> None:
            self.cause = cause

    again = Dual(error)
    assert isinstance(again, type(error))
    assert (again.retry_after, again.permanent) == (error.retry_after, error.permanent)
    assert error.__dict__.items() <= again.__dict__.items()
    if isinstance(again, pydantic.ValidationError):
        assert (again.title, again.errors(), str(again)) == ("f()", [VIOLATION], str(error))


def test_schema_errors_are_pydantics_as_well() -> None:
    """Code that catches pydantic's ValidationError also catches ours."""
    violation = {"type": "custom", "loc": ("a", 0), "msg": "must be {odd}", "ctx": {"n": 1}}
    error = errors.InvalidInputError.of("f", [violation])
    assert isinstance(error, pydantic.ValidationError)
    assert isinstance(error, errors.GuardError)
    assert error.errors() == [violation]
    assert error.error_count() == 1


def test_schema_errors_are_json_whatever_the_figures() -> None:
    """NaN, infinities and foreign objects among the figures never break the JSON of an error."""
    figures = {"min": float("nan"), "max": float("inf"), "seen": {1, 2}, "what": object(), "list": [-np.inf, None]}
    error = errors.InvalidOutputError.of("f", [{"type": "custom", "loc": (), "msg": "bad", "ctx": figures}])
    text = json.dumps(json.loads(error.json()), allow_nan=False)
    assert '"nan"' in text
    assert '"inf"' in text
    again = pickle.loads(pickle.dumps(error))
    assert again.errors() == error.errors()
    assert repr(again).startswith("<InvalidOutputError: ")


def test_the_public_tree() -> None:
    """Every error has GuardError as its root, is exported, and the drawing in the module names them all."""
    for name in errors.__all__:
        cls = getattr(errors, name)
        assert issubclass(cls, errors.GuardError)
        assert getattr(mlguard, name) is cls
        assert name in (errors.__doc__ or "")
    assert issubclass(errors.DeadlineExceededError, TimeoutError)
    assert issubclass(errors.PolicyError, ValueError)


def test_only_invalid_input_is_permanent() -> None:
    """The same arguments stay invalid, while the next result may be a valid one; also across processes."""
    for cls, permanent in ((errors.InvalidInputError, True), (errors.InvalidOutputError, False)):
        error = cls.of("f", [{"type": "custom", "loc": ("a",), "msg": "bad"}])
        assert error.permanent is permanent
        assert pickle.loads(pickle.dumps(error)).permanent is permanent
