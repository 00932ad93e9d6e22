"""A real limit, real workers, real kills: what the ledger of a container promises, on the kernel of this machine.

The limit is one of cgroup v1 or, where this machine's root has no v1, the tests skip. Each service runs below a limit
of its own in a child of our cgroup, so that what is killed there is nobody else.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import pytest

from mlguard.memory import cgroup, shared_file

MIB = 1 << 20


class Box:
    """A cgroup with a limit, and processes in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._processes: list[subprocess.Popen[str]] = []
        self._boxes: list[Box] = []

    def limit(self, mib: int) -> None:
        (self.directory / "memory.limit_in_bytes").write_text(str(mib * MIB))

    def below(self, name: str) -> Box:
        self._boxes.append(Box(self.directory / name))
        return self._boxes[-1]

    def start(self, script: str, *prefix: str) -> subprocess.Popen[str]:
        enter = f"import os; open({str(self.directory / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        source = PRELUDE + textwrap.dedent(script)
        command = [sys.executable, "-c", enter + f"os.execvp({(prefix or (sys.executable,))[0]!r}, "
                   f"{[*prefix, sys.executable, '-c', source]!r})"]  # fmt: skip
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._processes.append(process)
        return process

    def run(self, script: str, *prefix: str) -> list:
        """What a script said, as JSON, line by line; it must end by itself, and well."""
        return finished(self.start(script, *prefix))

    def remove(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for box in self._boxes:
            box.remove()
        self.directory.rmdir()


def finished(process, text=None):
    out, err = process.communicate(text, timeout=30)
    assert process.returncode == 0, f"exit {process.returncode}: {err}"
    return [json.loads(line) for line in out.splitlines()]


PRELUDE = """
import asyncio, json, mmap, os, signal, sys, time
import structlog
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
from mlguard import Memory, guarded
from mlguard.errors import MemoryPressureError
from mlguard.memory import container

def say(value):
    os.write(1, (json.dumps(value) + "\\n").encode())  # one write, as several processes share the pipe

def take(mib, seconds):
    with mmap.mmap(-1, mib << 20) as memory:
        for _ in range(mib): memory.write(bytes(1 << 20))
        time.sleep(seconds)

def tried(call):
    try:
        call()
    except MemoryPressureError:
        return "refused"
    return "served"

def forked(work, count):
    pids = []
    for number in range(count):
        pid = os.fork()
        if not pid:
            try:
                work(number)
            finally:
                os._exit(0)
        pids.append(pid)
    return pids

def ended(pids):
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
"""


@pytest.fixture
def box():
    levels = [level for level in cgroup.find() if level.version is cgroup.V1]
    if not levels:
        pytest.skip("no cgroup v1 memory controller on this machine")
    if os.geteuid() != 0:
        pytest.skip("only root may move a process into a cgroup here")
    try:
        made = Box(levels[0].directory / f"mlguard-faults-{uuid.uuid4().hex[:8]}")
    except OSError as error:
        pytest.skip(f"can't create a cgroup below our own: {error}")
    yield made
    group = made.directory.stat()
    made.remove()
    with contextlib.suppress(OSError):
        shared_file.path_for(f"{group.st_dev}:{group.st_ino}").unlink()


def test_eight_forked_workers_share_one_limit(box):
    """Eight workers with three calls of 60 MiB each below 256 MiB: nobody is killed, and every call is served."""
    box.limit(256)
    said = box.run(
        """
        @guarded(memory=Memory(need="60MiB", max_wait=20))
        def predict(): take(60, 0.01)
        def work(number):
            for _ in range(3): say(tried(predict))
        say(ended(forked(work, 8)))
        """
    )
    assert said.pop() == [0] * 8
    assert said == ["served"] * 24


def test_a_pool_of_workers(box):
    """multiprocessing's forked pool is no different; and where calls may not wait, they are refused by name."""
    box.limit(256)
    said = box.run(
        """
        from multiprocessing import get_context
        @guarded(memory=Memory(need="60MiB", max_wait=0))
        def predict(_): take(60, 0.05)
        def call(number): return tried(lambda: predict(number))
        with get_context("fork").Pool(6) as pool:
            say(pool.map(call, range(18), chunksize=1))
        """
    )
    assert set(said[0]) == {"served", "refused"}


def test_a_preloaded_master_and_a_worker_that_is_replaced(box):
    """As under gunicorn: the master made a call itself before it forked; one worker is killed, and another follows."""
    box.limit(256)
    said = box.run(
        """
        @guarded(memory=Memory(need="60MiB", max_wait=20))
        def predict(seconds=0.01): take(60, seconds)
        predict()
        def work(number):
            if not number: predict(60)
            for _ in range(3): say(tried(predict))
        pids = forked(work, 6)
        time.sleep(0.5)
        os.kill(pids[0], signal.SIGKILL)
        pids += forked(lambda _: work(1), 1)
        say(ended(pids))
        say(container.of_this_container.state())
        """
    )
    state, codes = said.pop(), said.pop()
    assert codes == [-9] + [0] * 6
    assert said == ["served"] * 18
    assert (state["scope"], state["reserved"], state["processes"]) == ("container", 0, 1)


def test_the_bytes_of_a_killed_worker_come_back(box):
    """kill -9 on a worker with a promise gives it back within a second, to a call that waits for it."""
    box.limit(256)
    said = box.run(
        """
        @guarded(memory=Memory(need="150MiB", max_wait=20))
        def predict(seconds):
            say("in")
            time.sleep(seconds)
        def call(seconds):
            predict(seconds)
            say(time.monotonic())
        first = forked(lambda _: call(60), 1)
        time.sleep(0.5)
        second = forked(lambda _: call(0), 1)
        time.sleep(0.5)
        say(container.of_this_container.reserved)
        os.kill(first[0], signal.SIGKILL)
        say(time.monotonic())
        ended(first + second)
        """
    )
    first, _, killed, second, came = said
    assert (first, second) == ("in", "in")
    assert 0 < came - killed < 1


def test_workers_killed_at_random_moments(box):
    """Workers with three threads are killed at any moment and replaced: the kernel kills none, and no byte is lost."""
    box.limit(256)
    said = box.run(
        """
        import random, threading
        @guarded(memory=Memory(max_wait=20), need=lambda mib: mib << 20)
        def predict(mib): take(mib, 0.005)
        end = time.monotonic() + 3
        def work(number):
            def calls():
                while time.monotonic() < end:
                    predict(random.choice((2, 10, 30, 80)))
            threads = [threading.Thread(target=calls) for _ in range(3)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        random.seed(1)
        pids = forked(work, 5)
        for _ in range(15):
            time.sleep(random.random() / 10)
            os.kill(victim := pids.pop(random.randrange(5)), signal.SIGKILL)
            os.waitpid(victim, 0)
            pids += forked(work, 1)
        say(ended(pids))
        time.sleep(0.2)
        predict(2)
        say(container.of_this_container.state())
        """
    )
    codes, state = said
    assert codes == [0] * 5
    assert (state["reserved"], state["processes"], state["failures"]) == (0, 1, 0)


def test_another_pid_namespace_shares_the_books(box):
    """Process ids play no part: a worker in a namespace of its own, where it has another id, is counted as well."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare on this machine")
    box.limit(256)
    holder = box.start(
        """
        @guarded(memory=Memory(need="150MiB"))
        def predict():
            say(os.getpid())
            sys.stdin.read()
        predict()
        """,
        "unshare", "--pid", "--fork", "--kill-child",
    )  # fmt: skip
    if not (line := holder.stdout.readline()):
        pytest.skip(f"unshare is not allowed here: {holder.stderr.read()}")
    assert line == "1\n"
    script = """
        @guarded(memory=Memory(need="150MiB", max_wait=1))
        def predict(): pass
        say(tried(predict))
        """
    assert box.run(script) == ["refused"]
    holder.kill()
    assert box.run(script) == ["served"]


def test_a_limit_that_is_raised_while_a_call_waits(box):
    """A call that waits starts once its container is given more, and one that can't fit any more is refused at once."""
    box.limit(150)
    process = box.start(
        """
        @guarded(memory=Memory(need="100MiB", max_wait=20))
        def predict(): return 1
        claim = container.of_this_container.promise(60 << 20)
        say("waits")
        predict()
        say("served")
        sys.stdin.readline()
        time.sleep(1.1)
        try:
            predict()
        except MemoryPressureError as error:
            say([error.permanent, error.limit])
        """
    )
    assert process.stdout.readline() == '"waits"\n'
    box.limit(300)
    assert process.stdout.readline() == '"served"\n'
    box.limit(100)
    assert finished(process, "go\n") == [[True, 100 * MIB]]


def test_a_noisy_sibling_below_the_same_parent(box):
    """What a sibling takes from the parent's limit is not there for calls; once it has gone, they are served."""
    box.limit(256)
    sibling = box.below("sibling").start(
        """
        memory = mmap.mmap(-1, 180 << 20)
        for _ in range(180): memory.write(bytes(1 << 20))
        say("full")
        sys.stdin.readline()
        """
    )
    assert sibling.stdout.readline() == '"full"\n'
    service = box.below("service").start(
        """
        @guarded(memory=Memory(need="60MiB", max_wait="300ms"))
        def predict(): take(60, 0)
        try:
            predict()
        except MemoryPressureError as error:
            say(error.source)
        sys.stdin.readline()
        say(tried(predict))
        """
    )
    assert json.loads(service.stdout.readline()) == f"cgroup v1 {box.directory}"
    finished(sibling, "go\n")
    assert finished(service, "go\n") == ["served"]


def test_an_asyncio_service_in_two_processes(box):
    """Eight tasks in each of two processes: all are served, nobody is killed, and no loop stands still meanwhile."""
    box.limit(256)
    said = box.run(
        """
        @guarded(memory=Memory(need="50MiB", max_wait=20))
        async def predict():
            memory = mmap.mmap(-1, 50 << 20)
            for _ in range(50):
                memory.write(bytes(1 << 20))
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            memory.close()
            return 1
        async def main():
            longest, last = 0.0, time.monotonic()
            async def tick():
                nonlocal longest, last
                while True:
                    await asyncio.sleep(0.001)
                    now = time.monotonic()
                    longest, last = max(longest, now - last), now
            ticking = asyncio.create_task(tick())
            served = await asyncio.gather(*(predict() for _ in range(8)))
            ticking.cancel()
            return [sum(served), longest]
        say(ended(forked(lambda _: say(asyncio.run(main())), 2)))
        """
    )
    assert said.pop() == [0, 0]
    assert [served for served, _ in said] == [8, 8]
    assert max(longest for _, longest in said) < 0.5


def test_a_generator_holds_its_promise_until_it_is_closed(box):
    """A stream counts in every process of the container until its last item, or until its consumer closes it."""
    box.limit(256)
    said = box.run(
        """
        @guarded(memory=Memory(need="150MiB", max_wait=0))
        def stream():
            for number in range(3):
                yield number
        @guarded(memory=Memory(need="150MiB", max_wait=0))
        def predict(): pass
        def elsewhere(): ended(forked(lambda _: say(tried(predict)), 1))
        items = stream()
        next(items)
        elsewhere()
        items.close()
        elsewhere()
        items = stream()
        next(items)
        elsewhere()
        list(items)
        elsewhere()
        """
    )
    assert said == ["refused", "served", "refused", "served"]


def test_a_process_stopped_with_the_lock(box):
    """A process that is stopped while it holds the file's lock costs the others seconds, not their predictions."""
    box.limit(256)
    said = box.run(
        """
        @guarded(memory=Memory(need="10MiB", max_wait=20))
        def predict(): pass
        predict()
        container.STUCK_AFTER = 0.5
        def stop(_):
            predict()
            container.of_this_container._file.lock()
            os.kill(os.getpid(), signal.SIGSTOP)
        stopped = forked(stop, 1)
        os.waitpid(stopped[0], os.WUNTRACED)
        predict()
        state = predict.guard.stats()["memory"]
        say([state["scope"], state["trouble"]])
        os.kill(stopped[0], signal.SIGKILL)
        """
    )
    scope, trouble = said[0]
    assert scope == "process"
    assert "Fix: look for a stopped process, and continue it." in trouble
