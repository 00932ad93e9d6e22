"""Where an application sees the events: with structlog, with the standard library, with neither; at once and later."""

from __future__ import annotations

import contextvars
import json
import logging
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest
import structlog

from mlguard import Monitor, guarded, testing
from mlguard.monitor import sink

PATIENCE = 30.0

SERVICE = """
    from mlguard import Monitor, guarded, note

    @guarded(monitor=Monitor())
    def price(rooms: int) -> float:
        note(region="north", message="taken")
        if rooms == 13:
            raise LookupError("no price")
        return 1_000.0 * rooms

    price(4)
    try:
        price(13)
    except LookupError:
        pass
    try:
        price("many")
    except ValueError:
        pass
"""


def run(before: str, after: str = "") -> tuple[str, str]:
    """What a service with this set-up writes to standard output and standard error."""
    program = textwrap.dedent(before) + textwrap.dedent(SERVICE) + textwrap.dedent(after)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, env={"NO_COLOR": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_an_application_of_the_standard_library_alone() -> None:
    """Where only `logging` is set up, its handlers get a readable line, the traceback below it."""
    out, err = run(
        "import logging; logging.basicConfig(level=logging.INFO, format='%(levelname)s %(name)s %(message)s')"
    )
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith("INFO mlguard mlguard.call: __main__.price executed in 0.")
    assert "region='north', note.message='taken', input.rooms=4, output=4000.0" in lines[0]
    assert lines[1].startswith("ERROR mlguard mlguard.call.exception: __main__.price failed in 0.")
    assert "exception.message='no price'" in lines[1]
    assert lines[2] == "Traceback (most recent call last):"
    assert "LookupError: no price" in lines
    assert lines[-1].startswith("WARNING mlguard mlguard.call: __main__.price rejected_validation in 0.")


def test_fields_are_attributes_of_the_standard_librarys_record() -> None:
    """Formatters that write JSON find every field under its own name, numbers as numbers."""
    _, err = run(
        """
        import json, logging

        class Json(logging.Formatter):
            def format(self, record):
                return json.dumps({key: value for key, value in vars(record).items() if key != "args"})

        handler = logging.StreamHandler()
        handler.setFormatter(Json())
        logging.getLogger().addHandler(handler)
        logging.getLogger("mlguard").setLevel("INFO")
        """
    )
    first, second, third = (json.loads(line) for line in err.splitlines())
    assert (first["name"], first["levelname"], first["event"]) == ("mlguard", "INFO", "mlguard.call")
    assert (first["mlguard.input.rooms"], first["mlguard.disposition"]) == (4, "executed")
    assert first["funcName"] == "__main__.price"
    assert second["exc_text"].endswith("LookupError: no price")
    assert third["mlguard.violations"][0]["loc"] == "rooms"


def test_the_level_of_the_standard_library_decides() -> None:
    """At the root's usual level WARNING, ordinary calls write nothing."""
    _, err = run("import logging; logging.basicConfig()")
    assert [line.split(":")[0] for line in err.splitlines() if ":mlguard:" in line] == ["ERROR", "WARNING"]


def test_structlog_before_the_standard_library() -> None:
    """An application that renders through both gets its own format."""
    _, err = run(
        """
        import logging, structlog
        logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s")
        structlog.configure(
            processors=[structlog.stdlib.filter_by_level, structlog.stdlib.add_log_level,
                        structlog.processors.JSONRenderer()],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
        )
        """
    )
    events = [json.loads(line.removeprefix("mlguard ")) for line in err.splitlines()]
    assert [event["level"] for event in events] == ["info", "error", "warning"]


def test_nothing_configured_prints_to_the_console() -> None:
    """Without any set-up the lines are readable on standard output, the traceback below its line."""
    out, err = run("", "import structlog; assert not structlog.is_configured()")
    assert err == ""
    assert "mlguard.call" in out
    assert "\n  File " in out
    assert "LookupError: no price" in out


def test_captured_events_are_seen_with_the_standard_library_in_use() -> None:
    """`capture_events` and structlog's own capturing see what would have gone to `logging`."""
    assert logging.getLogger("mlguard").hasHandlers()  # pytest's own

    @guarded(monitor=Monitor())
    def predict(x: float) -> float:
        return x

    with testing.capture_events() as events:
        predict(1.0)
    assert [event["event"] for event in events] == ["mlguard.call"]
    with structlog.testing.capture_logs() as captured:
        predict(1.0)
    assert [event["event"] for event in captured] == ["mlguard.call"]


def test_a_handler_that_changes_the_record_leaves_the_event_to_others(caplog: pytest.LogCaptureFixture) -> None:
    """The record of `logging` is a copy: what one handler does to it reaches no other event."""

    @guarded(monitor=Monitor())
    def predict(x: float) -> float:
        return x

    with caplog.at_level(logging.INFO, logger="mlguard"):
        predict(1.0)
        caplog.records[0].__dict__.clear()
        predict(2.0)
    assert caplog.records[1].__dict__["mlguard.input.x"] == 2.0


def test_context_of_structlog_replaces_nothing_of_a_record(caplog: pytest.LogCaptureFixture) -> None:
    """What an application binds to structlog's context under a name of the record's own leaves the record whole."""

    @guarded(monitor=Monitor())
    def predict(x: float) -> float:
        return x

    with (
        caplog.at_level(logging.INFO, logger="mlguard"),
        structlog.contextvars.bound_contextvars(name="Ada", args=5, request_id="r1"),
    ):
        predict(1.0)
    (record,) = caplog.records
    assert (record.name, record.__dict__["request_id"]) == ("mlguard", "r1")
    assert record.getMessage().startswith("mlguard.call: ")


# In the background


def test_a_blocked_log_delays_no_call() -> None:
    """While the application's log hangs, calls go on, and each line is written when it goes on, in order."""
    opened, entered = threading.Event(), threading.Event()
    seen: list[Any] = []

    def hang(logger: Any, method: str, event: Any) -> Any:
        entered.set()
        opened.wait(PATIENCE)
        seen.append((event["mlguard.input.x"], event["mlguard.time"], threading.current_thread().name))
        raise structlog.DropEvent

    structlog.configure(processors=[hang])

    @guarded(monitor=Monitor(log="background"))
    def predict(x: int) -> int:
        return x

    before = time.time()
    predict(0)
    assert entered.wait(PATIENCE)
    assert [predict(x) for x in range(1, 100)] == list(range(1, 100))
    after = time.time()
    assert predict.guard.stats()["monitor"]["log"]["waiting"] >= 90
    opened.set()
    assert sink.flush(PATIENCE)
    assert [x for x, _, _ in seen] == list(range(100))
    assert all(before <= when <= after for _, when, _ in seen)
    assert {name for _, _, name in seen} == {"mlguard-log"}


def test_a_line_of_the_background_has_the_context_of_its_call() -> None:
    """Processors see the context variables as they were in the call: request ids, and anything else that is asked."""
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request")
    seen: list[Any] = []

    def look(logger: Any, method: str, event: Any) -> Any:
        seen.append((request.get(), event["request_id"]))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.contextvars.merge_contextvars, look])

    @guarded(monitor=Monitor(log="background"))
    def predict(x: int) -> int:
        return x

    for name in ("one", "two"):
        request.set(name)
        with structlog.contextvars.bound_contextvars(request_id=name):
            predict(1)
    request.set("three")
    assert sink.flush(PATIENCE)
    assert seen == [("one", "one"), ("two", "two")]


def test_a_processor_that_raises_in_the_background_is_counted() -> None:
    """What goes wrong later is counted with the function whose line it was."""

    def broken(logger: Any, method: str, event: Any) -> Any:
        raise BrokenPipeError

    structlog.configure(processors=[broken])

    @guarded(monitor=Monitor(log="background"))
    def predict(x: int) -> int:
        return x

    predict(1)
    assert sink.flush(PATIENCE)
    stats = predict.guard.stats()["monitor"]
    assert (stats["instrumentation_errors"], stats["last_instrumentation_error"]) == (1, "log: BrokenPipeError")


def test_captured_events_of_the_background() -> None:
    """`capture_events` waits for the lines of the calls made in it."""

    @guarded(monitor=Monitor(log="background"))
    def predict(x: int) -> int:
        return x

    with testing.capture_events() as events:
        predict(1)
    assert [event["event"] for event in events] == ["mlguard.call"]


def test_the_background_ends_with_the_process() -> None:
    """Lines that wait at a clean exit are written, by the standard library as well."""
    service = SERVICE.replace("Monitor()", 'Monitor(log="background")')
    program = "import logging; logging.basicConfig(level=logging.INFO)" + textwrap.dedent(service)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stderr.count(":mlguard:") == 3
