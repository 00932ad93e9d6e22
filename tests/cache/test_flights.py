import asyncio
import contextvars
import gc
import threading
import time
import traceback
import weakref

import pytest

from mlguard import clock
from mlguard.cache import MISS
from mlguard.context import Call, current
from mlguard.errors import DeadlineExceededError
from mlguard.outcome import Disposition


def in_threads(count, call):
    """Calls from that many threads at once; returns what each got, result or exception."""
    results = [None] * count
    ready = threading.Barrier(count)

    def run(place):
        ready.wait()
        try:
            results[place] = call(place)
        except BaseException as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return results


def wait_until(condition):
    ends = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.001)


# Threads


def test_a_hundred_threads_on_one_cold_key_run_one_body(cached):
    """One computes, ninety-nine share, each with a list of its own."""
    runs = []

    def f(x: int) -> list:
        runs.append(x)
        time.sleep(0.05)
        return [x]

    call = cached(f)
    results = in_threads(100, lambda _: call(1))
    assert results == [[1]] * 100
    assert len({id(result) for result in results}) == 100
    assert runs == [1]
    info = call.cache.info()
    assert (info.misses, info.hits + info.coalesced) == (1, 99)


def test_keys_that_come_and_go_under_threads_stay_consistent(cached):
    """Concurrent hits, misses, evictions and clears never mix up results, and the bounds' books balance."""
    call = cached(lambda x: x, max_entries=10)

    def work(place):
        for turn in range(300):
            x = (turn * 7 + place) % 25
            assert call(x) == x
            if turn % 100 == 99:
                call.cache.clear()

    assert in_threads(8, work) == [None] * 8
    store = call.cache.memory
    assert store._held == sum(entry.size for entry in store.entries.values())
    assert len(store.entries) <= 10


def test_a_real_failure_is_everybodys_and_not_cached(cached):
    """All waiting threads get the leader's own exception; the next call computes again."""
    runs = []

    def f(x):
        runs.append(x)
        wait_until(lambda: any(flight.leader for flight in call.cache.threads.table.values()))
        time.sleep(0.1)
        raise KeyError("broken")

    call = cached(f)
    results = in_threads(10, lambda _: call(1))
    assert {type(error) for error in results} == {KeyError}
    assert len(set(map(id, results))) == len(runs)
    assert len(runs) < 10
    with pytest.raises(KeyError):
        call(1)


def test_shared_failures_free_their_arguments(cached):
    """With the collector off, the arguments of leader and follower are free once both have dropped the exception."""

    class Key:
        def __mlguard_key__(self):
            return 1

    started = threading.Event()

    def f(x):
        started.set()
        time.sleep(0.1)
        raise ValueError("no")

    call = cached(f)
    alive = []

    def run(place):
        if place:
            started.wait(5)
        argument = Key()
        alive.append(weakref.ref(argument))
        try:
            call(argument)
        except ValueError as error:
            return [entry.name for entry in traceback.extract_tb(error.__traceback__)]

    gc.collect()
    gc.disable()
    try:
        assert in_threads(3, run) == [["run", "call", "share", "produce", "f"]] * 3
        assert [ref() for ref in alive] == [None] * 3
    finally:
        gc.enable()
    assert call.cache.info().coalesced == 2


def test_a_follower_is_told_and_gets_a_copy(cached):
    """A follower's event says coalesced; what the leader does to its own result does not reach it."""
    go, led = threading.Event(), threading.Event()

    def f(x):
        led.set()
        go.wait(5)
        return [x]

    call, this = cached(f), Call()
    own = []

    def lead():
        result = call(1)
        result.append("poison")
        own.append(result)

    leader = threading.Thread(target=lead)
    leader.start()
    led.wait(5)
    found = []
    follower = threading.Thread(target=lambda: found.append(call(1, this=this)))
    follower.start()
    time.sleep(0.05)
    go.set()
    leader.join(), follower.join()
    assert (own, found, call(1)) == ([[1, "poison"]], [[1]], [1])
    assert this.disposition == Disposition.COALESCED
    assert this.facts == {"mlguard.cache": "coalesced"}


def test_a_follower_waits_no_longer_than_its_own_deadline(cached):
    """A caller in a hurry gets DeadlineExceededError in time; the leader goes on and its result is kept."""
    led, go = threading.Event(), threading.Event()

    def f(x):
        led.set()
        go.wait(5)
        return x

    call = cached(f)
    leader = threading.Thread(target=call, args=(1,))
    leader.start()
    led.wait(5)
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError, match=r"waited for an equal one.*Fix"):
        call(1, deadline=clock.now() + 0.1)
    assert 0.05 < time.monotonic() - started < 1
    outer = Call()
    outer.deadline = clock.now() + 0.1
    token = current.set(outer)
    with pytest.raises(DeadlineExceededError):
        call(1)
    current.reset(token)
    go.set()
    leader.join()
    assert call(1) == 1
    assert call.cache.info().hits == 1


@pytest.mark.parametrize("error", [DeadlineExceededError, KeyboardInterrupt])
def test_a_leader_that_dies_of_its_own_hurry_promotes_a_waiter(cached, error):
    """Whoever has time left computes; those whose time is up as well say so."""
    runs, led = [], threading.Event()

    def f(x):
        runs.append(x)
        if len(runs) == 1:
            led.set()
            time.sleep(0.2)
            raise error("mine")
        return x

    call = cached(f)
    results = {}

    def run(name, deadline):
        try:
            results[name] = call(1, deadline=deadline)
        except BaseException as caught:
            results[name] = type(caught)

    leader = threading.Thread(target=run, args=("leader", clock.now() + 0.2))
    leader.start()
    led.wait(5)
    patient = [
        threading.Thread(target=run, args=(name, deadline)) for name, deadline in [("a", None), ("b", clock.now() + 9)]
    ]
    for thread in patient:
        thread.start()
    for thread in [leader, *patient]:
        thread.join(10)
    assert results == {"leader": error, "a": 1, "b": 1}
    assert len(runs) == 2


def test_an_attempts_own_timeout_is_a_real_failure(cached):
    """A DeadlineExceededError long before the leader's deadline says something about everybody."""
    runs, led = [], threading.Event()

    def f(x):
        runs.append(x)
        led.set()
        time.sleep(0.1)
        raise DeadlineExceededError("attempt")

    call = cached(f)
    results = in_threads(5, lambda _: call(1, deadline=clock.now() + 60))
    assert {str(error) for error in results} == {"attempt"}
    assert len(runs) < 5


def test_the_same_call_inside_itself_computes(cached):
    """A body that calls its own function with its own arguments does not wait for itself."""
    depth = []

    def f(x):
        depth.append(x)
        return call(x) if len(depth) < 3 else "end"

    call = cached(f)
    assert call(1) == "end"
    assert call.cache.stats()["bypassed"] == {"reentrant": 2}
    assert call(1) == "end"
    assert len(depth) == 3


def test_a_result_that_cannot_be_shared_is_computed_by_each(cached):
    """Followers never get an object that the leader holds too."""
    call = cached(lambda x: time.sleep(0.05) or threading.Lock())
    results = in_threads(5, lambda _: call(1))
    assert len(set(map(id, results))) == 5
    assert call.cache.info().entries == 0
    assert call.cache.stats()["not_stored"].keys() == {"uncopyable lock"}
    assert sum(call.cache.stats()["bypassed"].values()) + call.cache.info().misses == 5


def test_a_computation_that_clear_overtakes_is_neither_joined_nor_stored(cached):
    """What began before clear() may be old by the time it ends."""
    go, led = threading.Event(), threading.Event()
    runs = []

    def f(x):
        runs.append(x)
        if len(runs) == 1:
            led.set()
            go.wait(5)
        return len(runs)

    call = cached(f)
    leader = threading.Thread(target=call, args=(1,))
    leader.start()
    led.wait(5)
    call.cache.clear()
    assert call(1) == 2
    go.set()
    leader.join()
    assert call(1) == 2
    assert call.cache.info().entries == 1


def test_who_comes_between_lookup_and_share_gets_the_stored_result(cached):
    """A call that missed but got its turn only after another had stored does not compute again."""
    call, this = cached(lambda x: x), Call()
    key = call.cache.key_of((1,), {})
    call(1)
    assert call.cache.threads.share(key, None, this, (1,), {}, None, None) == 1
    assert this.disposition == Disposition.CACHE_HIT


# Tasks


async def test_a_thousand_tasks_on_one_cold_key_run_one_body(cached):
    """One computes in a task of its own, all share, each with a list of its own."""
    runs = []

    async def f(x: int) -> list:
        runs.append(x)
        await asyncio.sleep(0.02)
        return [x]

    call = cached(f)
    results = await asyncio.gather(*(call(1) for _ in range(1000)))
    assert results == [[1]] * 1000
    assert len({id(result) for result in results}) == 1000
    assert runs == [1]
    assert call.cache.info()[:3] == (0, 1, 999)
    assert await call(1) == [1]
    assert call.cache.info().hits == 1


async def test_unkeyable_calls_of_tasks_bypass(cached):
    """Without a key nothing is shared."""

    async def f(x):
        return x

    call = cached(f)
    value = object()
    assert await call(value) is value
    assert call.cache.stats()["bypassed"] == {"unkeyable": 1}


async def test_a_caller_that_gives_up_does_not_stop_the_others(cached):
    """Cancelling the first caller leaves its computation to those that wait for it."""
    runs = []

    async def f(x):
        runs.append(x)
        await asyncio.sleep(0.05)
        return x

    call = cached(f)
    first = asyncio.create_task(call(1))
    await asyncio.sleep(0)
    others = [asyncio.create_task(call(1)) for _ in range(3)]
    await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await asyncio.gather(*others) == [1, 1, 1]
    assert runs == [1]


async def test_the_last_caller_that_gives_up_stops_the_computation(cached):
    """With nobody waiting the body is cancelled, has cleaned up before the last caller goes on, and nothing is kept."""
    events = []

    async def f(x):
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(0.02)
            events.append("cleaned up")
            raise

    call = cached(f)
    tasks = [asyncio.create_task(call(1)) for _ in range(3)]
    await asyncio.sleep(0.01)
    for task in tasks[:2]:
        task.cancel()
    await asyncio.sleep(0.03)
    assert events == []
    tasks[2].cancel()
    await asyncio.sleep(0.005)
    tasks[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[2]
    assert call.cache.tasks.tables[asyncio.get_running_loop()] == {}
    assert call.cache.info().entries == 0


async def test_cleanup_is_over_before_the_cancelled_caller_goes_on(cached):
    """`finally` blocks of the body have run when the caller sees its cancellation."""
    events = []

    async def f(x):
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.02)
            events.append("body")

    call = cached(f)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await call(1)
    assert events == ["body"]


async def test_a_cancelled_leader_promotes_a_waiter(cached):
    """A computation that is cancelled from outside, even before it started, is taken over by one that waits."""
    runs = []

    async def f(x):
        runs.append(x)
        await asyncio.sleep(0.02)
        return x

    call = cached(f)
    for pause in (0.005, 0):
        call.cache.reset()
        first = asyncio.create_task(call(1))
        await asyncio.sleep(0)
        others = [asyncio.create_task(call(1)) for _ in range(3)]
        if pause:
            await asyncio.sleep(pause)
        else:
            (flight,) = call.cache.tasks.tables[asyncio.get_running_loop()].values()
            flight.task.cancel()
            await asyncio.sleep(0)
        for flight in list(call.cache.tasks.tables[asyncio.get_running_loop()].values()):
            if flight.task is not None and pause:
                flight.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await asyncio.gather(*others) == [1, 1, 1]
    assert len(runs) == 3


async def test_failures_of_tasks_are_everybodys_and_freed(cached):
    """All get the leader's exception through four frames of ours; then its arguments are free without the collector."""

    class Key:
        def __mlguard_key__(self):
            return 1

    async def f(x):
        await asyncio.sleep(0.01)
        raise ValueError("no")

    call = cached(f)
    alive = []

    async def run():
        argument = Key()
        alive.append(weakref.ref(argument))
        try:
            await call(argument)
        except ValueError as error:
            names, trace = [], error.__traceback__
            while trace is not None:
                names.append(trace.tb_frame.f_code.co_name)
                trace = trace.tb_next
            return names

    gc.collect()
    gc.disable()
    try:
        frames = await asyncio.gather(*(run() for _ in range(5)))
        await asyncio.sleep(0.01)
        assert [ref() for ref in alive] == [None] * 5
    finally:
        gc.enable()
    assert frames == [["run", "call", "share", "_lead", "produce", "f"]] * 5
    assert call.cache.info()[:3] == (0, 1, 4)


async def test_a_waiting_task_keeps_its_own_deadline(cached):
    """A follower in a hurry fails in time; the last one to leave stops the computation."""
    go = asyncio.Event()

    async def f(x):
        await go.wait()
        return x

    call = cached(f)
    leader = asyncio.create_task(call(1, deadline=clock.now() + 60))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceededError, match="waited for an equal one"):
        await call(1, deadline=clock.now() + 0.05)
    go.set()
    assert await leader == 1


async def test_a_hurried_leader_task_promotes_a_waiter(cached):
    """Its DeadlineExceededError is its own; one with time left computes, one without says so."""
    runs = []

    async def f(x):
        runs.append(x)
        await asyncio.sleep(0.1)
        if len(runs) == 1:
            raise DeadlineExceededError("mine")
        return x

    call = cached(f)
    hurried = asyncio.create_task(call(1, deadline=clock.now() + 0.1))
    await asyncio.sleep(0)
    patient = [asyncio.create_task(call(1)) for _ in range(3)]
    with pytest.raises(DeadlineExceededError, match="mine"):
        await hurried
    assert await asyncio.gather(*patient) == [1, 1, 1]
    assert len(runs) == 2


async def test_the_same_call_inside_itself_or_its_children_computes(cached):
    """A body that awaits its own call, directly or in a task it made, does not wait for itself."""
    depth = []

    async def f(x):
        depth.append(x)
        if len(depth) == 1:
            return await call(x)
        if len(depth) == 2:
            return (await asyncio.gather(call(x)))[0]
        return "end"

    call = cached(f)
    assert await asyncio.wait_for(call(1), 5) == "end"
    assert call.cache.stats()["bypassed"] == {"reentrant": 2}


async def test_task_results_that_cannot_be_shared_are_computed_by_each(cached):
    """Followers never get an object that the leader holds too."""

    async def f(x):
        await asyncio.sleep(0.01)
        return threading.Lock()

    call = cached(f)
    results = await asyncio.gather(*(call(1) for _ in range(4)))
    assert len(set(map(id, results))) == 4
    assert call.cache.stats()["bypassed"] == {"uncopyable": 3}


async def test_the_leader_sees_the_first_callers_context(cached):
    """Context variables reach the body as they would without a cache."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def f(x):
        return variable.get()

    call = cached(f)
    variable.set("mine")
    assert await call(1) == "mine"


async def test_who_comes_between_lookup_and_share_gets_the_stored_result_in_tasks(cached):
    """A call that missed but got its turn only after another had stored does not compute again."""

    async def f(x):
        return x

    call, this = cached(f), Call()
    await call(1)
    assert await call.cache.tasks.share(call.cache.key_of((1,), {}), None, this, (1,), {}, None, None) == 1
    assert this.disposition == Disposition.CACHE_HIT


def test_two_event_loops_in_a_row_and_side_by_side(cached):
    """Flights belong to their loop; results are everybody's."""
    runs = []

    async def f(x):
        runs.append(x)
        await asyncio.sleep(0.01)
        return x

    call = cached(f)
    assert asyncio.run(call(1)) == asyncio.run(call(1)) == 1
    assert runs == [1]

    async def abandoned():
        task = asyncio.create_task(call(2))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(abandoned())
    assert asyncio.run(call(2)) == 2
    assert in_threads(4, lambda place: asyncio.run(call(3))) == [3] * 4


async def test_clear_while_tasks_compute(cached):
    """What began before clear() is neither joined nor stored."""
    gate = asyncio.Event()

    async def f(x):
        await gate.wait()
        return x

    call = cached(f)
    task = asyncio.create_task(call(1))
    await asyncio.sleep(0.01)
    call.cache.clear()
    gate.set()
    assert await task == 1
    assert call.cache.lookup(call.cache.key_of((1,), {})) is MISS
