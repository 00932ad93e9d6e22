"""What a call with rows is looked up by: the keys of its rows, and which of its arguments they are made of."""

from __future__ import annotations

import typing
from typing import Any

from mlguard.batch import Batch
from mlguard.cache.keys import is_marked, keyed_fields
from mlguard.cache.store import Entry
from mlguard.errors import PolicyError
from mlguard.target import Target

__all__ = ["Plan", "keyed_part"]


class Plan:
    """The rows of one call."""

    __slots__ = ("call_key", "found", "keys", "label", "started")

    def __init__(self, keys: list[bytes], call_key: Any, label: Any, started: float) -> None:
        self.keys = keys
        self.call_key = call_key
        self.label = label
        self.started = started
        self.found: list[Entry | None] = []


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


def _marked(target: Target, parameter: str, *fields: str) -> bool:
    annotation = target.hints.get(parameter)
    if is_marked(getattr(annotation, "__metadata__", ())):
        return True
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return bool(fields) and isinstance(annotation, type) and fields[0] not in keyed_fields(annotation)
