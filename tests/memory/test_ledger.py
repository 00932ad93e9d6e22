"""Admission by reservation: what counts, who goes first, and what comes back, in one process and between two.

Two ledgers in one process, each with a file of its own open, are to the kernel what two processes are; real ones are
forked and killed in tests/faults.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from contextvars import copy_context
from types import SimpleNamespace

import pytest

from mlguard import clock
from mlguard.memory import Memory, MemoryGuard, container, line
from mlguard.memory.container import ContainerLedger
from mlguard.memory.ledger import Ledger
from mlguard.memory.line import ThreadWaiter
from mlguard.target import Target

MIB = 1 << 20


def predict(batch=None):
    return batch


@pytest.fixture
def two():
    """The ledgers of two processes of one container."""
    made = [ContainerLedger(SimpleNamespace(group="a container")) for _ in range(2)]
    yield made
    for one in made:
        one.renew()


def ask(one, need, gauge, waiter=None, **options):
    return one.reserve(need * MIB, gauge, 1.0, waiter, **options).claim


def waiting(one, need, since=0.0, share=1.0):
    """A call that has waited in that ledger's process for long."""
    waiter = ThreadWaiter(need * MIB, share)
    waiter.since -= since
    assert one.line.join(waiter)
    return waiter


# --- what counts


def test_the_formula(given, gauge):
    """Admitted if max(used, base + promised) + need <= share x limit: each side decides where it is more."""
    one = Ledger()
    given.used = 100 * MIB  # the base: nothing is promised yet
    first = ask(one, 300, gauge)
    look = one.reserve(600 * MIB, gauge, 1.0)
    assert look.claim
    assert (look.room, look.room_when_idle, look.reserved) == (600 * MIB, 900 * MIB, 300 * MIB)
    assert one.reserve(1, gauge, 1.0).room == 0  # 100 + 900 promised, though only 100 are used
    look.claim.release()
    given.used = 700 * MIB  # 300 as promised, and 300 that nobody was
    assert not ask(one, 301, gauge)
    assert ask(one, 300, gauge)
    first.release()


def test_a_promise_does_not_count_twice(given, gauge):
    """Once a call has allocated what it was promised, that counts once."""
    one = Ledger()
    first = ask(one, 500, gauge)
    given.used = 500 * MIB
    assert ask(one, 500, gauge)
    assert first.need == 500 * MIB


def test_every_level_counts(given, gauge, a_host, monkeypatch):
    """A level with more room left may still be the one that promises would fill: each is judged with its own base."""
    inner, outer = a_host(0, 900 * MIB, "inner"), a_host(500 * MIB, 1200 * MIB, "outer")
    monkeypatch.setattr(gauge, "readings", lambda: [inner.read(), outer.read()])
    one = Ledger()
    assert ask(one, 600, gauge)
    inner.used, outer.used = 600 * MIB, 500 * MIB  # the inner one is tighter by what is used: 300 against 700
    look = one.reserve(200 * MIB, gauge, 1.0)
    assert look.claim is None
    assert look.reading.source == "outer"


def test_a_level_that_can_never_do_is_the_one_named(a_host, gauge, monkeypatch):
    """A need above the limit of any level is permanent, even where another level has less room left."""
    inner, outer = a_host(0, 100 * MIB, "inner"), a_host(990 * MIB, 1000 * MIB, "outer")
    monkeypatch.setattr(gauge, "readings", lambda: [inner.read(), outer.read()])
    look = Ledger().reserve(200 * MIB, gauge, 1.0)
    assert (look.permanent, look.reading.source) == (True, "inner")


def test_a_passing_rise_is_forgotten_after_a_minute(given, gauge, time_stands_still):
    """In a service that is never idle, memory that was used once for a moment does not stay in the way for ever."""
    one = Ledger()
    ask(one, 400, gauge)  # a stream, say: it is held all the time
    given.used = 800 * MIB
    assert not ask(one, 300, gauge)
    given.used = 400 * MIB  # what the stream was promised
    assert not ask(one, 300, gauge)
    time_stands_still.now += 61
    assert ask(one, 300, gauge)


def test_what_was_given_back_since_is_no_base(given, gauge):
    """The base is a part of what is used: where less is used than it was when nothing was promised, it is less."""
    one = Ledger()
    given.used = 700 * MIB
    ask(one, 100, gauge)
    given.used = 200 * MIB
    assert ask(one, 700, gauge)


def test_a_reading_older_than_the_end_of_a_call_is_taken_again(given, gauge):
    """A call that ends while memory is read may have left some behind, so that it is read once more."""
    one = Ledger()
    claims = [one.promise(5)]
    original = given.read

    def read():
        reading = original()
        if claims:
            claims.pop().release()
        return reading

    given.read = read
    assert one.reserve(7, gauge, 1.0).claim
    assert given.reads == 2
    assert one.reserved == 7


def test_calls_that_end_all_the_time_make_it_wait(given, gauge):
    """Where calls end during every reading the call is not admitted by an old one: it waits and looks again."""
    one, original = Ledger(), given.read

    def read():
        one.promise(5).release()
        return original()

    given.read = read
    assert one.reserve(7, gauge, 1.0).claim is None
    assert given.reads == 3


def test_alone_means_alone(given, gauge):
    """A call of unknown need starts only where nothing is promised, gets all that is left, and lets nobody start."""
    one = Ledger()
    given.used = 100 * MIB
    other = ask(one, 50, gauge)
    assert ask(one, 10, gauge, alone=True) is None
    other.release()
    claim = ask(one, 10, gauge, alone=True)
    assert claim.need == 900 * MIB
    given.limit *= 2
    assert ask(one, 10, gauge) is None
    claim.release()
    assert ask(one, 10, gauge)


def test_a_claim_from_before_a_fork_is_the_parents():
    """A child that ends a call which its parent began takes nothing back: it never promised anything."""
    one = Ledger()
    claim = one.promise(5)
    one.renew()
    one.promise(7)
    claim.release()
    assert one.reserved == 7


# --- between processes


def test_promises_of_another_process_count(given, gauge, two):
    """Two processes that fit one at a time don't both start; the second starts once the first has ended."""
    one, other = two
    claim = ask(one, 600, gauge)
    assert ask(other, 600, gauge) is None
    assert (other.reserved, other.reserved_here) == (600 * MIB, 0)
    claim.release()
    assert ask(other, 600, gauge)


def test_the_base_is_shared(given, gauge, two):
    """What is used while nothing is promised anywhere is known to all: allocated promises count once for all."""
    one, other = two
    given.used = 200 * MIB
    ask(one, 300, gauge)
    given.used = 500 * MIB  # the first has allocated
    assert ask(other, 501, gauge) is None
    claim = ask(other, 500, gauge)
    assert claim
    claim.release()
    given.used = 200 * MIB  # the first gave it back early, and may take it again
    assert ask(other, 501, gauge) is None


def test_bytes_of_a_process_that_is_gone_come_back(given, gauge, two, time_stands_still):
    """The kernel drops the lock of a process that ends, and the next look finds its slot abandoned."""
    one, other = two
    ask(one, 600, gauge)
    assert ask(other, 600, gauge) is None
    os.close(one._file._fd)
    time_stands_still.now += 0.11
    assert ask(other, 600, gauge)
    assert other.state()["processes"] == 1


def test_a_slot_that_was_abandoned_is_used_again(given, gauge, two):
    """The file does not grow with every worker that was restarted."""
    one, other = two
    ask(one, 600, gauge)
    os.close(one._file._fd)
    ask(other, 1, gauge)
    assert os.stat(other._file.path).st_size == 576 + 64


def test_other_containers_don_t_count(given, gauge, two):
    """Two containers that share a folder keep their books apart."""
    one, _ = two
    other = ContainerLedger(SimpleNamespace(group="another container"))
    ask(one, 600, gauge)
    assert ask(other, 600, gauge)
    other.renew()


def test_a_process_that_is_moved_takes_its_promises_along(given, gauge, two):
    """Moved to another container, a process gives its slot up there and tells the new one what it promised."""
    one, other = two
    claim = ask(one, 600, gauge)
    one._gauge.group = "another container"
    small = ask(one, 1, gauge)
    assert other.reserved == 0
    third = ContainerLedger(SimpleNamespace(group="another container"))
    assert ask(third, 600, gauge) is None
    assert third.reserved == 601 * MIB
    for held in (claim, small):
        held.release()
    third.renew()


# --- who goes first


def test_a_newcomer_does_not_pass_who_waits(given, gauge):
    """While a call waits, another of its size does not start before it."""
    one = Ledger()
    given.used = 500 * MIB
    waiter = waiting(one, 600)
    assert ask(one, 400, gauge) is None
    given.used = 0
    assert ask(one, 600, gauge, waiter)


def test_small_calls_pass_up_to_the_need_of_who_waits(given, gauge):
    """Calls of a quarter of its need pass a blocked one, until together they needed as much as it does."""
    one = Ledger()
    given.used = 700 * MIB
    waiting(one, 400)
    assert ask(one, 101, gauge) is None
    passed = []
    for _ in range(6):
        claim = ask(one, 100, gauge)
        passed.append(claim is not None)
        if claim:
            claim.release()
    assert passed == [True] * 4 + [False] * 2


def test_the_next_in_line_has_a_count_of_its_own(given, gauge):
    """Who passed the one before does not count against the next that waits."""
    one = Ledger()
    given.used = 700 * MIB
    first, second = waiting(one, 400), waiting(one, 400)
    for _ in range(4):
        ask(one, 100, gauge).release()
    assert ask(one, 100, gauge) is None
    one.leave(first)
    assert ask(one, 100, gauge)
    one.leave(second)


def test_a_call_that_may_fill_memory_further_is_not_held_up(given, gauge):
    """A call whose threshold is higher does not wait for one that waits below a lower threshold."""
    one = Ledger()
    given.used = 600 * MIB
    waiting(one, 100, share=0.5)
    assert one.reserve(100 * MIB, gauge, 0.9).claim
    assert one.reserve(100 * MIB, gauge, 0.5).claim is None


def test_who_shows_no_sign_of_life_is_passed_by(given, gauge, time_stands_still):
    """A waiting call whose event loop is stuck does not hold up the others of its process for long."""
    one = Ledger()
    waiting(one, 600)
    assert ask(one, 600, gauge) is None
    time_stands_still.now += 0.6
    assert ask(one, 600, gauge)


def test_who_waits_in_another_process_goes_first(given, gauge, two):
    """Once it has waited for 50 ms a call goes before those of other processes that came later."""
    one, other = two
    given.used = 700 * MIB
    waiter = waiting(one, 400, since=1)
    assert ask(one, 400, gauge, waiter) is None  # which tells the others
    given.used = 500 * MIB
    assert ask(other, 400, gauge) is None
    later = waiting(other, 400, since=0.5)
    assert ask(other, 400, gauge, later) is None
    other.leave(later)
    earlier = waiting(other, 400, since=2)
    assert ask(other, 400, gauge, earlier)


def test_small_calls_of_another_process_pass_as_well(given, gauge, two):
    """The bound on who may pass a blocked call holds for the container, not for each process."""
    one, other = two
    given.used = 700 * MIB
    waiter = waiting(one, 400, since=1)
    assert ask(one, 400, gauge, waiter) is None
    for who in (one, other, one, other):
        ask(who, 100, gauge).release()
    assert ask(one, 100, gauge) is None
    assert ask(other, 100, gauge) is None


def test_a_call_that_gave_up_stops_nobody(given, gauge, two):
    """Whoever leaves the line is struck off for other processes at once."""
    one, other = two
    given.used = 700 * MIB
    waiter = waiting(one, 400, since=1)
    assert ask(one, 400, gauge, waiter) is None
    one.leave(waiter)
    assert ask(other, 300, gauge)


def test_a_stopped_process_that_waits_stops_nobody(given, gauge, two, time_stands_still):
    """A process that was stopped while its call waited is passed by after half a second."""
    one, other = two
    given.used = 700 * MIB
    waiter = waiting(one, 400, since=1)
    assert ask(one, 400, gauge, waiter) is None
    assert ask(other, 300, gauge) is None
    time_stands_still.now += 0.6
    assert ask(other, 300, gauge)


# --- waiting, through a guard


def make(gauge, one, need, **settings):
    return MemoryGuard(Target(predict), Memory(**settings), need=need * MIB, gauge=gauge, ledger=one)


def blocking(guard):
    names = guard.names(asynchronous=False)
    return copy_context().run(names["memory_enter"], (), {}) or copy_context().run(
        names["memory_wait"], None, (), {}, None
    )


async def waiting_task(guard):
    names = guard.names(asynchronous=True)
    return copy_context().run(names["memory_enter"], (), {}) or await names["memory_wait"](None, (), {}, None)


async def test_threads_and_tasks_wait_in_one_line(gauge, two):
    """Calls that fit one at a time start in the order they came, whether a thread or a task waits."""
    one, order = two[0], []
    guard = make(gauge, one, 600, max_wait=10)
    first = blocking_in(gauge, one)

    async def task(number):
        claim = await waiting_task(guard)
        order.append(number)
        await asyncio.sleep(0.002)
        guard.exit(claim)

    def thread(number):
        claim = blocking(guard)
        order.append(number)
        time.sleep(0.002)
        guard.exit(claim)

    running = []
    for number in range(6):
        running.append(asyncio.create_task(task(number) if number % 2 else asyncio.to_thread(thread, number)))
        while len(one.line) <= number:
            await asyncio.sleep(0.001)
    first.release()
    await asyncio.gather(*running)
    assert order == list(range(6))
    assert (one.reserved, len(one.line)) == (0, 0)


def blocking_in(gauge, one):
    claim = ask(one, 600, gauge)
    assert claim
    return claim


async def test_a_release_wakes_at_once(gauge):
    """A call that ends in the same process rings for the next: there is no pause in between."""
    one = Ledger()
    guard = make(gauge, one, 500, max_wait=10)
    first = blocking_in(gauge, one)
    task = asyncio.create_task(waiting_task(guard))
    await asyncio.sleep(0.1)  # its pauses are 10 ms by now
    started = time.perf_counter()
    first.release()
    claim = await task
    assert time.perf_counter() - started < 0.009
    claim.release()


@pytest.mark.parametrize("moment", range(4))
async def test_cancelled_tasks_leave_nothing_behind(gauge, moment):
    """Whenever a waiting call is cancelled, no promise and no place in the line stays, and the next one starts."""
    one = Ledger()
    guard = make(gauge, one, 500, max_wait=10)
    first = blocking_in(gauge, one)
    done = []

    async def call(number):
        claim = await waiting_task(guard)
        done.append(number)
        claim.release()

    tasks = [asyncio.create_task(call(number)) for number in range(3)]
    await asyncio.sleep(0.02)
    if moment % 2:
        first.release()  # the first task is rung for, and cancelled before it can look
    for task in tasks[: moment // 2 + 1]:
        task.cancel()
    if not moment % 2:
        first.release()
    await asyncio.wait(tasks, timeout=2)
    assert done == list(range(moment // 2 + 1, 3))
    assert (one.reserved, len(one.line)) == (0, 0)


async def test_a_thousand_tasks_wait_cheaply(given, gauge):
    """Of those who wait only the first looks for memory; the others sleep until it is their turn."""
    one = Ledger()
    guard = make(gauge, one, 500, max_wait=10, collect_garbage=False, shrink_caches=False)
    first = blocking_in(gauge, one)
    tasks = [asyncio.create_task(waiting_task(guard)) for _ in range(line.MOST_WAITING)]
    await asyncio.sleep(0.2)
    before = given.reads
    await asyncio.sleep(0.3)
    assert given.reads - before < 60
    with pytest.raises(Exception, match=r"1000 calls of this process do already"):
        await waiting_task(guard)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    first.release()
    assert len(one.line) == 0


def test_a_blocked_big_call_lets_small_ones_pass(given, gauge):
    """Small calls that came later start while a big one waits, and are told so by it."""
    one = Ledger()
    given.used = 700 * MIB
    big, small = make(gauge, one, 400, threshold=1, max_wait=10), make(gauge, one, 50, threshold=1, max_wait=10)
    threads = [threading.Thread(target=lambda: blocking(big).release())]
    threads[0].start()
    while not len(one.line):
        time.sleep(0.001)
    assert blocking(small).need == 50 * MIB
    given.used = 0
    threads[0].join(5)
    assert not threads[0].is_alive()
    one.renew()


def test_a_big_call_starts_in_the_end(given, gauge):
    """Under a steady stream of small calls a big one starts after a bounded number of them."""
    one, stop, done = Ledger(), threading.Event(), []
    big = make(gauge, one, 800, threshold=1, max_wait=20, collect_garbage=False)
    small = make(gauge, one, 100, threshold=1, max_wait=20, collect_garbage=False)

    def stream():
        while not stop.is_set():
            claim = blocking(small)
            time.sleep(0.002)
            claim.release()
            done.append(1)

    threads = [threading.Thread(target=stream) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    before = len(done)
    blocking(big).release()
    passed = len(done) - before
    stop.set()
    for thread in threads:
        thread.join()
    assert passed <= 4 + 8 + 4  # in flight before, allowed to pass, ended while it started


def test_the_ambient_deadline_ends_the_wait(given, gauge, time_stands_still):
    """A guarded call inside another waits no longer than the outer one's deadline allows."""
    from mlguard import context
    from mlguard.errors import MemoryPressureError

    given.used = 900 * MIB
    outer = context.Call()
    outer.deadline = clock.now() + 0.2
    token = context.current.set(outer)
    try:
        with pytest.raises(MemoryPressureError, match="It waited 200ms"):
            blocking(make(gauge, Ledger(), 400))
    finally:
        context.current.reset(token)


async def test_a_task_whose_loop_is_closed_is_passed_by(gauge):
    """A waiting call whose event loop was closed under it stops nobody, and takes nothing."""
    one = Ledger()
    guard = make(gauge, one, 600, max_wait=10)
    first = blocking_in(gauge, one)

    def abandoned():
        loop = asyncio.new_event_loop()
        names = guard.names(asynchronous=True)
        coroutine = names["memory_wait"](None, (), {}, None)
        task = loop.create_task(coroutine)
        loop.run_until_complete(asyncio.sleep(0.01))
        task._log_destroy_pending = False
        loop.close()
        return task

    task = await asyncio.to_thread(abandoned)
    assert len(one.line) == 1
    first.release()
    assert one.line.first() is None
    claim = await waiting_task(guard)
    claim.release()
    del task
    gc.collect()
    assert len(one.line) == 0


def test_scope_decides_whose_promises_count(given, gauge):
    """With scope="process" neither do others' promises count here, nor those made here anywhere else."""

    def guard(scope):
        return MemoryGuard(Target(predict), Memory(scope=scope, max_wait=0), need=600 * MIB, gauge=gauge)

    shared, alone = guard("container"), guard("process")
    claim = blocking(shared)
    own = blocking(alone)
    assert (shared.stats()["scope"], shared.stats()["reserved"]) == ("container", 600 * MIB)
    stats = alone.stats()
    assert (stats["scope"], stats["reserved"], stats["processes"], stats["file"]) == ("process", 600 * MIB, 1, None)
    assert stats.keys() == shared.stats().keys()
    for each in (claim, own):
        each.release()


def test_log_mode_counts_no_pressure_where_there_is_none(given, gauge):
    """With on_pressure="log" a call that only another goes before passes; it counts as in flight, and no more."""
    one = Ledger()
    guard = make(gauge, one, 100, on_pressure="log")
    waiting(one, 900)
    claim = blocking(guard)
    assert (claim.need, guard.stats()["logged"]) == (100 * MIB, 0)
    claim.release()


def test_nothing_is_counted_for_a_ledger_nobody_asked():
    """The ledgers of the process open no file before a call needs much."""
    assert container.of_this_container._file is None
