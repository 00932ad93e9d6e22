"""Schemas of arguments and results: what may come in, what may go out, and how a violation is told.

`Array` declares what a NumPy array must look like, `Rows` what the rows of a table must be. `Validation` is the
policy's section, `Binding` is what it becomes for one function. Everything but arrays and tables is pydantic's: models,
scalars, containers, validators.
"""

from typing import TYPE_CHECKING

from mlguard.later import later
from mlguard.validation.array import Array
from mlguard.validation.binding import Binding
from mlguard.validation.section import Validation

if TYPE_CHECKING:
    from mlguard.validation.rows import Rows

__all__ = ["Array", "Binding", "Rows", "Validation"]

__getattr__ = later(__name__, {"Rows": "rows"})
