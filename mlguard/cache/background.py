"""Work that no caller waits for, on few threads that exist only while there is some.

A thread is started when work comes and ends when none is left, so that nothing runs at import, after a quiet minute, or
in a forked child. When the interpreter exits, what runs is waited for, as for any thread, and what waits is dropped.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from mlguard.forks import renew_in_children

__all__ = ["Background", "background"]

_THREADS: Final = 4
_WAITING: Final = 100


class Background:
    """Few threads and a bounded queue.

    Args:
        threads: How many run at once at most.
        waiting: How many pieces of work wait at most.
    """

    def __init__(self, threads: int = _THREADS, waiting: int = _WAITING) -> None:
        self._threads = threads
        self._most = waiting
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], object]] = deque()
        self._running = 0
        renew_in_children(self)

    def submit(self, work: Callable[[], object]) -> bool:
        """Runs work soon; False where too much waits already. Work must not raise."""
        with self._lock:
            if len(self._waiting) >= self._most:
                return False
            self._waiting.append(work)
            if self._running >= self._threads:
                return True
            self._running += 1
        try:
            threading.Thread(target=self._work, name="mlguard-refresh").start()
        except RuntimeError:  # no thread to be had: out of them, or the interpreter is going
            with self._lock:
                self._running -= 1
                if work in self._waiting:
                    self._waiting.remove(work)
            return False
        return True

    def after_fork(self) -> None:
        """In the child: the threads are the parent's, and so is their work."""
        self._lock = threading.Lock()
        self._waiting.clear()
        self._running = 0

    def _work(self) -> None:
        while True:
            with self._lock:
                if not threading.main_thread().is_alive():
                    self._waiting.clear()
                if not self._waiting:
                    self._running -= 1
                    return
                work = self._waiting.popleft()
            try:
                work()
            finally:
                del work


background: Final = Background()
"""The one that the caches of a process share."""
