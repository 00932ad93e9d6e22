"""Real limits of a real kernel (cgroup v1 here): what the guard reads, refuses and survives."""

from __future__ import annotations

import json
import shutil

import pytest

MIB = 1 << 20


def _reading(lines):
    return json.loads(lines[-1])


SAY = "import json; from mlguard.memory import read; print(json.dumps(read()))\n"


def test_limit_of_our_own_group(child):
    """A process in a limited group finds that limit and a usage below it."""
    child.limit(300 * MIB)
    used, limit, source = _reading(child.run(SAY))
    assert limit == 300 * MIB
    assert 5 * MIB < used < 250 * MIB
    assert source == f"cgroup v1 {child.directory}"


def test_sibling_under_a_limited_parent(child):
    """The parent's limit counts with what a sibling uses: 120 of 300 MiB gone before we have done anything."""
    child.limit(300 * MIB)
    sibling = child.below("sibling").start(
        """
        import mmap, sys
        ballast = mmap.mmap(-1, 120 << 20)
        for _ in range(120): ballast.write(b"x" * (1 << 20))
        print(1, flush=True)
        sys.stdin.read()
        """
    )
    assert sibling.stdout.readline() == "1\n"
    used, limit, source = _reading(child.below("us").run(SAY))
    assert limit == 300 * MIB
    assert used > 120 * MIB
    assert source == f"cgroup v1 {child.directory}"


def test_page_cache_is_not_used_memory(child, tmp_path):
    """Files that were read count in the kernel's usage and not in ours."""
    child.limit(300 * MIB)
    lines = child.run(
        f"""
        import json
        from pathlib import Path
        from mlguard.memory import read
        with open({str(tmp_path / "big")!r}, "wb") as file:
            for _ in range(96): file.write(bytes(1 << 20))
            file.flush(); os.fsync(file.fileno())
        print(Path({str(child.directory / "memory.usage_in_bytes")!r}).read_text())
        print(json.dumps(read()))
        """
    )
    raw, used = int(lines[0]), _reading(lines)[0]
    assert raw > 96 * MIB
    assert used < raw - 90 * MIB


def test_namespace_that_hides_the_path(child):
    """After ``unshare -C`` the path says nothing, and the limit is found all the same."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare on this machine")
    child.limit(300 * MIB)
    _, limit, source = _reading(child.run(SAY, "unshare", "-C"))
    assert limit == 300 * MIB
    assert source.endswith(child.directory.name)


def test_limit_changed_in_place(child):
    """A live resize is seen within about a second."""
    child.limit(300 * MIB)
    process = child.start(
        """
        import sys, time
        from mlguard.memory import read
        print(read().limit, flush=True)
        sys.stdin.readline()
        time.sleep(1.05)
        print(read().limit)
        """
    )
    assert process.stdout.readline() == f"{300 * MIB}\n"
    child.limit(200 * MIB)
    out, err = process.communicate("go\n", timeout=30)
    assert out == f"{200 * MIB}\n", err


def test_fork_reads_anew(child):
    """A forked child reads through descriptors of its own, even when another thread held the lock at the fork."""
    child.limit(300 * MIB)
    lines = child.run(
        """
        import threading
        from mlguard.memory import container, gauge
        gauge.read()
        claim = container.of_this_container.promise(64 << 20)
        held, done = threading.Event(), threading.Event()
        def hold():
            with gauge.of_this_process._lock, container.of_this_container._lock:
                held.set(); done.wait()
        thread = threading.Thread(target=hold); thread.start(); held.wait()
        pid = os.fork()
        if pid == 0:
            ok = gauge.read().limit == 300 << 20 and container.of_this_container.reserved_here == 0
            claim.release()  # the parent's, and so of no consequence
            ok = ok and container.of_this_container.promise(1).need == 1
            ok = ok and container.of_this_container.reserved == (64 << 20) + 1
            os._exit(0 if ok else 1)
        done.set(); thread.join()
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """
    )
    assert lines == ["0"]


def test_squeeze_by_ballast(child):
    """Ballast above the threshold refuses a call within its wait; without the ballast the same call runs."""
    child.limit(200 * MIB)
    lines = child.run(
        """
        import mmap, json
        from mlguard.errors import MemoryPressureError
        from mlguard.memory import Memory, MemoryGuard
        from mlguard.target import Target
        def predict(x): return x
        guard = MemoryGuard(Target(predict), Memory(threshold=0.8, max_wait=0.1))
        names = guard.names(asynchronous=False)
        ballast = mmap.mmap(-1, 150 << 20)
        for _ in range(150): ballast.write(b"x" * (1 << 20))
        assert names["memory_enter"]((1,), {}) is None
        try:
            names["memory_wait"](None, (1,), {}, None)
        except MemoryPressureError as error:
            print(json.dumps([error.used, error.limit, error.need, error.permanent, str(error)]))
        ballast.close()
        print(bool(names["memory_enter"]((1,), {})))
        """
    )
    # The warning goes to stdout as well: structlog's default, which mlguard leaves alone.
    used, limit, need, permanent, message = json.loads(lines[-2])
    assert 160 * MIB < used < limit == 200 * MIB
    assert (need, permanent) == (0, False)
    assert "200MiB limit of cgroup v1" in message
    assert lines[-1] == "True"


def test_freed_memory_is_handed_back(child):
    """What glibc keeps after it was freed, and a garbage cycle held before, is had back before a call is refused."""
    child.limit(400 * MIB)
    lines = child.run(
        """
        from mlguard.memory import Memory, MemoryGuard, read
        from mlguard.target import Target
        def predict(): pass
        names = MemoryGuard(Target(predict), Memory(threshold=0.6, max_wait=0)).names(asynchronous=False)
        class Cycle: pass
        cycle = Cycle()
        cycle.me, cycle.held = cycle, [b"x" * (100_000 + n % 2) for n in range(2500)]
        top = b"x" * 100_001  # above the rest, so that freeing the rest does not shrink the heap
        del cycle
        assert names["memory_enter"]((), {}) is None
        claim = names["memory_wait"](None, (), {}, None)
        print(claim, read().used >> 20)
        """
    )
    claim, used = lines[-1].split()
    assert claim == "True"
    assert int(used) < 150


def test_eight_threads_survive_where_a_check_alone_is_killed(child):
    """Reservations keep eight threads of 60 MiB calls below a limit that two of them at once nearly fill."""
    child.limit(256 * MIB)
    lines = child.run(
        """
        import mmap, time
        from concurrent.futures import ThreadPoolExecutor
        from mlguard.memory import Memory, MemoryGuard
        from mlguard.target import Target
        def predict(): pass
        names = MemoryGuard(Target(predict), Memory(need="60MiB", max_wait=30)).names(asynchronous=False)
        def call(_):
            claim = names["memory_enter"]((), {}) or names["memory_wait"](None, (), {}, None)
            try:
                time.sleep(0.01)  # nothing allocated yet: what a check alone does not see
                with mmap.mmap(-1, 60 << 20) as temporary:
                    for _ in range(60): temporary.write(b"x" * (1 << 20))
            finally:
                names["memory_exit"](claim)
            return 1
        with ThreadPoolExecutor(8) as pool:
            print(sum(pool.map(call, range(24))))
        """
    )
    assert lines[-1] == "24"
