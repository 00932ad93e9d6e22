"""The door through which pytest finds mlguard: fixtures, one marker and a few ini options. Installing mlguard opens it.

It stands beside the package, not in it, and imports nothing of it: a module within `mlguard` would load NumPy and
pydantic into every test run of an environment that has mlguard, used or not, and before coverage measures anything.
What the fixtures and options do is written in `mlguard/integrations/pytest_plugin.py`, loaded by the first that needs
it. Needs pytest 8.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mlguard.testing import Chaos, FakeClock

_MARKER = (
    "mlguard(*, instant, max_retries, isolated, disabled): how guarded functions behave in this test; what it does not "
    "say, an outer marker or the ini options mlguard_instant, mlguard_max_retries, mlguard_isolated and "
    "mlguard_disabled do."
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The ini options: what holds for every test that no marker says otherwise for."""
    parser.addini(
        "mlguard_instant", "Guarded functions never sleep: pauses and waits for memory pass at once.", "bool", False
    )
    parser.addini("mlguard_max_retries", "Guarded functions never sleep, and retry this often at most.")
    parser.addini(
        "mlguard_isolated", "Every test finds caches, breakers, budgets and named policies afresh.", "bool", False
    )
    parser.addini("mlguard_disabled", "Guarded functions behave as if they had never been guarded.", "bool", False)
    parser.addini("mlguard_report", "A failing test's report lists the calls of guarded functions.", "bool", True)


def pytest_configure(config: pytest.Config) -> None:
    """The one marker."""
    config.addinivalue_line("markers", _MARKER)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Brings in what works around each test, where there is anything for it to do."""
    options = ("mlguard_instant", "mlguard_max_retries", "mlguard_isolated", "mlguard_disabled")
    asked = any(config.getini(option) for option in options) or any(
        item.get_closest_marker("mlguard") for item in items
    )
    if asked and pytest.version_tuple < (8,):
        raise pytest.UsageError(
            f"mlguard's options and marker need pytest 8, not {pytest.__version__}. Fix: upgrade it."
        )
    shown = config.getini("mlguard_report") and "mlguard" in sys.modules and pytest.version_tuple >= (8,)
    if asked or shown:
        from mlguard.integrations.pytest_plugin import Around

        config.pluginmanager.register(Around(config), "mlguard-around")


@pytest.fixture
def mlguard_instant() -> Iterator[None]:
    """Nothing sleeps in this test: pauses between attempts and waits for memory pass at once."""
    from mlguard.testing import instant

    with instant():
        yield


@pytest.fixture
def mlguard_disabled() -> Iterator[None]:
    """Guarded functions behave as if they had never been guarded."""
    from mlguard.testing import disabled

    with disabled():
        yield


@pytest.fixture
def mlguard_isolated() -> Iterator[None]:
    """Caches, breakers, budgets, counts and named policies: fresh at the start of this test, and after it."""
    from mlguard.testing import isolated

    with isolated():
        yield


@pytest.fixture
def mlguard_events() -> Iterator[list[dict[str, Any]]]:
    """What mlguard logs during this test, as dictionaries, in order."""
    from mlguard.testing import capture_events

    with capture_events() as events:
        yield events


@pytest.fixture
def mlguard_clock() -> Iterator[FakeClock]:
    """The clock of mlguard stands still until ``mlguard_clock.advance("31s")``; sleeping moves it, and is recorded."""
    from mlguard.testing import FakeClock

    with FakeClock() as clock:
        yield clock


@pytest.fixture
def mlguard_chaos() -> Iterator[Callable[..., Chaos]]:
    """``mlguard_chaos(testing.fails(rate=0.1), on=predict, seed=1)``: `testing.chaos`, until the test ends."""
    from contextlib import ExitStack

    from mlguard.testing import chaos

    with ExitStack() as entered:
        yield lambda *faults, **about: entered.enter_context(chaos(*faults, **about))
