"""Vectors to search with."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from mlguard import Array

__all__ = ["Query"]


class Query(BaseModel):
    """Embeddings of any number, and how many neighbours of each are wanted."""

    vectors: Annotated[npt.NDArray[np.float32], Array(..., 8, finite=True, ge=-1, le=1)]
    neighbours: Annotated[int, Field(ge=1, le=1000)] = 10
