"""Batches: which arguments of a function have rows, and how rows are counted, taken and put together.

Whoever runs a function on a part of a batch asks here: the row-wise cache, the memory guard that splits, and the
quarantine of invalid rows. When they do so is their own affair.
"""

from mlguard.batch.arguments import Batch, RowArguments
from mlguard.batch.tables import join, length_of, scatter, take

__all__ = ["Batch", "RowArguments", "join", "length_of", "scatter", "take"]
