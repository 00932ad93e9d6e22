"""What is known of a function before it is guarded: its kind, its signature and its annotations.

Every concern reads the function through `Target`, so that annotations are resolved once, and only when they can be.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel

from mlguard.errors import PolicyError

__all__ = ["Kind", "Target", "spelt_out"]


class Kind(Enum):
    """The four kinds of function; a wrapper is always of its function's kind."""

    PLAIN = "function"
    COROUTINE = "coroutine function"
    GENERATOR = "generator"
    ASYNC_GENERATOR = "async generator"

    @property
    def asynchronous(self) -> bool:
        return self in (Kind.COROUTINE, Kind.ASYNC_GENERATOR)

    @property
    def stream(self) -> bool:
        return self in (Kind.GENERATOR, Kind.ASYNC_GENERATOR)


class Target:
    """A function that is about to be guarded.

    Args:
        function: The user's function.
        namespace: Names that its annotations may use beside its globals, such as the locals of the function that
            defines it. Looked at once, now, and not kept: what it holds may be neither picklable nor small.

    Raises:
        PolicyError: It is no function, or a kind of callable that can't be guarded; the message names the fix.
    """

    def __init__(self, function: Callable[..., Any], namespace: Mapping[str, Any] | None = None) -> None:
        _refuse_what_is_no_function(function)
        self.function = function
        self.kind = _kind_of(function)
        self.signature = inspect.signature(function)
        self.inside: Callable[..., Any] | None = None
        """What is called in the function's place; only `mlguard.testing.chaos` sets it."""
        self.script = _script_of(function)
        """The file of a script's function: every script's module is called ``__main__``. None: it is a module's."""
        self._hints: dict[str, Any] | None = None
        with contextlib.suppress(NameError):  # a model defined further down the module: resolved at the first call
            self._hints = self._resolve(namespace)

    @functools.cached_property
    def name(self) -> str:
        """Module and qualified name, such as ``"service.predict"``: how messages and events call the function."""
        return f"{self.function.__module__}.{self.qualname}"

    @functools.cached_property
    def label(self) -> str:
        """How a message to people calls the function: `qualname` without the functions that enclose it."""
        return self.qualname.rsplit("<locals>.", 1)[-1]

    @property
    def qualname(self) -> str:
        return getattr(self.function, "__qualname__", repr(self.function))

    @property
    def resolved(self) -> bool:
        """True where every annotation could be resolved so far."""
        return self._hints is not None

    @property
    def hints(self) -> dict[str, Any]:
        """The annotations by parameter name, ``"return"`` among them, with their ``Annotated`` metadata.

        Raises:
            NameError: An annotation names something that is not defined yet.
        """
        if self._hints is None:
            self._hints = self._resolve(None)
        return self._hints

    @property
    def parameters(self) -> list[inspect.Parameter]:
        return list(self.signature.parameters.values())

    def declared(self, schema: type[BaseModel] | None, output: Any) -> Target:
        """The same function with the annotations in force: those of the decorator's ``schema=`` and ``output=`` first.

        Marks of the function's own annotations stay: what is hidden there is not shown because a schema forgot it.
        """
        return self if schema is None and output is None else _Declared(self, schema, output)

    def __reduce__(self) -> tuple[Any, ...]:
        # A function pickled by value brings only the globals its code uses, not those that its annotations name.
        return _revived, (self.function, self._hints, self.script)

    def _resolve(self, namespace: Mapping[str, Any] | None) -> dict[str, Any]:
        function = inspect.unwrap(self.function)
        function = getattr(function, "__func__", function)  # a bound method's annotations are its function's
        hints = self._hints_of(function, namespace)
        if _kind_of(function) is not self.kind:
            hints.pop("return", None)  # it describes the function that was wrapped, which is of another kind
        return hints

    def _hints_of(self, function: Any, namespace: Mapping[str, Any] | None) -> dict[str, Any]:
        own = {parameter.__name__: parameter for parameter in getattr(function, "__type_params__", ())}
        around = {**own, **_closure_of(function), **(namespace or {})}
        return typing.get_type_hints(
            function, globalns=getattr(function, "__globals__", {}), localns=around or None, include_extras=True
        )


def _revived(function: Callable[..., Any], hints: dict[str, Any] | None, script: str | None) -> Target:
    target = Target(function)
    target.script = script  # in a worker of a pool, __main__ is the pool's own script
    if hints is not None:
        target._hints = hints
    return target


class _Declared(Target):
    """A target whose hints are overlaid, once both they and the schema can be resolved."""

    def __init__(self, plain: Target, schema: type[BaseModel] | None, output: Any) -> None:
        self.function, self.kind, self.signature = plain.function, plain.kind, plain.signature
        self.inside = None
        self.script = plain.script
        self._made_of = plain, schema, output
        self._hints = None

    @property
    def resolved(self) -> bool:
        return self._made_of[0].resolved

    @property
    def hints(self) -> dict[str, Any]:
        if self._hints is None:
            plain, schema, output = self._made_of
            hints = dict(plain.hints)
            for name, field in _fields_of(schema).items():
                if name in self.signature.parameters:
                    hints[name] = _overlaid(field.annotation, (*field.metadata, field), hints.get(name))
            if output is not None:
                hints["return"] = _overlaid(output, (), hints.get("return"))
            self._hints = hints
        return self._hints

    def __reduce__(self) -> tuple[Any, ...]:
        return _Declared, self._made_of


def _fields_of(schema: Any) -> dict[str, Any]:
    if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
        return {}  # nothing, or what `Binding` refuses
    if not schema.__pydantic_complete__ and not schema.model_rebuild(raise_errors=False):
        raise NameError(f"a field of {schema.__qualname__} names something that is not defined yet")
    return dict(schema.model_fields)


def _overlaid(annotation: Any, metadata: tuple[Any, ...], beneath: Any) -> Any:
    kept = (*getattr(beneath, "__metadata__", ()), beneath) if beneath is not None else ()
    marks = (*metadata, *kept)
    return Annotated[(annotation, *marks)] if marks else annotation


def spelt_out(annotation: Any) -> Any:
    """What a type alias stands for, with its parameters filled in; any other annotation as it is.

    NumPy 2.5 makes ``npt.NDArray`` such an alias on Python 3.12 and newer.
    """
    alias = typing.get_origin(annotation) or annotation
    if not hasattr(alias, "__value__"):
        return annotation
    arguments = typing.get_args(annotation)
    return spelt_out(alias.__value__[arguments] if arguments else alias.__value__)


def _script_of(function: Callable[..., Any]) -> str | None:
    plain = inspect.unwrap(function)
    if plain.__module__ not in ("__main__", "__mp_main__"):  # as a spawned child calls it
        return None
    return str(getattr(plain, "__globals__", {}).get("__file__", ""))


def _kind_of(function: Callable[..., Any]) -> Kind:
    if inspect.isasyncgenfunction(function):
        return Kind.ASYNC_GENERATOR
    if inspect.iscoroutinefunction(function):
        return Kind.COROUTINE
    if inspect.isgeneratorfunction(function):
        return Kind.GENERATOR
    return Kind.PLAIN


def _closure_of(function: Any) -> dict[str, Any]:
    cells = zip(
        getattr(getattr(function, "__code__", None), "co_freevars", ()),
        getattr(function, "__closure__", None) or (),
        strict=False,
    )
    found = {}
    for name, cell in cells:
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue  # not assigned yet
    return found


def _refuse_what_is_no_function(function: Any) -> None:
    if hasattr(function, "guard") and hasattr(function, "__wrapped__"):
        raise PolicyError(f"{function.__qualname__} is guarded already. Fix: use one policy, or guard its __wrapped__.")
    if isinstance(function, type):
        raise PolicyError(
            f"guarded() can't guard the class {function.__qualname__}. "
            "Fix: guard the method that does the work, such as __call__ or predict."
        )
    if isinstance(function, functools.partial):
        raise PolicyError(
            "guarded() can't guard a functools.partial. Fix: guard the function first, then make the partial of it."
        )
    if isinstance(function, property):
        raise PolicyError("guarded() can't guard a property. Fix: put @guarded below @property.")
    if not (inspect.isroutine(function) or inspect.isfunction(function)):
        kind = type(function).__qualname__
        raise PolicyError(
            f"guarded() guards functions and methods, not {kind} objects. "
            "Fix: guard a method of it, such as guarded(policy)(obj.predict)."
        )
    try:
        inspect.signature(function)
    except (TypeError, ValueError):
        raise PolicyError(
            f"guarded() can't read the signature of {function!r}. "
            "Fix: guard a Python function with named parameters that calls it."
        ) from None
