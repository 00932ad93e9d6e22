"""ONNX Runtime: a model that came from scikit-learn, and takes nothing but float32."""

import os
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import onnxruntime
from features import fetch

from mlguard import Array, guarded

Pixels = Annotated[npt.NDArray[np.float32], Array("batch", 64, ge=0, le=16)]
Chances = Annotated[npt.NDArray[np.float32], Array("batch", 10, ge=0, le=1)]


@cache
def session() -> onnxruntime.InferenceSession:
    """The artifact, loaded at the first call; threads may share it."""
    return onnxruntime.InferenceSession(
        Path(os.environ["ARTIFACTS"], "digits.onnx"), providers=["CPUExecutionProvider"]
    )


@guarded("predictor", model_version="digits-1")
def chances(pixels: Pixels) -> Chances:
    """How likely each picture shows each digit."""
    return session().run(["probabilities"], {"X": pixels})[0]


def digit_on(picture: str) -> int:
    """The digit on a picture that the feature service has, as 8 by 8 grey values."""
    return int(chances(np.array(fetch(f"pictures/{picture}"), dtype=np.float32).reshape(1, -1)).argmax())
