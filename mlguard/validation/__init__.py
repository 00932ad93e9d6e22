"""Schemas of arguments and results: what may come in, what may go out, and how a violation is told.

`Array` declares what a NumPy array must look like, `Validation` is the policy's section, `Binding` is what it becomes
for one function. Everything but arrays is pydantic's: models, scalars, containers, validators.
"""

from mlguard.validation.array import Array
from mlguard.validation.binding import Binding, Validation

__all__ = ["Array", "Binding", "Validation"]
