"""Text for a language model or a classifier."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mlguard import NotKeyed

__all__ = ["Completion", "Document", "Message"]


class Document(BaseModel):
    """A text with its language and labels."""

    model_config = ConfigDict(str_strip_whitespace=True)

    text: Annotated[str, Field(min_length=1, max_length=20_000)]
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] = "en"
    labels: Annotated[list[str], Field(max_length=16)] = []


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(min_length=1, max_length=100_000)]


class Completion(BaseModel):
    """A request to a language model: the conversation so far, and how the answer is sampled."""

    model_config = ConfigDict(extra="forbid")

    messages: Annotated[list[Message], Field(min_length=1, max_length=256)]
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    max_tokens: Annotated[int, Field(ge=1, le=32_768)] = 1024
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=4)] = []
    request_id: Annotated[str, NotKeyed, Field(max_length=64)] = ""
