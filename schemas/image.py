"""Pictures."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from mlguard import Array

__all__ = ["Digits", "Photo"]


class Digits(BaseModel):
    """Handwritten digits as scikit-learn has them: eight by eight shades from 0 to 16, up to 4,096 in a batch."""

    images: Annotated[npt.NDArray[np.float64], Array(("batch", 1, 4096), 8, 8, ge=0, le=16)]


class Photo(BaseModel):
    """Colour pictures of one size, and a mask for each."""

    pixels: Annotated[npt.NDArray[np.uint8], Array("batch", "height", "width", 3)]
    mask: Annotated[npt.NDArray[np.bool_], Array("batch", "height", "width")] | None = None
