"""The service that is put into a box: a function that needs three times its input, guarded in one of several ways.

``python -m benchmarks.memory_service GUARD SHAPE CALLS``, in a process of its own: it prints a dot for every call that
was served, and one line of JSON at its end, where it has one.

The input is a recording that the function loads itself, 10 to 30 MiB, known to the guard by its `nbytes`: inputs that
wait in memory would be the same load whoever guards.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import structlog

from mlguard import Memory, guarded

__all__ = ["GUARDS", "SHAPES"]

MIB = 1 << 20
THREADS = 16
WORKERS = 8
SEED = 1
HOLDS = 0.02  # seconds for which a call keeps its memory: something waits in every real one
ROW = 64 * 1024
BIG = 150 * MIB


class Recording:
    """An input that is not in memory yet."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def work(recording: Any) -> int:
    """Three times the input at its peak."""
    raw = np.ones(recording.nbytes, np.uint8)
    doubled = raw * np.uint8(2)
    result = raw + doubled
    time.sleep(HOLDS)
    return int(result[0])


def by_rows(batch: Any) -> Any:
    """Three times the input at its peak, one number for each row."""
    raw = np.array(batch)
    doubled = raw * np.uint8(2)
    result = raw + doubled
    time.sleep(HOLDS)
    return result[:, 0].copy()


async def work_async(recording: Any) -> int:
    raw = np.ones(recording.nbytes, np.uint8)
    doubled = raw * np.uint8(2)
    result = raw + doubled
    await asyncio.sleep(HOLDS)
    return int(result[0])


def work_streamed(recording: Any) -> Iterator[int]:
    """Holds its memory from the first item to the last."""
    raw = np.ones(recording.nbytes, np.uint8)
    doubled = raw * np.uint8(2)
    result = raw + doubled
    for start in range(4):
        time.sleep(HOLDS / 4)
        yield int(result[start])


def _semaphore(most: int) -> Callable[[Any], Any]:
    def guard(function: Any) -> Any:
        slots = threading.Semaphore(most)

        def call(recording: Any) -> Any:
            with slots:
                return function(recording)

        return call

    return guard


def _psutil_check(function: Any) -> Any:
    """The check that people write: refuse above 85 % of what psutil calls the machine's memory."""

    def call(recording: Any) -> Any:
        if psutil.virtual_memory().percent > 85:
            raise MemoryError("over 85 %")
        return function(recording)

    return call


def _guarded(**settings: Any) -> Callable[[Any], Any]:
    settings = {"return_freed_memory": True} | settings

    def guard(function: Any) -> Any:
        rows = "batch" if settings.get("split") else None
        return guarded(memory=Memory(**settings), rows=rows, validation=False)(function)

    return guard


GUARDS: dict[str, Callable[[Any], Any]] = {
    "none": lambda function: function,
    "psutil": _psutil_check,
    "check": _guarded(need=None),
    "declared": _guarded(need="3x"),
    "kept": _guarded(need="3x", return_freed_memory=False),
    "learned": _guarded(need="learned"),
    "split": _guarded(need="3x", split=True),
    "process": _guarded(need="3x", scope="process"),
    **{f"semaphore-{most}": _semaphore(most) for most in (2, 3, 4, 5, 6, 8, 10)},
}


class Count:
    """What became of the calls."""

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.started = time.perf_counter()

    def served(self, since: float) -> None:
        self.ended["served"] += 1
        self.seconds.append(time.perf_counter() - since)
        os.write(1, b".")

    def failed(self, error: BaseException) -> None:
        self.ended[type(error).__name__] += 1
        if self.ended[type(error).__name__] == 1:
            print(error, file=sys.stderr, flush=True)

    def report(self, function: Any) -> None:
        stats = function.guard.stats()["memory"] if hasattr(function, "guard") else {}
        p50, p99 = np.percentile(self.seconds, (50, 99)) if self.seconds else (0.0, 0.0)
        line = {
            "ended": dict(self.ended),
            "seconds": time.perf_counter() - self.started,
            "p50": float(p50),
            "p99": float(p99),
            "stats": {key: value for key, value in stats.items() if value},
        }
        print("\n" + json.dumps(line, default=str), flush=True)


def recordings(calls: int, seed: int = SEED) -> list[Any]:
    drawn = random.Random(seed)  # noqa: S311 - the same sizes each time
    return [Recording(drawn.randint(10, 30) * MIB) for _ in range(calls)]


def threads(guard: Callable[[Any], Any], calls: int, function: Any = work, inputs: list[Any] | None = None) -> None:
    """Sixteen threads, each with a call at a time."""
    called, count = guard(function), Count()

    def one(recording: Any) -> None:
        since = time.perf_counter()
        try:
            called(recording)
        except Exception as error:
            count.failed(error)
        else:
            count.served(since)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(one, inputs or recordings(calls)))
    count.report(called)


def batches(guard: Callable[[Any], Any], calls: int) -> None:
    """The same with tables, of which every tenth needs more than there is."""
    with tempfile.NamedTemporaryFile(dir=_disk()) as file:
        file.truncate(BIG)
        table = np.memmap(file.name, np.uint8, "r", shape=(BIG // ROW, ROW))
        drawn = random.Random(SEED)  # noqa: S311 - the same sizes each time
        sizes = [BIG if number % 10 == 5 else drawn.randint(10, 30) * MIB for number in range(calls)]
        threads(guard, calls, by_rows, [table[: size // ROW] for size in sizes])


def loader(guard: Callable[[Any], Any], calls: int) -> None:
    """Threads, beside one that reads a file of 600 MiB again and again, so that the page cache fills the box."""
    stop = threading.Event()
    with tempfile.NamedTemporaryFile(dir=_disk()) as file:
        for _ in range(600):
            file.write(bytes(MIB))
        file.flush()

        def read() -> None:
            while not stop.is_set():
                with Path(file.name).open("rb", buffering=0) as again:
                    while not stop.is_set() and again.read(MIB):
                        pass

        reader = threading.Thread(target=read)
        reader.start()
        try:
            threads(guard, calls)
        finally:
            stop.set()
            reader.join()


def service_async(guard: Callable[[Any], Any], calls: int) -> None:
    """All calls at once, as tasks of one event loop."""
    called, count = guard(work_async), Count()

    async def one(recording: Any) -> None:
        since = time.perf_counter()
        try:
            await called(recording)
        except Exception as error:
            count.failed(error)
        else:
            count.served(since)

    async def everything() -> None:
        await asyncio.gather(*(one(recording) for recording in recordings(calls)))

    asyncio.run(everything())
    count.report(called)


def streams(guard: Callable[[Any], Any], calls: int) -> None:
    """Sixteen threads that read generators to their end."""
    called, count = guard(work_streamed), Count()

    def one(recording: Any) -> None:
        since = time.perf_counter()
        try:
            for _ in called(recording):
                pass
        except Exception as error:
            count.failed(error)
        else:
            count.served(since)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(one, recordings(calls)))
    count.report(called)


def prefork(guard: Callable[[Any], Any], calls: int) -> None:
    """Eight forked workers, each with a call at a time; one that is killed is not replaced."""
    called, count = guard(work), Count()
    children = []
    for number in range(WORKERS):
        out, into = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(out)
            _worker(called, calls // WORKERS, number, into)
        os.close(into)
        children.append((pid, out))
    for pid, out in children:
        with os.fdopen(out) as pipe:
            lines = pipe.read().splitlines()
        _, status = os.waitpid(pid, 0)
        count.ended["workers killed"] += os.WIFSIGNALED(status)
        for line in lines:
            if line.startswith("!"):
                count.ended[line[1:]] += 1
            else:
                count.ended["served"] += 1
                count.seconds.append(float(line))
    count.report(called)


def _worker(called: Any, calls: int, number: int, into: int) -> None:
    for recording in recordings(calls, seed=number):
        since = time.perf_counter()
        try:
            called(recording)
        except Exception as error:
            os.write(into, f"!{type(error).__name__}\n".encode())
        else:
            os.write(into, f"{time.perf_counter() - since}\n".encode())
            os.write(1, b".")
    os._exit(0)


def grow(bound: int) -> None:
    """The noisy sibling: takes that many MiB step by step, keeps them, and begins again."""
    while True:
        held = []
        for _ in range(bound // 8):
            held.append(np.ones(8 * MIB, np.uint8))
            time.sleep(0.05)
        time.sleep(0.5)


def _disk() -> str | None:
    """A folder on a disk: what lies in a tmpfs is no page cache."""
    return next((folder for folder in ("/var/tmp", ".") if os.access(folder, os.W_OK)), None)  # noqa: S108


SHAPES: dict[str, Callable[[Callable[[Any], Any], int], None]] = {
    "threads": threads,
    "batches": batches,
    "loader": loader,
    "async": service_async,
    "streams": streams,
    "prefork": prefork,
}


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    guard, shape, calls = sys.argv[1:4]
    if guard == "sibling":
        grow(int(calls))
    SHAPES[shape](GUARDS[guard], int(calls))


if __name__ == "__main__":
    main()
