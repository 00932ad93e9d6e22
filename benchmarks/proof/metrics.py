"""Two proofs of the metrics: a real Prometheus knows what callers saw, and millions of calls take no memory.

``python -m benchmarks.proof.metrics``: two minutes; exit status 1 where a promise was broken. The callers of a service
of three gunicorn workers count every answer by themselves. While they call, one worker is killed with -9 and all are
replaced by a reload. At the end the totals that Prometheus scraped, and what the recording rules made of them, are held
against the callers' own figures.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.proof.prefork import Answer, Callers, Gunicorn, Prometheus, until
from mlguard.drift import profile
from mlguard.drift.effects import population_stability, shares_of
from mlguard.drift.reference import FieldReference, Profile
from mlguard.export import alerts
from mlguard.monitor import metrics
from mlguard.sinks.prometheus_files import EVERY

__all__ = ["Finding", "against_prometheus", "flat_memory"]

_SLACK = 0.5
"""Seconds beyond `EVERY` for which a writing may be late on a busy machine."""
_CALLS = "sum by (disposition) (mlguard_calls_total)"


@dataclass(frozen=True)
class Finding:
    """One figure of Prometheus beside the callers' own."""

    what: str
    prometheus: float
    least: float
    most: float

    @property
    def true(self) -> bool:
        return self.least <= self.prometheus <= self.most

    def __str__(self) -> str:
        allowed = f"{self.least:.6g}" if self.least == self.most else f"{self.least:.6g} to {self.most:.6g}"
        return f"{self.what:58}{self.prometheus:12.6g}   {allowed:24}{'' if self.true else ' BROKEN'}"


@dataclass
class Seen:
    """What a run came to."""

    findings: list[Finding] = field(default_factory=list)
    calls: int = 0
    lost: int = 0
    may_be_lost: int = 0


def against_prometheus(folder: Path, seconds: float, *options: str, workers: int = 3) -> Seen:
    """Calls a prefork service for that long, kills and reloads workers, and compares.

    Args:
        folder: An empty one, for the files of the servers.
        seconds: How long it is called.
        options: Further ones for gunicorn, such as ``--preload``.
        workers: How many processes answer.
    """
    reference = _profile(folder)
    rules = alerts.as_yaml(alerts.rules('job="proof"', alerts.Limits(rows=1)))
    service = Gunicorn(folder, folder / "profile.json", *options, workers=workers)
    prometheus = None
    try:
        service.ready()
        prometheus = Prometheus(folder, service.port, rules)
        # Increments before the first scrape are no increase that Prometheus could know of.
        until(lambda: prometheus.ask("up == 1") and prometheus.ask(_CALLS), 60, "the first scrape")
        callers = Callers(service.port)
        with callers.calling():
            time.sleep(seconds / 3)
            victim = callers.answers[-1].process or callers.answers[-2].process
            killed = time.time()
            os.kill(victim, signal.SIGKILL)
            time.sleep(seconds / 3)
            service.reload()
            time.sleep(seconds / 3)
        time.sleep(2 * EVERY + 1.5)  # the last writing, the last scrape, the last evaluation
        return _compared(prometheus, callers.answers, victim, killed, reference)
    finally:
        if prometheus is not None:
            prometheus.stop()
        service.stop()


def _profile(folder: Path) -> Profile:
    random = np.random.default_rng(7)
    values = np.round(random.normal(size=5_000), 2)
    made = profile({"x": values})
    made.save(folder / "profile.json")
    return made


def _compared(prometheus: Prometheus, answers: list[Answer], victim: int, killed: float, reference: Profile) -> Seen:
    recent = [each for each in answers if each.process == victim and killed - EVERY - _SLACK <= each.at <= killed + 1]
    unknown = sum(each.how == "unknown" for each in answers)
    told = Counter(each.how for each in answers)
    may_be_lost = Counter(each.how for each in recent)
    totals = {dict(labels)["disposition"]: value for labels, value in prometheus.ask(_CALLS).items()}
    seen = Seen(calls=len(answers), may_be_lost=len(recent))
    seen.lost = sum(told.values()) - unknown - int(sum(totals.values()))
    for how in ("executed", "cache_hit", "failed", "rejected_validation"):
        least = told[how] - may_be_lost[how]
        seen.findings.append(Finding(f"calls: {how}", totals.get(how, 0.0), least, told[how] + unknown))
    spare = (len(recent) + unknown) / max(1, len(answers))
    seen.findings += _ratios(prometheus, told, spare)
    seen.findings.append(_quantile(prometheus, answers))
    seen.findings.append(_drift(prometheus, answers, reference, spare))
    return seen


def _ratios(prometheus: Prometheus, told: Counter[str], spare: float) -> Iterator[Finding]:
    good = told["executed"] + told["cache_hit"]
    errors = told["failed"] / (good + told["failed"])
    for name, true in (
        (alerts.ERRORS.format(window="5m"), errors),
        (alerts.ERRORS.format(window="1h"), errors),
        (alerts.SUCCESS, 1 - errors),
        (alerts.HITS, told["cache_hit"] / (good + told["failed"])),
    ):
        (value,) = prometheus.ask(name).values()
        yield Finding(name, value, true - 0.01 - spare, true + 0.01 + spare)


def _quantile(prometheus: Prometheus, answers: list[Answer]) -> Finding:
    """The recorded percentile lies in the bucket of the true one, or beside its edge."""
    name = alerts.LATENCY.format(percent=50)
    (value,) = prometheus.ask(name).values()
    took = sorted(each.took for each in answers if each.how == "executed")
    edges = (0.0, *metrics.CALL_DURATION.buckets)
    low, high = (bisect_left(edges, took[int(share * len(took))]) for share in (0.45, 0.55))
    return Finding(name, value, edges[low - 1], edges[high])


def _drift(prometheus: Prometheus, answers: list[Answer], reference: Profile, spare: float) -> Finding:
    """The stability index of all workers together is that of everything the callers sent to the model."""
    (known,) = reference.fields
    sent = [each.value for each in answers if each.value is not None and each.how in ("executed", "failed")]
    counted = known.bins.count(sent)
    true = _stability(known, counted)
    (value,) = prometheus.ask(alerts.PSI).values()
    margin = 0.02 + 0.05 * true + spare
    return Finding(alerts.PSI, value, true - margin, true + margin)


def _stability(known: FieldReference, counted: list[int]) -> float:
    """Without the correction for the size of the profile, which Prometheus does not know."""
    return population_stability([1e12 * share for share in shares_of(known.counts)], counted)


_LOOP = """
import gc, sys, psutil
from mlguard import Cache, Monitor, Retry, guarded
from mlguard.sinks import prometheus

prometheus.register()

@guarded(monitor=Monitor(log=False), retry=Retry(), cache=Cache(ttl="1h", max_entries=100))
def f(x: int) -> int:
    if x % 1000 == 999:
        raise LookupError
    return x

def run(calls):
    for number in range(calls):
        try:
            f(number % 5000)
        except LookupError:
            pass
        if number % 100_000 == 0:
            prometheus.exposition()

def used():
    gc.collect()
    return psutil.Process().memory_info().rss

calls = int(sys.argv[1])
run(calls // 10)
before = used()
run(calls)
print(used() - before)
"""


def flat_memory(calls: int) -> int:
    """Bytes by which a process grew over that many calls with metrics on, after a tenth as many to warm up."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", _LOOP, str(calls)], capture_output=True, text=True, check=True, timeout=900
    )
    return int(done.stdout)


def main() -> int:
    """Both proofs, at length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--calls", type=int, default=10_000_000)
    given = parser.parse_args()
    broken = False
    for options in ((), ("--preload",)):
        with tempfile.TemporaryDirectory() as folder:
            seen = against_prometheus(Path(folder), given.seconds, *options)
        print(f"gunicorn{' --preload' if options else ''}: {seen.calls:,} calls in {given.seconds:g} s, 3 workers, one "
              "killed, all reloaded once")  # fmt: skip
        print(f"  lost with the killed worker: {seen.lost} calls; it answered {seen.may_be_lost} in its last "
              f"{EVERY + _SLACK:g} s")  # fmt: skip
        print(f"  {'':58}{'Prometheus':>12}   the callers")
        for finding in seen.findings:
            print(f"  {finding}")
            broken |= not finding.true
    grew = flat_memory(given.calls)
    print(f"{given.calls:,} calls, scraped every 100,000: the process grew by {grew / 2**20:.2f} MiB")
    return 1 if broken or grew > 2 << 20 else 0


if __name__ == "__main__":
    raise SystemExit(main())
