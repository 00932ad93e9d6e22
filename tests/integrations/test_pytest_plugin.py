"""The pytest plugin, in real runs of pytest: in this process where that is enough, else in one of its own."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlguard.integrations.pytest_plugin import Mode, events_text
from mlguard.later import later

pytest_plugins = ["pytester"]

SERVICE = """
    import time

    import pytest
    from mlguard import Breaker, Cache, CircuitOpenError, Monitor, Retry, guarded, testing

    calls = []

    @guarded(retry=Retry(max_retries=2, initial_delay=30, max_delay=30, jitter=False), monitor=Monitor())
    def fetch(patient: int) -> float:
        calls.append(patient)
        raise ConnectionError("feature store is away")

    @guarded(cache=Cache(ttl="1h"))
    def embed(text: str) -> list[float]:
        calls.append(text)
        return [1.0]

    @guarded(breaker=Breaker(minimum_calls=1, failure_rate_threshold=0.1))
    def score(x: int) -> int:
        raise ConnectionError("down")
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run(tests, *args, ini=...)``: a run of pytest on a service and these tests.

    Plugins are those of ``-p``; with ``installed=True`` those of the environment, as pytest finds them by itself.
    """

    def run(
        tests: str, *args: str, ini: str = "", apart: bool = False, installed: bool = False, service: str = SERVICE
    ) -> pytest.RunResult:
        if installed:
            ini = f"asyncio_default_fixture_loop_scope = function\n{textwrap.dedent(ini)}"
            monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", raising=False)
        else:
            args = ("-p", "mlguard", *args)
            monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        pytester.makepyfile(test_service=textwrap.dedent(service) + textwrap.dedent(tests))
        pytester.makefile(".ini", pytest=f"[pytest]\n{textwrap.dedent(ini)}")
        start = pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess
        return start("-p", "no:cacheprovider", *args)

    return run


def test_one_ini_line_keeps_a_whole_suite_from_sleeping(run: Run) -> None:
    """With mlguard_instant no test waits for retries; a marker, also of a class or a module, says otherwise."""
    result = run(
        """
        def test_instant():
            with pytest.raises(ConnectionError):
                fetch(1)
            assert len(calls) == 3

        @pytest.mark.mlguard(instant=False)
        class TestReal:
            def test_sleeps(self, monkeypatch, mlguard_clock):
                with pytest.raises(ConnectionError):
                    fetch(2)
                assert mlguard_clock.sleeps == [30, 30]

            def test_has_the_real_sleep(self):
                from mlguard import clock

                assert clock.sleep is time.sleep

            @pytest.mark.mlguard(instant=True)
            def test_the_nearest_marker_wins(self):
                with pytest.raises(ConnectionError):
                    fetch(3)
        """,
        ini="mlguard_instant = true",
    )
    result.assert_outcomes(passed=4)


def test_retries_are_capped_by_ini_or_marker(run: Run) -> None:
    """mlguard_max_retries means instant and a cap; a marker lifts the cap, or caps otherwise."""
    result = run(
        """
        @pytest.fixture(autouse=True)
        def none_yet():
            calls.clear()

        def attempts():
            with pytest.raises(ConnectionError):
                fetch(1)
            return len(calls)

        def test_ini():
            assert attempts() == 1

        @pytest.mark.mlguard(max_retries=1)
        def test_marker():
            assert attempts() == 2

        @pytest.mark.mlguard(max_retries=None, instant=True)
        def test_lifted():
            assert attempts() == 3
        """,
        ini="mlguard_max_retries = 0",
    )
    result.assert_outcomes(passed=3)


def test_isolation_keeps_state_from_leaking(run: Run) -> None:
    """With mlguard_isolated neither a cached result nor an open circuit reaches the next test; without it both do."""
    tests = """
        @pytest.mark.parametrize("again", range(2))
        def test_cache(again):
            calls.clear()
            embed("a")
            embed("a")
            assert calls == ["a"]

        @pytest.mark.parametrize("again", range(2))
        def test_circuit(again):
            with pytest.raises(ConnectionError):
                score(1)
            with pytest.raises(CircuitOpenError):
                score(1)
    """
    run(tests, ini="mlguard_isolated = true").assert_outcomes(passed=4)
    run(tests).assert_outcomes(passed=2, failed=2)


def test_fixtures(run: Run) -> None:
    """Each fixture does for one test what its switch of `mlguard.testing` does, and is over with it."""
    result = run(
        """
        @pytest.fixture
        def warm():
            return embed("before")

        def test_events(mlguard_events, mlguard_instant):
            with pytest.raises(ConnectionError):
                fetch(1)
            assert mlguard_events[-1]["mlguard.attempts"] == 3

        def test_clock(mlguard_clock):
            embed("b"), mlguard_clock.advance("50m")
            assert embed.guard.call("b").cached
            mlguard_clock.advance("11m")
            assert not embed.guard.call("b").cached

        def test_chaos(mlguard_chaos):
            chaos = mlguard_chaos(testing.fails(TimeoutError), on=embed)
            with pytest.raises(TimeoutError):
                embed("c")
            assert chaos.met.total() == 1

        def test_chaos_is_over():
            assert embed("c") == [1.0]

        def test_disabled(mlguard_disabled):
            calls.clear()
            embed("d"), embed("d")
            assert calls == ["d", "d"]

        def test_isolated(warm, mlguard_isolated):
            assert not embed.guard.call("before").cached
        """
    )
    result.assert_outcomes(passed=6)


def test_nothing_is_on_because_it_is_installed(run: Run) -> None:
    """No switch is on in a test that asked for none: pauses, guards and the clock are the real ones, chaos is off."""
    result = run(
        """
        def test_nothing():
            import asyncio
            from mlguard import clock, wrapper
            from mlguard.resilience import retry

            assert (clock.now, clock.sleep, clock.sleep_async) == (time.monotonic, time.sleep, asyncio.sleep)
            assert (retry.cap, wrapper._off, wrapper._around) == (None, 0, None)
        """
    )
    result.assert_outcomes(passed=1)


def test_a_failing_test_shows_what_its_guards_met(run: Run) -> None:
    """The report of a failure lists the test's own calls, readably; that of a success does not."""
    result = run(
        """
        def test_passes():
            embed("never shown")

        @guarded(monitor=Monitor())
        def rank(depth: int) -> int:
            return depth

        @pytest.mark.mlguard(instant=True)
        def test_fails():
            rank(1)
            with pytest.raises(ValueError):
                rank("deep")
            fetch(1)
        """,
        "-rP",
        ini="log_level = INFO",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- mlguard events -*",
            "test_service.rank: executed in *",
            "test_service.rank: rejected_validation in *",
            "    InvalidInputError: depth: must be a valid integer, *",
            "test_service.fetch: failed after 3 attempts in *",
            "    ConnectionError: feature store is away",
            "    *waited=* retry.retries=2 *",
        ]
    )
    assert str(result.stdout).count("mlguard events") == 1


def test_the_report_can_be_switched_off(run: Run) -> None:
    """With mlguard_report = false a failure looks as it would without mlguard, and nothing works around the tests."""
    result = run("def test_fails(mlguard_instant): fetch(1)", ini="mlguard_report = false")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*mlguard events*")


def test_a_long_test_shows_its_last_events() -> None:
    """The section is bounded, and says how much it left out; numbers are short, odd values are cut."""
    event = {
        "code.function.name": "service.predict",
        "mlguard.disposition": "executed",
        "mlguard.duration": 0.0123456,
        "mlguard.attempts": 1,
        "mlguard.waited": 1.23456789,
        "mlguard.input.x": "never",
        "note": "n" * 200,
    }
    lines = events_text([event], seen=400).splitlines()
    assert lines[:2] == ["(399 earlier left out)", "service.predict: executed in 12.3ms"]
    assert lines[2].startswith("    waited=1.235 note='nnn")
    assert len(lines[2]) < 120


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("instnt=True", "has no setting 'instnt'. Did you mean 'instant'? Fix: instant=..., max_retries=..., *"),
        ("True", "takes settings by name, not True. Fix: mlguard(instant=True)."),
        ("max_retries=-1", "max_retries = -1 is no number of retries. Fix: 0 or more."),
        ("max_retries='many'", "max_retries = 'many' is no number of retries. Fix: 0 or more."),
    ],
)
def test_a_wrong_marker_fails_its_test_with_the_fix(run: Run, marker: str, said: str) -> None:
    """A misspelt marker is an error of that test, not silently nothing, and names the fix."""
    result = run(f"@pytest.mark.mlguard({marker})\ndef test_it(): pass\n\ndef test_other(): pass")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"*{said}"])


def test_a_wrong_ini_line_ends_the_run_with_the_fix(run: Run) -> None:
    """An option that can't be meant ends the run before the first test."""
    result = run("def test_it(): pass", ini="mlguard_max_retries = many")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*mlguard_max_retries = many is no number of retries. Fix: 0 or more."])


def test_classes_of_unittest(run: Run) -> None:
    """Marker, ini options and fixtures reach tests of unittest too."""
    result = run(
        """
        import unittest

        class TestService(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def bring(self, mlguard_events):
                self.events = mlguard_events

            @pytest.mark.mlguard(max_retries=1)
            def test_marker(self):
                with self.assertRaises(ConnectionError):
                    fetch(1)
                self.assertEqual(self.events[-1]["mlguard.attempts"], 2)

            @pytest.mark.usefixtures("mlguard_disabled")
            def test_fixture(self):
                with self.assertRaises(ConnectionError):
                    fetch(1)
                self.assertEqual(self.events, [])
        """,
        ini="mlguard_instant = true",
    )
    result.assert_outcomes(passed=2)


def test_a_mode_begins_before_fixtures_and_ends_after_them(run: Run) -> None:
    """What a fixture calls is under the mode of the test too, when it is set up and when it is torn down."""
    result = run(
        """
        @pytest.fixture
        def patient():
            with pytest.raises(ConnectionError):
                fetch(1)
            yield
            with pytest.raises(ConnectionError):
                fetch(2)

        def test_it(patient):
            assert len(calls) == 3

        def teardown_module():
            assert len(calls) == 6
        """,
        ini="mlguard_instant = true",
    )
    result.assert_outcomes(passed=1)


def test_an_interrupted_run_leaves_nothing_on(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in a test ends its mode, although pytest never gets to its teardown."""
    from mlguard import clock
    from mlguard.resilience import retry

    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    before = clock.sleep, retry.cap
    pytester.makepyfile(
        "import pytest\nfrom mlguard.resilience import retry\n"
        "@pytest.mark.mlguard(max_retries=0)\n"
        "def test_it():\n    assert retry.cap == 0\n    raise KeyboardInterrupt"
    )
    result = pytester.inline_run("-p", "mlguard", "-p", "no:cacheprovider", no_reraise_ctrlc=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert (clock.sleep, retry.cap) == before


def test_a_suite_that_does_not_use_it_imports_nothing(run: Run, pytester: pytest.Pytester) -> None:
    """Installed and not used, the plugin loads neither mlguard nor NumPy nor pydantic, with tests or without."""
    pytester.makeconftest(
        "import sys\n"
        "def pytest_unconfigure():\n"
        "    heavy = {'mlguard', 'numpy', 'pydantic', 'structlog', 'tenacity', 'psutil'}\n"
        "    print('LOADED', sorted(heavy & set(sys.modules)))\n"
    )
    for tests, ended in (("", pytest.ExitCode.NO_TESTS_COLLECTED), ("def test_it(): pass", pytest.ExitCode.OK)):
        result = run(tests, service="", apart=True)
        assert result.ret == ended
        result.stdout.fnmatch_lines(["LOADED []"])


def test_installing_brings_it_and_an_option_takes_it_away(run: Run) -> None:
    """pytest finds the plugin by its entry point; -p no:mlguard leaves out fixtures, marker and report."""
    (found,) = importlib.metadata.entry_points(group="pytest11", name="mlguard")
    assert found.value == "mlguard_pytest"
    run("def test_fixture(mlguard_clock): ...", installed=True).assert_outcomes(passed=1)
    result = run(
        """
        def test_it(request):
            assert not request.config.pluginmanager.has_plugin("mlguard")
            assert not request.config.pluginmanager.has_plugin("mlguard-around")

        def test_fixture(mlguard_clock): ...
        """,
        *("-p", "no:mlguard"),
        installed=True,
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'mlguard_clock' not found"])


def test_with_xdist_and_asyncio(run: Run) -> None:
    """In workers of pytest-xdist, and around tests of pytest-asyncio, everything is as without."""
    result = run(
        """
        import asyncio
        from mlguard import Timeout

        @guarded(retry=Retry(max_retries=2), timeout=Timeout(attempt="10s"), monitor=Monitor())
        async def embed_async(text: str) -> list[float]:
            raise ConnectionError("embedder is away")

        @pytest.mark.parametrize("number", range(3))
        async def test_async(number, mlguard_events):
            with pytest.raises(ConnectionError):
                await embed_async("a")
            assert mlguard_events[-1]["mlguard.attempts"] == 3

        async def test_fails(mlguard_clock):
            await embed_async("b")

        @pytest.mark.mlguard(isntant=True)
        def test_wrong(): ...
        """,
        *("-p", "xdist", "-p", "pytest_asyncio.plugin", "-n", "2"),
        ini="asyncio_mode = auto\nmlguard_instant = true\nmlguard_isolated = true",
        apart=True,
    )
    result.assert_outcomes(passed=3, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*- mlguard events -*", "test_service.embed_async: failed after 3 attempts in *"])


def test_coverage_sees_what_mlguard_runs_when_it_is_imported(run: Run, pytester: pytest.Pytester) -> None:
    """Found by its entry point, the plugin imports nothing that coverage should have seen: lines of modules count."""
    (pytester.path / ".coveragerc").write_text("[run]\ninclude = */mlguard/later.py\n")  # every file takes seconds
    result = run(
        "def test_it(mlguard_isolated): embed('a')",
        *("-p", "pytest_cov", "--cov", "--cov-report=json"),
        ini="filterwarnings = error",
        apart=True,
    )
    result.assert_outcomes(passed=1)
    ((name, about),) = json.loads((pytester.path / "coverage.json").read_text())["files"].items()
    assert name.endswith("mlguard/later.py")
    assert inspect.getsourcelines(later)[1] in about["executed_lines"]  # the line of its def runs at import only


def test_modes_say_what_they_mean() -> None:
    """The nearest word wins, for each setting by itself; nothing said is nothing done."""

    def told(*given: dict[str, Any]) -> tuple[bool, int | None, bool, bool]:
        mode = Mode(*given)
        return mode.instant, mode.max_retries, mode.isolated, mode.disabled

    assert told({}) == (False, None, False, False)
    assert told({"max_retries": 1}, {"instant": True, "isolated": True}) == (True, 1, True, False)
    assert told({"instant": False}, {"max_retries": 1}) == (False, None, False, False)
    assert told({"instant": True}, {"max_retries": 1}) == (True, 1, False, False)
    assert told({"disabled": True, "isolated": False}, {"isolated": True}) == (False, None, False, True)


def test_the_example_of_the_docs(run: Run) -> None:
    """The suite on the page about testing passes as it stands there, with the options the page names, in any order."""
    page = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
    (suite,) = re.findall(r"^```python\n(# test_service.py\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (options,) = re.findall(r"^```ini\n\[pytest\]\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    run(suite, service="", ini=options).assert_outcomes(passed=4)
    backwards = "\n\n\ndef pytest_collection_modifyitems(items): items.reverse()"
    (Path.cwd() / "conftest.py").write_text(backwards)
    run(suite, service="", ini=options).assert_outcomes(passed=4)
