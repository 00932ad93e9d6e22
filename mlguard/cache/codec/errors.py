"""What can go wrong between a result and its bytes. Both are answers to the cache; neither fails a prediction."""

from __future__ import annotations

__all__ = ["DecodeError", "TooLong", "Unencodable"]


class Unencodable(Exception):  # noqa: N818 - an answer rather than an error: it never leaves the cache
    """The value, or something inside it, can't be written as bytes; the message names the part."""


class TooLong(Unencodable):
    """The value takes more bytes than the store keeps in one entry; found before most of it was written."""


class DecodeError(Exception):
    """The bytes are no result of this function: a miss.

    Attributes:
        reason: One word for counters: "foreign" (no entry at all), "version" (of another format), "schema" (the result
            classes have changed since), "damaged" (cut off or altered), "unsigned" (not sealed with this secret),
            "malformed" (sealed, and yet not to be read).
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[DecodeError], tuple[str, str]]:
        return type(self), (str(self), self.reason)
