"""The counts of several worker processes: each writes its own to files, a scrape adds up all of them.

The files are those of `prometheus_client`, in PROMETHEUS_MULTIPROC_DIR: one for each kind of metric and process. A
worker that is killed leaves its files behind, and they must stay, for a sum that loses a worker would go down, which
Prometheus takes for a restart. What else has to be borne: files that a kill left empty or half written, which would
fail every scrape (client_python #1199), gauges of processes that are gone, and a process that gets the id of a dead one
and goes on in its files.
"""

from __future__ import annotations

import atexit
import contextlib
import glob
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.values import ValueClass

from mlguard.errors import PolicyError
from mlguard.monitor import metrics, readings
from mlguard.monitor.metrics import Figure, Histogram, Metric
from mlguard.sinks.prometheus import Read, edge_text, merged
from mlguard.sinks.prometheus_dead import Presence, put_together, scraping

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

__all__ = ["EVERY", "Writer"]

_log = structlog.get_logger("mlguard.metrics")

EVERY: Final = 1.0
"""Seconds between two writings at most: what a worker that is killed can lose of its counts."""

OFTEN: Final = 0.1
"""Seconds between them while calls come, and as long as the writing takes no more than `SHARE` of a core."""

SHARE: Final = 0.01

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"

_SPARE: Final = 1 << 20
"""Bytes that must be free beyond what new series take. Files are mapped into memory, and touching a page for which a
full disk has no block would kill the process."""

_TRIES: Final = 5
"""Times that a scrape begins anew where files come and go under it."""

_NEW_SERIES: Final = 1 << 10  # bytes of one on file, generously
_MODES: Final = {"sum": "livesum", "max": "livemax"}
"""What `prometheus_client` calls the ways in which gauges of several processes are put together."""


class Writer:
    """Keeps the counts of this process in its files."""

    _thread: threading.Thread | None

    def __init__(self) -> None:
        self.reads: dict[str, Read] = {}
        self.failures = 0
        """Writings that failed, and files that could not be read or put together."""
        self._presence = Presence()
        self._told: set[str] = set()
        self._started = False
        self.after_fork()
        readings.also(self)
        if hasattr(os, "register_at_fork"):
            # prometheus_client has one lock for all values. A child that is forked while our thread holds it could
            # never count anything again, so that no fork happens in the midst of a writing.
            os.register_at_fork(before=self._hold, after_in_parent=self._release, after_in_child=self._restart)

    def start(self) -> None:
        """Starts the thread, unless it runs.

        Raises:
            PolicyError: There is no such folder, or it can't be written to.
        """
        _folder()
        self._asked = True
        self._begin()

    def _begin(self) -> None:
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            if not self._started:
                atexit.register(self._last)
            self._started = True
            self._thread = threading.Thread(target=self._run, name="mlguard-prometheus", daemon=True)
            self._thread.start()

    def flush(self) -> bool:
        """Writes what changed since the last time; whether anything was counted since.

        Trouble is counted and told once; the next time tries again.
        """
        try:
            with self._lock:
                return self._write()
        except Exception as error:
            self.warn("mlguard.metrics.not_written", error, folder=os.environ.get(VARIABLE))
            return False

    def collector(self) -> _Files:
        """For the registry of one scrape."""
        self.flush()
        return _Files(self)

    def put_together(self, folder: Path) -> None:
        """Makes one file of those of processes that are gone, where there are many."""
        try:
            put_together(folder)
        except Exception as error:  # they are read one by one, then
            self.warn("mlguard.metrics.not_put_together", error, folder=str(folder))

    def metrics(self) -> Iterable[Figure]:
        yield metrics.INSTRUMENTATION_ERRORS, (), self.failures

    def after_fork(self) -> None:
        self._lock = threading.RLock()  # a signal handler may end the process, and write, in the midst of a writing
        self._thread = None
        self._presence.after_fork()
        self._asked = False
        self._values: dict[tuple[Any, ...], _Value] = {}
        self.failures = 0

    def readable(self, path: Path) -> Iterator[str]:
        """The files of a folder, but for those that a kill left damaged, and gauges of processes that are gone."""
        for name in sorted(glob.glob(str(path / "*.db"))):
            alive = _alive(name)
            if os.path.basename(name).startswith("gauge_live") and not alive:
                continue
            try:
                for _ in MmapedDict.read_all_values_from_file(name):  # type: ignore[no-untyped-call]  # has no types
                    pass
            except Exception as error:
                if not alive and os.path.exists(name):  # else it is just being made, or has gone
                    self.warn("mlguard.metrics.damaged_file", error, file=name)
            else:
                yield name

    def _hold(self) -> None:
        self._lock.acquire()

    def _release(self) -> None:
        self._lock.release()

    def _restart(self) -> None:
        """In a child: its counts are its own, and its thread is not there."""
        self.after_fork()
        if self._started:
            with contextlib.suppress(Exception):  # no thread to be had, or the folder is gone: a scrape tries again
                self._begin()

    def _run(self) -> None:
        thread = threading.current_thread()
        pause = OFTEN
        while self._thread is thread:
            time.sleep(min(pause, EVERY))
            before = time.thread_time()
            counted = self.flush()
            pause = max(OFTEN, (time.thread_time() - before) / SHARE) if counted else EVERY

    def _last(self) -> None:
        if self._thread is not None and not sys.is_finalizing():
            self.flush()

    def _write(self) -> bool:
        found = merged(self.reads.values())
        todo = [
            (key, value)
            for metric in metrics.METRICS
            for labels, held in found.get(metric.name, {}).items()
            for key, value in _numbers(metric, labels, held)
        ]
        counted = any(value for (metric, *_), value in todo if metric.kind != "gauge")
        if not (counted or self._values or self._asked):
            return False  # a child that was forked for something else leaves no files behind
        new = sum(key not in self._values for key, _ in todo)
        if new:
            folder = _folder()
            _refuse_full_disk(folder, new)
            self._presence.begin(folder)
        changed = False
        for key, value in todo:
            if key not in self._values:
                self._values[key] = _Value(*key)
            changed |= self._values[key].set(value) and key[0].kind != "gauge"
        gone = self._values.keys() - {key for key, _ in todo}
        for key in gone:  # a function, a policy: a file has no way to forget
            if key[0].kind == "gauge":
                self._values[key].set(0.0)
        return changed

    def warn(self, event: str, error: Exception, **more: Any) -> None:
        """Counts trouble, and logs it once."""
        self.failures += 1
        about = f"{event} {more}"
        if about not in self._told and len(self._told) < 100:
            self._told.add(about)
            with contextlib.suppress(Exception):
                _log.warning(event, reason=f"{type(error).__name__}: {error}", **more)


class _Value:
    """One number in a file."""

    __slots__ = ("_base", "_last", "_value")

    def __init__(self, metric: Metric, suffix: str, names: tuple[str, ...], labels: tuple[str, ...]) -> None:
        family = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
        mode = {"multiprocess_mode": _MODES[metric.together]} if metric.kind == "gauge" else {}
        self._value = ValueClass(metric.kind, family, metric.name + suffix, names, labels, metric.help, **mode)
        # A process that has the id of a dead one finds what that one counted, which stays counted.
        self._base = 0.0 if metric.kind == "gauge" else self._value.get()
        self._last: float | None = None

    def set(self, value: float) -> bool:
        """Whether it is another number than before."""
        if value == self._last:
            return False
        self._value.set(self._base + value)
        self._last = value
        return True


class _Files:
    """Reads the files of all processes, for one scrape."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def collect(self) -> Iterable[Family]:
        for family in self._merged():
            if family.name == metrics.GUARD_INFO.name:
                family.samples = [sample for sample in family.samples if sample.value]
            yield family

    def _merged(self) -> Iterable[Family]:
        folder = _folder()
        with scraping(folder):
            self._writer.put_together(folder)
            for left in reversed(range(_TRIES)):
                files = list(self._writer.readable(folder))
                try:
                    found: Iterable[Family] = MultiProcessCollector.merge(files, accumulate=True)  # type: ignore[no-untyped-call]
                except Exception:  # a file went, or was made, since it was looked at
                    if not left:
                        raise
                else:
                    return found
        return ()


def _numbers(
    metric: Metric, labels: tuple[str, ...], value: float | Histogram
) -> Iterator[tuple[tuple[Metric, str, tuple[str, ...], tuple[str, ...]], float]]:
    """What is written of one series: the metric, what its name ends in, the names and values of labels; the number."""
    if not isinstance(value, Histogram):
        yield (metric, "", metric.labels, labels), float(value)
        return
    for edge, count in zip((*metric.buckets, float("inf")), value.counts, strict=True):
        yield (metric, "_bucket", (*metric.labels, "le"), (*labels, edge_text(edge))), float(count)
    yield (metric, "_sum", metric.labels, labels), value.total


def _folder() -> Path:
    """Where the files are.

    Raises:
        PolicyError: It is not there, or can't be written to.
    """
    path = os.environ.get(VARIABLE) or os.environ.get(VARIABLE.lower()) or ""
    if not path or not os.path.isdir(path):
        raise PolicyError(
            f"{VARIABLE} = {path!r} is not a folder. Fix: make an empty one before the workers start, and one anew for "
            "each start of the service, so that it holds no files of the one before."
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise PolicyError(
            f"{VARIABLE} = {path!r} can't be written to by this user (uid {os.geteuid()}). "
            "Fix: give it to the user that the workers run as."
        )
    return Path(path)


def _refuse_full_disk(folder: Path, new: int) -> None:
    if hasattr(os, "statvfs"):
        room = os.statvfs(folder)
        if room.f_bavail * room.f_frsize < new * _NEW_SERIES + _SPARE:
            raise OSError(28, f"less than {new * _NEW_SERIES + _SPARE:,} bytes are free")


def _alive(name: str) -> bool:
    """Whether the process that a file is named after is there; True where that can't be told."""
    pid = os.path.basename(name).removesuffix(".db").rpartition("_")[2]
    if not pid.isdigit():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's, or no number of a process
        return True
    return True
