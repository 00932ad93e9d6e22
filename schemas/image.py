"""Pictures."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from mlguard import Array

__all__ = ["Photo"]


class Photo(BaseModel):
    """Colour pictures of one size, and a mask for each."""

    pixels: Annotated[npt.NDArray[np.uint8], Array("batch", "height", "width", 3)]
    mask: Annotated[npt.NDArray[np.bool_], Array("batch", "height", "width")] | None = None
