"""The functions under guard: they do next to nothing, so that what is timed is the guard."""

from __future__ import annotations

from pydantic import BaseModel

__all__ = ["CALL", "Order", "price_of", "score", "score_async"]

CALL = (12.5, 3)
"""The arguments of a call of `score`: valid as they are."""


class Order(BaseModel):
    """A small input schema."""

    amount: float
    count: int
    customer: str


def score(amount: float, count: int) -> float:
    """Two scalars in, one out."""
    return amount * count


async def score_async(amount: float, count: int) -> float:
    """`score` for contestants that are awaited."""
    return amount * count


def price_of(order: Order) -> float:
    """A model in, a scalar out."""
    return order.amount * order.count
