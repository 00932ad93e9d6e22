"""Pages of the repository's root that the site includes, such as the changelog: their links start there."""

from __future__ import annotations

from typing import Any

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

__all__ = ["makeExtension"]


class _FromTheRoot(Preprocessor):
    def run(self, lines: list[str]) -> list[str]:
        return [line.replace("](docs/", "](../") for line in lines]


class RootPages(Extension):
    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - Python-Markdown's name
        md.preprocessors.register(_FromTheRoot(md), "root_pages", 26)  # once snippets are in, at 32, before code, at 25


def makeExtension(**options: Any) -> RootPages:  # noqa: N802 - Python-Markdown's name
    """What Python-Markdown looks for."""
    return RootPages(**options)
