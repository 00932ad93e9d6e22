"""FastAPI reads guarded path operations and dependencies as it reads the functions themselves."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from mlguard import Monitor, Retry, guarded

SOURCE = '''
from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, BackgroundTasks, Body, Depends, FastAPI, Header, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from mlguard import Array

app = FastAPI()
router = APIRouter(prefix="/sub")
closed = []


@decorate
def rows(limit: Annotated[int, Query(ge=1, le=100, description="rows")] = 10) -> int:
    return limit


@decorate
async def token(x_token: Annotated[str, Header()] = "none") -> str:
    return x_token


@decorate
def session(name: str = "main") -> Iterator[str]:
    yield name
    closed.append(name)


@decorate
async def async_session(name: str = "main") -> AsyncIterator[str]:
    yield name
    closed.append("async " + name)


class Pager:
    @decorate
    def __init__(self, skip: int = 0) -> None:
        self.skip = skip

    @decorate
    def page(self, size: Annotated[int, Query(gt=0)] = 2) -> int:
        return size + self.skip


class Checker:
    def __init__(self, word: str) -> None:
        self.word = word

    @decorate
    def __call__(self, q: str = "") -> bool:
        return self.word in q


@decorate
def create(
    number: Annotated[int, Path(ge=0)],
    item: Item,
    limit: Annotated[int, Depends(rows)],
    pager: Annotated[Pager, Depends()],
    page: Annotated[int, Depends(Pager(5).page)],
    has: Annotated[bool, Depends(Checker("x"))],
    q: str | None = None,
) -> Answer:
    """Makes an item."""
    return Answer(total=number + limit + pager.skip + page + has, note=q)


@decorate
async def update(
    request: Request,
    tasks: BackgroundTasks,
    item: Annotated[Item, Body(embed=True)],
    token: Annotated[str, Depends(token)],
    name: Annotated[str, Depends(session)],
    other: Annotated[str, Depends(async_session)],
):
    tasks.add_task(closed.append, "task")
    return [Answer(total=len(token), note=name + other)]


@decorate
async def lines(n: int = 3) -> AsyncIterator[Answer]:
    for number in range(n):
        yield Answer(total=number)


@decorate
def plain_lines(n: int = 3) -> Iterator[Answer]:
    for number in range(n):
        yield Answer(total=number)


@decorate
async def raw(n: int = 3) -> AsyncIterator[str]:
    for number in range(n):
        yield str(number)


@decorate
def features(
    rows: Annotated[npt.NDArray[np.float64], Array("batch", 3, ge=0), Body()],
) -> Annotated[npt.NDArray[np.float64], Array("batch")]:
    return rows.sum(axis=1)


@decorate
def one() -> dict[str, int]:
    return {"one": 1}


class Item(BaseModel):
    name: str = Field(min_length=1)
    price: float = 1.0


class Answer(BaseModel):
    total: int
    note: str | None = None


# FastAPI resolves annotations here, once the models are defined.
app.post("/items/{number}", response_model_exclude_none=True, status_code=201)(create)
app.put("/items", response_model=list[Answer], tags=["items"])(update)
app.get("/lines")(lines)
app.get("/plain-lines")(plain_lines)
app.get("/raw", response_class=StreamingResponse)(raw)
app.post("/features")(features)
router.get("/one", dependencies=[Depends(rows)])(one)
app.include_router(router, dependencies=[Depends(token)])
'''


def with_policy(function: Any) -> Any:
    return guarded(retry=Retry(), monitor=Monitor(log=False))(function)


@pytest.fixture(params=[guarded, with_policy], ids=["bare", "policy"])
def both(request: pytest.FixtureRequest, module: Callable[..., types.ModuleType]) -> tuple[Any, Any]:
    """The application with plain functions, and the same with guarded ones."""
    return module(SOURCE, decorate=lambda function: function), module(SOURCE, decorate=request.param)


def test_the_openapi_document_is_the_same(both: tuple[Any, Any]) -> None:
    """With postponed annotations, models defined later, every kind of parameter, dependency and answer."""
    plain, guarded_one = both
    document = plain.app.openapi()
    assert guarded_one.app.openapi() == document
    assert set(document["paths"]) == {
        "/items/{number}",
        "/items",
        "/lines",
        "/plain-lines",
        "/raw",
        "/features",
        "/sub/one",
    }
    assert {"Item", "Answer"} <= set(document["components"]["schemas"])


def test_answers_are_the_same(both: tuple[Any, Any]) -> None:
    """Path operations, dependencies, streams and what is done at their end."""
    told = []
    for each in both:
        client = TestClient(each.app)
        answers = [
            client.post("/items/4?limit=3&skip=2&size=7&q=xyz", json={"name": "a"}),
            client.post("/items/-1", json={"name": ""}),
            client.put("/items?name=n", json={"item": {"name": "a"}}, headers={"x-token": "abc"}),
            client.get("/lines"),
            client.get("/plain-lines?n=2"),
            client.get("/raw"),
            client.post("/features", json=[[1, 2, 3], [4, 5, 6]]),
            client.get("/sub/one?limit=1"),
            client.get("/sub/one?limit=0"),
        ]
        told.append([(one.status_code, one.headers.get("content-type"), one.text) for one in answers] + [each.closed])
    assert told[0] == told[1]
    assert [one[0] for one in told[1][:-1]] == [201, 422, 200, 200, 200, 200, 200, 200, 422]
    assert told[1][0][2] == '{"total":22,"note":"xyz"}'
    assert told[1][6][2] == "[6.0,15.0]"
    assert sorted(told[1][-1]) == ["async n", "n", "task"]


def test_an_array_is_described_as_its_json(both: tuple[Any, Any]) -> None:
    """A body that is an Array stands in the OpenAPI document as lists of numbers with their bounds."""
    content = both[1].app.openapi()["paths"]["/features"]["post"]["requestBody"]["content"]["application/json"]
    inner = {"type": "array", "items": {"type": "number", "minimum": 0.0}, "minItems": 3, "maxItems": 3}
    assert content["schema"] == {
        "type": "array",
        "items": inner,
        "dtype": "float64",
        "shape": ["batch", 3],
        "title": "Rows",
    }
