"""The guard of one function: what is admitted, what waits, what is refused, and what is told about it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import pickle
import threading
import time
import weakref
from contextvars import copy_context

import cloudpickle
import pytest
import structlog

from mlguard import clock
from mlguard.context import Call
from mlguard.errors import MemoryPressureError, PolicyError
from mlguard.memory import Memory, MemoryGuard, container, garbage, refusal
from mlguard.target import Target

MIB = 1 << 20


def predict(batch=None):
    return batch


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch):
    """Each test has a collector that may run."""
    monkeypatch.setattr(garbage, "of_this_process", garbage.Collector())


@pytest.fixture
def logs():
    with structlog.testing.capture_logs() as entries:
        yield entries


def make(gauge, need=None, **settings):
    return MemoryGuard(Target(predict), Memory(**settings), need=need, gauge=gauge)


def attempt(guard, *args, this=None, deadline=None):
    """What the call path does before the function runs."""
    names = guard.names(asynchronous=False)
    return copy_context().run(names["memory_enter"], args, {}) or copy_context().run(
        names["memory_wait"], this, args, {}, deadline
    )


async def attempt_async(guard, *args, this=None, deadline=None):
    names = guard.names(asynchronous=True)
    return copy_context().run(names["memory_enter"], args, {}) or await names["memory_wait"](this, args, {}, deadline)


def test_a_call_below_the_threshold_is_admitted(given, gauge):
    """Up to and at the threshold a call runs; a byte above it does not."""
    guard = make(gauge, threshold=0.5, max_wait=0)
    given.used = 500 * MIB
    claim = attempt(guard)
    assert claim
    guard.exit(claim)
    given.used += 1
    with pytest.raises(MemoryPressureError):
        attempt(guard)


def test_declared_need_counts(given, gauge):
    """A call is admitted only where its need fits as well."""
    given.used = 500 * MIB
    guard = make(gauge, threshold=0.5, max_wait=0, need=1)
    with pytest.raises(MemoryPressureError):
        attempt(guard)
    given.used -= 1
    assert attempt(guard)


def test_small_calls_share_a_reading(given, gauge, time_stands_still):
    """Small calls reuse a reading while memory can't have filled up, up to 250 ms; then one reads again."""
    guard = make(gauge)
    for _ in range(5):
        assert attempt(guard)
    assert given.reads == 1
    time_stands_still.now += 0.251
    assert attempt(guard)
    assert given.reads == 2


def test_a_reading_ages_faster_when_little_room_is_left(given, gauge, time_stands_still):
    """With 30 MB left a reading serves 10 ms, which is what it takes to fill them at 3 GB/s."""
    given.used = int(0.85 * given.limit) - 30_000_000
    guard = make(gauge)
    attempt(guard)
    time_stands_still.now += 0.009
    attempt(guard)
    assert given.reads == 1
    time_stands_still.now += 0.002
    attempt(guard)
    assert given.reads == 2


def test_close_to_the_threshold_every_call_reads(given, gauge, time_stands_still):
    """With less than a mebibyte of room no reading is reused."""
    given.used = int(0.85 * given.limit) - 1000
    guard = make(gauge)
    assert attempt(guard)
    assert attempt(guard)
    assert given.reads == 2


def test_big_calls_always_read(given, gauge, time_stands_still):
    """A call that needs more than 1 MiB never trusts an old reading."""
    guard = make(gauge, need="2MiB")
    for _ in range(3):
        guard.exit(attempt(guard))
    assert given.reads == 3


def test_a_factor_decides_by_the_input(given, gauge, time_stands_still):
    """With need "3x", small inputs share a reading and big ones are checked against three times their bytes."""
    guard = make(gauge, need="3x", max_wait=0)
    assert attempt(guard, b"small")
    assert attempt(guard, b"small") is True
    assert given.reads == 1
    claim = attempt(guard, memoryview(bytes(MIB)))
    assert claim.need == 3 * MIB
    guard.exit(claim)
    given.used = int(0.85 * given.limit) - 2 * MIB
    with pytest.raises(MemoryPressureError, match="this call needs 3MiB"):
        attempt(guard, memoryview(bytes(MIB)))


def test_needs_in_flight_are_reserved(given, gauge):
    """Two calls that fit one at a time don't both start, and the second starts once the first has ended."""
    guard = make(gauge, need="500MiB", max_wait=0)
    first = attempt(guard)
    with pytest.raises(MemoryPressureError, match="500MiB are promised to calls in flight") as caught:
        attempt(guard)
    assert not caught.value.permanent
    guard.exit(first)
    guard.exit(attempt(guard))


def test_what_is_in_flight_and_allocated_counts_once(given, gauge):
    """Once a call has allocated what it was promised, it does not count twice."""
    guard = make(gauge, need="400MiB", max_wait=0)
    first = attempt(guard)
    given.used = 400 * MIB
    second = attempt(guard)
    guard.exit(first)
    guard.exit(second)


def test_memory_that_stays_after_a_call_counts(given, gauge):
    """What the allocator keeps after a call is used memory for the next."""
    guard = make(gauge, need="400MiB", max_wait=0)
    first = attempt(guard)
    given.used = 500 * MIB  # 400 as promised, 100 that nobody declared
    with pytest.raises(MemoryPressureError):
        attempt(guard)
    guard.exit(first)
    with pytest.raises(MemoryPressureError):
        attempt(guard)


def test_two_guards_share_the_reservations(given, gauge):
    """Memory counts per process, not per function."""
    one, other = make(gauge, need="500MiB", max_wait=0), make(gauge, need="500MiB", max_wait=0)
    claim = attempt(one)
    with pytest.raises(MemoryPressureError):
        attempt(other)
    one.exit(claim)


def test_a_need_that_can_never_fit_is_refused_at_once(given, gauge, time_stands_still):
    """A need above the threshold of the limit is permanent: it neither waits nor collects."""
    guard = make(gauge, need="900MiB")
    with pytest.raises(MemoryPressureError, match="even with nothing else in memory") as caught:
        attempt(guard)
    error = caught.value
    assert (error.permanent, error.retry_after, error.need) == (True, None, 900 * MIB)
    assert (time_stands_still.pauses, guard.stats()["collected"]) == ([], 0)
    assert "Fix:" in str(error)


def test_the_refusal_tells_everything(given, gauge, time_stands_still):
    """The error carries used, limit, need, source and retry_after, says them in words, and pickles."""
    given.used = 900 * MIB
    guard = make(gauge, need="100KiB", max_wait=2)
    with pytest.raises(MemoryPressureError) as caught:
        attempt(guard)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.used, error.limit, error.need, error.source) == (900 * MIB, 1000 * MIB, 102400, "given")
    assert (error.retry_after, error.permanent) == (2, False)
    assert str(error) == (
        "predict was not run: 900MiB are used, and this call needs 100KiB; 850MiB may be used, 85% of the 1000MiB "
        "limit of given. It waited 2s. Fix: retry later or elsewhere, run fewer calls at once, raise the limit, or "
        "memory.max_wait."
    )


def test_waiting_ends_when_memory_is_back(given, gauge, time_stands_still):
    """A call waits in small steps and runs as soon as memory is back; what it waited is told."""
    given.used = 900 * MIB

    def on_sleep():
        if len(time_stands_still.pauses) == 6:
            given.used = 0

    time_stands_still.on_sleep = on_sleep
    guard, this = make(gauge), Call()
    assert attempt(guard, this=this)
    waited = sum(time_stands_still.pauses)
    assert time_stands_still.pauses[0] == 0.001
    assert max(time_stands_still.pauses) <= 0.01
    assert this.waited == pytest.approx(waited)
    assert this.facts["mlguard.memory.waited"] == pytest.approx(waited)
    assert this.facts["mlguard.memory.collected"] is True
    stats = guard.stats()
    assert (stats["waited"], stats["rejected"]) == (1, 0)
    assert stats["waited_seconds"] == pytest.approx(waited)


def test_the_wait_is_bounded_by_max_wait(given, gauge, time_stands_still):
    """In vain, a call waits exactly max_wait."""
    given.used = 900 * MIB
    guard, this = make(gauge, max_wait="700ms"), Call()
    with pytest.raises(MemoryPressureError):
        attempt(guard, this=this)
    assert sum(time_stands_still.pauses) == pytest.approx(0.7)
    assert this.waited == pytest.approx(0.7)
    assert guard.stats()["rejected"] == 1


def test_the_wait_is_bounded_by_the_deadline(given, gauge, time_stands_still):
    """A deadline that comes before max_wait ends the wait."""
    given.used = 900 * MIB
    with pytest.raises(MemoryPressureError, match="It waited 200ms"):
        attempt(make(gauge), deadline=clock.now() + 0.2)
    assert sum(time_stands_still.pauses) == pytest.approx(0.2)


def test_the_wait_ends_where_sleeping_is_instant(given, gauge, monkeypatch):
    """In tests that make sleeping instant, a wait in vain ends after as many looks as usual, and not after max_wait."""
    given.used = 900 * MIB
    pauses = []
    monkeypatch.setattr(clock, "sleep", pauses.append)
    with pytest.raises(MemoryPressureError):
        attempt(make(gauge, max_wait=60))
    assert len(pauses) < 6100
    assert sum(pauses) == pytest.approx(60)


async def test_the_asynchronous_wait_is_the_same(given, gauge, time_stands_still):
    """The coroutine's wait has the same steps, bounds and words."""
    given.used = 900 * MIB
    guard = make(gauge, max_wait=0.3)
    with pytest.raises(MemoryPressureError, match="It waited 300ms"):
        await attempt_async(guard)
    time_stands_still.on_sleep = lambda: setattr(given, "used", 0)
    assert await attempt_async(guard)


async def test_the_asynchronous_wait_lets_the_loop_run(given, gauge):
    """While a call waits for memory, other tasks go on."""
    given.used = 900 * MIB
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    other = asyncio.create_task(tick())
    with pytest.raises(MemoryPressureError):
        await attempt_async(make(gauge, max_wait=0.1, collect_garbage=False))
    other.cancel()
    assert ticks >= 10


async def test_a_cancelled_wait_passes_through(given, gauge):
    """Cancelling a waiting call cancels it, holds no promise, and tells what it waited."""
    given.used = 900 * MIB
    guard, this = make(gauge, need="2MiB"), Call()
    task = asyncio.create_task(attempt_async(guard, this=this))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert this.waited > 0.01
    assert guard.stats()["rejected"] == 0


async def test_a_plain_function_on_an_event_loop_does_not_wait(given, gauge, time_stands_still):
    """A blocking wait would stop the loop whose calls hold the memory, so the call is refused at once and says why."""
    given.used = 900 * MIB
    with pytest.raises(MemoryPressureError, match="would block the event loop"):
        attempt(make(gauge))
    assert time_stands_still.pauses == []


def test_threads_wait_for_each_other(given, gauge):
    """In real threads, calls that fit only one at a time all run, one at a time."""
    guard, running, most, lock = make(gauge, need="500MiB", max_wait=10), 0, 0, threading.Lock()

    def call():
        nonlocal running, most
        claim = attempt(guard)
        try:
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.01)
            with lock:
                running -= 1
        finally:
            guard.exit(claim)

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert guard.stats()["waited"] >= 1


def test_log_mode_changes_nothing_but_the_log(given, gauge, time_stands_still, logs):
    """With on_pressure="log" a call over the threshold runs at once: no wait, no collection, one warning, counted."""
    given.used = 900 * MIB
    guard, this = make(gauge, on_pressure="log"), Call()
    assert attempt(guard, this=this) is True
    stats = guard.stats()
    assert (stats["logged"], stats["collected"], stats["rejected"], time_stands_still.pauses) == (1, 0, 0, [])
    assert this.facts == {"mlguard.memory.exceeded": True}
    assert [(entry["event"], entry["action"]) for entry in logs] == [("mlguard.memory.pressure", "admitted")]


def test_log_mode_lets_even_the_impossible_pass_and_remembers_it(given, gauge, logs):
    """A need beyond the limit runs as well, and counts as in flight while it does."""
    guard = make(gauge, on_pressure="log", need="2GiB")
    claim = attempt(guard)
    assert container.of_this_container.reserved == 2048 * MIB
    guard.exit(claim)


def test_warnings_are_rare_and_complete(given, gauge, time_stands_still, logs):
    """One warning in ten seconds, with all figures and the number of those left out."""
    given.used = 900 * MIB
    guard = make(gauge, on_pressure="log", need=7)
    for _ in range(3):
        attempt(guard)
    time_stands_still.now += 11
    attempt(guard)
    assert logs[0] == {
        "event": "mlguard.memory.pressure",
        "log_level": "warning",
        "function": f"{__name__}.predict",
        "action": "admitted",
        "suppressed": 0,
        "need": 7,
        "threshold": 0.85,
        "used": 900 * MIB,
        "limit": 1000 * MIB,
        "source": "given",
    }
    assert [entry["suppressed"] for entry in logs] == [0, 2]


def test_a_log_that_fails_fails_no_call(given, gauge, monkeypatch):
    """A logging set-up that raises is counted, and the call goes on."""
    given.used = 900 * MIB
    guard = make(gauge, on_pressure="log")
    monkeypatch.setattr(refusal._log, "warning", _broken, raising=False)
    assert attempt(guard)
    assert guard.stats()["log_failures"] == 1


def _broken(*_args, **_fields):
    raise OSError("the disk is full")


@pytest.mark.parametrize("answer", [-1, float("nan"), float("inf"), "many", None, ValueError("x")])
def test_an_estimate_that_fails_counts_as_nothing(given, gauge, logs, answer):
    """A need function that raises or returns no number of bytes is counted, warned of once, and fails no call."""

    def need(batch):
        if isinstance(answer, Exception):
            raise answer
        return answer

    guard = make(gauge, need=need)
    for _ in range(3):
        assert attempt(guard) is True
    assert guard.stats()["need_failures"] == 3
    assert [entry["event"] for entry in logs] == ["mlguard.memory.need_failed"]


def test_an_estimate_that_fails_under_pressure_counts_once(given, gauge, time_stands_still, logs):
    """The wait asks again for the need, but counts its failure only once."""
    given.used = 900 * MIB
    guard = make(gauge, need=lambda batch: -1, max_wait=0.1)
    with pytest.raises(MemoryPressureError):
        attempt(guard)
    assert guard.stats()["need_failures"] == 1


def test_an_interrupt_in_an_estimate_passes_through(gauge):
    """Only exceptions of the estimate are survived; an interrupt is not one."""

    def need(batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(make(gauge, need=need))


def test_unreadable_memory_admits_and_is_counted(given, gauge, time_stands_still, logs):
    """Where nothing can be read, calls run: a blind guard must not stop a service. It looks again after a second."""
    given.used = OSError("gone")
    guard = make(gauge)
    assert attempt(guard)
    assert attempt(guard)
    stats = guard.stats()
    assert (stats["unreadable"], stats["probe_failures"], stats["used"]) == (1, 1, None)
    assert guard.facts() == {}
    assert "Admits every call" in guard.explain()[0]
    assert [entry["event"] for entry in logs] == ["mlguard.memory.unreadable"]
    given.used = 900 * MIB
    time_stands_still.now += 1.1
    with pytest.raises(MemoryPressureError):
        attempt(guard)


def test_memory_that_becomes_unreadable_ends_the_wait(given, gauge, time_stands_still):
    """A call that waits when the files vanish runs."""
    given.used = 900 * MIB
    time_stands_still.on_sleep = lambda: setattr(given, "used", OSError("gone"))
    assert attempt(make(gauge)) is True


def test_a_limit_of_zero_refuses_without_dividing(given, gauge, time_stands_still):
    """A limit of 0 leaves no room: calls are refused with an error, not with a ZeroDivisionError."""
    given.used, given.limit = 1, 0
    with pytest.raises(MemoryPressureError, match=r"85% of the 0B limit"):
        attempt(make(gauge))
    with pytest.raises(MemoryPressureError) as caught:
        attempt(make(gauge, need=1))
    assert caught.value.permanent


def test_facts_come_from_the_last_reading(given, gauge):
    """The event's facts cost no reading of their own."""
    guard = make(gauge)
    assert guard.facts() == {}
    given.used = 5
    attempt(guard)
    reads = given.reads
    assert guard.facts() == {"mlguard.memory.used": 5, "mlguard.memory.limit": 1000 * MIB}
    assert given.reads == reads


def test_explain_names_every_number_in_force(given, gauge):
    """explain() names the source, the limit, the threshold, the need and what happens over it."""
    given.used = 10 * MIB
    assert make(gauge, need="3x", threshold=0.8).explain() == [
        "Admits a call while used + its need <= 80% of the 1000MiB limit of given, 800MiB; 10MiB are used now.",
        "A call's need is 3 x the bytes of its input.",
        f"Promises to calls of all processes of the container count, by {container.of_this_container.state()['file']}.",
        "Over that, it shrinks mlguard's caches, collects garbage and hands freed memory back (each at most 5% of the "
        "time), waits up to 5s, then raises MemoryPressureError.",
    ]
    assert make(gauge, on_pressure="log", need=MIB).explain()[1:] == [
        "A call's need is 1MiB.",
        "Over that, it warns, and the call goes on.",
    ]
    said = make(gauge, need=predict, max_wait=0, scope="process", collect_garbage=False, shrink_caches=False).explain()
    assert said[1:] == [
        "A call's need is what predict() says.",
        "Promises to calls of this process count; those of other processes don't.",
        "Over that, it raises MemoryPressureError.",
    ]


def test_the_need_at_the_decorator_replaces_that_of_the_policy(gauge):
    """need= at the decorator is about this function and wins over the section's."""
    assert make(gauge, need=5 * MIB).explain()[1] == "A call's need is 5MiB."
    guard = MemoryGuard(Target(predict), Memory(need="1GiB"), need="2x", gauge=gauge)
    assert guard.explain()[1] == "A call's need is 2 x the bytes of its input."


def test_reset_forgets_counts_and_keeps_promises(given, gauge, time_stands_still):
    """reset() starts the counts anew; a call in flight still gives back what it was promised."""
    guard = make(gauge, need="100MiB", max_wait=0)
    claim = attempt(guard)
    given.used = 900 * MIB
    with pytest.raises(MemoryPressureError):
        attempt(guard)
    guard.reset()
    stats = guard.stats()
    assert (stats["rejected"], stats["used"], stats["reserved"]) == (0, None, 100 * MIB)
    guard.exit(claim)


def test_names_pickle_by_value(given, gauge):
    """The names of the call path survive cloudpickle; state and gauge are made anew on the other side."""
    guard = make(gauge, need=lambda batch: 7)
    names = cloudpickle.loads(cloudpickle.dumps(guard.names(asynchronous=False)))
    names["memory_exit"](names["memory_enter"]((1,), {}))
    assert names["memory_enter"].__self__.stats()["rejected"] == 0


def test_refused_arguments_are_free(given, gauge, time_stands_still):
    """Once the caller has dropped the error, nothing keeps the arguments, with the garbage collector off."""

    class Batch:
        nbytes = 5

    given.used = 900 * MIB
    guard = make(gauge, need="3x", max_wait=0.1)
    batch = Batch()
    gone = weakref.ref(batch)
    gc.disable()
    try:
        with contextlib.suppress(MemoryPressureError):
            attempt(guard, batch)
        assert guard.stats()["rejected"] == 1
        del batch
        assert gone() is None
    finally:
        gc.enable()


def test_a_need_that_takes_other_arguments_is_refused(gauge):
    """A need function that could never be called is refused at decoration, not counted at every call."""
    with pytest.raises(PolicyError, match="Fix: give it the same parameters"):
        make(gauge, need=lambda other, parameters: 1)
