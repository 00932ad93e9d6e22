"""The `Validation` section of a policy, and the `Binding` it becomes for one function.

Arguments are bound and checked before the body runs, so an error of the body's own is never mistaken for bad input. The
good path is two calls, ``bind(shape(...))``, the second of them pydantic-core's own; everything else happens after a
failure. Results are checked and handed on as they are.
"""

from __future__ import annotations

import collections.abc
import inspect
import itertools
import sys
import types
import typing
from typing import Any, Literal

import numpy as np
import typing_extensions
from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, field_validator
from pydantic_core import ArgsKwargs, CoreSchema, core_schema

from mlguard import clock
from mlguard.clock import Size
from mlguard.context import Call
from mlguard.errors import InvalidInputError, InvalidOutputError, PolicyError
from mlguard.section import Section, nearest
from mlguard.streams import END
from mlguard.target import Target, spelt_out
from mlguard.validation.arguments import (
    UNKNOWN_TYPE,
    Parameter,
    adapter,
    branches_apart,
    order,
    report_schema,
    shape_and_spread,
)
from mlguard.validation.array import Array, array_checks
from mlguard.validation.dimensions import CALL, opened, restore
from mlguard.validation.instances import with_instances
from mlguard.validation.limits import Limit
from mlguard.validation.messages import violations_of
from mlguard.validation.tally import Tally

__all__ = ["Binding", "Validation"]


class Validation(Section):
    """What is checked, how strictly, and what becomes of a call that breaks its schema."""

    input: bool = True
    """Check the arguments. The body never runs on arguments that break their schema."""
    output: bool = True
    """Check the result against the return annotation, or `output=` of the decorator. It is never converted."""
    strict: bool = False
    """Refuse what would have to be converted, such as "3" for an int. False, because callers send JSON and lists; a
    model's own configuration decides for its fields, as always in pydantic."""
    config: dict[str, Any] | None = None
    """A pydantic ConfigDict for the arguments, such as ``{"str_strip_whitespace": True}``. It does not reach into the
    fields of models, which have their own. None: pydantic's defaults, with arbitrary classes checked by isinstance."""
    on_invalid: Literal["raise", "fallback", "report"] = "raise"
    """What bad input or output leads to. "raise": an InvalidInputError or InvalidOutputError. "fallback": the policy's
    fallback answers bad input too. "report": it passes, and is counted and told; for the first week of a new schema."""
    max_bytes: Size | None = None
    """The most bytes one argument may take: text, bytes, buffers of arrays, and 8 for each number in lists and models.
    It is looked at before anything is parsed or converted. None, because the look walks through lists."""

    @field_validator("config")
    @classmethod
    def _known_to_pydantic(cls, config: dict[str, Any] | None) -> dict[str, Any] | None:
        for name in config or {}:
            if name not in ConfigDict.__annotations__:
                hint = nearest(name, ConfigDict.__annotations__)
                raise ValueError(f"must have the keys of a pydantic ConfigDict; there is no '{name}'.{hint}")
            if name == "strict":
                raise ValueError("must not say 'strict', which is Validation.strict")
        return config


class Binding:
    """The arguments and the result of one function, bound and checked.

    Args:
        target: The function.
        section: What to check; None: nothing.
        schema: A Pydantic model whose fields are named as the parameters; then it, not their annotations, is checked.
        output: What the result (of a generator: each item) must be, instead of the return annotation.

    Raises:
        PolicyError: A default breaks its schema, `schema` does not fit the signature, or pydantic can't use a type.
        NameError: An annotation names something that is not defined yet.
    """

    validates: bool
    """Some argument has something to check."""
    checks: bool
    """The result has something to check."""
    has_dims: bool
    """Some dimension of an array has a name."""
    has_keywords: bool
    """Some parameters can't be passed by position alone."""

    def __init__(
        self, target: Target, section: Validation | None, *, schema: type[BaseModel] | None = None, output: Any = None
    ) -> None:
        self._target, self._section, self._schema, self._output_given = target, section, schema, output
        section = section or Validation(input=False, output=False)
        self._reports = section.on_invalid == "report"
        self._config = ConfigDict(arbitrary_types_allowed=True, strict=section.strict)
        self._config.update(typing.cast(ConfigDict, section.config or {}))
        self._limit = None if section.max_bytes is None else Limit(clock.bytes_of(section.max_bytes))
        self._tally = Tally()
        kinds = {parameter.kind for parameter in target.parameters}
        self.has_keywords = bool(kinds - {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD})
        self._report: Any = None
        self._words: Any = None  # which names the schemas hide; read at the first failure
        self._parameters: list[Parameter] = []
        self._model: _ModelOfArguments | None = None
        self._bind_input(section)
        self._bind_output(section)

    def _bind_input(self, section: Validation) -> None:
        self.validates = False
        self.has_dims = False
        if not section.input:
            return
        target = self._target
        hints = target.hints if self._schema is None else {}
        self._parameters = [
            Parameter(parameter, _without_self(hints.get(parameter.name, inspect.Parameter.empty), target), self._limit)
            for parameter in target.parameters
        ]
        if self._schema is not None:
            self._model = _ModelOfArguments(target, self._schema, self._limit)
            self.validates = True
            self._model.check_defaults(target)
            made = adapter(self._model.core_schema, self._config)
            self._shape, self._spread = shape_and_spread(target.signature, self._model.keys)
        else:
            for parameter in self._parameters:
                _refuse_field_bounds(parameter.annotation, parameter.name)
            self.validates = any(parameter.checked for parameter in self._parameters)
            if not self.validates:
                return
            self._check_defaults()
            made = adapter(order(self._parameters), self._config)
            self._shape, self._spread = shape_and_spread(target.signature)
        self._bind = made.validator.validate_python
        self._arrays = array_checks(made.core_schema)
        self.has_dims = any(check.names for check in self._arrays)

    def _bind_output(self, section: Validation) -> None:
        self.checks = False
        self._output: Any = None
        self._output_names = False
        if not section.output:
            return
        annotation = self._output_given if self._output_given is not None else self._returned()
        if annotation in (Any, inspect.Parameter.empty, typing.NoReturn, typing.Never):
            return
        if typing.get_origin(annotation) in (typing.TypeGuard, typing_extensions.TypeIs):
            annotation = bool
        _refuse_field_bounds(annotation, "the result")
        try:
            made = adapter(lambda handler: _output_schema(annotation, handler), self._config)
        except UNKNOWN_TYPE as error:
            if isinstance(error, NameError):
                raise
            reason = str(error).partition("\n")[0]
            raise PolicyError(
                f"{self._target.qualname}: pydantic can't make a schema of the return annotation: {reason} "
                "Fix: annotate it with a type, or set validation.output = False."
            ) from None
        self._output = made.validator.validate_python
        self._output_type = annotation
        exactly: dict[Any, type] = {int: int, float: float, str: str, bool: bool, bytes: bytes, None: type(None)}
        self._exactly = exactly.get(annotation) if isinstance(annotation, type | None) else None
        self.checks = True
        self._output_names = any(check.names for check in array_checks(made.core_schema))
        self.has_dims = self.has_dims or self._output_names

    def _returned(self) -> Any:
        annotation = _without_self(self._target.hints.get("return", inspect.Parameter.empty), self._target)
        if not self._target.kind.stream:
            return annotation
        inner = annotation
        if typing.get_origin(inner) is typing.Annotated:
            inner = typing.get_args(inner)[0]
        items = typing.get_args(inner)
        return items[0] if typing.get_origin(inner) in _STREAMS and items else Any

    def _check_defaults(self) -> None:
        """Checks and converts each default once, as if it had been passed."""
        defaulted = [each for each in self._parameters if each.has_default and each.checked and each.factory is None]
        if not defaulted:
            return

        def schema(handler: GetCoreSchemaHandler) -> CoreSchema:
            return core_schema.tuple_positional_schema([parameter.schema(handler) for parameter in defaulted])

        try:
            made = adapter(schema, self._config)
            values = made.validator.validate_python(tuple(each.default for each in defaulted), context={})
        except ValidationError as error:
            violations = violations_of(error, lambda loc: (defaulted[loc[0]].name, *loc[1:]))
            problems = "; ".join(f"{violation['loc'][0]}: the default {violation['msg']}" for violation in violations)
            raise PolicyError(
                f"{self._target.qualname}: {problems}. Fix: annotate what it is as well, such as `int | None`."
            ) from None
        except UNKNOWN_TYPE:
            return  # `order` meets the same annotation and tells which it is
        for parameter, value in zip(defaulted, values, strict=True):
            parameter.default = value

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self._target, self._section, self._schema, self._output_given)

    def names(self, *, asynchronous: bool) -> dict[str, Any]:
        """The names this object brings to `call.py`."""
        names: dict[str, Any] = {}
        if self.checks:
            names |= {"check": self.check, "check_item": self.check_item, "exact": self._exactly}
        if self.validates:
            names |= {
                "arity": len(self._parameters) if self._model is None else -1,
                "shape": self._shape,
                "bind": self._bind,
                "spread": self._spread,
                "refuse": self.refuse,
                "INVALID": (ValidationError, TypeError),
                "NO_KEYWORDS": {},
            }
        return names

    def refuse(self, this: Call | None, error: Exception, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Tells what is wrong with the arguments, in the function's own names.

        Raises:
            InvalidInputError: What the policy says, unless it says to report only.
        """
        if isinstance(error, ValidationError):
            violations = violations_of(error, self._place)
        else:
            violations = self._unbindable(error, args, kwargs)
        violations = self._without_hidden(violations)
        if self._reports:
            self._note(this, "reported_inputs", violations)
            return args, kwargs
        self._tally.count("refused_inputs", violations)
        raise InvalidInputError.of(f"{self._target.label}()", violations) from None

    def _without_hidden(self, violations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The same, without figures and words of what a schema hides: an error travels as far as an event does."""
        from mlguard.monitor.redaction import HIDDEN, Words  # the marks are the monitor's; needed after a failure only

        if self._words is None:
            hints = self._target.declared(self._schema, self._output_given).hints
            self._words = Words(hints, [parameter.name for parameter in self._target.parameters])
        words = self._words
        if not words.hidden:
            return violations
        hidden = {"msg": "is invalid; it is hidden, so no more is told", "ctx": {}}
        return [{**found, **hidden} if words.violation(found)["msg"] == HIDDEN else found for found in violations]

    def check(self, this: Call | None, result: Any, dims: Any) -> None:
        """Checks a result, which is not changed.

        Raises:
            InvalidOutputError: It breaks its schema, unless the policy says to report only.
        """
        if type(result) is self._exactly:
            return
        kept: dict[str, int] | None = None
        if self._output_names and dims is not None:
            dims[CALL] = 0
            kept = dict(dims)
        try:
            self._output(result, strict=True, context=dims)
        except BaseException as error:
            if kept is not None and dims is not None:  # the next attempt, or a fallback, is judged afresh
                restore(dims, kept)
            if not isinstance(error, ValidationError):
                raise
            if isinstance(result, np.generic) and self._counts_as_python(result, dims):
                return
            violations = self._without_hidden(violations_of(error, lambda loc: ("return", *loc)))
        else:
            return
        if self._reports:
            self._note(this, "reported_outputs", violations)
            return
        self._tally.count("refused_outputs", violations)
        raise InvalidOutputError.of(f"{self._target.label}()", violations)

    def check_item(self, this: Call | None, item: Any, dims: Any) -> None:
        """Checks one item of a stream.

        Raises:
            InvalidOutputError: It breaks its schema, unless the policy says to report only.
        """
        if item is not END:
            self.check(this, item, dims)

    def explain(self) -> list[str]:
        """What is checked before the call, argument by argument, and what a violation leads to."""
        lines = []
        if self._model is not None:
            lines.append(
                f"The arguments {', '.join(self._model.keys)} must fit the schema {self._model.model.__name__}."
            )
        elif self.validates:
            for parameter in self._parameters:
                free = parameter.annotation is Any
                must = "may be anything" if free else f"must be {_type_text(parameter.annotation)}"
                lines.append(f"Argument {parameter.name} {must}.")
        else:
            lines.append("Arguments are not checked.")
        if self.validates and self._config.get("strict"):
            lines.append("Arguments are not converted (strict).")
        if self.validates and self._limit is not None:
            lines.append(f"An argument may take at most {clock.size_text(self._limit.most)}.")
        if self.validates or self.checks:
            section = self._section or Validation()
            lines.append(
                {
                    "raise": "A violation raises InvalidInputError or InvalidOutputError.",
                    "fallback": "A violation leads to the fallback, bad input included.",
                    "report": "A violation is counted and told, but the call goes on.",
                }[section.on_invalid]
            )
        return lines

    def explain_result(self) -> str:
        """What is checked after the call."""
        if not self.checks:
            return "The result is not checked."
        what = "Each item" if self._target.kind.stream else "The result"
        return f"{what} must be {_type_text(self._output_type)}; it is checked, never converted."

    def stats(self) -> dict[str, Any]:
        """Calls refused or reported so far, and how often each field was at fault."""
        return self._tally.stats()

    def reset(self) -> None:
        """Forgets the counts."""
        self._tally.reset()

    def _place(self, loc: tuple[Any, ...]) -> tuple[Any, ...]:
        """From an index of the tuple to the parameter's name."""
        if not loc:
            return loc
        if self._model is not None:
            return self._model.place(loc)
        parameter = self._parameters[loc[0]]
        return loc[1:] if parameter.kind is inspect.Parameter.VAR_KEYWORD else (parameter.name, *loc[1:])

    def _unbindable(self, error: Exception, args: Any, kwargs: Any) -> list[dict[str, Any]]:
        """What pydantic's arguments schema finds where Python could not bind the arguments."""
        if self._report is None:
            parameters = self._parameters
            if self._model is not None:
                parameters = [Parameter(each.parameter, Any, None) for each in map(_Plain, self._target.parameters)]
            self._report = adapter(report_schema(parameters), self._config).validator
        try:
            self._report.validate_python(ArgsKwargs(tuple(args), kwargs), context={})
        except ValidationError as found:
            return violations_of(found, self._place_by_position, [parameter.name for parameter in self._parameters])
        raise error  # a validator of the user's own raised it, and not for these arguments alone

    def _place_by_position(self, loc: tuple[Any, ...]) -> tuple[Any, ...]:
        if not loc or not isinstance(loc[0], int):
            return loc
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [parameter.name for parameter in self._parameters if parameter.kind in kinds]
        if loc[0] < len(names):
            return (names[loc[0]], *loc[1:])
        rest = [parameter.name for parameter in self._parameters if parameter.kind is inspect.Parameter.VAR_POSITIONAL]
        return (rest[0], loc[0] - len(names), *loc[1:]) if rest else (f"argument {loc[0] + 1}", *loc[1:])

    def _note(self, this: Call | None, what: str, violations: list[dict[str, Any]]) -> None:
        self._tally.count(what, violations)
        if this is not None:
            this.violations = [*(this.violations or []), *violations]

    def _counts_as_python(self, result: Any, dims: Any) -> bool:
        """A NumPy scalar is as good as the Python number it equals."""
        try:
            self._output(result.item(), strict=True, context=dims)
        except ValidationError:
            return False
        return True


def _rebuilt(target: Target, section: Validation | None, schema: type[BaseModel] | None, output: Any) -> Binding:
    return Binding(target, section, schema=schema, output=output)


class _ModelOfArguments:
    """``schema=Model``: the plain arguments of a function, checked as the fields of one model."""

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
        schema = core_schema.tuple_positional_schema([*[core_schema.any_schema()] * self._untouched, schema])
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


class _Plain:
    def __init__(self, parameter: inspect.Parameter) -> None:
        self.parameter = parameter if parameter.default is inspect.Parameter.empty else parameter.replace(default=None)


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


def _output_schema(annotation: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    return with_instances(annotation, branches_apart(handler.generate_schema(annotation), handler), handler)


def _without_self(annotation: Any, target: Target) -> Any:
    """`typing.Self` replaced by the class that holds the method."""
    if annotation is typing.Self:
        return _owner_of(target)
    parts = typing.get_args(annotation)
    if not any(_mentions_self(part) for part in parts):
        return annotation
    origin = typing.get_origin(annotation)
    parts = tuple(_without_self(part, target) for part in parts)
    if origin in (types.UnionType, typing.Union):
        return typing.Union[parts]  # noqa: UP007 - parts are known at run time only
    return typing.Annotated[parts] if origin is typing.Annotated else origin[parts]


def _mentions_self(annotation: Any) -> bool:
    return annotation is typing.Self or any(_mentions_self(part) for part in typing.get_args(annotation))


def _owner_of(target: Target) -> Any:
    """The class of a method, once it is there; one defined inside of a function can't be found, and anything passes."""
    path = target.qualname.split(".")[:-1]
    if "<locals>" in path or not path:
        return Any
    owner: Any = sys.modules.get(target.function.__module__)
    for name in path:
        owner = getattr(owner, name, None)
    if owner is None:
        raise NameError(f"name '{path[-1]}' is not defined", name=path[-1])
    return owner


def _refuse_field_bounds(annotation: Any, where: str) -> None:
    """Field(ge=0) beside Array would be compared with the array as a whole."""
    marks = typing.get_args(annotation)[1:] if typing.get_origin(annotation) is typing.Annotated else ()
    if any(isinstance(mark, Array) for mark in marks):
        parts = [
            part for mark in marks if not isinstance(mark, Array) for part in (mark, *getattr(mark, "metadata", ()))
        ]
        for part, name in itertools.product(parts, ("ge", "gt", "le", "lt")):
            bound = getattr(part, name, None)
            if bound is not None:
                raise PolicyError(
                    f"{where}: Field({name}={bound}) does not reach into an array. Fix: Array(..., {name}={bound})."
                )
    model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    if model is not None:
        for name, field in model.model_fields.items():
            if any(isinstance(mark, Array) for mark in field.metadata):
                _refuse_field_bounds(typing.Annotated[(field.annotation, *field.metadata)], f"{where}.{name}")
    else:
        for part in typing.get_args(annotation):
            _refuse_field_bounds(part, where)


def _type_text(annotation: Any) -> str:
    if annotation is None or annotation is type(None):
        return "None"
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *marks = typing.get_args(annotation)
        shown = [repr(mark) for mark in marks if isinstance(mark, Array)]
        return f"{_type_text(inner)}{''.join(f' as {mark}' for mark in shown)}"
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__qualname__
    array = spelt_out(annotation)
    if typing.get_origin(array) is np.ndarray:
        dtype = typing.get_args(typing.get_args(array)[1])
        return f"ndarray of {getattr(dtype[0], '__name__', 'any dtype')}" if dtype else "ndarray"
    return str(annotation).replace("typing.", "")


_STREAMS: tuple[Any, ...] = (
    collections.abc.Iterator,
    collections.abc.Iterable,
    collections.abc.Generator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)
