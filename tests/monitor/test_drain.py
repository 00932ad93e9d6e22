"""The queue behind everything that must not happen on the path of a call."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mlguard.monitor.drain import Drain, drains

PATIENCE = 30.0  # seconds: a loaded machine is no failure


@pytest.fixture
def make() -> Iterator[Callable[..., Drain]]:
    """Drains that end with their test."""
    made: list[Drain] = []

    def make(consume: Callable[[list[Any]], None], **settings: Any) -> Drain:
        made.append(Drain("test", consume, **settings))
        return made[-1]

    yield make
    for drain in made:
        drain.close(PATIENCE)


def test_items_arrive_in_order_and_in_batches(make) -> None:
    """What one thread puts is consumed in its order, many at a time."""
    batches: list[list[int]] = []
    drain = make(batches.append)
    assert all(drain.put(number) for number in range(2_000))
    assert drain.flush(PATIENCE)
    assert [number for batch in batches for number in batch] == list(range(2_000))
    assert len(batches) < 1_000
    assert drain.stats()["delivered"] == 2_000


def test_nothing_starts_before_it_is_needed(make) -> None:
    """A drain without items has no thread, and flushing it waits for nothing."""
    before = threading.active_count()
    drain = make(lambda batch: None)
    assert drain.flush(0.0)
    assert drain.close(0.0)
    assert threading.active_count() == before


def test_a_full_queue_drops_and_counts(make) -> None:
    """While the consumer hangs, no put waits, and what does not fit is counted."""
    opened, entered = threading.Event(), threading.Event()

    def hang(batch: list[Any]) -> None:
        entered.set()
        opened.wait(PATIENCE)

    drain = make(hang, capacity=10)
    drain.put(0)
    assert entered.wait(PATIENCE)
    started = time.monotonic()
    accepted = [drain.put(number) for number in range(100)]
    assert time.monotonic() - started < PATIENCE / 2
    assert accepted.count(True) == 10
    stats = drain.stats()
    assert (stats["dropped"], stats["waiting"]) == (90, 10)
    assert stats["busy_for"] >= 0
    assert not drain.flush(0.01)
    opened.set()
    assert drain.flush(PATIENCE)
    assert drain.stats()["delivered"] == 11


def test_a_consumer_that_raises_goes_on(make) -> None:
    """What a consumer raises, `SystemExit` included, costs its batch, which is counted, and no later one."""
    seen: list[Any] = []

    def consume(batch: list[Any]) -> None:
        if "bad" in batch:
            raise SystemExit
        seen.extend(batch)

    drain = make(consume)
    for item in ("good", "bad", "better"):
        drain.put(item)
        assert drain.flush(PATIENCE)
    assert seen == ["good", "better"]
    assert (drain.stats()["failed"], drain.stats()["last_error"]) == (1, "SystemExit")


def test_one_that_hangs_stops_nobody_else(make) -> None:
    """Each consumer has a thread of its own."""
    opened = threading.Event()
    hanging = make(lambda batch: opened.wait(PATIENCE))
    hanging.put(1)
    seen: list[int] = []
    other = make(seen.extend)
    other.put(2)
    assert other.flush(PATIENCE)
    assert seen == [2]
    opened.set()


def test_a_consumer_may_put_and_flush(make) -> None:
    """A consumer that makes guarded calls itself does not wait for itself."""
    seen: list[Any] = []

    def consume(batch: list[Any]) -> None:
        seen.append(drain.flush(PATIENCE))
        if len(seen) == 1:
            drain.put("again")

    drain = make(consume)
    drain.put("first")
    assert drain.flush(PATIENCE)
    assert drain.flush(PATIENCE)
    assert seen == [False, False]


def test_closed_and_used_again(make) -> None:
    """Closing ends the thread; a later item starts another."""
    seen: list[int] = []
    drain = make(seen.extend)
    for number in range(3):
        drain.put(number)
        assert drain.close(PATIENCE)
        until = time.monotonic() + PATIENCE
        while not drain._unstarted and time.monotonic() < until:
            time.sleep(0.001)
        assert drain._thread is None
    assert seen == [0, 1, 2]


def test_no_item_is_lost_between_threads(make) -> None:
    """Eight threads that switch all the time lose nothing of what was accepted, and every drop is counted."""
    seen: list[int] = []
    drain = make(seen.extend, capacity=500)
    accepted = [0] * 8

    def work(index: int) -> None:
        for number in range(2_000):
            accepted[index] += drain.put(number)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert drain.flush(PATIENCE)
    assert len(seen) == sum(accepted) == drain.stats()["delivered"]
    assert drain.stats()["dropped"] == 16_000 - len(seen)


def test_signal_handlers_and_finalizers_may_put(make) -> None:
    """A put that interrupts a put in the same thread, from a signal handler or a finalizer, ends."""
    seen: list[str] = []
    drain = make(seen.extend, capacity=1_000_000)

    class Finalized:
        def __init__(self) -> None:
            self.circle = self

        def __del__(self) -> None:
            drain.put("finalizer")

    before = signal.signal(signal.SIGALRM, lambda number, frame: drain.put("signal"))
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    threshold = gc.get_threshold()
    gc.set_threshold(50)
    try:
        for _ in range(20_000):
            Finalized()
            drain.put("main")
    finally:
        gc.set_threshold(*threshold)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    gc.collect()
    assert drain.flush(PATIENCE)
    assert seen.count("main") == seen.count("finalizer") == 20_000
    assert seen.count("signal") > 0


def test_a_thread_that_cannot_start_is_tried_again(make, monkeypatch) -> None:
    """Where the machine gives no thread, items wait for the next put that gets one."""
    import _thread

    seen: list[int] = []
    drain = make(seen.extend)

    def refuse(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", refuse)
        assert drain.put(1)
        assert drain.stats()["last_error"] == "RuntimeError"
    assert drain.put(2)
    assert drain.flush(PATIENCE)
    assert seen == [1, 2]


def test_a_child_starts_empty(make) -> None:
    """A forked child delivers what it put itself and nothing of its parent's."""
    opened = threading.Event()
    seen: list[str] = []

    def consume(batch: list[Any]) -> None:
        if "parent" in batch:
            opened.wait(PATIENCE)
        seen.extend(batch)

    drain = make(consume)
    drain.put("parent")
    child = os.fork()
    if child == 0:
        drain.put("child")
        done = drain.flush(PATIENCE) and seen == ["child"] and drain.stats()["delivered"] == 1
        os._exit(0 if done else 1)
    opened.set()
    assert os.waitpid(child, 0)[1] == 0


def test_a_child_inherits_no_lock_of_a_consumer(make) -> None:
    """A fork waits until the consumer is between two batches, so that no lock that it takes is held in the child."""
    lock = threading.Lock()

    def consume(batch: list[Any]) -> None:
        with lock:
            time.sleep(0.003)

    drain = make(consume)
    for _ in range(20):
        drain.put("parent")
        drain._hurry()
        time.sleep(0.001)
        child = os.fork()
        if child == 0:
            os._exit(0 if lock.acquire(timeout=1) else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_a_consumer_that_hangs_holds_up_a_fork_for_a_moment(make, monkeypatch) -> None:
    """A fork goes on although a consumer does not come back."""
    from mlguard.monitor import drain as room

    monkeypatch.setattr(room, "_FORK_WAIT", 0.01)
    opened, entered = threading.Event(), threading.Event()

    def hang(batch: list[Any]) -> None:
        entered.set()
        opened.wait(PATIENCE)

    drain = make(hang)
    drain.put(1)
    assert entered.wait(PATIENCE)
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    opened.set()
    assert drain.flush(PATIENCE)


def _run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_end_of_the_interpreter_empties_it() -> None:
    """A clean exit delivers what waits."""
    done = _run(
        """
        from mlguard.monitor.drain import Drain
        drain = Drain("test", lambda batch: print(*batch, flush=True))
        for number in range(5):
            drain.put(number)
        """
    )
    assert (done.stdout.split(), done.returncode, done.stderr) == (["0", "1", "2", "3", "4"], 0, "")


def test_the_end_of_a_worker_of_multiprocessing_empties_it() -> None:
    """So does the end of a child that multiprocessing forked."""
    done = _run(
        """
        import multiprocessing
        from mlguard.monitor.drain import Drain
        drain = Drain("test", lambda batch: print(*batch, flush=True))
        drain.put("parent")
        drain.flush()
        if __name__ == "__main__":
            worker = multiprocessing.get_context("fork").Process(target=drain.put, args=("child",))
            worker.start()
            worker.join()
        """
    )
    assert (done.stdout.split(), done.returncode) == (["parent", "child"], 0), done.stderr


def test_the_end_of_the_interpreter_waits_no_longer_than_it_says() -> None:
    """A consumer that hangs holds up the exit for five seconds, not for ever."""
    started = time.monotonic()
    done = _run(
        """
        import threading
        from mlguard.monitor import drain
        drain.EXIT_WAIT = 0.2
        drain.Drain("test", lambda batch: threading.Event().wait()).put(1)
        """
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < PATIENCE


def test_drains_are_known(make) -> None:
    """What is alive can be listed, for the metrics."""
    drain = make(lambda batch: None)
    assert drain in drains()
