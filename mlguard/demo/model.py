"""The model that is served, and the patients it is asked about."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_breast_cancer  # type: ignore[import-untyped]
from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

__all__ = ["MEASURED", "Model"]

MEASURED = 10
"""Of the 30 features, how many the caller sends; the feature service keeps the other 20."""


class Model:
    """Gradient-boosted trees on the Wisconsin breast cancer data (569 samples, 30 features), trained on one half.

    Trees take NaN, negative radii and wrong units without complaint, as XGBoost and LightGBM do: that is why this kind
    of model is the honest choice here. One that raises on NaN would turn wrong answers into failed ones.
    """

    def __init__(self) -> None:
        data: Any = load_breast_cancer()
        halves: Any = train_test_split(data.data, data.target, test_size=0.5, random_state=0, stratify=data.target)
        train, held_out, labels, held_out_labels = halves
        self._trees = HistGradientBoostingClassifier(max_iter=60, random_state=0).fit(train, labels)
        self.name = f"{type(self._trees).__name__} on {data.data.shape[1]} features"
        self.accuracy = float(self._trees.score(held_out, held_out_labels))
        self.patients: npt.NDArray[np.float64] = held_out
        """The held-out rows; a patient's number is the index of the row."""

    def malignant(self, measured: Any, stored: Any) -> float:
        """The probability that a sample is malignant, from the caller's ten features and the twenty stored ones."""
        row = np.concatenate([measured, stored]).reshape(1, -1)
        return float(self._trees.predict_proba(row)[0, 0])
