"""The contract of an input class, or of a guarded function, as JSON Schema (draft 2020-12).

What pydantic generates, with these differences: arrays of any number of dimensions are spelt out, keys that a pattern
refuses are refused here too, validators in Python are listed under ``validators`` because no schema can say what they
do, further names a field is read by (AliasChoices) under ``aliases``, and what JSON can't hold (a default of NaN) is
left out.
"""

from __future__ import annotations

import inspect
import math
import typing
import warnings
from collections.abc import Callable
from typing import Any

import typing_extensions
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, PydanticJsonSchemaWarning
from pydantic_core import PydanticSerializationError, core_schema

from mlguard.contracts.array_schema import nested
from mlguard.contracts.subject import ContractError
from mlguard.target import Target
from mlguard.validation.annotations import returned, without_self

__all__ = ["DIALECT", "json_schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(subject: Any) -> dict[str, Any]:
    """What JSON must look like to be accepted.

    Args:
        subject: A Pydantic model, a dataclass, a TypedDict or any annotation; or a guarded function, whose arguments
            are then described as one object, and its result under ``result``.

    Raises:
        ContractError: It is none of these, or JSON Schema can't say it.
    """
    if callable(subject) and hasattr(subject, "guard"):
        return _of_function(subject)
    if not _is_type(subject):
        what = (
            f"the function {subject.__qualname__}"
            if inspect.isroutine(subject)
            else f"an object of type {type(subject).__name__}"
        )
        fix = "decorate it with @guarded" if inspect.isroutine(subject) else "name a class or a guarded function"
        raise ContractError(f"{what} is no input class and no guarded function. Fix: {fix}.")
    return {"$schema": DIALECT, **_finished(_generated(subject, _name_of(subject)))}


class _Generator(GenerateJsonSchema):
    def encode_default(self, dft: Any) -> Any:
        if not _is_json(dft):
            raise PydanticSerializationError("JSON has no NaN and no infinity")  # the default is then left out
        return super().encode_default(dft)

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        described = super().dict_schema(schema)
        if "patternProperties" in described:
            described.setdefault("additionalProperties", False)
        return described

    def model_field_schema(self, schema: core_schema.ModelField) -> JsonSchemaValue:
        described = super().model_field_schema(schema)
        choices: Any = schema.get("validation_alias")
        if isinstance(choices, list) and isinstance(choices[0], list):
            others = [choice[0] for choice in choices[1:] if len(choice) == 1 and isinstance(choice[0], str)]
            described = {**described, "aliases": others} if others else described
        return described

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        return _with_validator(super().function_before_schema(schema), schema)

    def function_after_schema(self, schema: core_schema.AfterValidatorFunctionSchema) -> JsonSchemaValue:
        return _with_validator(super().function_after_schema(schema), schema)

    def function_wrap_schema(self, schema: core_schema.WrapValidatorFunctionSchema) -> JsonSchemaValue:
        return _with_validator(super().function_wrap_schema(schema), schema)

    def function_plain_schema(self, schema: core_schema.PlainValidatorFunctionSchema) -> JsonSchemaValue:
        try:
            described = super().function_plain_schema(schema)
        except PydanticInvalidForJsonSchema:
            described = {}  # only the validator knows
        return _with_validator(described, schema)


def _with_validator(described: JsonSchemaValue, schema: Any) -> JsonSchemaValue:
    function = schema["function"]["function"]
    if str(getattr(function, "__module__", "")).partition(".")[0] in ("pydantic", "mlguard", "pydantic_core"):
        return described
    name = getattr(function, "__qualname__", type(function).__qualname__).rpartition("<locals>.")[2]
    return {**described, "validators": [*described.get("validators", []), name]}


def _generated(subject: Any, name: str) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)  # a default that JSON can't hold is left out
        try:
            config = None if _has_config(subject) else ConfigDict(arbitrary_types_allowed=True)
            return TypeAdapter(subject, config=config).json_schema(schema_generator=_Generator)
        except PydanticInvalidForJsonSchema as error:
            where = _culprit(subject)
            raise ContractError(
                f"{name}{where}: {str(error.message).rstrip('.')}. Fix: annotate it with a type that JSON has, or say "
                "what JSON holds with pydantic's WithJsonSchema."
            ) from None
        except (PydanticUserError, NameError) as error:
            reason = str(error).partition("\n")[0]
            raise ContractError(f"{name} has no schema: {reason} Fix: make it usable in Python first.") from None


def _culprit(subject: Any) -> str:
    """The field JSON Schema can't say, for the error: looked for only then."""
    for name, field in getattr(subject, "model_fields", {}).items():
        made: Any = typing.Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        config = None if _has_config(field.annotation) else ConfigDict(arbitrary_types_allowed=True)
        try:
            TypeAdapter(made, config=config).json_schema(schema_generator=_Generator)
        except PydanticInvalidForJsonSchema:
            return f".{field.alias or name}{_culprit(field.annotation)}"
        except PydanticUserError:
            continue
    return ""


def _is_type(subject: Any) -> bool:
    aliased = typing.get_origin(subject) is not None or hasattr(subject, "__value__")
    return isinstance(subject, type) or aliased or subject is Any


def _has_config(subject: Any) -> bool:
    """Pydantic takes no configuration for what has its own."""
    return isinstance(subject, type) and (
        issubclass(subject, BaseModel)
        or hasattr(subject, "__dataclass_fields__")
        or typing_extensions.is_typeddict(subject)
    )


def _name_of(subject: Any) -> str:
    return subject.__name__ if isinstance(subject, type) else str(subject).replace("typing.", "")


def _of_function(function: Any) -> dict[str, Any]:
    wrapper = function.guard._wrapper
    target: Target = wrapper.target
    options = wrapper.options
    try:
        hints = {name: without_self(hint, target) for name, hint in target.hints.items()}
        result = options.output if options.output is not None else returned(target)
    except NameError as error:
        raise ContractError(f"{target.name}: {error}. Fix: define it in the module of the function.") from None
    section = wrapper.policy.validation
    config = ConfigDict(arbitrary_types_allowed=True)
    config.update(typing.cast(ConfigDict, (section and section.config) or {}))
    arguments = _Arguments(target, hints, options.schema)
    result = Any if result is inspect.Parameter.empty else result
    fields: dict[str, Any] = {"arguments": (arguments.model(config), ...), "result": (result, ...)}
    both = _generated(create_model(target.qualname, __config__=config, **fields), target.label)
    definitions = both.get("$defs", {})
    described = arguments.described(_resolved(both["properties"]["arguments"], definitions), definitions)
    what = inspect.getdoc(target.function)
    outcome = {key: part for key, part in both["properties"]["result"].items() if key != "title"}
    document: dict[str, Any] = {
        "title": target.name,
        **({"description": what} if what else {}),
        **{key: part for key, part in described.items() if key not in ("title", "description")},
        **({"items_of": "stream"} if target.kind.stream else {}),
        "result": outcome,
    }
    if definitions:
        document["$defs"] = definitions
    return {"$schema": DIALECT, **_finished(document)}


class _Arguments:
    """The parameters of a function as the fields of a model, by names that no field may clash with."""

    def __init__(self, target: Target, hints: dict[str, Any], schema: type[BaseModel] | None) -> None:
        self._schema = schema
        parameters = target.parameters
        owner = target.qualname.rpartition(".")[0]
        method = owner != "" and not owner.endswith("<locals>")
        if parameters and method and parameters[0].name not in hints:
            parameters = parameters[1:]  # self, or cls
        self._parameters = parameters
        self._hints = hints

    def model(self, config: ConfigDict) -> type[BaseModel]:
        if self._schema is not None:
            return self._schema
        fields: dict[str, Any] = {}
        for number, parameter in enumerate(self._parameters):
            annotation: Any = self._hints.get(parameter.name, Any)
            default: Any = parameter.default if parameter.default is not inspect.Parameter.empty else ...
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                annotation, default = list[annotation], ()
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                if typing.get_origin(annotation) in (typing.Unpack, typing_extensions.Unpack):
                    annotation = typing.get_args(annotation)[0]
                else:
                    annotation = dict[str, annotation]
            if isinstance(default, FieldInfo):
                annotation, default = typing.Annotated[annotation, default], default.get_default()
            alias = Field(alias=parameter.name) if default is ... else Field(default, alias=parameter.name)
            fields[f"p{number}"] = (annotation, alias)
        return create_model("arguments", __config__=config, **fields)

    def described(self, schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
        """The object that holds the arguments by name."""
        if self._schema is not None:
            return self._by_parameter(schema, self._schema)
        properties = dict(schema.get("properties", {}))
        for part in properties.values():
            part.pop("title", None)
        required = [name for name in schema.get("required", []) if name in properties]
        described = {**schema, "properties": properties, "required": required, "additionalProperties": False}
        for parameter in self._parameters:
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                continue
            rest = _resolved(properties.pop(parameter.name), definitions)
            required = [name for name in required if name != parameter.name]
            if "properties" in rest:  # Unpack[TypedDict]
                properties |= rest["properties"]
                required += rest.get("required", [])
                rest = {"additionalProperties": False}
            described["required"] = required
            described["additionalProperties"] = rest.get("additionalProperties", True)
        return described

    def _by_parameter(self, schema: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
        """The fields of ``schema=Model`` by the names of the parameters, which decide what may be left out."""
        keys = {name: _key(name, field) for name, field in model.model_fields.items()}
        properties, required = {}, []
        for parameter in self._parameters:
            found = schema["properties"].get(keys[parameter.name], schema["properties"].get(parameter.name, {}))
            part = {key: entry for key, entry in found.items() if key != "default"}
            if parameter.default is inspect.Parameter.empty:
                required.append(parameter.name)
            elif isinstance(parameter.default, bool | int | float | str | None):
                part["default"] = parameter.default
            properties[parameter.name] = part
        return {**schema, "properties": properties, "required": required, "additionalProperties": False}


def _key(name: str, field: FieldInfo) -> str:
    """The name of a field in its model's schema."""
    alias = field.validation_alias
    first = alias.choices[0] if isinstance(alias, AliasChoices) else alias
    return first if isinstance(first, str) else name


def _resolved(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    return schema


def _finished(document: dict[str, Any]) -> dict[str, Any]:
    """Arrays of any number of dimensions spelt out, and nothing in it that JSON can't hold."""
    depths: dict[str, Any] = {}
    finished: dict[str, Any] = walk(document, lambda node: _spelt_out(_in_json(node), depths))
    definitions = {**finished.pop("$defs", {}), **depths}
    used = _used(finished, definitions)
    if used:
        finished["$defs"] = {name: part for name, part in definitions.items() if name in used}
    return finished


def _used(document: dict[str, Any], definitions: dict[str, Any]) -> set[str]:
    used: set[str] = set()
    rest: list[Any] = [document]
    while rest:
        node = rest.pop()
        if isinstance(node, dict):
            name = str(node.get("$ref", "")).rpartition("/")[2]
            if name in definitions and name not in used:
                used.add(name)
                rest.append(definitions[name])
            rest.extend(node.values())
        elif isinstance(node, list):
            rest.extend(node)
    return used


_MAPS = ("properties", "$defs", "patternProperties", "dependentSchemas")
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not", "propertyNames", "contains", "result", "if", "then", "else")


def walk(node: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The schema with every schema in it changed, the inner ones first."""
    if not isinstance(node, dict):
        return node
    made = dict(node)
    for key in _MAPS:
        if isinstance(made.get(key), dict):
            made[key] = {name: walk(part, change) for name, part in made[key].items()}
    for key in _LISTS:
        if isinstance(made.get(key), list):
            made[key] = [walk(part, change) for part in made[key]]
    for key in _SINGLE:
        if key in made:
            made[key] = walk(made[key], change)
    return change(made)


def _spelt_out(node: dict[str, Any], depths: dict[str, Any]) -> dict[str, Any]:
    if "values" not in node or "..." not in node.get("shape", ()):
        return node
    shape = node["shape"]
    at = shape.index("...")
    values = node["values"] if isinstance(node["values"], list) else [node["values"]]
    inner = nested(tuple(shape[at + 1 :]), values)
    name = next((name for name, each in depths.items() if each["anyOf"][0] == inner), f"any_depth_{len(depths) + 1}")
    reference = {"$ref": f"#/$defs/{name}"}
    depths[name] = {"anyOf": [inner, {"type": "array", "items": reference}]}
    kept = {key: part for key, part in node.items() if key not in ("values", "type")}
    return {**nested(tuple(shape[:at]) or (() if shape[at + 1 :] else ("...",)), [reference]), **kept}


def _in_json(node: dict[str, Any]) -> dict[str, Any]:
    return {
        key: part
        for key, part in node.items()
        if not (isinstance(part, float) and not math.isfinite(part)) and (key != "examples" or _is_json(part))
    }


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_json, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    return not isinstance(value, float) or math.isfinite(value)
