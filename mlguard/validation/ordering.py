"""How arguments become the tuple that is checked, and arguments again: two functions generated for each signature.

``shape(x, y=UNDEFINED)`` returns one tuple with one entry a parameter, whatever way the arguments were passed; Python
itself binds them, at its own speed. ``spread`` turns the checked tuple into ``(args, kwargs)`` where some parameters
can't be passed by position. What the tuple must meet is in `arguments.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import ArgsKwargs, PydanticUndefined

__all__ = ["rebound", "shape_and_spread", "together"]

_KIND = inspect.Parameter


def shape_and_spread(
    signature: inspect.Signature, fields: Mapping[str, str] | None = None
) -> tuple[Callable[..., tuple[Any, ...]], Callable[[Any], tuple[Any, dict[str, Any]]]]:
    """The two generated functions of a signature.

    Args:
        signature: The function's.
        fields: With ``schema=``, the parameters that are fields of the model, and the names the model reads them by:
            they travel as one dict, the last entry, and defaults are passed as if the caller had.
    """
    heads, defaults = [], {}
    for parameter in signature.parameters.values():
        default = parameter.default
        if default is not _KIND.empty:
            defaults[parameter.name] = default
            default = _Text("UNDEFINED" if fields is None else f"DEFAULTS[{parameter.name!r}]")
        heads.append(parameter.replace(annotation=_KIND.empty, default=default))
    head = str(signature.replace(parameters=heads, return_annotation=_KIND.empty))
    entries = "".join(f"{name}, " for name in signature.parameters if name not in (fields or ()))
    if fields is not None:
        entries += "{" + ", ".join(f"{key!r}: {name}" for name, key in fields.items()) + "},"
    positional, keywords = [], []
    for index, parameter in enumerate(signature.parameters.values()):
        value = f"values[{index}]"
        if parameter.kind is _KIND.VAR_POSITIONAL:
            positional.append(f"*{value}")
        elif parameter.kind is _KIND.KEYWORD_ONLY:
            keywords.append(f"{parameter.name!r}: {value}")
        elif parameter.kind is _KIND.VAR_KEYWORD:
            keywords.append(f"**{value}")
        else:
            positional.append(value)
    args = "".join(f"{value}, " for value in positional)
    text = (
        f"def shape{head}:\n    return ({entries})\n\n"
        f"def spread(values):\n    return ({args}), {{{', '.join(keywords)}}}\n"
    )
    namespace: dict[str, Any] = {
        "UNDEFINED": PydanticUndefined,
        "DEFAULTS": defaults,
        "__name__": "mlguard.validation.generated",
    }
    exec(compile(text, "<mlguard: the order of the arguments>", "exec"), namespace)  # noqa: S102 - a signature's names
    return namespace["shape"], namespace["spread"]


def together(*args: Any, **kwargs: Any) -> ArgsKwargs:
    """The arguments as pydantic's own schema of them takes them."""
    return ArgsKwargs(args, kwargs)


class rebound:  # noqa: N801 - reads as a function, is a class so that it pickles
    """What `spread` is for pydantic's own schema: the arguments by position wherever the signature allows it."""

    def __init__(self, signature: inspect.Signature) -> None:
        self._signature = signature

    def __call__(self, values: Any) -> tuple[Any, dict[str, Any]]:
        args, kwargs = values
        bound = self._signature.bind(*args, **kwargs)
        return bound.args, bound.kwargs


class _Text:
    """A default as the generated text spells it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text
