"""The event's one definition, and the schema file generated from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from mlguard.monitor import telling
from mlguard.monitor.event import EVENT, EXCEPTION_EVENT, Event, json_schema

SCHEMA = Path(__file__).parents[2] / "schemas" / "event.schema.json"


def test_the_schema_file_is_current() -> None:
    """schemas/event.schema.json is what `python -m mlguard.monitor.event` prints."""
    printed = subprocess.run(
        [sys.executable, "-m", "mlguard.monitor.event"], capture_output=True, text=True, check=True
    ).stdout
    assert SCHEMA.read_text(encoding="utf-8") == printed
    assert json.loads(printed) == json_schema()


def test_the_schema_is_a_schema() -> None:
    """It is valid JSON Schema, and every field is described."""
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert [name for name, field in schema["properties"].items() if not field.get("description")] == []


def test_the_reporter_agrees_with_the_definition() -> None:
    """Names and version that the reporter writes are those of the definition."""
    assert (telling.NAME, telling.NAME_OF_EXCEPTION) == (EVENT, EXCEPTION_EVENT)
    assert Event.model_fields["schema_version"].annotation.__args__ == (telling.SCHEMA_VERSION,)  # type: ignore[union-attr]


def test_a_line_can_be_read_back(watch, lines) -> None:
    """`Event` reads a JSON line into typed fields, notes and summaries as extras; nonsense is refused."""
    watch(lambda x: x)(1.5)
    event = Event.model_validate_json(lines.text)
    assert event.outcome == "success"
    assert event.attempts == 1
    assert (event.model_extra or {})["mlguard.input.x"] == 1.5
    with pytest.raises(ValidationError):
        Event.model_validate({**lines.last, "mlguard.disposition": "vanished"})


def test_nothing_on_the_path_of_a_call_imports_the_definition() -> None:
    """`import mlguard.monitor` stays cheap: the pydantic model of the event is not built."""
    program = "import sys, mlguard.monitor; print('mlguard.monitor.event' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
