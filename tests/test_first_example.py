"""The example by which mlguard is designed, as a user writes it, with a real model on real data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import BaseModel
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from mlguard import Array, InvalidInputError, InvalidOutputError, NotKeyed, guarded, policies, testing

X, Y = load_breast_cancer(return_X_y=True)
model = LogisticRegression(max_iter=10_000).fit(X, Y)


class Patient(BaseModel):
    features: Annotated[npt.NDArray[np.float64], Array("batch", 30, ge=0)]
    request_id: Annotated[str, NotKeyed]


@pytest.fixture(autouse=True)
def _policy_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "mlguard.toml").write_text(
        "[policies.remote]\n"
        "abstract = true\n"
        'retry = { max_retries = 3, on = "transient", budget = 0.2 }\n'
        "breaker = true\n"
        "[policies.realtime]\n"
        'extends = ["remote"]\n'
        'timeout = { total = "800ms" }\n'
        'cache = { ttl = "30s", max_bytes = "256MiB" }\n'
        "memory = { threshold = 0.99 }\n"
        "monitor = true\n"
        "breaker = false\n"
    )
    monkeypatch.chdir(tmp_path)
    policies.reset()
    yield
    policies.reset()


def test_the_first_example() -> None:
    """One named policy, one model class, one decorator: checked, cached without the request id, logged, and refused."""

    @guarded("realtime", model_version="2026-11")
    def predict(patient: Patient) -> Annotated[npt.NDArray[np.float64], Array("batch", ge=0, le=1)]:
        return model.predict_proba(patient.features)[:, 1]

    with testing.capture_events() as events:
        expected = model.predict_proba(X[:5])[:, 1]
        np.testing.assert_array_equal(predict(Patient(features=X[:5], request_id="a")), expected)
        np.testing.assert_array_equal(predict({"features": X[:5].tolist(), "request_id": "b"}), expected)
        as_json = Patient(features=X[:5], request_id="c").model_dump_json()
        np.testing.assert_array_equal(predict(as_json.encode()), expected)
        with pytest.raises(InvalidInputError, match=r"patient\.features: must have shape \(batch, 30\), got \(5, 29\)"):
            predict({"features": X[:5, :29], "request_id": "d"})

    assert [event["mlguard.disposition"] for event in events] == [
        "executed",
        "cache_hit",
        "cache_hit",
        "rejected_validation",
    ]
    assert events[0]["mlguard.model_version"] == "2026-11"
    assert events[0]["mlguard.policy"] == "realtime"
    assert events[0]["mlguard.input.patient.features.shape"] == [5, 30]
    assert predict.guard.policy.breaker is None


def test_the_result_shares_the_batch_of_the_input() -> None:
    """A result with another batch size than the input breaks its schema."""

    @guarded("realtime", cache=False)
    def forgetful(patient: Patient) -> Annotated[npt.NDArray[np.float64], Array("batch", ge=0, le=1)]:
        return model.predict_proba(patient.features)[1:, 1]

    with testing.capture_events(), pytest.raises(InvalidOutputError, match="same size 'batch'"):
        forgetful(Patient(features=X[:5], request_id="a"))
