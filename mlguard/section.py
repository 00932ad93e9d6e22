"""What every section of a policy has in common: frozen, typed, and unforgiving of unknown keys.

A section lives in the room of its concern (`Retry` in `resilience/retry.py`), beside the code that carries it out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final, get_args

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError

from mlguard.errors import PolicyError

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

__all__ = ["Section", "descriptions", "nearest", "policy_problems", "problems_by_field", "shown"]

_PASSWORD: Final = re.compile(r":(?!//)\S*@")  # of a URL, however it is misspelt


class Section(BaseModel):
    """A frozen group of settings.

    Raises:
        PolicyError: A key is unknown or a value impossible; the message names the field, the value and the fix.
    """

    # Schemas are built at their first use, and docstrings of fields read where a JSON Schema is asked for: at import
    # the two would cost more than all the rest of mlguard.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, defer_build=True)

    fixed: ClassVar[tuple[str, ...]] = ()
    """Settings that can't change while a process runs."""

    if not TYPE_CHECKING:  # a written __init__ would hide the fields from type checkers

        def __init__(self, /, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise PolicyError("; ".join(policy_problems(error, type(self)))) from None

        # Lets pydantic fill nested sections itself, so that one error lists the problems of all of them.
        __init__.__pydantic_base_init__ = True

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in descriptions(cls).items():
            if name in properties:  # a setting that only Python can hold is none of the schema's
                properties[name]["description"] = text
        return schema


def descriptions(section: type[Section]) -> dict[str, str]:
    """The docstrings under the fields, where the sources are there to be read."""
    import ast
    import inspect
    from itertools import pairwise

    try:
        made = ast.parse(inspect.getsource(section)).body[0]
    except (OSError, SyntaxError):
        return {}
    found = {}
    for field, text in pairwise(made.body if isinstance(made, ast.ClassDef) else ()):
        match field, text:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(words))):
                found[name] = inspect.cleandoc(words)
    return found


def policy_problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One sentence a problem, with the dotted field, the value and the fix."""
    found = problems_by_field(error, model)
    return [f"{'.'.join([model.__name__, *path])}{text}" for path, texts in found.items() for text in texts]


def problems_by_field(
    error: ValidationError, model: type[BaseModel], *, in_code: bool = True
) -> dict[tuple[str, ...], list[str]]:
    """The problems by the path of the field they are about; each is what follows the field's name in a sentence.

    A value that fits none of several types is one problem, not one for each type. A fix is in Python's words where the
    values were written in code, and otherwise in those of a file.
    """
    reasons: dict[tuple[tuple[str, ...], str], list[str]] = {}
    found: dict[tuple[str, ...], list[str]] = {}
    for details in error.errors(include_url=False):
        path, owner = _followed(model, details["loc"])
        if details["type"] == "extra_forbidden":
            known = sorted(owner.model_fields)
            text = f": there is no setting '{path[-1]}'.{nearest(path[-1], known)} Known here: {', '.join(known)}"
            found.setdefault(path, []).append(text)
        elif details["type"] == "missing":
            fix = f"{owner.__name__}({path[-1]}=...)" if in_code else f"set {'.'.join(path)}"
            found.setdefault(path, []).append(f": is required. Fix: {fix}")
        else:
            reason = details["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
            start = f" = {shown(details['input'])}: " if path else ": "
            already = reasons.setdefault((path, start), [])
            if reason not in already:
                already.append(reason)
    for (path, start), texts in reasons.items():
        found.setdefault(path, []).append(start + ", or ".join(texts))
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as ``" Did you mean 'retry'?"``, or nothing where no known name is close."""
    from difflib import get_close_matches  # only for errors

    close = get_close_matches(name, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def shown(value: Any) -> str:
    """A value as an error shows it: bounded, whatever it is."""
    try:
        text = repr(value)
    except Exception:  # a broken __repr__ must not hide the problem it is part of
        text = f"a {type(value).__name__}"
    if "@" in text:
        text = _PASSWORD.sub(":***@", text)
    return text if len(text) <= 80 else text[:77] + "..."


def _followed(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[tuple[str, ...], type[BaseModel]]:
    """The part of pydantic's location that a user would recognise, and the section its last name belongs to.

    Behind a field pydantic puts the names of the types it tried, which say nothing to a user; positions in a list do.
    """
    path: list[str] = []
    owner: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            path.append(str(part))
        elif owner is not None:
            path.append(part)
            model, owner = owner, _section_of(owner, part)
    return tuple(path), model


def _section_of(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    field = model.model_fields.get(name)
    candidates = [field.annotation, *get_args(field.annotation)] if field else []
    return next((cls for cls in candidates if isinstance(cls, type) and issubclass(cls, BaseModel)), None)
