"""From a signature to the schemas that its arguments must meet: one of the tuple they are put in, and pydantic's own.

pydantic-core checks a tuple with one entry a parameter, which `ordering.py` makes of the arguments. This is faster than
pydantic's own arguments schema, which is used only to tell what is wrong where the arguments don't even fit the
signature, and where callers may use other names.
"""

from __future__ import annotations

import inspect
import typing
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import typing_extensions
from pydantic import AliasChoices, AliasGenerator, AliasPath, BaseModel, ConfigDict, GetCoreSchemaHandler, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic.warnings import ArbitraryTypeWarning, UnsupportedFieldAttributeWarning
from pydantic_core import CoreSchema, PydanticUndefined, core_schema

from mlguard.errors import PolicyError
from mlguard.validation.array import array_checks
from mlguard.validation.dimensions import apart, opened
from mlguard.validation.instances import with_instances
from mlguard.validation.limits import Limit
from mlguard.validation.messages import JSON, PYTHON

__all__ = [
    "ARGUMENTS",
    "UNKNOWN_TYPE",
    "Parameter",
    "adapter",
    "aliases_of",
    "branches_apart",
    "builder",
    "needs_binding",
    "order",
    "report_schema",
]

UNKNOWN_TYPE = (PydanticUserError, ArbitraryTypeWarning)
"""What pydantic raises of an annotation it can't use."""
_KIND = inspect.Parameter
_INNER = frozenset(
    {
        *("schema", "items_schema", "keys_schema", "values_schema", "choices", "steps"),
        *("json_schema", "python_schema", "lax_schema", "strict_schema"),
    }
)
"""Where a core schema of pydantic's holds another one."""
ARGUMENTS = {"mlguard": "arguments"}
"""Tells the tuple of the arguments from one that is an argument."""
_UNUSED = core_schema.to_string_ser_schema()  # pydantic builds a serialiser of every schema


class Parameter:
    """A parameter of the function: its type, and its default as the function shall see it."""

    def __init__(self, parameter: inspect.Parameter, annotation: Any, limit: Limit | None) -> None:
        self.name = parameter.name
        self.kind = parameter.kind
        self.default = parameter.default
        self.limit = limit
        self.factory: Callable[[], Any] | None = None
        """What makes the default anew for each call that leaves the argument out."""
        self.alias: Any = None
        """What keyword arguments may call it instead, as pydantic-core spells aliases."""
        if annotation is inspect.Parameter.empty:
            annotation = Any
        if isinstance(self.default, FieldInfo) or _has_field(annotation):
            annotation = self._read_field(annotation)
        self.unpacked = typing.get_origin(annotation) in (typing.Unpack, typing_extensions.Unpack)
        self.annotation = typing.get_args(annotation)[0] if self.unpacked else annotation

    def _read_field(self, annotation: Any) -> Any:
        """What ``Field(...)`` says of the parameter, as its default or in its annotation."""
        if self.has_default:
            field = FieldInfo.from_annotated_attribute(annotation, self.default)
        else:
            field = FieldInfo.from_annotation(annotation)
        if field.default_factory_takes_validated_data:
            raise PolicyError(
                f"{self.name}: its default_factory takes the other arguments, which it can't be given. "
                "Fix: a factory without parameters."
            )
        self.factory = typing.cast("Callable[[], Any] | None", field.default_factory)
        if isinstance(self.default, FieldInfo):
            annotation = typing.Annotated[annotation, self.default]
        self.default = inspect.Parameter.empty if field.default is PydanticUndefined else field.default
        if self.factory is not None:
            self.default = None  # it has one, which is made for each call
        self.alias = _spelt(field.validation_alias)
        return annotation

    def may_be_called(self, generator: Any) -> None:
        """Takes the alias that a configuration's generator makes, where the parameter has none of its own."""
        if generator is None or self.alias is not None or self.kind in (_KIND.VAR_POSITIONAL, _KIND.VAR_KEYWORD):
            return
        if isinstance(generator, AliasGenerator):
            alias, validation_alias, _ = generator.generate_aliases(self.name)
            self.alias = _spelt(validation_alias if validation_alias is not None else alias)
        else:
            self.alias = _spelt(generator(self.name))

    @property
    def has_default(self) -> bool:
        return self.default is not inspect.Parameter.empty

    @property
    def checked(self) -> bool:
        return self.annotation is not Any or self.limit is not None

    def schema(self, handler: GetCoreSchemaHandler) -> CoreSchema:
        """What one argument must meet."""
        schema = handler.generate_schema(self.annotation)
        if model_of(self.annotation) is not None:
            json = core_schema.json_schema(schema)
            schema = core_schema.union_schema([(schema, PYTHON), (json, JSON)], mode="left_to_right")
        schema = with_instances(self.annotation, branches_apart(schema, handler), handler)
        if self.limit is not None:
            schema = core_schema.no_info_before_validator_function(self.limit.check, schema)
        return schema

    def entry(self, handler: GetCoreSchemaHandler) -> CoreSchema:
        """What this parameter's entry in the tuple must meet."""
        schema = self.schema(handler)
        if self.kind is _KIND.VAR_POSITIONAL:
            return core_schema.tuple_variable_schema(schema)
        if self.kind is _KIND.VAR_KEYWORD:
            if self.unpacked:
                return _closed(handler.resolve_ref_schema(schema), handler)
            return core_schema.dict_schema(core_schema.any_schema(), schema)
        if not self.has_default:
            return schema
        if self.factory is not None:
            return core_schema.with_default_schema(schema, default_factory=self.factory, validate_default=True)
        named = any(check.names for check in array_checks(schema, handler)) or None
        try:
            hash(self.default)
        except TypeError:  # pydantic would copy it at every call; a default of Python's is one object
            return core_schema.with_default_schema(
                schema, default_factory=_Constant(self.default), validate_default=named
            )
        return core_schema.with_default_schema(schema, default=self.default, validate_default=named)


def _has_field(annotation: Any) -> bool:
    marks = typing.get_args(annotation)[1:] if typing.get_origin(annotation) is typing.Annotated else ()
    return any(isinstance(mark, FieldInfo) for mark in marks)


def _spelt(alias: Any) -> Any:
    return alias.convert_to_aliases() if isinstance(alias, AliasPath | AliasChoices) else alias


class _Constant:
    def __init__(self, value: Any) -> None:
        self._value = value

    def __call__(self) -> Any:
        return self._value


class builder:  # noqa: N801 - reads as a function, is a class because pydantic asks metadata for its schema
    """Metadata that stands for whatever core schema a function makes with pydantic's handler."""

    def __init__(self, make: Callable[[GetCoreSchemaHandler], CoreSchema]) -> None:
        self._make = make

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return self._make(handler)


def adapter(make: Callable[[GetCoreSchemaHandler], CoreSchema], config: ConfigDict) -> TypeAdapter[Any]:
    """Compiles a schema.

    Raises:
        NameError: A type in it names something that is not defined yet.
        PydanticUserError: A type in it is none that pydantic knows.
        ArbitraryTypeWarning: It is no type at all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", ArbitraryTypeWarning)  # such as np.array, the function, which lets all pass
        warnings.simplefilter("ignore", UnsupportedFieldAttributeWarning)  # `Parameter` reads them
        made: TypeAdapter[Any] = TypeAdapter(typing.Annotated[Any, builder(make)], config=config)
    if not made.pydantic_complete:
        raise NameError("an annotation names something that is not defined yet")
    return made


def order(parameters: Sequence[Parameter]) -> Callable[[GetCoreSchemaHandler], CoreSchema]:
    """The schema of the tuple that `shape` returns."""

    def make(handler: GetCoreSchemaHandler) -> CoreSchema:
        entries = []
        for parameter in parameters:
            with _naming(parameter.name):
                entries.append(parameter.entry(handler))
        schema: CoreSchema = core_schema.tuple_positional_schema(entries, metadata=ARGUMENTS)
        if any(check.names for check in array_checks(schema, handler)):
            schema = core_schema.with_info_before_validator_function(opened, schema)
        return schema

    return make


def branches_apart(schema: Any, handler: GetCoreSchemaHandler) -> Any:
    """The schema, where no branch of a union that fails leaves names of dimensions to the next one.

    Unions inside of models stay as they are: their schemas belong to the models.
    """
    if isinstance(schema, list | tuple):
        return type(schema)([branches_apart(part, handler) for part in schema])
    if not isinstance(schema, dict) or schema.get("type") in ("model", "dataclass"):
        return schema
    copied = {key: branches_apart(part, handler) if key in _INNER else part for key, part in schema.items()}
    if schema.get("type") == "union":
        copied["choices"] = [_branch(choice, handler) for choice in copied["choices"]]
    return copied


def _branch(choice: Any, handler: GetCoreSchemaHandler) -> Any:
    schema, *label = choice if isinstance(choice, tuple) else (choice,)
    if any(check.names for check in array_checks(schema, handler)):
        schema = core_schema.with_info_wrap_validator_function(apart, schema)
    return (schema, *label) if label else schema


def needs_binding(parameters: Sequence[Parameter]) -> bool:
    """True where Python itself can't put the arguments in order, because pydantic gives a parameter its name.

    Raises:
        PolicyError: A default that only ``Field(default=...)`` says stands before a parameter without one.
    """
    before: str | None = None
    for parameter in parameters:
        if parameter.kind in (_KIND.POSITIONAL_ONLY, _KIND.POSITIONAL_OR_KEYWORD):
            if parameter.has_default:
                before = parameter.name
            elif before is not None:
                raise PolicyError(
                    f"{parameter.name}: has no default, but follows {before}, which has one. "
                    "Fix: give it one, or put it before."
                )
    return any(parameter.alias is not None for parameter in parameters)


def aliases_of(parameters: Sequence[Parameter]) -> dict[Any, str]:
    """The parameters by the aliases of theirs; of a path into an argument, by its first part."""
    found: dict[Any, str] = {}
    for parameter in parameters:
        alias = parameter.alias
        paths = [] if alias is None else [alias] if isinstance(alias, str) else alias
        for path in paths if paths and isinstance(paths[0], list) else [paths]:
            found.update(dict.fromkeys(path[:1], parameter.name))
    return found


def report_schema(parameters: Sequence[Parameter], config: ConfigDict) -> Callable[[GetCoreSchemaHandler], CoreSchema]:
    """Pydantic's own schema of the arguments: slower, but it tells all that is wrong, and knows aliases."""
    modes: dict[Any, Any] = {
        _KIND.POSITIONAL_ONLY: "positional_only",
        _KIND.POSITIONAL_OR_KEYWORD: "positional_or_keyword",
        _KIND.KEYWORD_ONLY: "keyword_only",
    }

    def make(handler: GetCoreSchemaHandler) -> CoreSchema:
        more: dict[str, Any] = {}
        entries = []
        for parameter in parameters:
            if parameter.kind is _KIND.VAR_POSITIONAL:
                more["var_args_schema"] = parameter.schema(handler)
            elif parameter.kind is _KIND.VAR_KEYWORD:
                schema = parameter.schema(handler)
                more["var_kwargs_schema"] = (
                    _closed(handler.resolve_ref_schema(schema), handler) if parameter.unpacked else schema
                )
                more["var_kwargs_mode"] = "unpacked-typed-dict" if parameter.unpacked else "uniform"
            else:
                entry = parameter.entry(handler)
                mode = modes[parameter.kind]
                entries.append(core_schema.arguments_parameter(parameter.name, entry, mode=mode, alias=parameter.alias))
        by_name = config.get("validate_by_name", config.get("populate_by_name"))
        more |= {"validate_by_name": by_name, "validate_by_alias": config.get("validate_by_alias")}
        schema = core_schema.arguments_schema(entries, serialization=_UNUSED, **more)
        return core_schema.with_info_before_validator_function(opened, schema)

    return make


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The Pydantic model an annotation names, if it names one and nothing else."""
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    origin = typing.get_origin(annotation) or annotation
    return origin if isinstance(origin, type) and issubclass(origin, BaseModel) else None


class _naming:  # noqa: N801
    """Says which parameter it is whose annotation pydantic can't use."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, UNKNOWN_TYPE) and not isinstance(error, NameError):
            reason = str(error).partition("\n")[0]
            raise PolicyError(
                f"{self._name}: pydantic can't make a schema of its annotation: {reason} "
                "Fix: annotate it with a type, or leave it without annotation, which lets everything pass."
            ) from None


def _closed(schema: CoreSchema, handler: GetCoreSchemaHandler) -> CoreSchema:
    """A TypedDict of keyword arguments refuses unknown ones, as Python does."""
    made: Any = schema
    if made["type"] == "typed-dict" and "extra" not in getattr(made.get("cls"), "__pydantic_config__", {}):
        return cast(CoreSchema, {**made, "extra_behavior": "forbid", "ref": f"{made.get('ref', '')}:closed"})
    if "schema" in made:  # what binds named dimensions, or bounds the size, stands around it
        return cast(CoreSchema, {**made, "schema": _closed(handler.resolve_ref_schema(made["schema"]), handler)})
    return schema
