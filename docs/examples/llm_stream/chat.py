"""The answer of a language model as a stream of tokens, over HTTP: server-sent events as OpenAI's API sends them.

Run as `python chat.py "What is a deadline?"`, with the server's address in LLM_URL.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import httpx
from pydantic import BaseModel, Field

from mlguard import guarded, note


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(min_length=1, max_length=20_000)]


Messages = Annotated[list[Message], Field(min_length=1, max_length=100)]


@guarded("chat")
async def chat(client: httpx.AsyncClient, messages: Messages) -> AsyncGenerator[str, None]:
    """The answer to a conversation, piece by piece."""
    request: dict[str, Any] = {"model": "some-model", "stream": True, "stream_options": {"include_usage": True}}
    request["messages"] = [message.model_dump() for message in messages]
    async with client.stream("POST", "/v1/chat/completions", json=request) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                return
            if not line.startswith("data:"):
                continue  # an empty line, or a comment that keeps the connection open
            chunk = json.loads(data)
            if "error" in chunk:  # a server that has said 200 already has no other way to say it
                raise httpx.RemoteProtocolError(f"the server broke off: {chunk['error'].get('code')}")
            if chunk.get("usage"):
                note(tokens=chunk["usage"]["completion_tokens"])
            for choice in chunk["choices"]:
                if choice["delta"].get("content"):
                    yield choice["delta"]["content"]
    raise httpx.RemoteProtocolError("the answer ended before [DONE]")  # else a cut one would look whole


async def main() -> None:
    """Prints an answer as it comes."""
    patient = httpx.Timeout(None)  # mlguard keeps the time; httpx would wait 5 s for the first token, no matter what
    async with httpx.AsyncClient(base_url=os.environ["LLM_URL"], timeout=patient) as client:
        question = Message(role="user", content=sys.argv[1])
        async with aclosing(chat(client, [question])) as pieces:  # closed when left early: the slot is free at once
            async for piece in pieces:
                print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    asyncio.run(main())
