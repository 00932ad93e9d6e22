"""`testing.isolated`: what one test leaves in guards, scopes and named policies does not reach the next."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from mlguard import (
    Breaker,
    Cache,
    CircuitOpenError,
    Concurrency,
    Monitor,
    Policy,
    PolicyError,
    Retry,
    guarded,
    policies,
    testing,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a policy file, and a catalogue that other tests do not see."""
    monkeypatch.chdir(tmp_path)
    policies.reset()
    yield tmp_path
    policies.reset()


def test_state_is_fresh_inside_and_after() -> None:
    """Cached results, open circuits and counts are gone on entering and on leaving."""

    @guarded(cache=Cache(ttl="1h"), breaker=Breaker(minimum_calls=1), monitor=Monitor(log=False))
    def predict(x: int) -> int:
        if x < 0:
            raise ConnectionError
        return x

    def used() -> bool:
        return predict.guard.cache_info().entries > 0 or predict.guard.stats()["breaker"]["state"] != "closed"

    fresh = predict.guard.stats()["monitor"]
    predict(1)
    with testing.isolated():
        assert not used()
        predict(1)
        with pytest.raises(ConnectionError):
            predict(-1)
        with pytest.raises(CircuitOpenError):
            predict(2)
        assert used()
    assert not used()
    assert predict.guard.stats()["monitor"] == fresh


def test_policies_are_what_they_were_before(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was defined, replaced, loaded or read from the environment inside is forgotten; what was there is back."""
    policies.define("remote", Policy(retry=Retry(max_retries=1)))
    with testing.isolated():
        policies.define("remote", Policy(retry=Retry(max_retries=7)), replace=True)
        policies.define("batch", Policy())
        (elsewhere / "mlguard.toml").write_text("[policies.realtime]\ntimeout = { total = '1s' }\n")
        with monkeypatch.context() as patch:
            patch.setenv("MLGUARD__REMOTE__RETRY__MAX_RETRIES", "9")
            assert policies.names() == ["batch", "realtime", "remote"]
            assert policies.get("remote").retry.max_retries == 9
        (elsewhere / "mlguard.toml").unlink()
    assert policies.names() == ["remote"]
    assert policies.get("remote").retry.max_retries == 1


def test_a_function_by_name_looks_its_policy_up_again() -> None:
    """A function that was bound inside to another policy of the name has the old one afterwards, or none."""

    @guarded("remote")
    def fetch(x: int) -> int:
        return x

    policies.define("remote", Policy(retry=Retry(max_retries=1)))
    for number in (7, 8):  # twice, as a function that is bound again and again is tested in many tests
        assert fetch(1) == 1
        assert fetch.guard.policy.retry.max_retries == 1
        with testing.isolated():
            policies.define("remote", Policy(retry=Retry(max_retries=number)), replace=True)
            policies.reload()
            assert fetch(1) == 1
            assert fetch.guard.policy.retry.max_retries == number
    with testing.isolated():
        policies.reset()
        policies.define("remote", Policy(cache=Cache(ttl=None)))
        assert fetch(1) == fetch(1)
    assert "lookup(" not in fetch.guard.source
    policies.reset()
    with testing.isolated():
        policies.define("remote", Policy())
        assert fetch(2) == 2
    with pytest.raises(PolicyError, match="there is no policy named 'remote'"):
        fetch(3)


def test_a_call_in_progress_ends_as_it_began() -> None:
    """Leaving does not disturb a call that still runs, in a function that is bound anew meanwhile."""
    entered, go_on = threading.Event(), threading.Event()
    ended: list[int] = []

    @guarded("remote")
    def wait(x: int) -> int:
        if x == 1:
            entered.set()
            go_on.wait(30)
        return x

    with testing.isolated():
        policies.define("remote", Policy(cache=Cache(ttl=None), concurrency=Concurrency(max_concurrent=2)))
        thread = threading.Thread(target=lambda: ended.append(wait(1)))
        thread.start()
        assert entered.wait(30)
    policies.define("remote", Policy(retry=Retry(), cache=Cache(ttl="1s")))
    assert wait(2) == 2
    go_on.set()
    thread.join(30)
    assert ended == [1]
    gc.collect()
    assert wait(3) == wait(3) == 3
    assert "again(" in wait.guard.source


def test_what_an_imported_module_defines_stays(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that is imported inside stays imported, and so do its policies; those of the test go."""
    (elsewhere / "acme_isolated.py").write_text(
        "from mlguard import Policy, policies\npolicies.define('acme', Policy())\n"
    )
    monkeypatch.syspath_prepend(elsewhere)
    with testing.isolated():
        import acme_isolated  # type: ignore[import-not-found]

        policies.define("own", Policy())
        assert isinstance(acme_isolated, ModuleType)
    assert policies.names() == ["acme"]
    monkeypatch.delitem(sys.modules, "acme_isolated")


def test_a_scope_is_free_once_its_functions_are_gone() -> None:
    """Two tests may use one scope with different settings, which one program may not."""

    def use(threshold: float) -> None:
        @guarded(breaker=Breaker(failure_rate_threshold=threshold), scope="shared")
        def predict(x: int) -> int:
            return x

        predict(1)

    with testing.isolated():
        use(0.1)
    with testing.isolated():
        use(0.2)
        with pytest.raises(PolicyError, match="scope 'shared' already has"):
            use(0.3)


def test_it_ends_where_the_test_fails() -> None:
    """An exception passes, and everything is put back."""

    def test() -> None:
        with testing.isolated():
            policies.define("gone", Policy())
            raise KeyError

    with pytest.raises(KeyError):
        test()
    assert policies.names() == []
