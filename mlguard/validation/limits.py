"""How large one argument may be, looked at before anything is parsed or converted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from mlguard import clock
from mlguard.memory.need import bytes_in

__all__ = ["Limit", "too_large"]

_NUMBER = 8  # what a number of a list takes as an array
_FRAMES = ("pandas", "polars", "pyarrow")


class Limit:
    """Refuses a value of more than so many bytes.

    Args:
        most: The bytes.
        setting: What a user would raise.
    """

    def __init__(self, most: int, setting: str = "Validation.max_bytes") -> None:
        self.most = most
        self._fix = f"send fewer rows a call, or raise {setting}"

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
                raise too_large(self.most, self._fix)
        return value


def too_large(most: int, fix: str) -> PydanticCustomError:
    """The violation of a limit of so many bytes."""
    return PydanticCustomError("too_large", "must take at most {limit}", {"limit": clock.size_text(most), "fix": fix})


def _bytes_of(item: Any) -> int:
    if isinstance(item, np.ndarray):
        return item.nbytes
    if isinstance(item, memoryview):
        return item.nbytes
    if isinstance(item, str | bytes | bytearray):
        return len(item)
    if isinstance(item, list | tuple | set | frozenset | Mapping | BaseModel):
        return 0
    return bytes_in(item) if type(item).__module__.partition(".")[0] in _FRAMES else _NUMBER
