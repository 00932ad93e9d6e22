"""What the schema hides is in no line: not in summaries, messages, tracebacks or violations."""

from __future__ import annotations

import dataclasses
import uuid
from enum import Enum
from typing import Annotated, Any, Literal, Optional, TypedDict, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, JsonValue, Secret, SecretBytes, SecretStr
from typing_extensions import TypeAliasType

from mlguard import Array
from mlguard.errors import InvalidInputError
from mlguard.monitor import Redacted
from mlguard.monitor.redaction import WITHHELD, Words, fields_of, hides, scrubbed

SECRET = "123-45-6789"


Nested = TypeAliasType("Nested", dict[str, "Nested"] | Annotated[str, Redacted])  # type: ignore[misc]
T = TypeVar("T")
Pairs = TypeAliasType("Pairs", tuple[T, Annotated[str, Redacted]], type_params=(T,))


class Address(BaseModel):
    street: Annotated[str, Redacted]
    number: int


class Patient(BaseModel):
    ssn: Annotated[str, Redacted]
    token: SecretStr
    weight: float = Field(repr=False)
    age: int
    home: Address
    maybe: Optional[Annotated[str, Redacted()]] = None  # noqa: UP045 - the older spelling must be seen through as well


@dataclasses.dataclass(slots=True)
class Row:
    key: Annotated[str, Redacted]
    score: float
    raw: bytes = dataclasses.field(repr=False, default=b"")


class Options(TypedDict):
    password: Annotated[str, Redacted]
    seed: int


def patient() -> Patient:
    return Patient(
        ssn=SECRET, token=SecretStr("sk-" + SECRET), weight=71.25, age=44, home=Address(street="Elm Street", number=13)
    )


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Annotated[str, Redacted], True),
        (Annotated[str, Redacted()], True),
        (Optional[Annotated[str, Redacted]], True),  # noqa: UP045
        (list[Annotated[str, Redacted]], True),
        (SecretStr, True),
        (SecretBytes | None, True),
        (Secret[int], True),
        (Annotated[float, Field(repr=False)], True),
        (Annotated[float, Field(gt=0)], False),
        (Patient, False),
        (list[int], False),
        (JsonValue, False),
        (Nested, True),
        (list[Pairs[int]], True),
        (Literal["Redacted"], False),
        (None, False),
    ],
)
def test_marks_are_seen_through_every_wrapping(annotation: Any, expected: bool) -> None:
    """A mark counts wherever it stands in an annotation; the fields of a class are looked at one by one."""
    assert hides(annotation) is expected


def test_hidden_fields_are_redacted_in_summaries(watch, lines) -> None:
    """Hidden parameters and fields show as [redacted], their neighbours as ever."""

    def predict(
        patient: Patient, row: Row, key: Annotated[str, Redacted], token: SecretStr, x: float
    ) -> Annotated[float, Redacted]:
        return 71.25

    watch(predict)(patient(), Row("row-key-1", 0.5, b"rawrawraw"), "key-key-key", SecretStr("token-1"), 2.0)
    event = lines.last
    for key in (
        "patient.ssn",
        "patient.token",
        "patient.weight",
        "patient.home.street",
        "row.key",
        "row.raw",
        "key",
        "token",
    ):
        assert event[f"mlguard.input.{key}"] == "[redacted]"
    assert event["mlguard.output"] == "[redacted]"
    assert event["mlguard.input.patient.age"] == 44
    assert event["mlguard.input.patient.home.number"] == 13
    assert event["mlguard.input.row.score"] == 0.5
    for value in (SECRET, "71.25", "Elm", "row-key", "rawraw", "key-key", "token-1"):
        assert value not in lines.text


@pytest.mark.parametrize("text", ["bad ssn {0}", "{0!r}", "cannot parse {1}", "{2}", "weight {3} of {0} at {4}"])
def test_hidden_values_are_taken_out_of_exceptions(watch, lines, text) -> None:
    """An exception that quotes hidden values keeps its words and loses the values, its causes and traceback as well."""

    def predict(patient: Patient) -> None:
        spelt = (patient.ssn, patient.token.get_secret_value(), patient.home.street, patient.weight, "Elm Street")
        try:
            raise KeyError(text.format(*spelt))
        except KeyError as cause:
            raise ValueError(text.format(*spelt)) from cause

    with pytest.raises(ValueError):  # noqa: PT011
        watch(predict)(patient())
    assert "[redacted]" in lines.last["exception.message"]
    assert "direct cause" in lines.last["exception"]
    for value in (SECRET, "71.25", "Elm"):
        assert value not in lines.text


def test_a_piece_of_a_hidden_text_withholds_the_message(watch, lines) -> None:
    """A message with a part of a hidden value is withheld; type and place of the exception remain."""

    def predict(key: Annotated[str, Redacted]) -> None:
        raise ValueError(f"begins with {key[:7]}")

    with pytest.raises(ValueError):  # noqa: PT011
        watch(predict)(SECRET)
    assert lines.last["exception.message"] == WITHHELD
    assert "in predict" in lines.last["exception"]
    assert SECRET[:7] not in lines.text


class Ward(Enum):
    NORTH = "north wing"


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        (b"\x00raw bytes", r"got b'\x00raw bytes'", "got b'[redacted]'"),
        (12, "12 of 312", "[redacted] of 312"),
        ("M", "Missing M", "Missing [redacted]"),
        (Ward.NORTH, "no north wing", "no [redacted]"),
        (uuid.UUID(int=5), f"row {uuid.UUID(int=5)}", "row [redacted]"),
        (True, "True", "True"),
        (None, "None", "None"),
        ("", "nothing", "nothing"),
        (np.ones(3), "anything", WITHHELD),
        (["a"], "anything", WITHHELD),
    ],
)
def test_how_hidden_values_are_recognised(value: Any, text: str, expected: str) -> None:
    """Texts, bytes, numbers, enums and ids are found as they are printed; for anything else the message is withheld."""
    assert scrubbed(text, [(value, True)]) == expected


def test_hidden_fields_are_found_inside_containers() -> None:
    """Models in lists and dicts give up their hidden values too; too many values withhold the message."""
    assert scrubbed(f"row {SECRET}", [({"a": [patient()]}, False)]) == "row [redacted]"
    assert scrubbed("secret ab12", [((SecretStr("ab12"),), False)]) == "secret [redacted]"
    assert scrubbed("text", [(list(range(2_000)), False)]) == WITHHELD
    nested: list[Any] = []
    nested.append(nested)
    assert scrubbed("text", [(nested, False)]) == WITHHELD


@given(secret=st.text(min_size=6, max_size=40), before=st.text(max_size=20), after=st.text(max_size=20))
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_no_text_survives(secret: str, before: str, after: str) -> None:
    """Whatever a hidden text is and wherever a message quotes it, six characters of it in a row never remain."""
    for message in (before + secret + after, f"{before}{secret!r}{after}"):
        said = scrubbed(message, [(secret, True)]).replace("[redacted]", "\n")
        assert said == WITHHELD or not any(secret[at : at + 6] in said for at in range(len(secret) - 5))


def test_pydantic_errors_of_the_function_lose_their_input(watch, lines) -> None:
    """A ValidationError that the user's own code raises is told without the input that pydantic quotes."""

    def predict(row: dict[str, str]) -> None:
        Address(street="x", number=row["number"])  # type: ignore[arg-type]

    with pytest.raises(ValueError):  # noqa: PT011
        watch(predict)({"number": "thirteen and a half"})
    assert lines.last["error.type"].endswith("ValidationError")
    assert lines.last["exception.message"] == "*: int_parsing"
    assert "thirteen" not in lines.text


def test_violations_show_only_names_of_the_schema(watch, lines) -> None:
    """Names of models, aliases and typed dicts are shown, the caller's own keys and hidden fields' messages are not."""

    class Aliased(BaseModel):
        score: float = Field(alias="theScore")
        children: list[Aliased] = []

    words = Words(
        {"patient": Patient, "aliased": Aliased | None, "options": Options}, ["patient", "aliased", "options"]
    )
    assert words.violation({"loc": ("aliased", "children", 3, "theScore"), "type": "t", "msg": "m"})["loc"] == (
        "aliased.children.3.theScore"
    )
    assert words.violation({"loc": ("options", "seed"), "type": "t", "msg": "m"})["loc"] == "options.seed"
    assert words.violation({"loc": ("options", "mine"), "type": "t", "msg": "m"})["loc"] == "options.*"
    assert words.violation({"loc": ("options", "password"), "type": "t", "msg": SECRET})["msg"] == "[redacted]"
    assert words.violation({"loc": ("patient", "ssn"), "type": "t", "msg": SECRET})["msg"] == "[redacted]"
    tag = words.violation({"loc": ("patient",), "type": "union_tag_invalid", "msg": f"Input tag '{SECRET}' found"})
    assert SECRET not in tag["msg"]

    def predict(patient: Patient) -> None:
        raise InvalidInputError.of(
            "predict", [{"type": "value_error", "loc": ("patient", "ssn"), "msg": f"unknown {SECRET}"}]
        )

    with pytest.raises(InvalidInputError):
        watch(predict)(SECRET)
    assert SECRET not in lines.text
    assert lines.last["exception.message"] == "patient.ssn: [redacted]"


class Body(BaseModel):
    measures: Annotated[np.ndarray, Array("n", 2, columns=("waist", "hip"), ge=0)]


def test_violations_name_the_columns_of_an_array() -> None:
    """Columns are declared by the schema, of an argument as of a model's field, and are no keys of the caller's."""
    words = Words({"rows": Annotated[np.ndarray, Array("n", 1, columns=("age",))], "body": Body}, ["rows", "body"])
    for place in (("rows", "age"), ("body", "measures", "hip")):
        assert words.violation({"loc": place, "type": "array_range", "msg": "must be >= 0"})["loc"] == ".".join(place)
    assert words.violation({"loc": ("rows", "height"), "type": "array_range"})["loc"] == "rows.*"


def test_recursive_aliases_are_read(watch, lines) -> None:
    """A type that contains itself, such as pydantic's JsonValue, neither loops nor hides."""

    def predict(document: JsonValue, x: int) -> JsonValue:
        return x

    watch(predict)({"a": 1}, 2)
    assert lines.last["mlguard.input.document.count"] == 1
    assert lines.last["mlguard.output"] == 2


def test_unreadable_annotations_hide_everything(watch, lines) -> None:
    """Where annotations can't be resolved, what they hide is unknown, so no value is shown."""

    def predict(x: OnlyForTypeCheckers, y: int) -> int:  # type: ignore[name-defined]  # noqa: F821
        return y

    watch(predict)(1, 2)
    assert lines.last["mlguard.input.x"] == "[redacted]"
    assert lines.last["mlguard.output"] == "[redacted]"


def test_a_dataclass_with_unreadable_annotations_hides_all_fields() -> None:
    """The same for the fields of a dataclass."""

    @dataclasses.dataclass
    class Unreadable:
        x: Missing  # type: ignore[name-defined]  # noqa: F821

    assert fields_of(Unreadable) == (("x", True),)
    assert fields_of(int) == ()


def test_an_exception_that_cannot_be_printed(watch, lines) -> None:
    """A `__str__` that raises costs the message, not the record."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def predict() -> None:
        raise Mute

    with pytest.raises(Mute):
        watch(predict)()
    assert lines.last["exception.message"].startswith("[its message can't be shown")


def test_messages_and_tracebacks_are_bounded(watch, lines) -> None:
    """A huge message is cut; of a deep recursion the last frames are shown; of a group its first members; no locals."""

    def deep(level: int) -> None:
        local = "a local value"
        if level:
            deep(level - 1)
        raise ValueError("x" * 10_000 + local[:0])

    with pytest.raises(ValueError, match="x"):
        watch(deep)(60)
    assert len(lines.last["exception.message"]) == 500
    assert 1 <= lines.last["exception"].count("  File ") <= 20
    assert "a local value" not in lines.text.replace('local = \\"a local value', "")
    assert "more frames" in lines.last["exception"]

    def chained() -> None:
        error = ValueError("the first")
        for number in range(9):
            following = ValueError(f"number {number}")
            following.__context__ = error
            error = following
        raise error

    with pytest.raises(ValueError, match="number 8"):
        watch(chained)()
    assert lines.last["exception"].count("During handling") == 3
    assert lines.last["exception"].startswith("Traceback")

    def hidden_cause() -> None:
        try:
            raise KeyError("not to be seen")
        except KeyError:
            raise ValueError("seen") from None

    with pytest.raises(ValueError, match="seen"):
        watch(hidden_cause)()
    assert "not to be seen\n" not in lines.last["exception"]
    assert lines.last["exception"].count("Traceback") == 1

    def group() -> None:
        raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])

    with pytest.raises(ExceptionGroup):
        watch(group)()
    assert "  + ValueError: one" in lines.last["exception"]
