from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from mlguard.context import Call
from mlguard.target import Target
from mlguard.validation import Binding, Validation


class Bound:
    """A function behind its binding, called as call.py calls it."""

    def __init__(self, function: Callable[..., Any], section: Validation | None = None, **options: Any) -> None:
        self.binding = Binding(Target(function, sys._getframe(1).f_locals), section or Validation(), **options)
        self.function = function
        self.names = self.binding.names(asynchronous=False)
        self.this = Call()

    def arguments(self, /, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        return self._bind(args, kwargs)[:2]

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        args, kwargs, dims = self._bind(args, kwargs)
        result = self.function(*args, **kwargs)
        if self.binding.checks:
            self.names["check"](self.this, result, dims)
        return result

    def _bind(self, args: Any, kwargs: Any) -> Any:
        names = self.names
        dims: Any = {} if self.binding.has_dims else None
        if self.binding.validates:
            try:
                if self.binding.has_keywords:
                    args, kwargs = names["spread"](names["bind"](names["shape"](*args, **kwargs), context=dims))
                else:
                    args, kwargs = names["bind"](names["shape"](*args, **kwargs), context=dims), names["NO_KEYWORDS"]
            except names["INVALID"] as error:
                args, kwargs = names["refuse"](self.this, error, args, kwargs)
        return args, kwargs, dims


@pytest.fixture
def bound() -> type[Bound]:
    return Bound
