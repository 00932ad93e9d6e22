"""Claim: validating a call costs no more than pydantic's validate_call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import peers
from benchmarks.case import OURS, Budget, Case
from benchmarks.subject import CALL, Order, price_of, score
from mlguard import guarded

__all__ = ["cases"]

_FIELDS = {"amount": 12.5, "count": 3, "customer": "c-17"}


def cases() -> list[Case]:
    """Scalars, a model from a dict, and a model's instance; input and output are checked by both."""
    validated = guarded()
    inputs: dict[str, tuple[str, Callable[..., Any], tuple[Any, ...]]] = {
        "scalars": ("two scalars", score, CALL),
        "dict": ("a model of three fields from a dict", price_of, (_FIELDS,)),
        "instance": ("an instance of a model", price_of, (Order.model_validate(_FIELDS),)),
    }
    return [
        Case(
            name=f"validation-{name}",
            claim=f"input and output: {what} in, a float out",
            arguments=arguments,
            contestants={OURS: validated(function), "validate_call": peers.validated(function)},
            budgets=(Budget("validate_call", 1.0),),
        )
        for name, (what, function, arguments) in inputs.items()
    ]
