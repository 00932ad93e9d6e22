"""Reads the metrics of this process: what every room of every guarded function counts, put together when asked.

Nothing here is on the path of a call. A room forgets its counts on `reset()`, is replaced by a reload, goes with its
function, or comes with a fork; a counter must not go down for that. So each reading adds to the totals of the process
what a room counted since the reading before, and one is taken whenever a room is about to forget. A count that is
smaller than it was (figures of one room may be read while another thread moves them) adds nothing.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import weakref
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from mlguard.monitor import metrics
from mlguard.monitor.metrics import GUARD, Figure, Histogram, Metered, Metric

if TYPE_CHECKING:
    from mlguard.bound import Bound

__all__ = ["OTHER", "Reading", "Readings", "also", "forget", "forgetting", "of_this_process", "read"]

OTHER: Final = "other"
"""Stands for what is beyond the bounds below."""

MOST_SERIES: Final = 200
"""Different labels of one metric of one guard; more are `OTHER` together."""

MOST_GUARDS: Final = 1_000
"""Different names of functions; more are `OTHER` together. Programs that make functions with names of their own at run
time would otherwise fill a metrics server, and this process."""

_READ: Final = "_read_so_far"

_Labels: TypeAlias = tuple[str, ...]
_Numbers: TypeAlias = list[float]
_Account: TypeAlias = dict[tuple[Metric, _Labels], _Numbers]
"""What was seen of one room: a counter's value, or a histogram's counts and its sum."""


class Reading(NamedTuple):
    """One series at this moment."""

    metric: Metric
    labels: tuple[str, ...]
    """The values of `metric.labels`, in that order."""
    value: float | Histogram
    """A `Histogram` where the metric is one. Counters and histograms say what was counted since the process started,
    or was forked, and never go down."""


class Readings:
    """The totals of one process.

    Safe for threads; a reading takes about 0.1 ms for a function, most of it in the rooms.
    """

    def __init__(self) -> None:
        self._sources: list[Metered] = []
        self._replaced: weakref.WeakSet[Bound] = weakref.WeakSet()
        self.after_fork()

    def read(self) -> list[Reading]:
        """Every series of this process, metric by metric, in the order of `metrics.METRICS`."""
        gauges: dict[Metric, dict[_Labels, float]] = defaultdict(dict)
        with self._lock:
            shown: set[int] = set()
            for bound, current in self._bounds():
                for guard, room in _rooms(bound):
                    self._take(guard, room, gauges if current and id(room) not in shown else None)
                    shown.add(id(room))  # several functions may share it
            for source in list(self._sources):
                self._take(OTHER, source, gauges)
            self._note(gauges, [(metrics.BUILD_INFO, _build(), 1.0)])
            self._apply_late()
            return [
                Reading(metric, labels, value)
                for metric in metrics.METRICS
                for labels, value in self._series(metric, gauges)
            ]

    def also(self, source: Metered) -> None:
        """Reads something beside the guarded functions, from now on, such as a queue that counts what it dropped.

        Its figures have every label of their metric but `GUARD`, which is `OTHER` for it. In the child of a fork its
        counts must start at 0.
        """
        if not any(known is source for known in self._sources):
            self._sources.append(source)

    def replaced(self, bound: Bound) -> None:
        """A function runs under another policy now; calls in progress still count here."""
        self._replaced.add(bound)

    def leave(self, bound: Bound) -> None:
        """Takes the last reading of what is about to go. For a destructor: it waits for no lock of a reading."""
        self._late.extend((guard, _account(room), _figures(room)) for guard, room in _rooms(bound))
        if self._lock.acquire(blocking=False):  # else who has it will see to it
            try:
                self._apply_late()
            finally:
                self._lock.release()

    @contextmanager
    def forgetting(self, bound: Bound) -> Iterator[None]:
        """Goes around a reset of the rooms of a function: what they counted is kept in the totals."""
        with self._lock:
            for guard, room in _rooms(bound):
                self._take(guard, room, None)
        try:
            yield
        finally:
            for _, room in _rooms(bound):
                forget(room)

    def before_fork(self) -> None:
        """What was counted so far is the parent's."""
        with suppress(Exception), self._lock:  # a fork must not fail for it
            for bound, _ in self._bounds():
                for guard, room in _rooms(bound):
                    self._take(guard, room, None)

    def after_fork(self) -> None:
        """A child starts at 0."""
        self._lock = threading.RLock()  # a destructor may come here in the middle of a reading
        self._late: deque[tuple[str, _Account, list[Figure]]] = deque()
        self._totals: dict[Metric, dict[_Labels, _Numbers]] = defaultdict(dict)
        self._guards: set[str] = set()
        self._known: dict[tuple[Metric, str], int] = defaultdict(int)
        for source in self._sources:
            forget(source)

    def _bounds(self) -> list[tuple[Bound, bool]]:
        """What functions are bound to, and whether they still are."""
        from mlguard.wrapper import every_wrapper  # which imports this module

        current = [bound for wrapper in _unhurried(every_wrapper) if (bound := wrapper.bound) is not None]
        replaced = _unhurried(lambda: list(self._replaced))
        return [*((bound, True) for bound in current), *((bound, False) for bound in replaced)]

    def _take(self, guard: str, room: Metered, gauges: dict[Metric, dict[_Labels, float]] | None) -> None:
        figures = _figures(room)
        self._count(guard, _account(room), figures)
        if gauges is not None:
            self._note(gauges, [(metric, _labelled(metric, guard, labels), value) for metric, labels, value in figures])

    def _apply_late(self) -> None:
        while self._late:
            with suppress(IndexError):
                self._count(*self._late.popleft())

    def _count(self, guard: str, account: _Account, figures: Iterable[Figure]) -> None:
        """Adds to the totals what came since the reading before."""
        now: _Account = {}
        for metric, labels, value in figures:
            if metric.kind == "gauge":
                continue
            numbers: _Numbers = [*value.counts, value.total] if isinstance(value, Histogram) else [value]
            before = now.get((metric, labels))
            now[metric, labels] = numbers if before is None else [a + b for a, b in zip(before, numbers, strict=True)]
        for key, numbers in now.items():
            metric, labels = key
            totals, place = self._totals[metric], _labelled(metric, guard, labels)
            before = account.get(key)
            if before == numbers and place in totals:
                continue  # as most series, at most scrapes
            before = before or [0.0] * len(numbers)
            seen = [max(pair) if math.isfinite(pair[1]) else pair[0] for pair in zip(before, numbers, strict=True)]
            account[key] = seen
            place = self._place(metric, place)
            so_far = totals.get(place) or [0.0] * len(numbers)
            totals[place] = [a + (new - old) for a, new, old in zip(so_far, seen, before, strict=True)]

    def _note(self, gauges: dict[Metric, dict[_Labels, float]], figures: Iterable[Figure]) -> None:
        for metric, labels, value in figures:
            if metric.kind != "gauge" or isinstance(value, Histogram) or not math.isfinite(value):
                continue
            held, place = gauges[metric], self._place(metric, labels)
            before = held.get(place, 0.0)
            largest = metric.together == "max" or GUARD not in metric.labels
            held[place] = max(before, value) if largest else before + value

    def _place(self, metric: Metric, labels: _Labels) -> _Labels:
        """The labels under which a series stands: within the bounds its own."""
        totals = self._totals[metric]
        if labels in totals or not labels or metric.labels[0] != GUARD:
            return labels
        guard = labels[0]
        if guard not in self._guards:
            if len(self._guards) >= MOST_GUARDS:
                return self._place(metric, (OTHER, *labels[1:])) if guard != OTHER else self._new(metric, labels)
            self._guards.add(guard)
        return self._new(metric, labels)

    def _new(self, metric: Metric, labels: _Labels) -> _Labels:
        if metric.kind == "gauge":  # gone with its function; rooms bound their own
            return labels
        if self._known[metric, labels[0]] >= MOST_SERIES:
            return (labels[0], *(OTHER for _ in labels[1:]))
        self._known[metric, labels[0]] += 1
        return labels

    def _series(
        self, metric: Metric, gauges: dict[Metric, dict[_Labels, float]]
    ) -> Iterator[tuple[_Labels, float | Histogram]]:
        if metric.kind == "gauge":
            yield from sorted(gauges[metric].items()) if metric in gauges else ()
            return
        for labels, numbers in sorted(self._totals.get(metric, {}).items()):
            if metric.kind == "histogram":
                yield labels, Histogram(tuple(int(count) for count in numbers[:-1]), numbers[-1])
            else:
                yield labels, numbers[0]


def forget(metered: Metered) -> None:
    """What something counts starts at 0 again, by its own doing, as in the child of a fork."""
    vars(metered).pop(_READ, None)


def share(new: Metered, old: Metered) -> None:
    """Something goes on with the counts of what it replaces."""
    vars(new)[_READ] = _account(old)


def _account(metered: Metered) -> _Account:
    # Kept in the object itself: a weak reference is gone before a destructor runs that would look here.
    account: _Account = vars(metered).setdefault(_READ, {})
    return account


def _figures(metered: Metered) -> list[Figure]:
    try:
        return list(metered.metrics())
    except Exception:  # telemetry that fails is counted, and fails nothing
        return [(metrics.INSTRUMENTATION_ERRORS, (), _failed_once_more(metered))]


def _failed_once_more(metered: Metered) -> float:
    seen = _account(metered).get((metrics.INSTRUMENTATION_ERRORS, ()))
    return (seen[0] if seen else 0.0) + 1.0


def _labelled(metric: Metric, guard: str, labels: _Labels) -> _Labels:
    return tuple(map(_text, (guard, *labels) if metric.labels[:1] == (GUARD,) else labels))


@lru_cache(maxsize=4_096)
def _text(label: str) -> str:
    """As UTF-8 can hold it: half a surrogate pair in one name would fail every scrape of the process."""
    return label.encode("utf-8", "replace").decode()


def _rooms(bound: Bound) -> Iterator[tuple[str, Any]]:
    """The rooms of a function, each with the name that its series have."""
    monitor = bound.policy.monitor
    if monitor is not None and not monitor.metrics:
        return
    for section, room in bound.wiring.rooms.items():
        # Several functions have one room where they named a scope; of a cache it is the store that they share.
        key = bound.wiring.scopes.get(section) if section != "cache" else None
        if hasattr(room, "metrics"):
            yield (bound.target.name if key is None else f"scope:{key[1]}"), room


def _build() -> _Labels:
    from mlguard import __version__

    return __version__, ".".join(map(str, sys.version_info[:3]))


def _unhurried(listed: Any) -> list[Any]:
    """A list of a weak set, which another thread may be changing."""
    for _ in range(10):
        with suppress(RuntimeError):
            return list(listed())
    return []


of_this_process = Readings()

read = of_this_process.read
also = of_this_process.also
forgetting = of_this_process.forgetting

if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=of_this_process.before_fork, after_in_child=of_this_process.after_fork)
