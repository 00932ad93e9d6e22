"""`Validation`: what a policy says about schemas. What it becomes for one function is in `binding.py`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, field_validator

from mlguard.clock import Size
from mlguard.section import Section, nearest
from mlguard.validation.depth import Depth

__all__ = ["Validation"]


class Validation(Section):
    """What is checked, how strictly, and what becomes of a call that breaks its schema."""

    input: bool = True
    """Check the arguments. The body never runs on arguments that break their schema."""
    output: bool = True
    """Check the result against the return annotation, or `output=` of the decorator. It is never converted."""
    strict: bool = False
    """Refuse what would have to be converted, such as "3" for an int. False, because callers send JSON and lists; a
    model's own configuration decides for its fields, as always in pydantic."""
    config: dict[str, Any] | None = None
    """A pydantic ConfigDict for the arguments, such as ``{"str_strip_whitespace": True}``. It does not reach into the
    fields of models, which have their own. None: pydantic's defaults, with arbitrary classes checked by isinstance."""
    on_invalid: Literal["raise", "fallback", "report", "quarantine"] = "raise"
    """What bad input or output leads to. "raise": an InvalidInputError or InvalidOutputError. "fallback": the policy's
    fallback answers bad input too. "report": it passes, and is counted and told; for the first week of a new schema.
    "quarantine": invalid rows of the argument declared with `Rows` are taken out, and the fallback answers for them."""
    check: Depth = "full"
    """How many values of arrays and tables are looked at. "full": all. "sample": at most 16,384 of an array, evenly
    spread; what is bad elsewhere passes. "metadata": none. Class, dtype, shape and columns are always checked, and so
    is everything that is no array. A field's own `Array(check=...)` goes before it. "full", because a rare NaN is what
    a sample misses; the event says where the check was less."""
    max_bytes: Size | None = None
    """The most bytes one argument may take: text, bytes, buffers of arrays, and 8 for each number in lists and models.
    It is looked at before anything is parsed or converted. None, because the look walks through lists."""

    @field_validator("config")
    @classmethod
    def _known_to_pydantic(cls, config: dict[str, Any] | None) -> dict[str, Any] | None:
        for name in config or {}:
            if name not in ConfigDict.__annotations__:
                hint = nearest(name, ConfigDict.__annotations__)
                raise ValueError(f"must have the keys of a pydantic ConfigDict; there is no '{name}'.{hint}")
            if name == "strict":
                raise ValueError("must not say 'strict', which is Validation.strict")
        return config
