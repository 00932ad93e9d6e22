"""``schema=Model``: the plain arguments of a function, checked as the fields of one Pydantic model."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from mlguard.errors import PolicyError
from mlguard.section import nearest
from mlguard.target import Target
from mlguard.validation.arguments import ARGUMENTS, Parameter
from mlguard.validation.array import array_checks
from mlguard.validation.dimensions import opened
from mlguard.validation.instances import with_instances
from mlguard.validation.limits import Limit
from mlguard.validation.messages import violations_of

__all__ = ["ArgumentModel", "unchecked"]


class ArgumentModel:
    """The arguments of one function as fields of a model.

    Raises:
        PolicyError: The model does not fit the signature.
    """

    def __init__(self, target: Target, model: Any, limit: Limit | None) -> None:
        self.model = model
        self._limit = limit
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise PolicyError(f"schema = {model!r} is no Pydantic model. Fix: pass a subclass of pydantic.BaseModel.")
        parameters = target.parameters
        if len(parameters) > 0 and _is_self(target, model):
            parameters = parameters[1:]
        fields = model.model_fields
        names = [parameter.name for parameter in parameters]
        for parameter in parameters:
            if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
                what = f"schema = {model.__name__} can't check {parameter}"
                raise PolicyError(f"{target.qualname}: {what}. Fix: name the parameters.")
            if parameter.name not in fields:
                raise PolicyError(
                    f"{target.qualname}: parameter '{parameter.name}' is no field of the schema {model.__name__}."
                    f"{nearest(parameter.name, fields)} Fix: add the field, or rename one of the two."
                )
        for name in fields:
            if name not in names:
                raise PolicyError(
                    f"{target.qualname}: field '{name}' of the schema {model.__name__} is no parameter."
                    f"{nearest(name, names)} Fix: add the parameter, or drop the field."
                )
        self.keys = {name: _key_of(model, name) for name in names}
        """The names the model reads its fields by, which an alias may change."""
        self._untouched = len(target.parameters) - len(names)
        self._by_key = {key: name for name, key in self.keys.items()}

    def core_schema(self, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = with_instances(self.model, handler.generate_schema(self.model), handler)
        named = any(check.names for check in array_checks(schema, handler))
        if self._limit is not None:
            schema = core_schema.no_info_before_validator_function(self._limit.check, schema)
        schema = core_schema.tuple_positional_schema(
            [*[core_schema.any_schema()] * self._untouched, schema], metadata=ARGUMENTS
        )
        schema = core_schema.no_info_after_validator_function(self._values, schema)
        return core_schema.with_info_before_validator_function(opened, schema) if named else schema

    def check_defaults(self, target: Target) -> None:
        """Refuses a default of the function that its field refuses.

        What the model says of several fields together is left to the calls.
        """
        defaults = {
            self.keys[parameter.name]: parameter.default
            for parameter in target.parameters
            if parameter.name in self.keys and parameter.default is not inspect.Parameter.empty
        }
        try:
            self.model.model_validate(defaults, context={})
        except ValidationError as error:
            for violation in violations_of(error, lambda loc: loc):
                if violation["loc"] and violation["loc"][0] in defaults:
                    name = self._by_key[violation["loc"][0]]
                    raise PolicyError(
                        f"{target.qualname}: {name}: the default {violation['msg']}, says the schema "
                        f"{self.model.__name__}. Fix: change the default, or what the field allows."
                    ) from None
        except Exception:  # noqa: S110 - a validator that needs the fields that are missing here
            pass

    def place(self, loc: tuple[Any, ...]) -> tuple[Any, ...]:
        loc = loc[1:]
        return (self._by_key.get(loc[0], loc[0]), *loc[1:]) if loc else loc

    def _values(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        model = values[-1]
        return (*values[:-1], *[getattr(model, name) for name in self.keys])


def unchecked(parameter: inspect.Parameter) -> Parameter:
    """The same parameter, which may be anything: whether arguments fit the signature at all is told without values."""
    empty = parameter.default is inspect.Parameter.empty
    return Parameter(parameter if empty else parameter.replace(default=None), Any, None)


def _key_of(model: type[BaseModel], name: str) -> str:
    config, alias = model.model_config, model.model_fields[name].validation_alias
    if alias is None or config.get("populate_by_name") or config.get("validate_by_name"):
        return name
    if not isinstance(alias, str):
        raise PolicyError(
            f"field '{name}' of the schema {model.__name__} is read by {alias!r} only. "
            "Fix: set validate_by_name=True in its model_config."
        )
    return alias


def _is_self(target: Target, model: type[BaseModel]) -> bool:
    """The first parameter of a method: it has no annotation and is no field."""
    first = target.parameters[0]
    owner = target.qualname.rpartition(".")[0]
    return (
        first.name not in model.model_fields
        and first.annotation is inspect.Parameter.empty
        and owner != ""
        and not owner.endswith("<locals>")
    )
