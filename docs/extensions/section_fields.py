"""What the reference says of a field of a Pydantic model: type, real default and bounds, in place of `Field(...)`."""

from __future__ import annotations

import importlib
from typing import Any

import annotated_types
import griffe
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_BOUNDS = {
    annotated_types.Ge: ("ge", "at least"),
    annotated_types.Gt: ("gt", "more than"),
    annotated_types.Le: ("le", "at most"),
    annotated_types.Lt: ("lt", "less than"),
}


class SectionFields(griffe.Extension):
    """Asks the class itself, because a default may be a constant of another file, or made by a validator."""

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Called for every attribute, once its package is read."""
        field = _field(attr)
        if field is None:
            return
        if field.default_factory is not None:
            attr.value = f"{getattr(field.default_factory, '__name__', '...')}()"
        elif field.default is PydanticUndefined:
            attr.value = None
        elif not callable(field.default):
            attr.value = repr(field.default)
        attr.annotation = _spelt_out(attr)
        if bounds := _bounds(field):
            said = attr.docstring.value if attr.docstring else ""
            attr.docstring = griffe.Docstring(f"{said}\n\n*Must be {bounds}.*", parent=attr, lineno=attr.lineno)


def _field(attribute: griffe.Attribute) -> FieldInfo | None:
    """The field that the attribute is; None: it is none. Only modules that declare a model are imported to look."""
    parent = attribute.parent
    if not isinstance(parent, griffe.Class) or not {"BaseModel", "Section"} & {str(base) for base in parent.bases}:
        return None
    model: Any = importlib.import_module(attribute.module.path)
    for name in parent.path.removeprefix(f"{attribute.module.path}.").split("."):
        model = getattr(model, name)
    return model.__pydantic_fields__.get(attribute.name) if issubclass(model, BaseModel) else None


def _spelt_out(attribute: griffe.Attribute) -> str | griffe.Expr | None:
    """Its annotation, with a name that is private to the file replaced by what it stands for."""
    annotation = attribute.annotation
    if isinstance(annotation, griffe.ExprName) and annotation.name.startswith("_"):
        alias = attribute.module.members[annotation.name]
        annotation = alias.value if isinstance(alias, griffe.Attribute) else annotation
        if isinstance(annotation, griffe.ExprSubscript) and str(annotation.left) == "SkipJsonSchema":
            annotation = annotation.slice
    return annotation


def _bounds(field: FieldInfo) -> str:
    words = [
        f"{word} {getattr(each, name):,}"
        for each in field.metadata
        for kind, (name, word) in _BOUNDS.items()
        if isinstance(each, kind)
    ]
    return " and ".join(words)
