"""A shop's day: real guarded functions, called under a clock that tests move, their events kept as JSON lines.

Nothing here writes an event by hand. Upstream fails, stalls and sends nonsense; callers send what no schema allows; the
breaker opens, memory runs short, a currency changes. ``python -m tests.report.shop FILE CALLS`` writes a record.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import structlog
from pydantic import Field

import mlguard.drift
from mlguard import (
    Array,
    Breaker,
    Cache,
    Concurrency,
    Fallback,
    Memory,
    Monitor,
    Redacted,
    Retry,
    Timeout,
    Validation,
    guarded,
    note,
)
from mlguard.testing import FakeClock

START = datetime(2026, 11, 23, tzinfo=UTC)

Features = Annotated[npt.NDArray[np.float64], Array("batch", 4, finite=True, ge=0)]


@contextmanager
def record_to(file: Path, stamp: Callable[[], Any] | None) -> Iterator[None]:
    """What an application does that keeps its events: structlog, one JSON line each."""

    def stamped(logger: Any, method: str, event: Any) -> Any:
        if stamp is not None:
            event["timestamp"] = stamp()
        return event

    with file.open("w", encoding="utf-8") as lines:
        structlog.configure(
            processors=[structlog.processors.add_log_level, stamped, structlog.processors.JSONRenderer()],
            wrapper_class=structlog.make_filtering_bound_logger("info"),
            logger_factory=structlog.WriteLoggerFactory(lines),
        )
        try:
            yield
        finally:
            structlog.reset_defaults()


class Shop:
    """Functions of a shop, and the weather they live in.

    Args:
        folder: For the profile of the training data.
        clock: The clock that a call's work moves forward.
        chance: Decides everything that happens.
    """

    def __init__(self, folder: Path, clock: FakeClock, chance: random.Random) -> None:
        self.clock, self.chance = clock, chance
        self.outage = self.drifted = self.squeezed = False
        draw = np.random.default_rng(7)
        training = {
            "age": draw.integers(18, 91, 4_000),
            "income": draw.lognormal(10, 0.5, 4_000),
            "city": draw.choice(["Bern", "Kiel", "Lyon", "Graz"], 4_000),
        }
        self.profile = folder / "profile.json"
        mlguard.drift.profile(training, draw.random(4_000)).save(self.profile)
        self._build()

    def work(self, median: float, spread: float = 0.4) -> None:
        """Time passes, as it does in a model."""
        self.clock.advance(self.chance.lognormvariate(math.log(median), spread))

    def _build(self) -> None:
        @guarded(
            monitor=Monitor(drift=str(self.profile), slow_call="200ms", sample_rate=0.5),
            model_version="2026-11",
        )
        def credit(
            age: Annotated[int, Field(ge=18, le=120)],
            income: Annotated[float, Field(ge=0)],
            city: str,
            owner: Annotated[str, Redacted] = "Ada",
        ) -> Annotated[float, Field(ge=0, le=1)]:
            self.work(0.030)
            note(region=self.chance.choice(["north", "south"]))
            if self.chance.random() < 0.002:
                raise LookupError(f"no rate for {owner} in {city}")
            return 1.4 if self.chance.random() < 0.004 else self.chance.random()

        @guarded(
            retry=Retry(max_retries=2, initial_delay="50ms", on=(ConnectionError,)),
            breaker=Breaker(minimum_calls=20, open_for="30s"),
            timeout=Timeout(total="3s"),
            fallback=Fallback(value=0.0, on=["transient"]),
            monitor=Monitor(),
        )
        def stock(item: int) -> float:
            self.work(0.012)
            if self.chance.random() < (0.93 if self.outage else 0.03):
                self.work(0.2)
                raise ConnectionError("warehouse.internal: connection reset")
            return float(item)

        @guarded(concurrency=Concurrency(max_concurrent=1, max_waiting=0), monitor=Monitor(summaries=False))
        def rank(query: str, depth: int = 0) -> int:
            self.work(0.080, 0.9)
            if not depth and self.chance.random() < 0.05:
                try:
                    return rank(query, 1)
                except Exception:
                    return -1
            return len(query)

        @guarded(validation=Validation(on_invalid="report"), cache=Cache(ttl="1h"), monitor=Monitor())
        def price(rooms: Annotated[int, Field(ge=1, le=20)], address: str) -> float:
            self.work(0.002)
            return 1_000.0 * rooms

        def embed(batch: Features) -> Annotated[npt.NDArray[np.float64], Array("batch", ge=0, le=1)]:
            self.work(0.050, 0.2)
            return 1 / (1 + np.exp(-batch.sum(axis=1)))

        self.credit, self.stock, self.rank, self.price = credit, stock, rank, price
        self.embed = guarded(memory=Memory(max_wait=0), monitor=Monitor(), need="4x")(embed)
        self.embed_squeezed = guarded(memory=Memory(threshold=1e-6, max_wait=0), monitor=Monitor(), need="4x")(embed)

    def call(self) -> None:
        """One call of one of them, as callers make it."""
        chance = self.chance
        which = chance.random()
        try:
            if which < 0.45:
                age: Any = chance.randint(18, 90) if chance.random() > 0.02 else chance.choice([-1, 7, 300, None, "?"])
                income = chance.lognormvariate(10, 0.5) * (1.6 if self.drifted else 1.0)
                self.credit(age, income, chance.choice(["Bern", "Kiel", "Lyon", "Graz"]), "Grace Hopper")
            elif which < 0.75:
                self.stock(chance.randint(1, 10_000) if chance.random() > 0.004 else chance.choice(["", "x", None]))
            elif which < 0.85:
                self.rank("shoes " * chance.randint(1, 4))
            elif which < 0.92:
                self.price(chance.randint(1, 20) if chance.random() > 0.05 else 99, "1 Elm Street")
            else:
                batch = np.array([[chance.random() for _ in range(4)] for _ in range(chance.choice([1, 8]))])
                if chance.random() < 0.04:
                    batch[0, 2] = chance.choice([math.nan, -1.0, math.inf])
                (self.embed_squeezed if self.squeezed else self.embed)(batch)
        except Exception:
            return


def keep(file: Path, calls: int, *, span: timedelta = timedelta(days=1), seed: int = 0, stamped: bool = True) -> Path:
    """Writes the record of a day, or of another span, and returns the path of the drift profile."""
    chance = random.Random(seed)
    with FakeClock(start=1_000.0) as clock:
        begun = clock.now()
        shop = Shop(file.parent, clock, chance)

        def now() -> str:
            return (START + timedelta(seconds=clock.now() - begun)).isoformat().replace("+00:00", "Z")

        step = span.total_seconds() / max(calls, 1)
        with record_to(file, now if stamped else None):
            for number in range(calls):
                share = number / calls
                shop.outage = 0.40 < share < 0.46
                shop.squeezed = 0.60 < share < 0.63
                shop.drifted = 0.70 < share < 0.85
                due = begun + span.total_seconds() * _busy(share)
                if clock.now() < due:
                    clock.advance(min(due - clock.now(), 50 * step + 1))
                shop.call()
    return shop.profile


def _busy(share: float) -> float:
    """When this share of a day's calls is made: few by night, most in the afternoon."""
    return share - 0.11 * math.sin(2 * math.pi * (share + 0.5)) - 0.02 * math.sin(6 * math.pi * share)


if __name__ == "__main__":
    keep(Path(sys.argv[1]), int(sys.argv[2]))
