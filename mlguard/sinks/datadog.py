"""Datadog: the metrics of every guarded function through the `datadog` package's DogStatsd, to an agent.

Every few seconds a thread reads the counts and sends what came since: counters as differences, gauges as they are, and
durations as distributions, the values themselves, many to a datagram. Where a series has more of them than `MOST`, a
random sample of that many goes out and says its rate, so that the agent's counts are right. Datagrams to an agent that
is not there are lost, as they are with every DogStatsD client; nothing waits for one.
"""

from __future__ import annotations

import atexit
import random
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final

from mlguard import clock
from mlguard.clock import Duration
from mlguard.errors import PolicyError
from mlguard.forks import in_children, renew_in_children
from mlguard.monitor import readings
from mlguard.monitor.drain import EXIT_WAIT, Drain
from mlguard.monitor.listeners import Ended, listen, unlisten
from mlguard.monitor.metrics import CALL_DURATION, Histogram, Metric

try:
    from datadog.dogstatsd.base import DogStatsd
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        f"mlguard.sinks.datadog needs {missing.name}, which is not installed. "
        "Fix: pip install datadog (mlguard's extra 'datadog').",
        name=missing.name,
    ) from None

__all__ = ["MOST", "Pushing", "start"]

MOST: Final = 1_000
"""Durations of one series that one push sends; of more, a sample."""

_MOST_SERIES = 1_000
_LONGEST: Final = 200  # characters of a tag; Datadog cuts it there, and an endless one would not fit a datagram
_PACKED = 64  # values of one line, so that it fits into the smallest datagram that the client makes


def start(
    *,
    host: str | None = None,
    port: int | None = None,
    socket_path: str | None = None,
    tags: Iterable[str] = (),
    every: Duration = 10.0,
) -> Pushing:
    """Begins to push: call it once, where the service starts. Calling it again with the same address changes nothing.

    A process that is forked later pushes on its own, from its first guarded call on.

    Args:
        host: Of the agent. None: what DD_AGENT_HOST or DD_DOGSTATSD_URL say, else ``localhost``.
        port: None: what DD_DOGSTATSD_PORT says, else 8125.
        socket_path: The agent's unix socket, in place of host and port.
        tags: Added to every metric, such as ``"service:scores"``. DD_ENV, DD_SERVICE and DD_VERSION are added anyway.
        every: Time between two pushes. The agent itself sends on every 10 seconds.

    Raises:
        PolicyError: An argument can't be right.
    """
    if socket_path is not None and (host is not None or port is not None):
        raise PolicyError("datadog: socket_path and host or port are given. Fix: one of them.")
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
        raise PolicyError('datadog: tags must be a list of texts. Fix: tags=["service:scores"].')
    try:
        interval = clock.seconds(every)
    except ValueError as error:
        raise PolicyError(f"datadog: every {error}. Fix: every=10.") from None
    if interval <= 0:
        raise PolicyError("datadog: every must be above 0. Fix: every=10.")
    with _lock:
        address = host, port, socket_path
        pushing = _pushing.get(address)
        if pushing is None:
            client = DogStatsd(
                host=host, port=port, socket_path=socket_path, constant_tags=list(tags), disable_telemetry=True
            )
            pushing = _pushing[address] = Pushing(client, interval)
        return pushing


class Pushing:
    """What pushes to one agent. `start` makes it.

    Args:
        client: Sends.
        interval: Seconds between two pushes.
    """

    def __init__(self, client: DogStatsd, interval: float) -> None:
        self._client = client
        self._interval = interval
        self._queue = Drain("datadog", self._hear)
        self._stopped = threading.Event()
        self.after_fork()
        renew_in_children(self)
        self._begin()
        listen(self._queue.put)
        atexit.register(self._last_push)

    def push(self, timeout: float = EXIT_WAIT) -> bool:
        """Sends what came since the last push, that of past calls included; False: it took longer than that."""
        heard = self._queue.flush(timeout)
        self._push()
        return heard

    def stop(self) -> None:
        """A last push, and no further one; `start` with the same address begins anew."""
        with _lock:
            for address in [address for address, pushing in _pushing.items() if pushing is self]:
                del _pushing[address]
        unlisten(self._queue.put)
        self._stopped.set()
        self.push()
        self._queue.close()
        self._client.close_socket()
        atexit.unregister(self._last_push)

    def stats(self) -> dict[str, Any]:
        """Pushes so far, those of them that failed with the last reason, and what became of the durations."""
        return {
            "pushes": self._pushes,
            "failed_pushes": self._failures,
            "last_failure": self._last_failure,
            "durations": self._queue.stats(),
        }

    def after_fork(self) -> None:
        """In the child: counts begin at 0, and the thread is the parent's."""
        self._lock = threading.Lock()
        self._samples: dict[tuple[str, str], _Sample] = {}
        self._sent: dict[tuple[Metric, tuple[str, ...]], float] = {}
        self._thread: threading.Thread | None = None
        self._pushes = self._failures = 0
        self._last_failure: str | None = None

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._go, name="mlguard-datadog", daemon=True)
                self._thread.start()

    def _go(self) -> None:
        while not self._stopped.wait(self._interval):
            self._push()

    def _hear(self, calls: list[Ended]) -> None:
        """In the thread of the queue."""
        if self._thread is None:  # the first calls of a forked child
            self._begin()
        with self._lock:
            for guard, disposition, duration in calls:
                series = guard, disposition
                if series not in self._samples:
                    if len(self._samples) >= _MOST_SERIES:
                        series = readings.OTHER, disposition
                    self._samples.setdefault(series, _Sample())
                self._samples[series].add(duration)

    def _push(self) -> None:
        try:
            counted = readings.read()
            with self._lock:
                samples, self._samples = self._samples, {}
                self._client.open_buffer()
                try:
                    for metric, labels, value in counted:
                        if not isinstance(value, Histogram):
                            self._tell(metric, labels, value)
                    for series, sample in samples.items():
                        self._tell_durations(series, sample)
                finally:
                    self._client.close_buffer()
                self._pushes += 1
        except Exception as error:  # the agent's name can't be resolved, for instance
            self._failures += 1
            self._last_failure = type(error).__name__

    def _tell(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        tags = _tags(metric, labels)
        if metric.kind == "gauge":
            self._client.gauge(metric.dotted, value, tags)
            return
        new = value - self._sent.get((metric, labels), 0.0)
        if new > 0:
            self._client.increment(metric.dotted, int(new) if new.is_integer() else new, tags)
            self._sent[metric, labels] = value

    def _tell_durations(self, series: tuple[str, str], sample: _Sample) -> None:
        values, rate = sample.values, sample.rate
        for begin in range(0, len(values), _PACKED):
            packed: Any = ":".join(f"{value:.6g}" for value in values[begin : begin + _PACKED])
            self._client.distribution(CALL_DURATION.dotted, packed, _tags(CALL_DURATION, series), rate)

    def _last_push(self) -> None:
        self._queue.flush()
        self._push()


class _Sample:
    """At most `MOST` values of a series, every one of those that came as likely as the others to be among them."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._seen = 0

    def add(self, value: float) -> None:
        self._seen += 1
        if len(self.values) < MOST:
            self.values.append(value)
        elif (place := _chance.randrange(self._seen)) < MOST:
            self.values[place] = value

    @property
    def rate(self) -> float:
        return 1 if self._seen == len(self.values) else _Said(len(self.values) / self._seen)


class _Said(float):
    """A sample rate that the client is to say and not to apply: the values were drawn before."""

    def __lt__(self, chance: float) -> bool:  # what `random() > rate` asks
        return False


def _tags(metric: Metric, labels: Sequence[str]) -> list[str]:
    return [f"{name}:{value}"[:_LONGEST] for name, value in zip(metric.labels, labels, strict=True) if value]


def _renew() -> None:
    global _lock
    _lock = threading.Lock()
    _chance.seed()


_chance = random.Random()  # noqa: S311 - sampling
_lock = threading.Lock()
_pushing: dict[tuple[str | None, int | None, str | None], Pushing] = {}
in_children(_renew)
