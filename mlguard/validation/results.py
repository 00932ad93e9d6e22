"""What a result must be: held to its schema strictly, and never converted."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import typing_extensions
from pydantic import ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from mlguard.errors import PolicyError
from mlguard.target import Target
from mlguard.validation.arguments import UNKNOWN_TYPE, adapter, branches_apart
from mlguard.validation.array import array_checks
from mlguard.validation.brief import Brief
from mlguard.validation.depth import Depth, at_depth
from mlguard.validation.dimensions import CALL, restore
from mlguard.validation.instances import with_instances
from mlguard.validation.messages import violations_of
from mlguard.validation.numbers import with_python_numbers

__all__ = ["ResultCheck", "says_nothing"]

_EXACTLY: dict[Any, type] = {int: int, float: float, str: str, bool: bool, bytes: bytes, None: type(None)}


def says_nothing(annotation: Any) -> bool:
    """True of annotations that any result meets."""
    return annotation in (Any, inspect.Parameter.empty, typing.NoReturn, typing.Never)


class ResultCheck:
    """The check of one function's result, or of each item of its stream.

    Raises:
        PolicyError: pydantic can't use the annotation.
        NameError: It names something that is not defined yet.
    """

    def __init__(self, target: Target, annotation: Any, config: ConfigDict, depth: Depth) -> None:
        if typing.get_origin(annotation) in (typing.TypeGuard, typing_extensions.TypeIs):
            annotation = bool
        try:
            made = adapter(lambda handler: _schema(annotation, handler), config)
        except UNKNOWN_TYPE as error:
            if isinstance(error, NameError):
                raise
            reason = str(error).partition("\n")[0]
            raise PolicyError(
                f"{target.qualname}: pydantic can't make a schema of the return annotation: {reason} "
                "Fix: annotate it with a type, or set validation.output = False."
            ) from None
        validate = made.validator.validate_python
        self._validate = validate if depth == "full" else at_depth(depth, validate)
        self._brief = Brief(made.core_schema, config)
        self.annotation = annotation
        self.exactly = _EXACTLY.get(annotation) if isinstance(annotation, type | None) else None
        """A class whose own instances need no look."""
        self.arrays = array_checks(made.core_schema)
        self.named = any(check.names for check in self.arrays)

    def violations(self, result: Any, dims: Any) -> list[dict[str, Any]]:
        """What is wrong with a result; nothing where it is right.

        The names it binds stay bound where it is right: those of a result that was refused are forgotten, so that the
        next attempt, or a fallback, is judged afresh.
        """
        kept: dict[str, int] | None = None
        if self.named and dims is not None:
            dims[CALL] = 0
            kept = dict(dims)
        try:
            self._validate(result, strict=True, context=dims)
        except BaseException as error:
            if kept is not None and dims is not None:
                restore(dims, kept)
            if not isinstance(error, ValidationError):
                raise
            if self._counts_as_python(result, dims):
                return []
            # not in a local: this frame is in the error's traceback, which would then hold the result in a cycle
            return violations_of(
                error, lambda loc: ("return", *loc), short=self._brief(error, result, strict=True, context={})
            )
        return []

    def _counts_as_python(self, result: Any, dims: Any) -> bool:
        """A NumPy scalar is as good as the Python number it equals."""
        plain = with_python_numbers(result)
        if plain is result:
            return False
        kept = dict(dims or {})
        try:
            self._validate(plain, strict=True, context=dims)
        except ValidationError:
            if dims is not None:
                restore(dims, kept)
            return False
        return True


def _schema(annotation: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    return with_instances(annotation, branches_apart(handler.generate_schema(annotation), handler), handler)
