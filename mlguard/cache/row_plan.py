"""What a call with rows is looked up by: the keys of its rows, and which of its arguments they are made of."""

from __future__ import annotations

import sys
import typing
from typing import Any

from mlguard.batch import Batch
from mlguard.cache.keys import is_marked, keyed_fields
from mlguard.cache.store import Entry
from mlguard.errors import PolicyError
from mlguard.target import Target

__all__ = ["Plan", "keyed_part", "renumbered", "tables_of"]


class Plan:
    """The rows of one call."""

    __slots__ = ("call_key", "found", "keys", "label", "started")

    def __init__(self, keys: list[bytes], call_key: Any, label: Any, started: float) -> None:
        self.keys = keys
        self.call_key = call_key
        self.label = label
        self.started = started
        self.found: list[Entry | None] = []


def renumbered(whole: list[tuple[Any, int]], part: list[tuple[Any, int]]) -> None:
    """Numbers the rows of a part from 0 where those of the batch are just numbered, as in a batch of that size."""
    pandas: Any = sys.modules.get("pandas")
    if pandas is None:
        return
    for (table, _), (taken, _) in zip(whole, part, strict=True):
        if type(table) in (pandas.DataFrame, pandas.Series) and type(table.index) is pandas.RangeIndex:
            taken.index = pandas.RangeIndex(len(taken), name=table.index.name)


def keyed_part(batch: Batch) -> Batch:
    """The tables of a batch that are part of its rows' keys: those that `NotKeyed` does not mark.

    Raises:
        PolicyError: It marks all of them.
    """
    keyed = {name: axis for name, axis in batch.axes.items() if not _marked(batch.target, *name.split("."))}
    if not keyed:
        raise PolicyError(
            f"{batch.target.name}: Cache.rows = True, but the batch {batch.label} is marked NotKeyed, so that all rows "
            "would have one result. Fix: drop the mark, or rows."
        )
    return batch if len(keyed) == len(batch.axes) else Batch(batch.target, keyed)


def tables_of(batch: Batch, args: Any, kwargs: Any) -> tuple[bytes, list[tuple[Any, int]]]:
    """The tables of a call, and which of a batch of several are there: one may stand in another's place."""
    tables = batch.tables(args, kwargs)
    if len(tables) == len(batch.axes):
        return b"", tables
    there = [bool(Batch(batch.target, {name: axis}).tables(args, kwargs)) for name, axis in batch.axes.items()]
    return bytes(there), tables


def _marked(target: Target, parameter: str, *fields: str) -> bool:
    annotation = target.hints.get(parameter)
    if is_marked(getattr(annotation, "__metadata__", ())):
        return True
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return bool(fields) and isinstance(annotation, type) and fields[0] not in keyed_fields(annotation)
