"""The feature service and the traffic: real sockets, and everything that goes wrong follows from the seed."""

from __future__ import annotations

import time
import urllib.error
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the demo needs the extra 'demo'")

from threadpoolctl import threadpool_limits

from mlguard.demo.model import MEASURED, Model
from mlguard.demo.service import FAULTS, PATIENCE, STALL, UNSEEN, FeatureClient, FeatureService, fault_of
from mlguard.demo.traffic import MISTAKES, traffic

ROWS = np.arange(1.0, 61.0).reshape(3, 20)


@pytest.fixture(scope="module")
def service():
    with FeatureService(ROWS) as running:
        yield running


@pytest.fixture(scope="module")
def model():
    with threadpool_limits(1):  # as in the demo: several threads for one row wait for each other on a busy machine
        yield Model()


used = set()


def draw_with(fault):
    """The number of a call that nobody has made and whose first request meets a fault."""
    call = next(call for call in range(10_000) if call not in used and fault_of(0, call, 1) == fault)
    used.add(call)
    return call


def asked(service, fault, patient=1):
    client = FeatureClient(service.url)
    client.begin(draw_with(fault))
    try:
        return client.stored(patient)
    finally:
        assert client.requests == 1
        assert client.fault == fault


def test_faults_come_at_their_rates():
    """Over many draws each fault comes about as often as it says."""
    seen = Counter(fault_of(0, number, 1) for number in range(20_000))
    for fault, share in FAULTS.items():
        assert seen[fault] / 20_000 == pytest.approx(share, rel=0.2)


def test_a_retry_gets_a_draw_of_its_own():
    """The second request of a call is not condemned to the fault of the first."""
    failed = [number for number in range(2_000) if fault_of(0, number, 1)]
    again = [number for number in failed if fault_of(0, number, 2)]
    assert 0 < len(again) < len(failed) / 3


def test_a_request_without_fault_brings_the_row(service):
    """What the service stores arrives bit for bit."""
    assert asked(service, None).tolist() == ROWS[1].tolist()


@pytest.mark.parametrize("status", [500, 503])
def test_errors_are_http_errors(service, status):
    """A failing service is seen as urllib shows one."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        asked(service, f"HTTP {status}")
    assert caught.value.code == status
    caught.value.close()


def test_a_stall_outlasts_the_client(service):
    """A stalled answer ends in the client's own timeout, in both runs alike."""
    assert STALL > PATIENCE
    started = time.perf_counter()
    with pytest.raises(TimeoutError):
        asked(service, "stall")
    assert time.perf_counter() - started < STALL


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("NaN", lambda row: np.isnan(row).sum() == 5),
        ("null", lambda row: row.dtype == object and list(row).count(None) == 5),
        ("-999", lambda row: (row == -999).sum() == 5),
        ("numbers as text", lambda row: row.dtype.kind == "U" and float(row[0]) == 21.0),
        ("decimal comma", lambda row: row[0] == "21,0"),
        ("19 values", lambda row: row.shape == (19,)),
        ("units x 1000", lambda row: row[0] == 21_000),
        (UNSEEN, lambda row: row[0] == pytest.approx(21 / 25.4) and row.min() > 0),
    ],
)
def test_corrupt_rows_arrive_corrupt(service, fault, seen):
    """Each kind of corruption is what its name says, on the client's side of the socket."""
    assert seen(asked(service, fault))


def test_an_unknown_patient_is_a_404(service):
    """A number that nobody has is the caller's mistake, not the service's."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        asked(service, None, patient="p-7")
    assert caught.value.code == 404
    caught.value.close()


def test_traffic_follows_from_the_seed(model):
    """The same seed gives the same calls; another one others."""

    def shape(seed):
        return [(call.visit, call.mistake, call.truth, str(call.measured)) for call in traffic(model, 200, seed)]

    assert shape(1) == shape(1)
    assert shape(1) != shape(2)


def test_traffic_repeats_and_makes_every_mistake(model):
    """Some visits come often, most rarely, and each mistake comes at about its rate."""
    calls = list(traffic(model, 4_000, seed=0))
    visits = Counter(call.visit for call in calls)
    assert visits.most_common(1)[0][1] > 20
    assert sum(count == 1 for count in visits.values()) > 100
    made = Counter(call.mistake for call in calls)
    for mistake, share in MISTAKES.items():
        assert made[mistake] / 4_000 == pytest.approx(share, rel=0.5)


def test_truth_is_the_models_answer_on_the_uncorrupted_row(model):
    """A call without mistake, with the row as stored, is answered by its truth."""
    for call in traffic(model, 50, seed=0):
        if call.mistake is None:
            assert model.malignant(call.measured, model.patients[call.patient, MEASURED:]) == call.truth
