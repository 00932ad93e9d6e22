"""Names and texts for the Python that `infer` writes: no column may end a comment, hide a type or break a class."""

from __future__ import annotations

import keyword
import re
import unicodedata

from pydantic import BaseModel

__all__ = ["class_name", "identifier", "quoted", "shown"]

_LONGEST = 64
_RESERVED = frozenset(
    {
        *(
            "Annotated",
            "Any",
            "Array",
            "BaseModel",
            "ConfigDict",
            "Decimal",
            "Field",
            "Literal",
            "datetime",
            "np",
            "npt",
        ),
        *("bool", "bytes", "float", "int", "list", "str"),
    }
)
"""Names that the text of the class uses: a field called so would hide them from the fields below it."""


def identifier(column: str, number: int, taken: set[str]) -> str:
    """A name that Python and pydantic take for a field, and no other column has."""
    name = unicodedata.normalize("NFKC", column)  # as Python reads it
    if not name.isidentifier():
        name = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()
    name = name.lstrip("_")
    if not name or not name.isidentifier():
        name = f"column_{name}" if name and f"column_{name}".isidentifier() else f"column_{number}"
    if keyword.iskeyword(name) or hasattr(BaseModel, name) or name in _RESERVED or name.startswith("model_"):
        name = f"{name}_" if not name.startswith("model_") else f"the_{name}"
    made, again = name, 2
    while made in taken and made != column:  # the name of another column stays its own
        made, again = f"{name}_{again}", again + 1
    return made


def class_name(text: str) -> str:
    """The words of a text, each with a capital."""
    words = re.findall(r"[A-Za-z0-9]+", text)
    name = "".join(word[0].upper() + word[1:] for word in words)
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"Row{name}"


def shown(text: str) -> str:
    """Text for a comment or docstring, where no data may end it."""
    kept = ascii(text)[1:-1].replace('"', "'").replace("\\", "/")
    return kept if len(kept) <= _LONGEST else f"{kept[:_LONGEST]}..."


def quoted(text: str) -> str:
    """A literal, in double quotes where that needs no escapes."""
    literal = repr(text)
    return f'"{text}"' if literal == f"'{text}'" and '"' not in text else literal
