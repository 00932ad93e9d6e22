"""need="learned": what calls take is measured while they are alone, and from then on promised."""

from __future__ import annotations

import os
import pickle
import threading
import time
from contextvars import copy_context

import numpy as np
import pytest

from mlguard import Memory, guarded
from mlguard.context import Call
from mlguard.errors import MemoryPressureError, PolicyError
from mlguard.memory import LearningGuard, MemoryGuard, container, guard_for, ledger, measuring, meter
from mlguard.memory.guard import SMALL
from mlguard.target import Target

MIB = 1 << 20

if meter.of_this_process.why_not is not None:
    pytest.skip(f"peaks can't be measured here: {meter.of_this_process.why_not}", allow_module_level=True)


def predict(batch=None):
    return batch


class Input:
    """An input of that size, that takes no memory itself."""

    def __init__(self, nbytes):
        self.nbytes = nbytes


class Peaks:
    """A meter that says what a test wants it to."""

    why_not = None
    measuring = False

    def spoil(self):
        pass

    def __init__(self, factor=3.0):
        self.factor = factor
        self.size = 0
        self.started = 0

    def start(self, need):
        self.started += 1
        return meter.Measurement(0, 0, 0)

    def stop(self, measured):
        return int(self.factor * self.size)


@pytest.fixture
def peaks(monkeypatch):
    made = Peaks()
    monkeypatch.setattr(meter, "of_this_process", made)
    return made


def make(gauge, **settings):
    return LearningGuard(Target(predict), Memory(need="learned", **settings), gauge=gauge)


def called(guard, peaks, size):
    """One call from start to end; what it was promised."""
    claim = copy_context().run(guard.enter, (Input(size),), {}) or copy_context().run(
        guard.wait, None, (Input(size),), {}, None
    )
    peaks.size = size
    need = SMALL if claim is True else claim.need
    guard.exit(claim)
    return need


def test_unlearned_calls_run_alone(given, gauge, peaks, time_stands_still):
    """Until three were measured, a call is promised all there is, so that no other starts beside it."""
    guard = make(gauge, max_wait=1)
    for _ in range(3):
        claim = copy_context().run(guard.enter, (Input(10 * MIB),), {})
        assert claim.need == 850 * MIB
        assert copy_context().run(guard.enter, (Input(10 * MIB),), {}) is None
        peaks.size = 10 * MIB
        guard.exit(claim)
    first, second = (copy_context().run(guard.enter, (Input(10 * MIB),), {}) for _ in range(2))
    assert first.need == second.need == pytest.approx(33 * MIB, rel=0.01)
    guard.exit(first)
    guard.exit(second)


def test_one_that_waited_to_be_alone_takes_part_in_what_was_learned_meanwhile(given, gauge, peaks, time_stands_still):
    """A call that waits until it may run alone goes on with the rest as soon as the need is known."""
    guard = make(gauge, max_wait=5)
    for _ in range(2):
        called(guard, peaks, 10 * MIB)
    last = copy_context().run(guard.enter, (Input(10 * MIB),), {})

    def on_sleep():
        if len(time_stands_still.pauses) == 3:
            peaks.size = 10 * MIB
            guard.exit(last)

    time_stands_still.on_sleep = on_sleep
    claim = copy_context().run(guard.wait, None, (Input(10 * MIB),), {}, None)
    assert claim.need == pytest.approx(33 * MIB, rel=0.01)
    guard.exit(claim)


def test_one_that_waits_in_vain_to_be_alone_is_told_why(given, gauge, peaks, time_stands_still):
    """The error says that the need is not learned yet."""
    guard = make(gauge, max_wait=1)
    claim = copy_context().run(guard.enter, (Input(10 * MIB),), {})
    with pytest.raises(MemoryPressureError, match=r"to run alone, as its need is learned; 0 of 3 measurements so far"):
        guard.wait(Call(), (Input(10 * MIB),), {}, None)
    guard.exit(claim)


def test_far_bigger_inputs_run_alone_again(given, gauge, peaks):
    """An input far beyond all that were measured runs alone, at first, and is measured."""
    guard = make(gauge)
    for _ in range(3):
        called(guard, peaks, 10 * MIB)
    assert called(guard, peaks, 20 * MIB) == pytest.approx(66 * MIB, rel=0.01)
    assert called(guard, peaks, 50 * MIB) == 850 * MIB
    assert called(guard, peaks, 60 * MIB) == pytest.approx(198 * MIB, rel=0.01)


def test_what_can_not_fit_even_alone_is_refused(given, gauge, peaks):
    """Where even the line drawn on says that a call is too big for the limit, it is refused at once."""
    guard = make(gauge)
    for _ in range(3):
        called(guard, peaks, 10 * MIB)
    with pytest.raises(MemoryPressureError) as refused:
        called(guard, peaks, 500 * MIB)
    assert refused.value.permanent
    assert refused.value.need == pytest.approx(1650 * MIB, rel=0.01)


def test_small_calls_are_free_once_that_is_known(given, gauge, peaks, time_stands_still):
    """A function that takes next to nothing holds no promise, reads seldom, and is measured a few times a second."""
    guard = make(gauge)
    for _ in range(3):
        called(guard, peaks, 100)
    reads, started = given.reads, peaks.started
    for _ in range(1000):
        time_stands_still.now += 0.001
        claim = copy_context().run(guard.enter, (Input(100),), {})
        guard.exit(claim)
    assert given.reads - reads <= 6
    assert peaks.started - started <= 5


def test_it_follows_a_model_that_grew(given, gauge, peaks, time_stands_still):
    """The first measured call of a bigger model is enough: the next is promised what that took."""
    guard = make(gauge)
    for _ in range(4):
        called(guard, peaks, 10 * MIB)
    peaks.factor = 6
    time_stands_still.now += 1
    called(guard, peaks, 10 * MIB)
    assert called(guard, peaks, 10 * MIB) == pytest.approx(66 * MIB, rel=0.01)


def test_failed_calls_teach_nothing(given, gauge, peaks):
    """A call that raised before it took its memory is no measurement of what calls take; a big one still is."""
    guard = make(gauge)

    def failing(size, took):
        claim = copy_context().run(guard.enter, (Input(size),), {})
        peaks.size = took
        try:
            raise ConnectionError
        except ConnectionError:
            guard.exit(claim)

    for took in (0, 10 * MIB, 1000, 0, 10):
        failing(10 * MIB, took)
    assert guard.stats()["need"]["samples"] == 0
    for _ in range(3):
        called(guard, peaks, 10 * MIB)
    guard._measure_at = 0
    failing(10 * MIB, MIB)
    assert guard.stats()["need"]["samples"] == 3
    guard._measure_at = 0
    failing(10 * MIB, 20 * MIB)
    assert guard.stats()["need"]["samples"] == 4


def test_calls_made_while_an_exception_is_handled_teach_all_the_same(given, gauge, peaks):
    """A call from an except block has not failed."""
    guard = make(gauge)
    try:
        raise KeyError
    except KeyError:
        called(guard, peaks, 10 * MIB)
    assert guard.stats()["need"]["samples"] == 1


def test_stats_and_event_say_what_is_known(given, gauge, peaks):
    """Factor, constant part, measurements and spread stand in stats(), in the facts of the event, and in explain()."""
    guard = make(gauge)
    assert guard.stats()["need"]["learned"] is False
    assert guard.facts() == {}
    assert guard.explain()[1] == (
        "A call's need is learned; 0 of 3 measurements so far, and until then each call runs alone."
    )
    for _ in range(3):
        called(guard, peaks, 10 * MIB)
    known = guard.stats()["need"]
    assert (known["learned"], known["samples"], known["constant"]) == (True, 3, 0)
    facts = guard.facts()
    assert facts["mlguard.memory.need_factor"] == known["factor"] == pytest.approx(3.3, rel=0.01)
    assert facts["mlguard.memory.need_samples"] == 3
    assert facts["mlguard.memory.need_spread"] == known["spread"]
    assert "learned: 3.3 x the bytes of its input (3 measurements" in guard.explain()[1]
    guard.reset()
    assert guard.stats()["need"]["samples"] == 0


def test_an_input_of_unknown_size_counts_as_none(given, gauge, peaks):
    """Where the bytes of the input can't be told, that is counted, and the call is measured all the same."""

    class Odd:
        @property
        def nbytes(self):
            raise RuntimeError

    guard = make(gauge)
    claim = copy_context().run(guard.enter, (Odd(),), {})
    guard.exit(claim)
    assert guard.stats()["need"]["samples"] == 1
    assert guard.stats()["need_failures"] == 1


def test_log_mode_runs_nothing_alone(given, gauge, peaks):
    """With on_pressure="log" unlearned calls start beside each other; those that happen to be alone are measured."""
    guard = make(gauge, on_pressure="log")
    first, second = (copy_context().run(guard.enter, (Input(10 * MIB),), {}) for _ in range(2))
    peaks.size = 10 * MIB
    guard.exit(second)
    guard.exit(first)
    assert guard.stats()["need"]["samples"] > 0
    assert guard.stats()["logged"] == 0


async def test_coroutines_are_measured_to_their_end(given, gauge, peaks):
    """The asynchronous wait brings a claim that is measured as well."""
    guard = make(gauge)
    claim = await guard.wait_async(None, (Input(10 * MIB),), {}, None)
    peaks.size = 10 * MIB
    guard.exit(claim)
    assert guard.stats()["need"]["samples"] == 1


def test_a_guard_that_learns_pickles(gauge):
    """It starts to learn anew where it is unpickled."""
    again = pickle.loads(pickle.dumps(guard_for(Target(predict), Memory(need="learned"))))
    assert isinstance(again, LearningGuard)
    assert again.stats()["need"]["samples"] == 0


def test_it_is_built_where_learning_is_asked_for():
    """need="learned" in the policy or at the decorator makes a guard that learns; anything else does not."""
    assert type(guard_for(Target(predict), Memory(need="learned"))) is LearningGuard
    assert type(guard_for(Target(predict), Memory(), need="learned")) is LearningGuard
    assert type(guard_for(Target(predict), Memory(need="learned"), need="3x")) is MemoryGuard
    assert type(guard_for(Target(predict), Memory())) is MemoryGuard


# On the real kernel


def take(size):
    """Three times the input at its peak."""
    raw = np.ones(size, np.uint8)
    doubled = raw * np.uint8(2)
    return int((raw + doubled)[0])


def test_a_real_peak_is_measured():
    """The kernel's word on a call of three times 30 MiB is 90 MiB, give or take a few."""
    claim = container.of_this_container.promise(100 * MIB)
    for _ in range(3):
        measured = meter.of_this_process.start(claim.need)
        take(30 * MIB)
        assert meter.of_this_process.stop(measured) == pytest.approx(90 * MIB, abs=4 * MIB)
    claim.release()


def test_a_measurement_that_others_made_wrong_is_not_used():
    """Memory that is handed back while a call is measured would be missing in its peak."""
    claim = container.of_this_container.promise(100 * MIB)
    measured = meter.of_this_process.start(claim.need)
    assert meter.of_this_process.measuring
    meter.of_this_process.spoil()
    assert meter.of_this_process.stop(measured) is None
    assert not meter.of_this_process.measuring
    claim.release()


def test_nothing_is_measured_beside_another_call():
    """Neither a call that was there before, nor one that came meanwhile, gets into a measurement; nor two at once."""
    mine, first = container.of_this_container.promise(10 * MIB), ledger.of_this_process.promise(5 * MIB)
    assert meter.of_this_process.start(mine.need) is None
    first.release()
    measured = meter.of_this_process.start(mine.need)
    assert measured is not None
    assert meter.of_this_process.start(mine.need) is None
    ledger.of_this_process.promise(5 * MIB).release()
    assert meter.of_this_process.stop(measured) is None
    assert meter.of_this_process.stop(meter.of_this_process.start(mine.need)) is not None
    mine.release()


def test_two_functions_learn_their_own_factors():
    """Four threads that call two functions at once: each learns what its own calls take."""

    def once(x):
        return int(np.ones(x.nbytes, np.uint8)[0])

    def thrice(x):
        return take(x.nbytes)

    small, big = (guarded(memory=Memory(need="learned"), validation=False)(function) for function in (once, thrice))

    def calls(function):
        for size in (10, 14, 20, 17, 12):
            function(Input(size * MIB))
            time.sleep(0.002)

    threads = [threading.Thread(target=calls, args=(function,)) for function in (small, big, small, big)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    factors = [function.guard.stats()["memory"]["need"]["factor"] for function in (small, big)]
    assert factors == pytest.approx([1.1, 3.3], rel=0.15)


def test_machines_that_do_not_tell_are_refused(monkeypatch):
    """Where the peak of a call can't be measured, need="learned" is refused at decoration, with the fix."""
    blind = meter.Meter()
    blind._why_not = "/proc/self/clear_refs can't be written (No such file or directory)"
    monkeypatch.setattr(meter, "of_this_process", blind)
    with pytest.raises(PolicyError, match=r"not possible here: /proc/self/clear_refs can't.*Fix: declare it"):
        guarded(memory=Memory(need="learned"))(predict)


def test_a_kernel_that_stops_telling_ends_the_measuring(monkeypatch):
    """A descriptor that somebody closed, or a status without VmHWM, ends measuring; calls go on as before."""
    broken = meter.Meter()
    claim = container.of_this_container.promise(10 * MIB)
    measured = broken.start(claim.need)
    monkeypatch.setattr(broken, "_peak", lambda: int("no number"))
    assert broken.stop(measured) is None
    assert "does not say the peak" in broken.why_not
    assert broken.start(claim.need) is None
    other = meter.Meter()
    assert other.why_not is None
    monkeypatch.setattr(other, "_peak", lambda: int("no number"))
    assert other.start(claim.need) is None
    claim.release()


@pytest.mark.parametrize("missing", ["/proc/self/clear_refs", "/proc/self/status"])
def test_a_proc_without_the_files_is_told(monkeypatch, missing):
    """Which file can't be opened is said."""
    real = measuring.meter.os.open

    def opened(path, *flags):
        if path == missing:
            raise FileNotFoundError(2, "No such file or directory")
        return real(path, *flags)

    monkeypatch.setattr(meter.os, "open", opened)
    assert missing in meter.Meter().why_not


def test_descriptors_that_are_another_file_by_now(monkeypatch, tmp_path):
    """A daemon that closes every descriptor, and opens files of its own, finds nothing written into those."""
    own = meter.Meter()
    assert own.why_not is None
    before = own._files
    theirs = [os.open(tmp_path / str(place), os.O_RDWR | os.O_CREAT) for place in range(2)]
    for mine, descriptor in zip(before, theirs, strict=True):
        os.write(descriptor, b"precious")
        os.dup2(descriptor, mine)
    measured = own.start(0)
    assert measured is not None
    assert own.stop(measured) is not None
    assert {(tmp_path / str(place)).read_bytes() for place in range(2)} == {b"precious"}
    for descriptor in (*before, *theirs):
        os.close(descriptor)  # none was closed behind its owner's back
    own.renew()


def test_a_child_forked_while_a_call_is_measured_can_measure(monkeypatch):
    """What ends in a child and was begun in its parent says nothing; the child's own calls can be measured."""
    own = meter.Meter()
    measured = own.start(0)
    own.renew()  # as in a child
    assert own.stop(measured) is None
    assert own.why_not is None
