"""Batches that don't fit: cut along their rows, run in parts under one claim, and joined."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from structlog.testing import capture_logs

from mlguard import Memory, Monitor, Policy, Retry, Timeout, guarded
from mlguard.batch import Batch
from mlguard.errors import DeadlineExceededError, MemoryPressureError, PolicyError
from mlguard.memory import MemoryGuard, container
from mlguard.memory.parts import MOST_PARTS, Part, Parts
from mlguard.target import Target

MIB = 1 << 20
ROW = MIB // 8  # float64 numbers in a MiB


@pytest.fixture
def machine(gauge, monkeypatch):
    """Guards made by `guarded` read the test's own machine."""
    monkeypatch.setattr(MemoryGuard.__init__, "__kwdefaults__", {**MemoryGuard.__init__.__kwdefaults__, "gauge": gauge})
    return gauge


def batch(rows: int) -> npt.NDArray[np.float64]:
    """Rows of a MiB each, numbered in their first column, without touching the memory of the rest."""
    made = np.zeros((rows, ROW))
    made[:, 0] = np.arange(rows)
    return made


class Seen(list):
    """Sums rows, and remembers what it was called with."""

    def __call__(self, x):
        self.append(len(x))
        return x[:, 0] * 2


def summing(seen, **settings):
    @guarded(memory=Memory(need="3x", split=True, **settings), rows="x", validation=False)
    def predict(x, scale=1):
        return seen(x) * scale

    return predict


def test_a_batch_that_fits_runs_whole(machine, given):
    """Splitting changes nothing for a call that may start."""
    seen = Seen()
    predict = summing(seen)
    assert predict(batch(10)).tolist() == (2 * np.arange(10)).tolist()
    assert seen == [10]
    assert predict.guard.stats()["memory"]["split"] == 0


def test_a_batch_that_could_never_fit_runs_in_parts(machine, given):
    """600 rows that need 1800 MiB, where 850 may be used, run in a few parts at once, and come back in order."""
    seen = Seen()
    predict = summing(seen)
    result = predict(batch(600), scale=3)
    assert result.tolist() == (6 * np.arange(600)).tolist()
    assert sum(seen) == 600
    assert len(seen) == 3
    assert predict.guard.stats()["memory"]["split"] == 1
    assert container.of_this_container.reserved == 0


def test_no_part_needs_more_than_was_promised(machine, given):
    """One claim holds for all parts: while each runs, what is promised is at least what it needs."""
    promised = []

    @guarded(memory=Memory(need="3x", split=True), rows="x", validation=False)
    def predict(x):
        promised.append((3 * x.nbytes, container.of_this_container.reserved))
        return x[:, 0]

    predict(batch(500))
    assert len(promised) > 1
    assert all(need <= reserved for need, reserved in promised)
    assert len({reserved for _, reserved in promised}) == 1


def test_a_batch_waits_before_it_is_split(machine, given, time_stands_still):
    """A batch that would fit in an emptier container waits for that, and is split when its time is up."""
    seen = Seen()
    given.used = 600 * MIB
    predict = summing(seen, max_wait=2)
    predict(batch(100))
    assert sum(time_stands_still.pauses) == pytest.approx(2, abs=0.02)
    assert len(seen) == 2
    given.used = 0
    predict(batch(100))
    assert seen[-1] == 100


def test_a_row_that_does_not_fit_is_refused(machine, given):
    """Less than a row can't be run: the error is the same as without splitting."""
    predict = summing(Seen(), max_wait=0)
    given.used = 849 * MIB
    with pytest.raises(MemoryPressureError) as refused:
        predict(batch(4))
    assert not refused.value.permanent

    @guarded(memory=Memory(need="1000x", split=True), rows="x", validation=False)
    def hungry(x):
        return x[:, 0]

    given.used = 0
    with pytest.raises(MemoryPressureError) as refused:
        hungry(batch(2))
    assert refused.value.permanent


def test_there_are_never_too_many_parts(machine, given):
    """With room for a row only, a batch of a hundred is refused rather than run in a hundred parts."""
    seen = Seen()
    predict = summing(seen, max_wait=0)
    given.used = 846 * MIB
    with pytest.raises(MemoryPressureError):
        predict(batch(MOST_PARTS + 10))
    assert len(predict(batch(MOST_PARTS))) == len(seen) == MOST_PARTS


def test_rows_of_different_size_are_cut_where_they_fit():
    """Each part takes as many of the next rows as fit, few big ones or many small ones."""

    def predict(texts):
        return texts

    target = Target(predict)
    parts = Parts(target, Batch(target, "texts"), lambda args, kwargs: sum(map(len, args[0])))
    texts = ["x" * 10] * 20 + ["x" * 100] * 3 + ["x"] * 50
    cuts, need = parts.cut((texts,), {}, 100)
    sizes = [sum(map(len, texts[start:end])) for start, end in pairwise(cuts)]
    assert max(sizes) == need == 100
    assert sum(sizes) == sum(map(len, texts))
    assert len(sizes) <= 7
    assert parts.cut((texts,), {}, 99) is None
    assert parts.cut(([],), {}, 100) is None
    assert parts.cut((None,), {}, 100) is None
    assert parts.cut((5,), {}, 100) is None
    assert parts.cut((texts,), {}, 10**6) == ((0, 73), 550)


async def test_coroutines_run_in_parts_as_well(machine, given):
    """An async function is awaited part by part; the event loop runs in between."""
    seen, beside = [], []

    @guarded(memory=Memory(need="3x", split=True), rows="x", validation=False)
    async def predict(x):
        seen.append(len(x))
        await asyncio.sleep(0)
        return x[:, 0]

    async def other():
        while len(seen) < 3:
            beside.append(len(seen))
            await asyncio.sleep(0)

    task = asyncio.ensure_future(other())
    result = await predict(batch(600))
    await task
    assert result.tolist() == list(range(600))
    assert {1, 2} <= set(beside)


def test_the_deadline_is_looked_at_between_parts(machine, given, time_stands_still):
    """No part starts once the time is up: the error says how far it came."""
    ran = []

    @guarded(memory=Memory(need="3x", split=True), timeout=Timeout(total=10), rows="x", validation=False)
    def predict(x):
        ran.append(len(x))
        time_stands_still.now += 6
        return x[:, 0]

    with pytest.raises(DeadlineExceededError, match="ran out of time after 2 of 3 parts"):
        predict(batch(600))
    assert len(ran) == 2
    assert container.of_this_container.reserved == 0


def test_an_error_in_a_part_ends_the_call(machine, given):
    """What a part raises is the call's: nothing else runs, the promise comes back, and retry starts afresh."""
    calls = []

    @guarded(
        memory=Memory(need="3x", split=True), retry=Retry(max_retries=1, initial_delay=0), rows="x", validation=False
    )
    def predict(x):
        calls.append(len(x))
        if len(calls) == 2:
            raise ConnectionError
        return x[:, 0]

    assert predict(batch(600)).tolist() == list(range(600))
    assert len(calls) == 5
    assert container.of_this_container.reserved == 0


def test_the_event_says_parts(machine, given):
    """The record of a call that was split says into how many parts."""
    with capture_logs() as entries:
        predict = guarded(Policy(memory=Memory(need="3x", split=True), monitor=Monitor()), rows="x")(lambda x: x[:, 0])
        predict(batch(600))
        predict(batch(6))
    events = [entry for entry in entries if entry["event"] == "mlguard.call"]
    assert [event.get("mlguard.memory.parts") for event in events] == [3, None]


def test_explain_says_that_it_splits(machine, given):
    """explain() names the batch, between waiting and refusing."""
    assert "waits up to 5s, splits the batch 'x' and runs it in parts, then raises" in summing(Seen()).guard.explain()


@pytest.mark.parametrize(
    ("returns", "error", "words"),
    [
        (lambda x: 5, TypeError, "run in 3 parts for want of memory, and what they returned can't be joined"),
        (lambda x: x[:1, 0], ValueError, "part 1 returned 1 rows for 283 that came in. Fix: return an array"),
        (lambda x: {"a": x[:, 0], "b": [1]}, ValueError, "can't be joined"),
    ],
)
def test_results_without_a_row_for_each_row_are_refused(machine, given, returns, error, words):
    """A function whose results can't be put together says so, and how to mend it."""
    predict = guarded(memory=Memory(need="3x", split=True), rows="x", validation=False)(lambda x: returns(x))
    with pytest.raises(error, match=words):
        predict(batch(600))


def test_what_can_not_be_split_is_refused_at_decoration():
    """Streams, needs that don't grow with the input, and batches nobody can find are refused, with the fix."""
    with pytest.raises(PolicyError, match=r"what a stream yields can't be joined.*split=False"):

        @guarded(memory=Memory(need="3x", split=True), rows="x")
        def stream(x):
            yield x

    for need, said in ((None, "not declared"), ("1GiB", "1GiB")):
        with pytest.raises(PolicyError, match=rf"its need is {said}.*need=\"3x\", or split=False"):

            @guarded(memory=Memory(need=need, split=True), rows="x")
            def constant(x):
                return x

    with pytest.raises(PolicyError, match="which argument is the batch"):

        @guarded(memory=Memory(need="3x", split=True))
        def nameless(x):
            return x


def test_a_function_of_the_arguments_is_asked_about_each_part(machine, given):
    """A need given as a function sees the parts as the guarded function will."""

    @guarded(memory=Memory(split=True), need=lambda x, copies=1: copies * x.nbytes, rows="x", validation=False)
    def predict(x, copies=1):
        return x[:, 0]

    assert predict(batch(300), copies=6).tolist() == list(range(300))
    assert predict.guard.stats()["memory"]["split"] == 1


def test_log_mode_runs_the_whole(machine, given):
    """With on_pressure="log" nothing is changed, not even split."""
    seen = Seen()
    predict = summing(seen, on_pressure="log")
    predict(batch(600))
    assert seen == [600]


def test_a_claim_for_parts_gives_back_what_is_behind_it():
    """A part may need so little that it was promised nothing; otherwise the promise ends with the call."""
    Part(True, (0, 5)).release()
    Part(container.of_this_container.promise(5), (0, 5)).release()
    assert container.of_this_container.reserved == 0


def test_each_part_has_its_own_rows(machine, given):
    """A row too many in one part and one too few in the next are refused, though the sum is right."""
    sizes = iter([1, -1])

    @guarded(memory=Memory(need="3x", split=True), rows="x", validation=False)
    def predict(x):
        return np.zeros(len(x) + next(sizes, 0))

    with pytest.raises(ValueError, match=r"part 1 returned \d+ rows for \d+ that came in"):
        predict(batch(600))


def test_frames_that_number_their_rows_are_numbered_through(machine, given):
    """A frame made of a part counts its rows from 0; the whole counts its rows from 0 to the end, as unsplit."""
    pandas = pytest.importorskip("pandas")

    @guarded(memory=Memory(need="3x", split=True), rows="x", validation=False)
    def predict(x):
        return pandas.DataFrame({"score": x[:, 0]})

    assert list(predict(batch(600)).index) == list(range(600))
    assert predict.guard.stats()["memory"]["split"] == 1


def test_an_estimate_that_fails_for_parts_is_no_permission(machine, given):
    """Where nobody can tell what a part needs, the batch is not run in parts as if they needed nothing."""

    @guarded(memory=Memory(split=True, max_wait=0), need=lambda x: {600: 1 << 60}[len(x)], rows="x", validation=False)
    def predict(x):
        return x

    with pytest.raises(MemoryPressureError):
        predict(batch(600))
    assert predict.guard.stats()["memory"]["need_failures"] > 0
