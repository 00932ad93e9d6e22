"""What pydantic says of single values, in the words of a table, and the rows gathered by what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from pydantic_core import CoreSchema, SchemaValidator, ValidationError, core_schema

__all__ = ["MANY", "WORDS", "Grouped", "Values", "add_to", "of_one_value"]

_Key = TypeVar("_Key", bound=tuple[str, ...])
_CHUNK = 4_096
"""Values that pydantic gets at once, so that the errors of a bad table don't pile up."""


class Values:
    """What pydantic says of single values of a field.

    Args:
        schema: The field's core schema.
        definitions: The schemas it refers to.
        config: The configuration of its model.
        strict: Whatever the configuration says, nothing may be converted.
    """

    def __init__(
        self, schema: CoreSchema, definitions: Sequence[CoreSchema], config: Mapping[str, Any], *, strict: bool
    ) -> None:
        listed: CoreSchema = core_schema.list_schema(schema, strict=False)
        if definitions:
            listed = core_schema.definitions_schema(listed, list(definitions))
        self._validate = SchemaValidator(listed, config=_core_config(config)).validate_python
        self._strict = True if strict else None

    def accepts(self, values: list[Any]) -> bool:
        """Whether each value is right."""
        try:
            self._validate(values, strict=self._strict)
        except ValidationError:
            return False
        return True

    def accepts_only_numbers(self, values: list[Any]) -> bool:
        """The same, where nothing has to be converted."""
        try:
            self._validate(values, strict=True)
        except ValidationError:
            return False
        return True

    def accepts_converted(self, values: list[Any]) -> bool:
        """The same, where an Enum may be spelt by its values, also where nothing else is converted."""
        try:
            self._validate(values, strict=False)
        except ValidationError:
            return False
        return True

    def wrong_words(self, words: list[Any], *, convert: bool) -> dict[int, tuple[str, str, dict[str, Any]]]:
        """`wrong` for texts and nulls, which pydantic sees once each: an error of it takes some 6 us."""
        different = list(dict.fromkeys(words))
        known = {different[place]: what for place, what in self.wrong(different, convert=convert).items()}
        return {row: known[word] for row, word in enumerate(words) if word in known}

    def wrong(self, values: list[Any], *, convert: bool = False) -> dict[int, tuple[str, str, dict[str, Any]]]:
        """The values that are wrong, by their place: type, words and figures of the first thing about each."""
        found: dict[int, tuple[str, str, dict[str, Any]]] = {}
        strict = False if convert else self._strict
        for start in range(0, len(values), _CHUNK):
            try:
                self._validate(values[start : start + _CHUNK], strict=strict)
            except ValidationError as error:
                for details in error.errors(include_url=False, include_input=False):
                    row = start + int(details["loc"][0])
                    if row not in found:
                        found[row] = of_one_value(details, details["loc"][1:])
        return found


def of_one_value(details: Any, path: Sequence[Any]) -> tuple[str, str, dict[str, Any]]:
    """Type, words and figures of an error of pydantic's."""
    kind, text = details["type"], str(details["msg"])
    if kind == "missing":
        text = "is required"
    elif kind == "union_tag_invalid":  # the one message of pydantic's own that quotes the input
        text = "must have one of the expected tags"
    limits = details.get("ctx") or {}
    if kind in WORDS and len(limits) == 1:
        text = WORDS[kind].format(*limits.values())
    for subject in ("Input", "String", "Value", "Decimal input", "Date", "Datetime", "Data"):
        text = text.replace(f"{subject} should", "must", 1) if text.startswith(subject) else text
    text = text.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if path:
        text = f"{'.'.join(map(str, path))[:80]}: {text}"
    context = {} if kind == "union_tag_invalid" else dict(details.get("ctx") or {})
    return kind, text[:300], {key: value for key, value in context.items() if key != "error"}


Grouped: TypeAlias = dict[_Key, tuple[list[int], dict[str, Any]]]
"""The rows of each reason, and its figures."""
MANY: Final = "is invalid, for a reason of its own"
_MOST_REASONS = 100


def add_to(grouped: Grouped[_Key], reason: _Key, otherwise: _Key, row: int, context: dict[str, Any]) -> None:
    """Adds a row to those of its reason; to the others, where a validator has something else to say of every row."""
    if reason not in grouped and len(grouped) >= _MOST_REASONS:
        reason, context = otherwise, {}
    grouped.setdefault(reason, ([], context))[0].append(row)


WORDS = {
    "multiple_of": "must be a multiple of {}",
    "less_than_equal": "must be <= {}",
    "less_than": "must be < {}",
    "greater_than_equal": "must be >= {}",
    "greater_than": "must be > {}",
    "finite_number": "must be finite",
}


def _core_config(config: Mapping[str, Any]) -> Any:
    return {key: value for key, value in config.items() if key not in ("title", "extra_fields_behavior")}
