"""What the pytest plugin does around each test: its mode, and what it adds to the report of a failure.

Fixtures, marker and ini options are declared in `mlguard_pytest.py`, beside the package, which says why. Chaos and the
clock are fixtures only: no marker and no option reaches them.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Final

import pytest

from mlguard import clock, testing
from mlguard.monitor.sink import Sink
from mlguard.section import nearest, shown

__all__ = ["Around", "Mode", "events_text"]

_KEPT: Final = 20  # events of a test that a report lists; the last ones, which are nearest to the failure
_LONGEST: Final = 500  # characters of one message
_OPTIONS: Final = ("instant", "max_retries", "isolated", "disabled")
_SAID: Final = frozenset({
    "mlguard.schema_version", "mlguard.policy.fingerprint", "mlguard.call_id", "mlguard.parent_call_id",
    "mlguard.disposition", "mlguard.duration", "mlguard.attempts", "mlguard.sample_rate", "mlguard.violations",
    "mlguard.violation_count", "mlguard.model_version", "code.function.name", "event", "event.outcome", "error.type",
    "exception.message", "exception", "stack", "trace_id", "span_id",
})  # fmt: skip


class Mode:
    """How guarded functions behave in one test.

    Args:
        given: What markers and ini options say, by name; the first mapping that says something wins.

    Raises:
        ValueError: A marker says what there is not; the message names the fix.
    """

    def __init__(self, *given: Mapping[str, Any]) -> None:
        for each in given:
            for name in each.keys() - set(_OPTIONS):
                raise ValueError(
                    f"@pytest.mark.mlguard has no setting {shown(name)}.{nearest(name, _OPTIONS)} "
                    f"Fix: {', '.join(f'{option}=...' for option in _OPTIONS)}."
                )
        said = {name: value for each in reversed(given) for name, value in each.items()}
        retries = said.get("max_retries")
        if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int) or retries < 0):
            raise ValueError(f"mlguard's max_retries = {shown(retries)} is no number of retries. Fix: 0 or more.")
        # The nearest that speaks of either decides: max_retries=1 means instant, unless instant=False stands as near.
        about = next((each for each in given if "instant" in each or "max_retries" in each), {})
        self.instant = bool(about.get("instant", about.get("max_retries") is not None))
        self.max_retries: int | None = retries if self.instant else None
        self.isolated = bool(said.get("isolated", False))
        self.disabled = bool(said.get("disabled", False))

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Holds until it is left."""
        with contextlib.ExitStack() as stack:
            if self.isolated:
                stack.enter_context(testing.isolated())
            if self.disabled:
                stack.enter_context(testing.disabled())
            if self.instant:
                stack.enter_context(testing.instant(self.max_retries))
            yield


class Around:
    """What pytest calls around each test of a run that uses mlguard.

    A mode holds from before the first fixture of a test to after its last; each run of a test that is run again has its
    own. Events are read where they leave for the log, so that no configuration of structlog is touched, and none hides
    them.

    Args:
        config: Of the run.

    Raises:
        pytest.UsageError: An ini option is not what it should be.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._ini: dict[str, Any] = _retries(config.getini("mlguard_max_retries"))
        self._ini |= {name: True for name in ("instant", "isolated", "disabled") if config.getini(f"mlguard_{name}")}
        self._reports = config.getini("mlguard_report")
        self._stack = contextlib.ExitStack()
        self._events: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._seen = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Enters what holds for this test, before any fixture."""
        self._stack.close()  # of a test that was interrupted
        self._events.clear()
        self._seen = 0
        self._stack.enter_context(self._mode_of(item).entered())
        if self._reports:
            self._stack.enter_context(self._listening())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, Any, Any]:
        """Leaves it, after every fixture."""
        try:
            return (yield)
        finally:
            self._stack.close()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, Any, Any]:
        """Shows what the guards of a failing test met."""
        report = yield
        if report.failed and self._events:
            report.sections.append(("mlguard events", events_text(self._events, self._seen)))
        return report

    def pytest_sessionfinish(self) -> None:
        """Leaves what an interrupted test could not."""
        self._stack.close()

    def _mode_of(self, item: pytest.Item) -> Mode:
        wrong = ""
        try:
            return Mode(*_marked(item), self._ini)
        except ValueError as error:
            wrong = str(error)
        pytest.fail(wrong, pytrace=False)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        write = Sink.write

        def heard(sink: Sink, config: dict[str, Any], level: int, name: str, event: dict[str, Any]) -> None:
            self._seen += 1
            self._events.append(dict(event))
            write(sink, config, level, name, event)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Sink, "write", heard)
            yield


def events_text(events: deque[dict[str, Any]] | list[dict[str, Any]], seen: int | None = None) -> str:
    """Events of calls for people: one line a call, what it failed with and what it met below.

    Args:
        events: As they were logged.
        seen: How many there were, where these are the last ones. None: these are all.
    """
    lines = [line for event in events for line in _lines(event)]
    left_out = (len(events) if seen is None else seen) - len(events)
    return "\n".join([f"({left_out} earlier left out)", *lines] if left_out > 0 else lines)


def _lines(event: Mapping[str, Any]) -> Iterator[str]:
    if "mlguard.disposition" in event:
        attempts = event["mlguard.attempts"]
        tries = f" after {attempts} attempts" if attempts > 1 else ""
        took = clock.duration_text(event["mlguard.duration"])
        yield f"{event['code.function.name']}: {event['mlguard.disposition']}{tries} in {took}"
    else:  # of no single call, such as an alarm of drift
        yield ": ".join(str(event[key]) for key in ("code.function.name", "event") if key in event)
    if "error.type" in event:
        message = str(event.get("exception.message", ""))[:_LONGEST].splitlines()
        yield f"    {': '.join([event['error.type'].rpartition('.')[2], *message[:1]])}"
        yield from (f"    {line}" for line in message[1:])
    met = [f"{key.removeprefix('mlguard.')}={_short(value)}" for key, value in _met(event)]
    if met:
        yield f"    {' '.join(met)}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shown(value)


def _met(event: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is not said otherwise; summaries of arguments and result, and what tells processes apart, are left out."""
    for key, value in event.items():
        if key not in _SAID and not key.startswith(("mlguard.input", "mlguard.output", "process.", "host.")):
            yield key, value


def _marked(item: pytest.Item) -> Iterator[Mapping[str, Any]]:
    for mark in item.iter_markers("mlguard"):
        if mark.args:
            raise ValueError(
                f"@pytest.mark.mlguard takes settings by name, not {shown(mark.args[0])}. Fix: mlguard(instant=True)."
            )
        yield mark.kwargs


def _retries(said: str) -> dict[str, int]:
    if not said:
        return {}
    try:
        return {"max_retries": int(said)}
    except ValueError:
        raise pytest.UsageError(f"mlguard_max_retries = {said} is no number of retries. Fix: 0 or more.") from None
