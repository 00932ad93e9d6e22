"""On which line of a TOML text each key stands, which the standard library's parser does not tell.

The text is known to be valid TOML; this only finds keys in it and skips values.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

__all__ = ["key_lines"]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_EQUALS = re.compile(r"[ \t]*=")
_CLOSED = re.compile(r"[ \t]*\]{1,2}")
_SCALAR = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'{3}.*?'{3,5}|"(?:[^"\\]|\\.)*"|'[^']*'|[^,\]}#\n]*''',
    re.DOTALL,
)


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line, counted from 1, of each table and key of a valid TOML text, by its full path."""
    return _Scanner(text).lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[tuple[str, ...], int] = {}
        self._text = text
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        prefix: tuple[str, ...] = ()
        while self._peek():
            if self._text[self._at] == "[":
                self._at += 2 if self._text.startswith("[[", self._at) else 1
                self._take(_BLANK)
                prefix = self._key(())
                self._take(_CLOSED)
            else:
                self._assignment(prefix)

    def _assignment(self, prefix: tuple[str, ...]) -> None:
        path = self._key(prefix)
        self._take(_EQUALS)
        self._peek()
        self._value(path)

    def _key(self, prefix: tuple[str, ...]) -> tuple[str, ...]:
        """Reads a key, dotted perhaps, and notes the line of each of its parts."""
        path = prefix
        while True:
            line = bisect_right(self._starts, self._at)
            path = (*path, _unquoted(self._take(_KEY)))
            self.lines.setdefault(path, line)
            if not _DOT.match(self._text, self._at):
                return path
            self._take(_DOT)

    def _value(self, path: tuple[str, ...]) -> None:
        opening = self._text[self._at : self._at + 1]
        if opening not in ("[", "{"):
            self._take(_SCALAR)
            return
        self._at += 1
        position = 0
        while self._peek() not in ("]", "}"):
            if opening == "{":
                self._assignment(path)
            else:
                self._value((*path, str(position)))
            position += 1
            if self._peek() == ",":
                self._at += 1
        self._at += 1

    def _peek(self) -> str:
        """The next character that is neither blank nor comment; nothing at the end."""
        self._take(_BLANK)
        return self._text[self._at : self._at + 1]

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError("the text is not valid TOML")
        self._at = match.end()
        return match[0]


def _unquoted(key: str) -> str:
    if key[0] not in "\"'":
        return key
    return next(iter(tomllib.loads(f"{key} = 0")))
