"""The memory squeeze: real memory is taken in the middle of the run, and given back.

The guard's threshold is put a little above what is in use when the demo starts, so that a few hundred MiB of ballast
cross it and the machine is never in danger. What other programs take or free meanwhile counts too, as in production.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from mlguard.memory import Gauge

__all__ = ["Squeeze"]

_MIB = 1 << 20
_ROOM = 384 * _MIB
_CHUNK = 32 * _MIB
_ENOUGH_FREE = 256 * _MIB


class Squeeze:
    """Holds ballast while it is entered: as much as it takes to cross the ceiling.

    Attributes:
        ceiling: The threshold that the ballast crosses and nothing else should: a share of the nearest limit.
        possible: False where so little memory is free that nothing is squeezed.
        ballast: Bytes it took.
    """

    def __init__(self) -> None:
        self._gauge = Gauge()
        free = self._gauge.read().room()
        self.possible = free >= _ENOUGH_FREE
        self.ballast = 0
        self.ceiling = _share_with(self._gauge, min(_ROOM, free // 4)) if self.possible else 1.0
        self._most = min(3 * _ROOM, free // 2)  # more only where other programs free memory meanwhile
        self._held: list[npt.NDArray[np.uint8]] = []

    def __enter__(self) -> Self:
        while (
            self.possible and self.ballast < self._most and self._gauge.read(self.ceiling).room(self.ceiling) > -_CHUNK
        ):
            self._held.append(np.ones(_CHUNK, dtype=np.uint8))  # ones, because untouched zeros take no memory
            self.ballast += _CHUNK
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._held.clear()
        self._gauge.close()


def _share_with(gauge: Gauge, room: int) -> float:
    """The threshold below which that much room is left now, whichever limit is the nearest at that share."""
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        if gauge.read(middle).room(middle) < room:
            low = middle
        else:
            high = middle
    return high
