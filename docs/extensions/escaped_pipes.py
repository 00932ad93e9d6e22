"""A pipe in code in a table: Markdown wants a backslash before it, and code browsers show it without.

Python-Markdown shows the backslash; this takes it away.
"""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element

from markdown import Extension, Markdown
from markdown.treeprocessors import Treeprocessor
from markdown.util import AtomicString

__all__ = ["makeExtension"]


class _EscapedPipes(Treeprocessor):
    def run(self, root: Element) -> None:
        for cell in (*root.iter("td"), *root.iter("th")):
            for code in cell.iter("code"):
                code.text = AtomicString((code.text or "").replace("\\|", "|"))


class EscapedPipes(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - Python-Markdown's name
        md.treeprocessors.register(_EscapedPipes(md), "escaped_pipes", 5)  # after inline code is made, at 20


def makeExtension(**options: Any) -> EscapedPipes:  # noqa: N802 - Python-Markdown's name
    """What Python-Markdown looks for."""
    return EscapedPipes(**options)
