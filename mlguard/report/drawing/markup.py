"""Elements of HTML and SVG that can't be made wrong: whatever is not an element is text, and text is escaped.

A template library would do the same for one page at the price of a dependency and of templates no type checker reads.
Escaping lives here alone: what a record says reaches the page as a `str`, and only `tag` makes `Html`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TypeAlias

__all__ = ["Content", "Html", "clean", "join", "tag"]


class Html(str):
    """Markup, as it stands. Anything else is text."""

    __slots__ = ()


Content: TypeAlias = "Html | str | int | Iterable[Content] | None"

_EMPTY = frozenset({"meta", "br", "hr", "input", "link"})

# Control characters and what turns text around: shown, never obeyed.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)


def tag(element: str, *children: Content, **attributes: str | float | bool | None) -> Html:
    """One element.

    Args:
        element: Its name.
        children: Text, elements, or iterables of them; None is nothing.
        attributes: Underscores become hyphens, one at the end goes (`class_`). None and False are left out.
    """
    said = "".join(_attribute(name, value) for name, value in attributes.items())
    if element in _EMPTY:
        return Html(f"<{element}{said}>")
    return Html(f"<{element}{said}>{join(children)}</{element}>")


def join(content: Content) -> Html:
    """Elements and text, one after the other."""
    if content is None:
        return Html("")
    if isinstance(content, Html):
        return content
    if isinstance(content, str):
        return Html(html.escape(clean(content)))
    if isinstance(content, int):
        return Html(str(content))
    return Html("".join(join(child) for child in content))


def clean(text: str) -> str:
    """Text without what a terminal, a browser or a reader would obey: each such character as `<U+001B>`."""
    return _CONTROLS.sub(lambda match: f"<U+{ord(match[0]):04X}>", text)


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    return f' {name}="{html.escape(clean(f"{value:.6g}" if isinstance(value, float) else str(value)))}"'
