"""`Binding`: the `Validation` section of a policy, as it becomes for one function.

Arguments are bound and checked before the body runs, so an error of the body's own is never mistaken for bad input. The
good path is two calls, ``bind(shape(...))``, the second of them pydantic-core's own; everything else happens after a
failure. Results are checked and handed on as they are.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import ArgsKwargs, CoreSchema, core_schema

from mlguard import clock
from mlguard.context import Call
from mlguard.errors import InvalidInputError, InvalidOutputError, PolicyError
from mlguard.monitor import metrics
from mlguard.streams import END
from mlguard.target import Target
from mlguard.validation.annotations import returned, tables_explained, type_text, without_self
from mlguard.validation.argument_model import ArgumentModel, unchecked
from mlguard.validation.arguments import (
    UNKNOWN_TYPE,
    Parameter,
    adapter,
    aliases_of,
    needs_binding,
    order,
    report_schema,
)
from mlguard.validation.array import Check, array_checks
from mlguard.validation.brief import MANY, Brief
from mlguard.validation.depth import SAMPLE, Depth, at_depth
from mlguard.validation.limits import Limit
from mlguard.validation.messages import violations_of
from mlguard.validation.ordering import rebound, shape_and_spread, together
from mlguard.validation.results import ResultCheck, says_nothing
from mlguard.validation.section import Validation
from mlguard.validation.tally import Tally

__all__ = ["Binding"]


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
    facts: Callable[[], dict[str, Any]] | None
    """What the event of every call says of the check; None: nothing."""

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
        self._model: ArgumentModel | None = None
        self._by_arguments = False  # pydantic's own schema of arguments binds them, because Python can't
        self._called: dict[Any, str] = {}  # the parameters by what callers may call them instead
        self._depth: Depth = section.check
        self._shape: Callable[..., Any]
        self._spread: Callable[..., tuple[Any, dict[str, Any]]]
        self._arrays: list[Check] = []
        self._bind_input(section)
        self._bind_output(section)
        # Every event asks for facts: where there are none to tell, nobody is asked.
        self._shallow = self._shallowest() if self.validates or self.checks else None
        self.facts = None if self._shallow is None else self._facts

    def _bind_input(self, section: Validation) -> None:
        self.validates = False
        self.has_dims = False
        if not section.input:
            return
        target = self._target
        hints = target.hints if self._schema is None else {}
        self._parameters = [
            Parameter(parameter, without_self(hints.get(parameter.name, inspect.Parameter.empty), target), self._limit)
            for parameter in target.parameters
        ]
        if self._schema is not None:
            self._model = ArgumentModel(target, self._schema, self._limit)
            self.validates = True
            self._model.check_defaults(target)
            made = adapter(self._model.core_schema, self._config)
            self._shape, self._spread = shape_and_spread(target.signature, self._model.keys)
        else:
            self.validates = any(parameter.checked for parameter in self._parameters)
            if not self.validates:
                return
            self._check_defaults()
            for parameter in self._parameters:
                parameter.may_be_called(self._config.get("alias_generator"))
            self._by_arguments = needs_binding(self._parameters)
            if self._by_arguments:
                self._called = aliases_of(self._parameters)
                self.has_keywords = True
                made = adapter(report_schema(self._parameters, self._config), self._config)
                self._shape, self._spread = together, rebound(target.signature)
            else:
                made = adapter(order(self._parameters), self._config)
                self._shape, self._spread = shape_and_spread(_with_defaults(target.signature, self._parameters))
        self._bind = self._at_depth(made.validator.validate_python)
        quarantines = section.on_invalid == "quarantine"
        if quarantines:
            from mlguard.validation.tables.rejected import quarantined  # loads what looks at tables

            self._bind = quarantined(self._bind)
        self._arrays = array_checks(made.core_schema)
        self._brief = Brief(made.core_schema, self._config)
        self.has_dims = quarantines or any(check.names for check in self._arrays)

    def _bind_output(self, section: Validation) -> None:
        self.checks = False
        self._result: ResultCheck | None = None
        self._exactly: type | None = None
        annotation = self._output_given
        if section.output and annotation is None:
            annotation = returned(self._target)
        if not section.output or says_nothing(annotation):
            return
        self._result = ResultCheck(self._target, annotation, self._config, self._depth)
        self._exactly = self._result.exactly
        self._arrays += self._result.arrays
        self.checks = True
        self.has_dims = self.has_dims or self._result.named

    def _at_depth(self, validate: Callable[..., Any]) -> Callable[..., Any]:
        return validate if self._depth == "full" else at_depth(self._depth, validate)

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
            known = [each.name for each in self._parameters] if self._by_arguments else None
            violations = violations_of(error, self._place, known, short=self._short(error, args, kwargs))
        else:
            violations = self._unbindable(error, args, kwargs)
        violations = self._without_hidden(violations)
        if self._reports:
            self._note(this, "reported_inputs", violations)
            return args, {str(self._called.get(name, name)): value for name, value in kwargs.items()}
        self._tally.count("refused_inputs", violations, self._words.known)
        raise InvalidInputError.of(f"{self._target.label}()", violations) from None

    def _short(self, error: ValidationError, args: Any, kwargs: Any) -> ValidationError:
        return error if error.error_count() <= MANY else self._brief(error, self._shape(*args, **kwargs), context={})

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

    def spread(self, values: Any) -> tuple[Any, dict[str, Any]]:
        """Checked values as arguments again."""
        return self._spread(values)

    def told(self, error: ValidationError, argument: str) -> list[dict[str, Any]]:
        """The violations in an error about one argument, without what a schema hides."""
        return self._without_hidden(violations_of(error, lambda loc: (argument, *loc)))

    def check(self, this: Call | None, result: Any, dims: Any) -> None:
        """Checks a result, which is not changed.

        Raises:
            InvalidOutputError: It breaks its schema, unless the policy says to report only.
        """
        if type(result) is self._exactly:
            return
        violations = self._result.violations(result, dims) if self._result is not None else []
        if not violations:
            return
        violations = self._without_hidden(violations)
        if self._reports:
            self._note(this, "reported_outputs", violations)
            return
        self._tally.count("refused_outputs", violations, self._words.known)
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
                must = "may be anything" if free else f"must be {type_text(parameter.annotation)}"
                lines.append(f"Argument {parameter.name} {must}.")
                lines += [f"Argument {parameter.name}: {said}" for said in tables_explained(parameter.annotation)]
        else:
            lines.append("Arguments are not checked.")
        if self.validates and self._config.get("strict"):
            lines.append("Arguments are not converted (strict).")
        if self.validates and self._limit is not None:
            lines.append(f"An argument may take at most {clock.size_text(self._limit.most)}.")
        if self.validates or self.checks:
            lines += _DEPTHS.get(self._depth, [])
        if self.validates or self.checks:
            section = self._section or Validation()
            lines.append(
                {
                    "raise": "A violation raises InvalidInputError or InvalidOutputError.",
                    "fallback": "A violation leads to the fallback, bad input included.",
                    "report": "A violation is counted and told, but the call goes on.",
                    "quarantine": "A violation of anything but single rows raises InvalidInputError or "
                    "InvalidOutputError.",
                }[section.on_invalid]
            )
        return lines

    def explain_result(self) -> str:
        """What is checked after the call."""
        if self._result is None:
            return "The result is not checked."
        what = "Each item" if self._target.kind.stream else "The result"
        said = "".join(f" In the result, {line}" for line in tables_explained(self._result.annotation))
        return f"{what} must be {type_text(self._result.annotation)}; it is checked, never converted.{said}"

    def stats(self) -> dict[str, Any]:
        """Calls refused or reported so far, and how often each field was at fault."""
        return self._tally.stats()

    def metrics(self) -> Iterator[metrics.Figure]:
        return self._tally.metrics()

    def reset(self) -> None:
        """Forgets the counts."""
        self._tally.reset()

    def _facts(self) -> dict[str, Any]:
        """Says in the event of every call that values of arrays were not all looked at."""
        return {"mlguard.validation.check": self._shallow}

    def _shallowest(self) -> str | None:
        depths = {self._depth, *(check.array.check for check in self._arrays)}
        return next((depth for depth in ("metadata", "sample") if depth in depths), None)

    def _place(self, loc: tuple[Any, ...]) -> tuple[Any, ...]:
        """From an index of the tuple to the parameter's name."""
        if not loc:
            return loc
        if self._model is not None:
            return self._model.place(loc)
        if self._by_arguments:
            return self._place_by_position(loc)
        parameter = self._parameters[loc[0]]
        return loc[1:] if parameter.kind is inspect.Parameter.VAR_KEYWORD else (parameter.name, *loc[1:])

    def _unbindable(self, error: Exception, args: Any, kwargs: Any) -> list[dict[str, Any]]:
        """What pydantic's arguments schema finds where Python could not bind the arguments."""
        if self._report is None:
            parameters = self._parameters
            if self._model is not None:
                parameters = [unchecked(parameter) for parameter in self._target.parameters]
            self._report = adapter(report_schema(parameters, self._config), self._config).validator
        try:
            self._report.validate_python(ArgsKwargs(tuple(args), kwargs), context={})
        except ValidationError as found:
            return violations_of(found, self._place_by_position, [parameter.name for parameter in self._parameters])
        raise error  # a validator of the user's own raised it, and not for these arguments alone

    def _place_by_position(self, loc: tuple[Any, ...]) -> tuple[Any, ...]:
        if not loc:
            return loc
        if not isinstance(loc[0], int):
            return (self._called.get(loc[0], loc[0]), *loc[1:])
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [parameter.name for parameter in self._parameters if parameter.kind in kinds]
        if loc[0] < len(names):
            return (names[loc[0]], *loc[1:])
        rest = [parameter.name for parameter in self._parameters if parameter.kind is inspect.Parameter.VAR_POSITIONAL]
        return (rest[0], loc[0] - len(names), *loc[1:]) if rest else (f"argument {loc[0] + 1}", *loc[1:])

    def _note(self, this: Call | None, what: str, violations: list[dict[str, Any]]) -> None:
        self._tally.count(what, violations, self._words.known)
        if this is not None:
            this.violations = [*(this.violations or []), *violations]


_DEPTHS = {
    "sample": [f"Of an array at most {SAMPLE:,} values are looked at; class, dtype and shape always are."],
    "metadata": ["Of arrays, class, dtype and shape are looked at, and no values."],
}


def _with_defaults(signature: inspect.Signature, parameters: list[Parameter]) -> inspect.Signature:
    """The signature with the defaults that only ``Annotated[..., Field(default=...)]`` says."""
    pairs = zip(signature.parameters.values(), parameters, strict=True)
    return signature.replace(
        parameters=[mine.replace(default=None) if found.has_default else mine for mine, found in pairs]
    )


def _rebuilt(target: Target, section: Validation | None, schema: type[BaseModel] | None, output: Any) -> Binding:
    return Binding(target, section, schema=schema, output=output)
