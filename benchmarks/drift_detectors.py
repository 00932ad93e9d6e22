"""Who is judged in the drift table, each as a function that takes a row and says whether it raises an alarm.

Everybody runs with the defaults of its makers, watches every column, and is shown the reference first: the detectors of
river as the stream that came before (in units of the reference's deviation, without which their thresholds mean
nothing), Evidently and the hand-made rule as what windows are compared with.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

__all__ = ["DETECTORS", "SLOW", "absent"]

Array = np.ndarray[Any, Any]
Update = Callable[[Array], bool]
WINDOW = 400
"""Rows of a window for those that compare windows and have no ladder."""


def mlguard(reference: Array) -> Update:
    """The detector as a guarded function has it; one alarm for each onset of a field."""
    import structlog

    from mlguard.drift import Drift, profile
    from mlguard.drift.detector import Detector
    from mlguard.target import Target

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))

    def predict(row: Array) -> float:
        raise NotImplementedError

    detector = Detector(Target(predict), Drift(profile="-", windows=(100, 400, 1_600)), profile(reference))
    onsets = 0

    def update(row: Array) -> bool:
        nonlocal onsets
        detector.observe((row,), {}, None, has_result=False)
        before, onsets = onsets, detector.onsets
        return onsets > before

    return update


def _of_river(make: Callable[[], Any]) -> Callable[[Array], Update]:
    def start(reference: Array) -> Update:
        mean, spread = reference.mean(axis=0), reference.std(axis=0)
        spread[spread == 0] = 1.0
        detectors = [make() for _ in range(reference.shape[1])]

        def update(row: Array) -> bool:
            alarm = False
            for detector, value in zip(detectors, ((row - mean) / spread).tolist(), strict=True):
                detector.update(value)
                alarm |= detector.drift_detected
            return alarm

        for row in reference[-1_000:]:
            update(row)
        return update

    return start


def _adwin() -> Any:
    from river.drift import ADWIN

    return ADWIN()  # type: ignore[no-untyped-call]


def _kswin() -> Any:
    from river.drift import KSWIN

    return KSWIN(seed=1)


def _page_hinkley() -> Any:
    from river.drift import PageHinkley

    return PageHinkley()


def _by_window(drifted: Callable[[Array, Array], bool]) -> Callable[[Array], Update]:
    def start(reference: Array) -> Update:
        window: list[Array] = []

        def update(row: Array) -> bool:
            window.append(row)
            if len(window) < WINDOW:
                return False
            found = drifted(reference, np.array(window))
            window.clear()
            return found

        return update

    return start


def _evidently(reference: Array, current: Array) -> bool:
    """Any column that its default test for this size and type of column finds drifted."""
    os.environ["DO_NOT_TRACK"] = "1"
    import pandas as pd
    from evidently import Report  # pyright: ignore[reportMissingImports]
    from evidently.presets import DataDriftPreset  # pyright: ignore[reportMissingImports]

    names = [f"c{number}" for number in range(reference.shape[1])]
    report = Report([DataDriftPreset()])
    ran = report.run(pd.DataFrame(current, columns=names), pd.DataFrame(reference, columns=names))
    first = next(each for each in ran.dict()["metrics"] if "DriftedColumnsCount" in str(each.get("metric_name", each)))
    return float(first["value"]["count"]) > 0


def _index(reference: Array, current: Array) -> bool:
    """Ten quantile bins, alarm above 0.2: the rule most teams write by hand."""
    for before, now in zip(reference.T, current.T, strict=True):
        edges = np.unique(np.quantile(before, np.linspace(0, 1, 11)))[1:-1]
        p = np.bincount(np.searchsorted(edges, before), minlength=len(edges) + 1) / len(before) + 1e-4
        q = np.bincount(np.searchsorted(edges, now), minlength=len(edges) + 1) / len(now) + 1e-4
        if float(((q - p) * np.log(q / p)).sum()) > 0.2:
            return True
    return False


def _always(reference: Array) -> Update:
    """Every hundred rows: what a score that knows no false alarms would call the best."""
    seen = 0

    def update(row: Array) -> bool:
        nonlocal seen
        seen += 1
        return seen % 100 == 0

    return update


DETECTORS: dict[str, Callable[[Array], Update]] = {
    "mlguard": mlguard,
    "ADWIN": _of_river(_adwin),
    "Page-Hinkley": _of_river(_page_hinkley),
    "KSWIN": _of_river(_kswin),
    "PSI > 0.2 by hand": _by_window(_index),
    "Evidently": _by_window(_evidently),
    "always": _always,
}

SLOW = ("KSWIN", "Evidently")
"""Only in the long table."""


def absent(name: str) -> str | None:
    """The package that a contestant lacks here; None: it can run."""
    package = {"ADWIN": "river", "Page-Hinkley": "river", "KSWIN": "river", "Evidently": "evidently"}.get(name)
    return package if package is not None and find_spec(package) is None else None
