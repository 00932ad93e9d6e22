"""How large one argument may be, looked at before anything is parsed or converted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from mlguard import clock

__all__ = ["Limit"]

_NUMBER = 8  # what a number of a list takes as an array


class Limit:
    """Refuses an argument of more than so many bytes."""

    def __init__(self, most: int) -> None:
        self.most = most

    def check(self, value: Any) -> Any:
        """The value itself.

        Raises:
            PydanticCustomError: ``too_large``.
        """
        left = self.most
        rest = [value]
        while rest:
            item = rest.pop()
            left -= max(1, _bytes_of(item))  # or a list that holds itself has no end
            if isinstance(item, list | tuple | set | frozenset):
                if left < len(item) + len(rest):  # every element takes a byte at least
                    left = -1
                else:
                    rest.extend(item)
            elif isinstance(item, Mapping):
                rest.extend(item.keys())
                rest.extend(item.values())
            elif isinstance(item, BaseModel):
                rest.extend(item.__dict__.values())
            if left < 0:
                raise PydanticCustomError(
                    "too_large",
                    "must take at most {limit}",
                    {
                        "limit": clock.size_text(self.most),
                        "fix": "send fewer rows a call, or raise Validation.max_bytes",
                    },
                )
        return value


def _bytes_of(item: Any) -> int:
    if isinstance(item, np.ndarray):
        return item.nbytes
    if isinstance(item, memoryview):
        return item.nbytes
    if isinstance(item, str | bytes | bytearray):
        return len(item)
    return 0 if isinstance(item, list | tuple | set | frozenset | Mapping | BaseModel) else _NUMBER
