"""A safe default that speaks row by row, for ``validation.on_invalid="quarantine"``.

A fixed value stands for the result of one row; a function is called with the rows that have to be answered for. Which
rows those are is the quarantine's affair.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mlguard.context import Call
from mlguard.errors import InvalidOutputError, PolicyError
from mlguard.resilience.fallback import Fallback, SafeDefault, inside
from mlguard.target import Target

if TYPE_CHECKING:
    from mlguard.validation.tables.quarantine import Quarantine

__all__ = ["RowDefault"]


class RowDefault(SafeDefault):
    """Provides the fallback of one function whose invalid rows are taken out.

    Args:
        target: The function.
        section: What its policy says.
        check: Raises InvalidOutputError where a result breaks the output schema.
        quarantine: Says for which rows it has to answer.

    Raises:
        PolicyError: The fallback can't stand in for the function, or its value for the result of one row.
    """

    def __init__(
        self,
        target: Target,
        section: Fallback,
        *,
        check: Callable[[Call | None, Any, Any], None] | None,
        quarantine: Quarantine,
    ) -> None:
        self._quarantine = quarantine
        super().__init__(target, section, check=check)

    def covered(self, error: BaseException) -> bool:
        return self._quarantine.covers(error) or super().covered(error)

    def fallback(self, this: Call | None, error: Exception, args: Any, kwargs: Any, dims: Any) -> Any:
        return super().fallback(this, *self._quarantine.all_rows(this, error, args, kwargs, dims))

    async def fallback_async(self, this: Call | None, error: Exception, args: Any, kwargs: Any, dims: Any) -> Any:
        return await super().fallback_async(this, *self._quarantine.all_rows(this, error, args, kwargs, dims))

    def for_rows(self, this: Call | None, error: Exception, args: Any, kwargs: Any, like: Any) -> Any:
        """The results of the rows in these arguments; `like` is a result of other rows."""
        with inside(this):
            value = self._value_of(error, args, kwargs, like)
            if inspect.iscoroutine(value):
                value.close()
                raise PolicyError(
                    f"{self._target.name}: its fallback gave a coroutine, but nothing here can await it. "
                    "Fix: a plain function, or make the guarded function asynchronous."
                )
            return value

    async def for_rows_async(self, this: Call | None, error: Exception, args: Any, kwargs: Any, like: Any) -> Any:
        """The same for an asynchronous function; the fallback may be asynchronous or not."""
        with inside(this):
            value = self._value_of(error, args, kwargs, like)
            return await value if self._calls and inspect.isawaitable(value) else value

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._target, self._section, self._check, self._quarantine)

    def _value_for(self, error: Exception, args: Any, kwargs: Any) -> Any:
        return self._value_of(error, args, kwargs, None)

    def _value_of(self, error: Exception, args: Any, kwargs: Any, like: Any) -> Any:
        if self._calls:
            return super()._value_for(error, args, kwargs)
        return self._quarantine.repeated_for(args, kwargs, self._value, like)

    def _degraded(self, this: Call | None, error: Exception, value: Any, dims: Any) -> Any:
        self._quarantine.refuse_incomplete(value, dims)
        return super()._degraded(this, error, value, dims)

    def _check_beforehand(self) -> None:
        """Refuses a value that could never be the result of one row."""
        one = self._quarantine.repeated(self._value, 1)
        if self._check is None:
            return
        try:
            self._check(None, one, {})
        except InvalidOutputError as error:
            raise PolicyError(
                f"{self._target.name}: Fallback.value, which stands for one row here, breaks the function's own output "
                f"schema ({error}). Fix: the result of one row that a caller could use like any other."
            ) from None


def _again(target: Target, section: Fallback, check: Any, quarantine: Any) -> RowDefault:
    return RowDefault(target, section, check=check, quarantine=quarantine)
