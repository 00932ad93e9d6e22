"""Text for a language model or a classifier."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Document"]


class Document(BaseModel):
    """A text with its language and labels."""

    model_config = ConfigDict(str_strip_whitespace=True)

    text: Annotated[str, Field(min_length=1, max_length=20_000)]
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] = "en"
    labels: Annotated[list[str], Field(max_length=16)] = []
