"""What a table's declaration and its check are to the rest of the room, which loads neither before one is used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

__all__ = ["TableCheck", "TableMark"]


class TableCheck(ABC):
    """The check of one annotated table.

    Attributes:
        array: The declaration, called as an array's is.
        names: The dimensions it names: none, or that of its rows.
    """

    array: Any
    names: tuple[str, ...]

    @abstractmethod
    def bind(self, value: Any, dims: dict[str, int]) -> bool:
        """Binds the name to the number of rows; False where the value is no table of this kind."""

    @abstractmethod
    def explain(self) -> list[str]:
        """What of the table is not looked at as whole columns."""


class TableMark(ABC):
    """A declaration that stands beside the type of a table.

    Attributes:
        model: The class that declares a row.
    """

    model: type[Any]

    @abstractmethod
    def check_of(self, source: Any) -> TableCheck:
        """The check of an annotation ``Annotated[source, self]``."""
