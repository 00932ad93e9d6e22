"""What code lets files ask for at most."""

from __future__ import annotations

import pytest

from mlguard import Concurrency, Memory, Monitor, Policy, PolicyError, Retry, Timeout, guarded, policies
from mlguard.policies.ceiling import clamp
from mlguard.testing import capture_events


def lowered(policy: Policy, ceiling: Policy) -> dict[str, tuple[object, object]]:
    after, clamped = clamp(policy, ceiling)
    for each in clamped:
        section, _, key = each.setting.partition(".")
        found = getattr(after, section)
        assert (getattr(found, key) if key else found is not None) == each.allowed
    return {each.setting: (each.asked, each.allowed) for each in clamped}


@pytest.mark.parametrize(
    ("policy", "ceiling", "expected"),
    [
        (Policy(retry={"max_retries": 9}), Policy(retry={"max_retries": 4}), {"retry.max_retries": (9, 4)}),
        (Policy(retry={"max_retries": 3}), Policy(retry={"max_retries": 4}), {}),
        (Policy(), Policy(retry={"max_retries": 4}), {}),
        (Policy(retry=True), Policy(retry=False), {"retry": (True, False)}),
        (Policy(), Policy(timeout={"total": "5s"}), {"timeout.total": (None, 5.0)}),
        (Policy(timeout={"attempt": 1}), Policy(timeout={"total": "5s"}), {"timeout.total": (None, 5.0)}),
        (
            Policy(timeout={"total": 60, "attempt": 20}),
            Policy(timeout={"total": 5}),
            {"timeout.total": (60.0, 5.0), "timeout.attempt": (20.0, 5.0)},
        ),
        (
            Policy(retry={"initial_delay": 5, "max_delay": 50}),
            Policy(retry={"max_delay": 1}),
            {"retry.initial_delay": (5.0, 1.0), "retry.max_delay": (50.0, 1.0)},
        ),
        (Policy(retry={"budget": None}), Policy(retry={"budget": 0.1}), {"retry.budget": (None, 0.1)}),
        (Policy(), Policy(concurrency={"max_concurrent": 8}), {"concurrency.max_concurrent": (None, 8)}),
        (
            Policy(retry={"on_invalid_output": True}),
            Policy(retry={"on_invalid_output": False}),
            {"retry.on_invalid_output": (True, False)},
        ),
        (Policy(retry={"jitter": False}), Policy(retry={"jitter": True}), {}),
        (Policy(cache={"ttl": None}), Policy(cache={"ttl": "1h"}), {"cache.ttl": (None, 3600.0)}),
    ],
)
def test_what_is_above_is_lowered(policy: Policy, ceiling: Policy, expected: dict[str, object]) -> None:
    """Numbers go down to the ceiling, what is forbidden goes, what is below stays, and nothing but a limit is added."""
    assert lowered(policy, ceiling) == expected


def test_files_and_environment_stay_below_it(write, monkeypatch) -> None:
    """The ceiling of the code wins over the environment, which wins over the file; a warning names what was asked."""
    write("[policies.p]\nretry = { max_retries = 2 }\n")
    monkeypatch.setenv("MLGUARD__P__RETRY__MAX_RETRIES", "50")

    @guarded("p", ceiling=Policy(retry=Retry(max_retries=4)))
    def f() -> int:
        return 1

    with capture_events() as events:
        f()
        f()
    (event,) = events
    assert event["event"] == "mlguard.policy.clamped"
    assert event["log_level"] == "warning"
    assert (event["mlguard.policy.setting"], event["mlguard.policy.asked"], event["mlguard.policy.allowed"]) == (
        "retry.max_retries", 50, 4,
    )  # fmt: skip
    assert f.guard.policy.retry.max_retries == 4
    assert f.guard.origins["retry.max_retries"].startswith("ceiling at ")
    assert __file__ in f.guard.origins["retry.max_retries"]


def test_it_holds_at_every_reload(write) -> None:
    """What an operator asks for later is lowered as well, and told once."""
    write("[policies.p]\nretry = { max_retries = 2 }\n")

    @guarded("p", ceiling=Policy(retry=Retry(max_retries=4)))
    def f() -> int:
        return 1

    f()
    write("[policies.p]\nretry = { max_retries = 9 }\n")
    with capture_events() as events:
        policies.reload()
        policies.reload()
    assert [event["event"] for event in events] == ["mlguard.policy.clamped", "mlguard.policies.reloaded"]
    assert f.guard.policy.retry.max_retries == 4


def test_a_ceiling_says_only_what_has_a_more_and_a_less() -> None:
    """Texts and choices can't be capped; that is told at decoration."""
    with pytest.raises(PolicyError, match=r"ceiling has memory.on_pressure = 'log', which has no more and less"):
        guarded("p", ceiling=Policy(memory=Memory(on_pressure="log")))
    with pytest.raises(PolicyError, match=r"ceiling has timeout.attempt = None"):
        guarded("p", ceiling=Policy(timeout=Timeout(total=1, attempt=None)))


def test_policies_of_code_have_ceilings_too() -> None:
    """A ceiling above sections given at the decorator holds from the start."""

    @guarded(retry=Retry(max_retries=9), monitor=Monitor(), ceiling=Policy(retry=Retry(max_retries=1), monitor=False))
    def f() -> int:
        return 1

    assert f.guard.policy.retry.max_retries == 1
    assert f.guard.policy.monitor is None
    assert f.guard.origins["monitor"].startswith("ceiling at")


def test_where_values_come_from(write) -> None:
    """f.guard.origins tells file, decorator and removal apart."""
    path = write("[policies.p]\nretry = { max_retries = 2 }\nmemory = true\nmonitor = true\n")

    @guarded("p", memory=False, retry={"budget": 0.5}, breaker=True, concurrency=Concurrency(max_concurrent=3))
    def f() -> int:
        return 1

    origins = f.guard.origins
    assert origins["retry.max_retries"] == f"{path}:2"
    assert __file__ in origins["retry.budget"]
    assert origins["memory"].startswith("removed at")
    assert __file__ in origins["breaker"]
    assert __file__ in origins["concurrency.max_concurrent"]
    assert origins["monitor"] == f"{path}:4"

    @guarded(Policy(retry=Retry(max_retries=2)))
    def g() -> int:
        return 1

    assert g.guard.origins["retry.max_retries"].startswith("Policy at ")


def test_a_need_that_is_learned_is_neither_more_nor_less():
    """A ceiling of the need lowers numbers and leaves what is measured at run time."""
    ceiling = Policy(memory={"need": 2.0})
    assert lowered(Policy(memory={"need": "learned"}), ceiling) == {}
    assert lowered(Policy(memory={"need": 3.0}), ceiling) == {"memory.need": (3.0, 2.0)}


@pytest.mark.parametrize("ceiling", ["llm", 5, {"retry": {"max_retries": 3}}])
def test_a_ceiling_is_a_policy(ceiling):
    """Anything else is refused with the fix, where it is written."""
    with pytest.raises(PolicyError, match=r"test_ceiling.py:\d+: ceiling = .* must be a Policy. Fix: such as ceiling="):
        guarded("p", ceiling=ceiling)
