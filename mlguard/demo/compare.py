"""The same calls through the unguarded and the guarded function, each answer held against the model's own."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlguard.demo import guarded, unguarded
from mlguard.demo.model import MEASURED, Model
from mlguard.demo.service import FAULTS, FeatureClient, FeatureService
from mlguard.demo.squeeze import Squeeze
from mlguard.demo.traffic import MISTAKES, Call, traffic
from mlguard.errors import InvalidInputError, MemoryPressureError

__all__ = ["Comparison", "Run", "compare"]

SQUEEZED = 0.60, 0.66
"""The part of the calls during which memory is short, as shares of the run."""


@dataclass
class Run:
    """What became of the calls of one of the two runs."""

    right: int = 0
    wrong: int = 0
    """Answers that differ from the model's on the uncorrupted row. Nothing told the caller."""
    opposite: int = 0
    """Of those, how many were the opposite diagnosis."""
    wrong_because: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    """Calls that ended in any other exception, by its class or HTTP status."""
    failed_on_mistake: int = 0
    """Of those, how many had a mistake of the caller's in them."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Calls refused for the caller's own mistake, by field and reason."""
    shed: int = 0
    """Calls refused because memory was short."""
    shed_unplanned: int = 0
    """Of those, how many outside the squeeze: other programs took memory then."""
    requests: int = 0
    """Requests sent to the feature service."""
    retried: int = 0
    """Of those, how many were second and later attempts."""
    saved: int = 0
    """Calls answered although their first request failed."""
    from_cache: int = 0
    """Calls answered without any request."""
    seconds: list[float] = field(default_factory=list)
    told: str | None = None
    """What the first caller who sent a NaN was told."""

    def percentile(self, share: float) -> float:
        """The latency, in seconds, that this many percent of the calls did not exceed."""
        return float(np.percentile(self.seconds, share))

    def as_dict(self) -> dict[str, Any]:
        return {
            "right": self.right,
            "wrong": self.wrong,
            "wrong_opposite_diagnosis": self.opposite,
            "wrong_because": dict(self.wrong_because.most_common()),
            "failed": self.failed.total(),
            "failed_with": dict(self.failed.most_common()),
            "failed_on_callers_mistake": self.failed_on_mistake,
            "rejected": self.rejected.total(),
            "rejected_because": dict(self.rejected.most_common()),
            "shed": self.shed,
            "shed_outside_the_squeeze": self.shed_unplanned,
            "requests": self.requests,
            "retried_requests": self.retried,
            "saved_by_retry": self.saved,
            "from_cache": self.from_cache,
            "p50_ms": round(self.percentile(50) * 1000, 3),
            "p99_ms": round(self.percentile(99) * 1000, 3),
        }


@dataclass
class Comparison:
    """Both runs, and what they ran on."""

    calls: int
    seed: int
    model: str
    accuracy: float
    patients: int
    unguarded: Run = field(default_factory=Run)
    guarded: Run = field(default_factory=Run)
    stats: dict[str, Any] = field(default_factory=dict)
    """What the guarded function says of itself: `f.guard.stats()`."""
    ballast: int = 0
    """Bytes that the squeeze took; 0: not yet, or too little memory is free here."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-serialisable; counts, apart from the latencies, follow from the seed (docs/demo.md says which don't)."""
        return {
            "calls": self.calls,
            "seed": self.seed,
            "model": {"name": self.model, "held_out_accuracy": round(self.accuracy, 4), "patients": self.patients},
            "faults": {"feature_service": dict(FAULTS), "caller": dict(MISTAKES)},
            "ballast_bytes": self.ballast,
            "unguarded": self.unguarded.as_dict(),
            "guarded": self.guarded.as_dict(),
            "guard_stats": self.stats,
            "seconds": round(self.seconds, 2),
        }


def compare(calls: int, seed: int, watch: Callable[[int, Comparison, str], None] = lambda *_: None) -> Comparison:
    """Trains the model, starts the feature service, and sends every call to both functions, one after the other.

    Args:
        calls: How many.
        seed: Decides patients, mistakes and faults.
        watch: Told after each call how many are done, the counts so far, and what is going on.
    """
    started = time.perf_counter()
    model = Model()
    squeeze = Squeeze()
    so_far = Comparison(calls, seed, model.name, model.accuracy, len(model.patients))
    first, last = (int(share * calls) for share in SQUEEZED)
    one_thread = threadpool_limits(1)  # trees on one row are slower, and much less even, on several
    with contextlib.ExitStack() as services, one_thread, contextlib.ExitStack() as phase:
        sides = []
        for run in (so_far.unguarded, so_far.guarded):  # each asks its own service, and both services fail alike
            service = services.enter_context(FeatureService(model.patients[:, MEASURED:], seed))
            client = FeatureClient(service.url, seed)
            plain = run is so_far.unguarded
            function = unguarded.build(client, model) if plain else guarded.build(client, model, squeeze.ceiling)
            sides.append(_Side(run, client, function))
        for call in traffic(model, calls, seed):
            if call.number == first:
                so_far.ballast = phase.enter_context(squeeze).ballast
            if call.number == last:
                phase.close()
            squeezed = first <= call.number < last
            for side in sides:
                side.send(call, squeezed)
            watch(call.number + 1, so_far, "memory is short" if squeezed else "serving")
        so_far.stats = sides[1].function.guard.stats()
    so_far.seconds = time.perf_counter() - started
    return so_far


class _Side:
    """One of the two functions, the client it calls, and its counts."""

    def __init__(self, run: Run, client: FeatureClient, function: Any) -> None:
        self.run, self.client, self.function = run, client, function
        self._wrong_before: dict[int, str] = {}  # by visit: why the answer that the cache repeats is wrong

    def send(self, call: Call, squeezed: bool) -> None:
        run = self.run
        self.client.begin(call.number)
        started = time.perf_counter()
        try:
            answer = self.function(call.patient, call.measured)
        except InvalidInputError as error:
            violation = error.errors()[0]
            run.rejected[f"{violation['loc'][0]}: {call.mistake}"] += 1
            if call.mistake == "NaN":
                run.told = run.told or str(error)
        except MemoryPressureError:
            run.shed += 1
            run.shed_unplanned += not squeezed
        except Exception as error:
            run.failed[_name(error)] += 1
            run.failed_on_mistake += call.mistake is not None
        else:
            self._score(call, answer)
        run.seconds.append(time.perf_counter() - started)
        run.requests += self.client.requests
        run.retried += max(0, self.client.requests - 1)

    def _score(self, call: Call, answer: float) -> None:
        run = self.run
        cached = self.client.requests == 0
        run.from_cache += cached
        run.saved += self.client.requests > 1
        if np.isclose(answer, call.truth, rtol=0, atol=1e-9):
            run.right += 1
            return
        run.wrong += 1
        run.opposite += (answer >= 0.5) != (call.truth >= 0.5)
        if cached:
            cause = f"{self._wrong_before.get(call.visit)}, repeated from the cache"
        elif call.mistake:
            cause = f"the caller's {call.mistake}"
        else:
            cause = f"the service's {self.client.fault}"
            self._wrong_before[call.visit] = cause
        run.wrong_because[cause] += 1


def _name(error: Exception) -> str:
    status = getattr(error, "code", None)
    reason = getattr(error, "reason", None)
    if isinstance(status, int):
        return f"HTTP {status}"
    return type(reason if isinstance(reason, Exception) else error).__name__
