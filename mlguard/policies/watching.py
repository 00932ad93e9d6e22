"""Watching the policy files: a thread that looks at them now and then, and reloads when one of them changed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import structlog

from mlguard.errors import PolicyError
from mlguard.forks import renew_in_children
from mlguard.policies.catalogue import of_this_process
from mlguard.policies.change import reload
from mlguard.policies.files import State, state_of

__all__ = ["Watch"]

_SETTLED = 0.05  # seconds without another change, so that a file is not read while it is being written
_log = structlog.get_logger("mlguard.policies")


class Watch:
    """Reloads the policies when a file of theirs changes; a bad file keeps what is in force, and is watched on.

    A context manager: leaving it ends the watch. In a forked child it goes on by itself.

    Args:
        interval: Seconds between two looks.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        of_this_process.read_first()
        self._seen = of_this_process.seen
        self._failed: str | None = None
        self._stopped = False
        renew_in_children(self)
        self._start()

    @property
    def running(self) -> bool:
        """True until it is stopped."""
        return self._thread.is_alive()

    @property
    def failed(self) -> str | None:
        """What was wrong with the files when they were last read; None: nothing."""
        return self._failed

    def stop(self) -> None:
        """Ends the watch; a reload in progress ends first."""
        self._stopped = True
        self._wake.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def after_fork(self) -> None:
        """In the child, which has no thread but its own."""
        if not self._stopped:
            self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _start(self) -> None:
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlguard-policies", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._wake.wait(self._interval):
            now = self._look()
            if now == self._seen:
                continue
            if self._wake.wait(_SETTLED) or self._look() != now:
                continue  # stopped, or still being written: the next look will see
            self._seen = now
            with contextlib.suppress(Exception):  # the log may be broken, which must not end the watch
                self._reload()

    def _look(self) -> Mapping[Path, State]:
        return {path: state_of(path) for path in of_this_process.seen or self._seen}

    def _reload(self) -> None:
        try:
            reload()
        except PolicyError as error:
            self._failed = str(error)
            _log.error(
                "mlguard.policies.reload_failed",
                **{"mlguard.policies.source": of_this_process.source, "exception.message": str(error)},
            )
        except Exception as error:  # a bug of ours must not end the watch
            self._failed = f"{type(error).__name__}: {error}"
            _log.exception("mlguard.policies.reload_failed")
        else:
            self._failed = None
            self._seen = of_this_process.seen  # as they were when they were read, and perhaps others than before
