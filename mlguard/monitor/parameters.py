"""The arguments of a call as its event names them, and which of them are hidden."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Final

from mlguard.monitor.redaction import Words
from mlguard.target import Target

__all__ = ["Parameters"]

_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Parameters:
    """The parameters of a function as its events name them, and which of them are hidden."""

    def __init__(self, target: Target) -> None:
        parameters = target.parameters
        try:
            hints: dict[str, Any] | None = target.hints
        except Exception:  # what the annotations hide can't be known, so everything is hidden
            hints = None
        by_name = [parameter for parameter in parameters if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY]
        takes_more = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
        # Beside **more, the name of a positional-only parameter may be a key of the caller's.
        self.words = Words(hints or {}, [parameter.name for parameter in (by_name if takes_more else parameters)])
        self.output_hidden = hints is None or "return" in self.words.hidden

        def entry(parameter: inspect.Parameter) -> tuple[str, bool]:
            return f"mlguard.input.{parameter.name}", hints is None or parameter.name in self.words.hidden

        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self._positional = [entry(parameter) for parameter in parameters if parameter.kind in positional]
        self._by_name = {parameter.name: entry(parameter) for parameter in by_name if parameter.kind not in _VARIADIC}
        self._rest = next((entry(p) for p in parameters if p.kind is inspect.Parameter.VAR_POSITIONAL), None)
        self._extra = next((entry(p) for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD), None)
        bound_by = parameters[0].name if parameters and "." in target.qualname else ""
        self._bound = bound_by in ("self", "cls") and bool(self._positional)
        if self._bound:
            del self._positional[0]

    def named(self, args: Any, kwargs: Any) -> Iterable[tuple[tuple[str, bool], Any]]:
        """Each argument with its key and whether it is hidden; the method's own object is none."""
        if self._bound:
            args = args[1:]
        named = zip(self._positional, args, strict=False)
        if not kwargs and len(args) <= len(self._positional):
            return named  # as validation hands the arguments on
        return itertools.chain(named, self._others(args, kwargs))

    def _others(self, args: Any, kwargs: Any) -> Iterator[tuple[tuple[str, bool], Any]]:
        if self._rest is not None and len(args) > len(self._positional):
            yield self._rest, args[len(self._positional) :]
        extra = {}
        for name, value in kwargs.items():
            if name in self._by_name:
                yield self._by_name[name], value
            else:
                extra[name] = value
        if extra and self._extra is not None:
            yield self._extra, extra

    def hidden_values(self, args: Any, kwargs: Any) -> Iterable[tuple[Any, bool]]:
        return [(value, hidden) for (_, hidden), value in self.named(args, kwargs)]
