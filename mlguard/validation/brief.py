"""The report of a value with a great many violations: what is told of it is bounded, and so must be the work.

pydantic lists every violation with a copy of its place, 3 us each, of which twenty are shown. Where there are more than
a thousand, the value is looked at once more by a validator that leaves each container at its first violation; the
number of all of them is known from the first look.
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, ValidationError
from pydantic_core import CoreConfig, SchemaValidator

from mlguard.validation.arguments import ARGUMENTS

__all__ = ["MANY", "Brief"]

MANY = 1_000
_CONTAINERS = frozenset({"list", "tuple", "set", "frozenset", "dict"})


class Brief:
    """Makes a short error of a long one.

    Args:
        schema: The core schema the error came from.
        config: The configuration it was made with.
    """

    def __init__(self, schema: Any, config: ConfigDict) -> None:
        self._made_of = schema, config
        self._validator: SchemaValidator | None = None  # made when first needed

    def __call__(self, error: ValidationError, value: Any, **options: Any) -> ValidationError:
        """The same error, or one with the first violations of the same value only."""
        if error.error_count() <= MANY:
            return error
        if self._validator is None:
            self._validator = _validator(*self._made_of)
        try:
            self._validator.validate_python(value, **options)
        except ValidationError as short:
            return short
        except Exception:  # a validator of the user's own that says something else the second time
            return error
        return error


def _validator(schema: Any, config: ConfigDict) -> SchemaValidator:
    known: Any = {key: value for key, value in config.items() if key in CoreConfig.__annotations__}
    try:  # models keep validators of their own, which would go on to the last violation
        return SchemaValidator(_failing_fast(schema), known, _use_prebuilt=False)
    except TypeError:
        return SchemaValidator(_failing_fast(schema), known)


def _failing_fast(schema: Any) -> Any:
    if isinstance(schema, dict):
        copied = {key: part if key == "default" else _failing_fast(part) for key, part in schema.items()}
        container = schema.get("type") in _CONTAINERS and schema.get("metadata") != ARGUMENTS
        return copied | {"fail_fast": True} if container else copied
    if isinstance(schema, list | tuple):
        return type(schema)(map(_failing_fast, schema))
    return schema
