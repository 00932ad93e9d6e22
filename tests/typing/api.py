"""What type checkers must see: mypy --strict and pyright check this file, the tests run it.

A line that must be an error carries an ignore for both; an ignore that is not needed is itself an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, assert_type

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from mlguard import Array, Cache, Handle, Memory, NotKeyed, Outcome, Policy, Retry, Validation, guarded


class Patient(BaseModel):
    features: Annotated[npt.NDArray[np.float64], Array("batch", 30, ge=0)]
    request_id: Annotated[str, NotKeyed]


@guarded(Policy(cache=Cache(ttl="30s"), memory=Memory(threshold=0.9)), retry=Retry(max_delay="5s"), model_version="7")
def predict(patient: Patient) -> Annotated[npt.NDArray[np.float64], Array("batch")]:
    assert_type(patient.features, npt.NDArray[np.float64])
    return patient.features[:, 0]


class Cohort(BaseModel):
    x: Annotated[
        npt.NDArray[np.float32],
        Array(
            *("batch", (1, 512), ..., ("t", 1, None), 2),
            columns=("a", "b"),
            ge={"a": 0},
            le=[1, None],
            check="sample",
        ),
    ]
    names: Annotated[list[str], Array("batch", unique=True)]
    y: Annotated[
        npt.NDArray[np.floating[Any]],
        Array("batch", categories=[1, 2], monotonic="increasing", max_bytes="1MiB"),
        Field(allow_inf_nan=False),
    ]


@guarded(validation=Validation(check="metadata"))
def names(cohort: Cohort) -> Annotated[list[str], Array("batch")]:
    assert_type(cohort.names, list[str])
    assert_type(cohort.x, npt.NDArray[np.float32])
    assert_type(cohort.y, npt.NDArray[np.floating[Any]])
    return cohort.names


@guarded
def scale(x: int, *, by: float = 1.0) -> float:
    return x * by


@guarded(scope="typing")
async def later(x: int) -> str:
    return str(x)


@guarded()
def items(upto: int) -> Iterator[int]:
    yield from range(upto)


@guarded()
async def items_later(upto: int) -> AsyncIterator[int]:
    for number in range(upto):
        yield number


class Service:
    @guarded
    def predict(self, x: int) -> str:
        return str(x)

    @guarded(retry=Retry())
    async def later(self, x: int) -> str:
        return str(x)

    @classmethod
    @guarded
    def build(cls, x: int) -> str:
        return str(x)


def takes(callback: Callable[[int], float]) -> float:
    return callback(1)


async def run() -> None:
    assert_type(await later(1), str)
    assert_type((await later.guard.acall(1)).value, str)
    async for item in items_later(1):
        assert_type(item, int)
    assert_type(await Service().later(1), str)


def test_types_hold_at_run_time() -> None:
    """The file that the type checkers read also runs."""
    assert_type(scale(1, by=2), float)
    assert_type(scale.guard.call(1), Outcome[float])
    assert isinstance(scale.guard, Handle)
    assert_type(Service().predict(1), str)
    assert_type(Service.build(1), str)
    assert_type(takes(scale), float)
    for item in items(1):
        assert_type(item, int)
    asyncio.run(run())


def wrong_calls_are_reported() -> None:
    scale("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    scale(1, times=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Service().predict("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    guarded(retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


@guarded(retry=True, memory={"threshold": 0.9}, cache={"ttl": "30s"}, breaker=False)
def by_other_spellings(x: int) -> int:
    return x
