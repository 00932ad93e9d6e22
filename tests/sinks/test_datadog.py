"""Metrics to Datadog, as a real listener on UDP and on a unix socket gets the datagrams."""

from __future__ import annotations

import logging
import re
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlguard import Breaker, Monitor, guarded
from mlguard.errors import PolicyError
from mlguard.sinks import datadog
from tests.sinks.receivers import PATIENCE, Agent

QUIET = Monitor(log=False)
HOUR = 3_600.0  # so that a test pushes when it says so


def tag_of(predict: Any) -> str:
    """The function's name as Datadog's client writes it into a tag."""
    return re.sub(r"[<>]", "_", predict.guard._wrapper.target.name)


@pytest.fixture
def agent() -> Iterator[Agent]:
    made = Agent()
    yield made
    made.close()


@pytest.fixture
def start() -> Iterator[Callable[..., datadog.Pushing]]:
    made: list[datadog.Pushing] = []

    def begin(**settings: Any) -> datadog.Pushing:
        made.append(datadog.start(**{"every": HOUR, **settings}))
        return made[-1]

    yield begin
    for each in made:
        each.stop()


def test_totals_equal_what_was_called(agent: Agent, start) -> None:
    """Counters are sent as differences whose sum is what was called, gauges as they are, durations value by value."""
    pushing = start(host="127.0.0.1", port=agent.port, tags=["service:scores"])

    @guarded(monitor=QUIET, breaker=Breaker())
    def predict(x: int) -> int:
        if x < 0:
            raise LookupError
        return x

    name = tag_of(predict)
    for number in (5, 0, 7):
        for x in range(number):
            predict(x)
        assert pushing.push(PATIENCE)
    with pytest.raises(LookupError):
        predict(-1)
    assert pushing.push(PATIENCE)
    agent.wait_for(lambda: agent.total("mlguard.calls", f"guard:{name}") == 13)
    assert agent.total("mlguard.calls", f"guard:{name}", "disposition:executed") == 12
    assert agent.total("mlguard.calls", f"guard:{name}", "disposition:failed") == 1
    durations = agent.durations(name)
    assert sum(len(line.values) / line.rate for line in durations) == 13
    assert {line.kind for line in durations} == {"d"}
    assert all(0 < value < PATIENCE for line in durations for value in line.values)
    (state,) = {
        (line.kind, line.values[0])
        for line in agent.lines
        if line.name == "mlguard.breaker_state" and line.tags >= {f"guard:{name}", "state:closed"}
    }
    assert state == ("g", 1.0)
    assert all("service:scores" in line.tags for line in agent.lines)
    assert not [line for line in agent.lines if line.name == "mlguard.call_duration" and line.kind != "d"]


def test_many_values_share_a_datagram(agent: Agent, start) -> None:
    """Durations are packed, and no datagram is larger than the smallest MTU carries."""
    pushing = start(host="127.0.0.1", port=agent.port)

    @guarded(monitor=QUIET)
    def predict() -> None: ...

    for _ in range(1_000):
        predict()
    assert pushing.push(PATIENCE)
    name = tag_of(predict)
    agent.wait_for(lambda: sum(len(line.values) for line in agent.durations(name)) == 1_000)
    assert len(agent.durations(name)) == 16
    assert max(map(len, agent.packets)) <= 1_432
    assert {line.rate for line in agent.durations(name)} == {1.0}


def test_an_endless_name_is_cut(agent: Agent, start) -> None:
    """A tag has at most the 200 characters that Datadog keeps, so that every line fits a datagram."""
    pushing = start(host="127.0.0.1", port=agent.port)

    def predict() -> None: ...

    predict.__qualname__ = "x" * 30_000
    guarded(monitor=QUIET)(predict)()
    assert pushing.push(PATIENCE)
    agent.wait_for(lambda: any(line.tags >= {f"guard:{__name__}.xxx".ljust(200, "x")} for line in agent.lines))
    assert max(map(len, agent.packets)) <= 1_432


def test_more_than_the_bound_are_sampled_and_say_so(agent: Agent, start) -> None:
    """Of five thousand durations a thousand go out, evenly drawn, at the rate they say; the counters are exact."""
    pushing = start(host="127.0.0.1", port=agent.port)

    @guarded(monitor=QUIET)
    def predict() -> None: ...

    for _ in range(5_000):
        predict()
    assert pushing.push(PATIENCE)
    name = tag_of(predict)
    agent.wait_for(lambda: agent.total("mlguard.calls", f"guard:{name}") == 5_000)
    agent.wait_for(lambda: sum(len(line.values) for line in agent.durations(name)) == datadog.MOST)
    assert {line.rate for line in agent.durations(name)} == {0.2}


def test_every_value_is_as_likely_to_be_sampled() -> None:
    """The sample prefers neither the first values of a push nor the last."""
    means = []
    for _ in range(40):
        sample = datadog._Sample()
        for value in range(10_000):
            sample.add(float(value))
        means.append(sum(sample.values) / len(sample.values))
    assert sum(means) / len(means) == pytest.approx(4_999.5, abs=90)  # six standard deviations


def test_a_unix_socket(tmp_path: Path, start) -> None:
    """The agent's socket serves as well as host and port."""
    path = tmp_path / "dsd.socket"
    agent = Agent(path)
    pushing = start(socket_path=str(path))

    @guarded(monitor=QUIET)
    def predict() -> None: ...

    for _ in range(10):
        predict()
    assert pushing.push(PATIENCE)
    name = tag_of(predict)
    agent.wait_for(lambda: agent.total("mlguard.calls", f"guard:{name}") == 10)
    agent.close()


def test_it_pushes_by_itself(agent: Agent, start) -> None:
    """Without being asked, it pushes every so often."""
    start(host="127.0.0.1", port=agent.port, every="20ms")

    @guarded(monitor=QUIET)
    def predict() -> None: ...

    predict()
    name = tag_of(predict)
    agent.wait_for(lambda: agent.total("mlguard.calls", f"guard:{name}") == 1)
    predict()
    agent.wait_for(lambda: agent.total("mlguard.calls", f"guard:{name}") == 2)


def test_started_twice_counts_once(agent: Agent, start) -> None:
    """Starting again with the same address changes nothing."""
    address = {"host": "127.0.0.1", "port": agent.port}
    assert start(**address) is start(**address)


def test_an_agent_that_is_gone_costs_nothing(start, caplog: pytest.LogCaptureFixture) -> None:
    """While nobody listens, calls and pushes go on; what comes after the agent's return arrives."""
    caplog.set_level(logging.CRITICAL, "datadog.dogstatsd")
    agent = Agent()
    agent.close()
    pushing = start(host="127.0.0.1", port=agent.port)

    @guarded(monitor=QUIET)
    def predict() -> None: ...

    began = time.monotonic()
    for _ in range(3):
        predict()
        pushing.push(PATIENCE)
    assert time.monotonic() - began < PATIENCE / 3
    assert predict.guard.stats()["monitor"]["calls"] == {"executed": 3}
    assert pushing.stats()["pushes"] == 3


def _nobody(*about: Any, **more: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_an_agent_without_a_name_is_counted(start, caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    """A host that can't be resolved fails no call; after it, pushes go on."""
    caplog.set_level(logging.CRITICAL, "datadog.dogstatsd")
    pushing = start(host="no-such-host.invalid")
    monkeypatch.setattr(socket, "getaddrinfo", _nobody)  # asking the system takes ten seconds on some machines

    @guarded(monitor=QUIET)
    def predict() -> None: ...

    predict()
    pushing.push(PATIENCE)
    stats = pushing.stats()
    assert stats["pushes"] + stats["failed_pushes"] == 1


def test_a_push_that_fails_is_counted_and_said(start, monkeypatch) -> None:
    """Whatever the client raises costs one push, with the reason in the statistics."""
    pushing = start(host="127.0.0.1", port=9)

    def refuse(*about: Any) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(pushing._client, "open_buffer", refuse)
        pushing.push(PATIENCE)
    assert (pushing.stats()["failed_pushes"], pushing.stats()["last_failure"]) == (1, "OSError")


def test_series_are_bounded() -> None:
    """Functions that are made at run time under new names can't fill the memory with series."""
    names = Counter(
        guard for guard, _ in _heard(datadog.Ended(f"f{number}", "executed", 0.1) for number in range(1_500))
    )
    assert len(names) == 1_001
    assert names["other"] == 1


def _heard(calls: Any) -> list[tuple[str, str]]:
    class Client:
        def __getattr__(self, name: str) -> Any:
            return lambda *about: None

    pushing = datadog.Pushing(Client(), HOUR)  # type: ignore[arg-type]
    pushing._hear(list(calls))
    series = list(pushing._samples)
    pushing.stop()
    return series


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"socket_path": "/x", "port": 1}, "socket_path and host or port are given. Fix: one of them."),
        ({"tags": "service:x"}, 'tags must be a list of texts. Fix: tags=["service:scores"].'),
        ({"every": "soon"}, "Fix: every=10."),
        ({"every": 0}, "every must be above 0. Fix: every=10."),
    ],
)
def test_bad_settings_name_the_fix(settings: dict[str, Any], said: str) -> None:
    """What can't be right is refused where the service starts."""
    with pytest.raises(PolicyError, match=re.escape(said)):
        datadog.start(**settings)


def _run(agent: Agent, body: str) -> None:
    program = f"""
    import os, signal, time
    from mlguard import Monitor, guarded
    from mlguard.sinks import datadog
    pushing = datadog.start(host="127.0.0.1", port={agent.port}, every={HOUR})

    @guarded(monitor=Monitor(log=False))
    def predict(x): return x
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program) + textwrap.dedent(body)], timeout=PATIENCE, check=False
    )


def test_a_clean_shutdown_pushes_what_is_left(agent: Agent) -> None:
    """At the end of the process the last counts and durations are sent."""
    _run(agent, "for x in range(5): predict(x)")
    agent.wait_for(lambda: agent.total("mlguard.calls", "guard:__main__.predict") == 5)
    assert sum(len(line.values) for line in agent.durations("__main__.predict")) == 5


def test_a_killed_process_loses_what_it_had_not_pushed(agent: Agent) -> None:
    """After `kill -9` the agent has what was pushed before, complete, and nothing of what came later."""
    _run(
        agent,
        """
        for x in range(5): predict(x)
        pushing.push()
        for x in range(3): predict(x)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    agent.wait_for(lambda: agent.total("mlguard.calls", "guard:__main__.predict") == 5)


def test_a_forked_worker_pushes_its_own_counts(agent: Agent) -> None:
    """A child starts at 0 and pushes what it counted itself; together with its parent it makes the whole."""
    _run(
        agent,
        """
        for x in range(5): predict(x)
        child = os.fork()
        if child == 0:
            for x in range(2): predict(x)
            pushing.push()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        """,
    )
    agent.wait_for(lambda: agent.total("mlguard.calls", "guard:__main__.predict") == 7)
    assert sum(len(line.values) for line in agent.durations("__main__.predict")) == 7


def test_without_the_package_the_error_names_the_fix() -> None:
    """Importing the sink without the package says what to install."""
    program = "import sys; sys.modules['datadog'] = None\nimport mlguard.sinks.datadog"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "Fix: pip install datadog (mlguard's extra 'datadog')." in done.stderr
