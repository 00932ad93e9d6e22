"""How much less neighbouring rows tell than independent ones: the design effect of a field, from the training data.

Traffic comes in runs: one client's batch, one hour's weather. A hundred such rows differ from the rest more than a
hundred drawn ones, without any drift, and a test that takes them for independent raises an alarm in every second window
(measured: AR(1) with rho 0.9). The chi-square statistic of contiguous blocks of the training data against the whole
says by how much; dividing by it corrects the test to the first order (Rao and Scott 1981, "The analysis of categorical
data from complex sample surveys").
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

__all__ = ["design_effect"]

_FEWEST: Final = 10
"""Blocks from which an average is worth something."""

_SIGMAS: Final = 3.0
"""Independent rows give about 1, some more, some less: only what chance does not explain counts."""


def design_effect(cells: np.ndarray[Any, Any], blocks: tuple[int, ...]) -> float:
    """The mean chi-square statistic of contiguous blocks over its degrees of freedom; 1 for independent rows.

    Args:
        cells: The cell of each row, in the order of the rows.
        blocks: Rows of a block. The largest figure counts: a slow wave does not show in short blocks.
    """
    counts = np.bincount(cells)
    shares = counts[counts > 0] / len(cells)
    if len(shares) < 2:
        return 1.0
    numbered = np.unique(cells, return_inverse=True)[1]
    return max([1.0, *(_of_blocks(numbered, shares, block) for block in blocks if len(cells) >= _FEWEST * block)])


def _of_blocks(cells: np.ndarray[Any, Any], shares: np.ndarray[Any, Any], block: int) -> float:
    number = len(cells) // block
    flat = np.arange(number).repeat(block) * len(shares) + cells[: number * block]
    counts = np.bincount(flat, minlength=number * len(shares)).reshape(number, len(shares))
    # A block is a part of what it is compared with; without the last factor its statistic would be too small.
    statistic = ((counts - block * shares) ** 2 / (block * shares)).sum(axis=1) / (1 - block / len(cells))
    freedom = len(shares) - 1
    effect = float(statistic.mean()) / freedom
    return effect if effect > 1 + _SIGMAS * math.sqrt(2 / (number * freedom)) else 1.0
