"""A risk model behind HTTP: `uvicorn service:app`, and then http://127.0.0.1:8000/docs and /mlguard."""

from collections.abc import AsyncIterator
from typing import Annotated

import numpy as np
import numpy.typing as npt
from fastapi import Body, FastAPI

from mlguard import Array, Breaker, Cache, Concurrency, Memory, Monitor, Retry, Timeout, guarded
from mlguard.integrations.fastapi import install

Features = Annotated[npt.NDArray[np.float64], Array("batch", 3, ge=0)]
Risk = Annotated[npt.NDArray[np.float64], Array("batch", ge=0, le=1)]

app = FastAPI(title="Risk")
install(app, health="/mlguard")


@app.post("/risk")
@guarded(
    timeout=Timeout(total="2s"),
    cache=Cache(ttl="30s"),
    concurrency=Concurrency(max_concurrent=8),
    memory=Memory(),
    monitor=Monitor(),
)
def risk(features: Annotated[Features, Body()]) -> Risk:
    """The risk of each patient of a batch."""
    return 1 / (1 + np.exp(-features @ [0.2, 0.1, -0.3]))


@app.get("/explain/{words}")
@guarded(timeout=Timeout(idle="1s"), concurrency=Concurrency(max_concurrent=2, max_waiting=0), monitor=Monitor())
async def explain(words: int) -> AsyncIterator[dict[str, int]]:
    """A stream: one JSON object a line."""
    for number in range(words):
        yield {"word": number}


@app.get("/history/{patient}")
@guarded(retry=Retry(), breaker=Breaker(), monitor=Monitor())
async def history(patient: str) -> list[str]:
    """Asks a service that is down."""
    raise ConnectionError("the archive is down")
