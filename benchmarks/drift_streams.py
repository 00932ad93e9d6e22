"""Streams for the drift table: a reference, what comes afterwards, and the row from which it is another world.

Generated ones come from river's `synth`, real ones ship inside river and scikit-learn. Each comes independent, every
row drawn by itself, or in runs: a row stays for ten rows on average, as one client's requests do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

__all__ = ["SCENARIOS", "Scenario", "Stream"]

FEATURES = 5
"""Of a real set so many are watched, those that vary most often: the slowest contestant takes 0.4 ms a value."""

Array = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator, int], Array]
"""That many rows."""


@dataclass(frozen=True)
class Stream:
    """One run."""

    reference: Array
    rows: Array
    changed: int | None
    """The first row of the other world; None: there is none."""


@dataclass(frozen=True)
class Scenario:
    """A pair of distributions, and how rows are drawn from them."""

    name: str
    before: Draw
    after: Draw | None
    correlated: bool

    def streams(self, runs: int, reference: int, rows: int) -> Iterator[Stream]:
        """Independent runs; the same seeds give the same rows, whoever is judged."""
        for seed in range(runs):
            random = np.random.default_rng([seed, sum(map(ord, self.name))])
            draw = _in_runs if self.correlated else _plain
            half = rows // 2
            known = draw(self.before, random, reference)
            later = self.before if self.after is None else self.after
            served = np.concatenate([draw(self.before, random, half), draw(later, random, rows - half)])
            yield Stream(known, served, None if self.after is None else half)


def _plain(draw: Draw, random: np.random.Generator, rows: int) -> Array:
    return draw(random, rows)


def _in_runs(draw: Draw, random: np.random.Generator, rows: int) -> Array:
    lengths = random.geometric(0.1, size=rows)
    count = int(np.searchsorted(np.cumsum(lengths), rows)) + 1
    return np.repeat(draw(random, count), lengths[:count], axis=0)[:rows]


def _normal(shift: float = 0.0, scale: float = 1.0) -> Draw:
    return lambda random, rows: random.normal(shift, scale, size=(rows, 2))


def _two_humps(random: np.random.Generator, rows: int) -> Array:
    """Mean 0 and deviation 1, as the normal distribution it takes the place of."""
    return random.choice([-0.9, 0.9], size=(rows, 2)) + random.normal(0, 0.436, size=(rows, 2))


def _one_column(draw: Draw, other: Draw) -> Draw:
    """The first column of one, the second of the other."""
    return lambda random, rows: np.column_stack([draw(random, rows)[:, 0], other(random, rows)[:, 1]])


def _autoregressive(shift: float) -> Draw:
    """AR(1) with rho = 0.9 and deviation 1."""

    def draw(random: np.random.Generator, rows: int) -> Array:
        noise = random.normal(0, np.sqrt(1 - 0.81), size=(rows, 2))
        found = np.empty((rows, 2))
        found[0] = random.normal(size=2)
        for row in range(1, rows):
            found[row] = 0.9 * found[row - 1] + noise[row]
        return found + shift

    return draw


def _blobs(model: int) -> Draw:
    """River's RandomRBF: where its blobs lie depends on the model's seed."""

    def draw(random: np.random.Generator, rows: int) -> Array:
        from river.datasets import synth

        made = synth.RandomRBF(seed_model=model, seed_sample=int(random.integers(2**31)), n_features=3, n_centroids=10)
        return np.array([[*x.values()] for x, _ in islice(made, rows)])

    return draw


def _sea(variant: int) -> Draw:
    """River's SEA: the inputs stay, only what is true of them changes; the label stands for a prediction."""

    def draw(random: np.random.Generator, rows: int) -> Array:
        from river.datasets import synth

        made = synth.SEA(variant=variant, seed=int(random.integers(2**31)))
        return np.array([[*x.values(), float(y)] for x, y in islice(made, rows)])

    return draw


def _without_label(draw: Draw) -> Draw:
    return lambda random, rows: draw(random, rows)[:, :-1]


def _real(load: Callable[[], tuple[Array, Array]], change: Callable[[Array, Array], Array] | None) -> Draw:
    """Rows drawn from a set, after a change to it."""

    def draw(random: np.random.Generator, rows: int) -> Array:
        features, labels = load()
        distinct = [len(np.unique(column)) for column in features.T]
        watched = np.sort(np.argsort(distinct, kind="stable")[::-1][:FEATURES])
        pool = features[:, watched] if change is None else change(features[:, watched], labels)
        return pool[random.integers(len(pool), size=rows)]

    return draw


def _river(name: str) -> Callable[[], tuple[Array, Array]]:
    def load() -> tuple[Array, Array]:
        import river.datasets

        rows = [([*x.values()], y) for x, y in getattr(river.datasets, name)()]
        return np.array([x for x, _ in rows], dtype=float), np.array([y for _, y in rows])

    return load


def _sklearn(name: str) -> Callable[[], tuple[Array, Array]]:
    def load() -> tuple[Array, Array]:
        import sklearn.datasets  # type: ignore[import-untyped]

        features, labels = getattr(sklearn.datasets, name)(return_X_y=True)
        return np.asarray(features, dtype=float), np.asarray(labels)

    return load


def _one_class(features: Array, labels: Array) -> Array:
    """Who calls has changed: only one kind of case is left."""
    chosen: Array = features[labels == labels.max()]
    return chosen


def _unit(features: Array, labels: Array) -> Array:
    """One column comes in another unit: 10 % more."""
    changed = features.copy()
    changed[:, 0] *= 1.1
    return changed


def _all() -> Iterator[Scenario]:
    generated: list[tuple[str, Draw, Draw | None]] = [
        ("normal", _normal(), None),
        ("normal, mean + 0.25 sd", _normal(), _one_column(_normal(0.25), _normal())),
        ("normal, mean + 1 sd", _normal(), _one_column(_normal(1.0), _normal())),
        ("normal, sd x 1.5", _normal(), _one_column(_normal(0.0, 1.5), _normal())),
        ("normal, two humps", _normal(), _one_column(_two_humps, _normal())),
        ("RandomRBF", _blobs(1), None),
        ("RandomRBF, other blobs", _blobs(1), _blobs(2)),
        ("SEA, inputs only", _without_label(_sea(0)), _without_label(_sea(3))),
        ("SEA, with predictions", _sea(0), _sea(3)),
    ]
    real = (
        ("Phishing", _river("Phishing"), _one_class),
        ("Bananas", _river("Bananas"), _one_class),
        ("digits", _sklearn("load_digits"), _one_class),
        ("breast cancer", _sklearn("load_breast_cancer"), _unit),
    )
    for name, load, change in real:
        generated.append((name, _real(load, None), None))
        generated.append(
            (
                f"{name}, {'one class' if change is _one_class else 'unit + 10 %'}",
                _real(load, None),
                _real(load, change),
            )
        )
    for name, before, after in generated:
        yield Scenario(name, before, after, correlated=False)
        yield Scenario(f"{name}, in runs", before, after, correlated=True)
    yield Scenario("AR(1), rho 0.9", _autoregressive(0.0), None, correlated=False)
    yield Scenario("AR(1), rho 0.9, mean + 1 sd", _autoregressive(0.0), _autoregressive(1.0), correlated=False)


SCENARIOS = tuple(_all())
