"""Real predictors under one policy: scikit-learn, XGBoost, ONNX Runtime, and an embedding model from a package."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from mlguard import InvalidInputError, testing
from mlguard.memory import cgroup

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples" / "predictors"

MISSING = [
    name
    for name in ("sklearn", "pandas", "xgboost", "onnxruntime", "skl2onnx", "wordllama")
    if importlib.util.find_spec(name) is None  # imported where they are used: together they take seconds
]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


def tumours(**changes: Any) -> Any:
    import pandas as pd

    columns = {"mean radius": [14.0, 20.5], "mean texture": [19.0, 25.0], "mean smoothness": [0.09, 0.11]}
    table = {name: values for name, values in {**columns, **changes}.items() if values is not None}
    return pd.DataFrame(table)


def measurements(**changes: float) -> Any:
    from sklearn.datasets import load_breast_cancer

    array = load_breast_cancer().data[:2].astype(np.float32)
    for place, value in changes.items():
        array[1, int(place[1:])] = value
    return array


def pixels(value: float | None = None) -> Any:
    from sklearn.datasets import load_digits

    array = load_digits().data[:2].astype(np.float32)
    if value is not None:
        array[1, 7] = value
    return array


class Case(NamedTuple):
    module: str
    function: str
    good: Callable[[], Any]
    bad: dict[str, tuple[Callable[[], Any], str]]
    entry: str
    known: tuple[str, Any]
    more: tuple[Any, ...] = ()


CASES = [
    Case(
        "tumours_sklearn", "risk", tumours,
        {
            "NaN": (lambda: tumours(**{"mean radius": [14.0, np.nan]}), "mean radius"),
            "missing column": (lambda: tumours(**{"mean texture": None}), "mean texture: is required"),
            "out of range": (lambda: tumours(**{"mean smoothness": [0.1, 7.0]}), "must be < 1"),
            "wrong type": (lambda: tumours(**{"mean radius": ["large", "small"]}), "mean radius"),
            "no table": (lambda: [[14.0, 19.0, 0.09]], "tumours"),
        },
        "risk_of", ("patients/p1", {"mean radius": 14.0, "mean texture": 19.0, "mean smoothness": 0.09}),
    ),
    Case(
        "tumours_xgboost", "risk", measurements,
        {
            "infinity": (lambda: measurements(_3=np.inf), r"at \[1, 3\]"),
            "wrong shape": (lambda: measurements()[:, :29], "30"),
            "wrong dtype": (lambda: measurements().astype(str), "float32"),
            "too large": (lambda: np.ones((200_000, 30), np.float32), "16MiB"),
        },
        "risk_of", ("measurements/p1", [None] * 5 + [0.1] * 25),
    ),
    Case(
        "digits_onnx", "chances", pixels,
        {
            "NaN": (lambda: pixels(np.nan), r"NaN, the first at \[1, 7\]"),
            "out of range": (lambda: pixels(17.0), "<= 16"),
            "one picture, no batch": (lambda: pixels()[0], "64"),
            "what float32 can't hold": (lambda: np.full((1, 64), 1e39), "float32"),
        },
        "digit_on", ("pictures/p1", [[0.0] * 8] * 8),
    ),
    Case(
        "texts_wordllama", "embed", lambda: ["a benign tumour", "a malignant tumour"],
        {
            "too long": (lambda: ["short", "long " * 500], "at most 2000 characters"),
            "empty": (lambda: ["", "a text"], "at least 1 character"),
            "no text": (lambda: ["a text", None], "string"),
            "too many": (lambda: ["a text"] * 65, "64"),
        },
        "likeness", ("documents/p1", {"text": "how to treat a tumour"}), ("tumours",),
    ),
]  # fmt: skip


@pytest.fixture(params=CASES, ids=lambda case: case.module)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_it_predicts_and_hits_its_cache(case: Case, service: SimpleNamespace) -> None:
    """A good batch is answered by the model once; the same again comes from the cache, as the same numbers."""
    predict = getattr(getattr(service, case.module), case.function)
    with testing.capture_events() as events:
        first, again = predict(case.good()), predict(case.good())
    assert len(first) == 2
    assert np.isfinite(first).all()
    assert np.array_equal(first, again)
    assert predict.guard.cache_info().hits >= 1
    assert [event["mlguard.policy"] for event in events] == ["predictor"] * 2
    assert events[0]["mlguard.model_version"]


def test_bad_input_never_reaches_the_model(case: Case, service: SimpleNamespace) -> None:
    """Each is refused with its place before the model runs, and the artifact isn't even loaded for it."""
    module = getattr(service, case.module)
    predict = getattr(module, case.function)
    for name, (bad, says) in case.bad.items():
        with pytest.raises(InvalidInputError, match=says) as refusal:
            predict(bad())
        assert refusal.value.permanent, name
    loaded = module.session if case.module == "digits_onnx" else module.model
    assert loaded.cache_info().misses == 0


def test_its_dependency_fails_stalls_and_comes_back(case: Case, service: SimpleNamespace) -> None:
    """A 503 and a stall are retried; when the service is down, what was known a moment ago answers."""
    path, payload = case.known
    service.remote.known[path] = payload
    entry = getattr(getattr(service, case.module), case.entry)
    service.remote.plan += ["503", "stall"]
    answer = entry("p1", *case.more)
    assert service.remote.asked == [f"/{path}"] * 3

    service.features.fetch.guard.cache_info()
    with testing.FakeClock() as clock:
        clock.advance(60)  # beyond the ttl
        service.remote.plan += ["500"] * 20
        assert entry("p1", *case.more) == answer
        with pytest.raises(httpx.HTTPStatusError, match="500"):
            entry("nobody", *case.more)


def test_a_dependency_that_lies_is_stopped_at_the_schema(service: SimpleNamespace) -> None:
    """What the feature service got wrong is refused like any other input, with its place."""
    service.remote.known["patients/p1"] = {"mean radius": 14.0, "mean smoothness": None}
    with pytest.raises(InvalidInputError, match="mean texture: is required, but there is no such column"):
        service.tumours_sklearn.risk_of("p1")
    service.remote.known["measurements/p1"] = [0.1] * 29
    with pytest.raises(InvalidInputError, match="30"):
        service.tumours_xgboost.risk_of("p1")


def test_weights_from_the_package_and_no_network(service: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedding model loads although nobody can be asked: a download would fail this test."""
    import socket

    def refused(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    assert service.texts_wordllama.embed(["no network"]).shape == (1, 256)


def test_missing_values_mean_something_to_xgboost(service: SimpleNamespace) -> None:
    """NaN is let through where the model knows what to do with it."""
    assert service.tumours_xgboost.risk(measurements(_3=np.nan)).shape == (2,)


SQUEEZED = """
import json, os, sys
import numpy as np
import structlog
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
from mlguard import MemoryPressureError, policies
from mlguard.demo.squeeze import Squeeze
import pandas, tumours_sklearn, tumours_xgboost, digits_onnx, texts_wordllama

table = pandas.DataFrame({"mean radius": [14.0], "mean texture": [19.0], "mean smoothness": [0.09]})
calls = {
    "sklearn": lambda n: tumours_sklearn.risk(table + n / 1000),
    "xgboost": lambda n: tumours_xgboost.risk(np.full((1, 30), n, np.float32)),
    "onnx": lambda n: digits_onnx.chances(np.full((1, 64), n, np.float32)),
    "wordllama": lambda n: texts_wordllama.embed([f"text {n}"]),
}

def tried(call, number):
    try:
        return len(call(number))
    except MemoryPressureError as error:
        return [error.permanent, error.retry_after, error.need >> 20, error.source]

for call in calls.values():
    call(1)  # artifacts and caches are there now
squeeze = Squeeze()
assert squeeze.possible
os.environ["MLGUARD__PREDICTOR__MEMORY__THRESHOLD"] = str(squeeze.ceiling)
policies.reload()
said = [{name: tried(call, 2) for name, call in calls.items()}]
with squeeze:
    said.append({name: tried(call, 3) for name, call in calls.items()})
    said.append({name: tried(call, 2) for name, call in calls.items()})
said.append({name: tried(call, 3) for name, call in calls.items()})
json.dump(said, open(sys.argv[1], "w"))
"""


@pytest.fixture
def container() -> Iterator[tuple[str, str]]:
    """Code that moves a process below a real limit of 1 GiB, and where that is; nothing where this machine has none."""
    levels = [level for level in cgroup.find() if level.version is cgroup.V1]
    group = levels[0].directory / f"mlguard-predictors-{uuid.uuid4().hex[:8]}" if levels else None
    try:
        if group is None or os.geteuid() != 0:
            raise OSError
        group.mkdir()
    except OSError:
        yield "", ""  # the squeeze is then one below the host's limit
        return
    (group / "memory.limit_in_bytes").write_text(str(1 << 30))
    yield f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n", f"cgroup v1 {group}"
    group.rmdir()


def test_they_shed_under_a_squeeze(
    container: tuple[str, str], artifacts: Path, feature_service: Any, tmp_path: Path
) -> None:
    """Real memory is taken: new calls are refused with what an orchestrator needs, known ones answered, then all."""
    enter, source = container
    script, said = tmp_path / "squeezed.py", tmp_path / "said.json"
    script.write_text(enter + SQUEEZED)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLGUARD")}
    done = subprocess.run(
        [sys.executable, script, said],
        cwd=EXAMPLES,
        env={
            **clean, "PYTHONPATH": str(EXAMPLES), "ARTIFACTS": str(artifacts), "MLGUARD_MEMORY_LEDGER": str(tmp_path),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    roomy, refused, known, afterwards = json.loads(said.read_text())
    served = dict.fromkeys(roomy, 1)
    assert len(served) == 4
    assert (roomy, known, afterwards) == (served, served, served)
    for name, (permanent, retry_after, need, where) in refused.items():
        assert not permanent, name
        assert retry_after >= 1, name
        assert (need, where) == (64, source or where), name
