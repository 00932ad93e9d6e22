"""Policies that change while the process runs: all or nothing, calls in flight undisturbed, state kept."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Iterator

import pytest

from mlguard import Cache, CircuitOpenError, Concurrency, Policy, PolicyError, Retry, guarded, policies
from mlguard.testing import capture_events, disabled

FIRST = "[policies.p]\nretry = { max_retries = 1, initial_delay = 0 }\n"
SECOND = "[policies.p]\nretry = { max_retries = 3, initial_delay = 0 }\n"


class Flaky:
    """Fails for ever, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        raise ConnectionError

    def tries(self, function) -> int:
        before = self.calls
        with pytest.raises(ConnectionError):
            function()
        return self.calls - before


@pytest.fixture
def flaky() -> Flaky:
    return Flaky()


def test_a_bound_function_changes_at_reload_and_not_before(write, flaky):
    """A changed file means nothing until reload(), which says what it changed, and logs it."""
    write(FIRST)

    @guarded("p")
    def f() -> int:
        return flaky()

    assert flaky.tries(f) == 2
    path = write(SECOND)
    assert flaky.tries(f) == 2
    with capture_events() as events:
        (change,) = policies.reload()
    assert flaky.tries(f) == 4
    assert change.settings == {"retry.max_retries": (1, 3)}
    assert "f" in repr(change)
    (event,) = events
    assert event["event"] == "mlguard.policies.reloaded"
    assert event["mlguard.policies.changes"] == ["p: retry.max_retries 1 -> 3"]
    assert event["mlguard.policies.source"] == str(path)
    with capture_events() as events:
        assert policies.reload() == []
    assert not events
    assert f.guard.policy.retry.max_retries == 3
    assert "Up to 3 retries" in f.guard.explain()
    assert f.guard.origins["retry.max_retries"] == f"{path}:2"


def test_a_section_that_goes_is_one_change(write):
    """Nobody reads six lines to learn that there is no breaker any more."""
    write("[policies.p]\nbreaker = true\nmemory = { threshold = 0.5 }\n")

    @guarded("p")
    def f() -> int:
        return 1

    f()
    write("[policies.p]\nretry = true\nmemory = { threshold = 0.6 }\n")
    (change,) = policies.reload()
    assert change.settings == {"breaker": (True, False), "memory.threshold": (0.5, 0.6), "retry": (False, True)}


def test_a_call_in_flight_ends_as_it_began(write):
    """A stream keeps its slot of the old policy and gives it back there; the names it used are gone afterwards."""
    write("[policies.p]\nconcurrency = { max_concurrent = 1 }\n")

    @guarded("p")
    def items() -> Iterator[int]:
        yield from range(3)

    stream = items()
    assert next(stream) == 0
    before = items.guard._wrapper.rooms["concurrency"]
    write("[policies.p]\nconcurrency = { max_concurrent = 2 }\n")
    policies.reload()
    after = items.guard._wrapper.rooms["concurrency"]
    assert (before.in_use, after.in_use) == (1, 0)
    names = items.__globals__
    assert {"slot_exit", "slot_exit__1"} <= names.keys()
    assert list(stream) == [1, 2]
    del stream
    assert (before.in_use, after.in_use) == (0, 0)
    assert "slot_exit" not in names
    assert list(items()) == [0, 1, 2]


def test_the_leader_of_a_flight_ends_as_it_began(write):
    """An async call that others wait for is its own task: its names stay until it has ended."""
    write("[policies.p]\ncache = { ttl = 60 }\nretry = { max_retries = 1, initial_delay = 0 }\n")

    async def run() -> tuple[list[int], bool, bool]:
        go = asyncio.Event()
        calls = 0

        @guarded("p")
        async def f(x: int) -> int:
            nonlocal calls
            calls += 1
            await go.wait()
            if calls == 1:
                raise ConnectionError
            return x

        waiting = [asyncio.create_task(f(1)) for _ in range(3)]
        await asyncio.sleep(0.01)
        write("[policies.p]\nretry = { max_retries = 2, initial_delay = 0 }\n")
        policies.reload()
        kept = "again" in f.__globals__
        go.set()
        results = await asyncio.gather(*waiting)
        del waiting
        await asyncio.sleep(0)
        gc.collect()
        return results, kept, "again" in f.__globals__

    assert asyncio.run(run()) == ([1, 1, 1], True, False)


def test_what_did_not_change_keeps_its_state(write, flaky):
    """An open circuit stays open and a cached result cached, while the retries change."""
    text = FIRST + "breaker = { minimum_calls = 2 }\ncache = { ttl = 60 }\n"
    write(text)

    @guarded("p")
    def f() -> int:
        return flaky()

    @guarded("p")
    def g() -> int:
        return flaky.calls

    flaky.tries(f)
    cached = g()
    write(text.replace("max_retries = 1", "max_retries = 2"))
    policies.reload()
    with pytest.raises(CircuitOpenError):
        f()
    flaky.calls += 1
    assert g() == cached
    write(text.replace("minimum_calls = 2", "minimum_calls = 9"))
    policies.reload()
    assert flaky.tries(f) == 2
    assert g() == cached


def test_the_monitor_counts_on(write):
    """A reload is no restart: what the monitor counted stays counted."""
    write("[policies.p]\nmonitor = { log = false }\n")

    @guarded("p")
    def f() -> int:
        return 1

    f()
    write("[policies.p]\nmonitor = { log = false }\nretry = true\n")
    policies.reload()
    f()
    assert f.guard.stats()["monitor"]["calls"]["executed"] == 2


def test_all_or_nothing(write, flaky):
    """Where one function can't honour what its policy says now, nobody changes; every such function is named."""
    write(FIRST + '[policies.q]\nextends = "p"\n')

    @guarded("p")
    def f() -> int:
        return flaky()

    @guarded("q")
    def stream() -> Iterator[int]:
        yield 1

    @guarded("q")
    def other_stream() -> Iterator[int]:
        yield 1

    assert f.guard.policy.retry == stream.guard.policy.retry == other_stream.guard.policy.retry
    write(SECOND + '[policies.q]\nextends = "p"\ncache = { ttl = 1 }\n')
    with pytest.raises(PolicyError, match=r"because of 2 functions:\n.*stream: cache is set, but a stream can't be"):
        policies.reload()
    assert f.guard.policy.retry.max_retries == 1
    assert policies.get("p").retry.max_retries == 1
    write(SECOND)
    with pytest.raises(PolicyError, match=r"other_stream: there is no policy named 'q'"):
        policies.reload()
    assert flaky.tries(f) == 2


def test_what_a_process_does_once_is_no_matter_for_a_reload(write):
    """A setting that can't be undone is refused by its name, and nothing changes; its section may come and go."""
    write(FIRST)

    @guarded("p")
    def f() -> int:
        return 1

    f()
    write(FIRST + "memory = true\n")
    assert len(policies.reload()) == 1
    write(SECOND + "memory = { return_freed_memory = true }\n")
    with pytest.raises(
        PolicyError, match=r"f: memory.return_freed_memory can't change while the process runs \(False -> True\)"
    ):
        policies.reload()
    assert f.guard.policy.retry.max_retries == 1
    write(FIRST)
    assert len(policies.reload()) == 1


def test_functions_that_are_gone_hinder_nobody(write):
    """A function that nobody has any more can't keep policies from changing, also before it is collected."""
    write("[policies.p]\n[policies.q]\n")

    def dead() -> None:
        @guarded("q")
        def f() -> int:
            return 1

        f()

    gc.disable()
    try:
        dead()
        write("[policies.p]\n")
        policies.reload()
    finally:
        gc.enable()


def test_functions_not_bound_yet_take_what_is_there_at_their_first_call(write):
    """A reload binds nobody."""
    write(FIRST)

    @guarded("p")
    def f() -> int:
        return 1

    write(SECOND)
    assert policies.reload() == []
    assert f() == 1
    assert f.guard.policy.retry.max_retries == 3


def test_policies_of_code_stay(write):
    """A function whose policy is an object is no matter for a reload; one that code defined by name is."""
    write("")
    policies.define("coded", Policy(retry=Retry(max_retries=1)))

    @guarded(Policy(retry=Retry(max_retries=5)))
    def fixed() -> int:
        return 1

    @guarded("coded")
    def named() -> int:
        return 1

    fixed(), named()
    policies.define("coded", Policy(retry=Retry(max_retries=2)), replace=True)
    assert named.guard.policy.retry.max_retries == 1
    policies.reload()
    assert fixed.guard.policy.retry.max_retries == 5
    assert named.guard.policy.retry.max_retries == 2


def test_a_scope_changes_for_all_or_for_nobody(write):
    """Functions that share a scope go on sharing it; one that can't follow keeps all of them as they were."""
    text = '[policies.p]\nconcurrency = { max_concurrent = 1, scope = "gpu" }\n'
    write(text)

    @guarded("p")
    def f() -> int:
        return 1

    @guarded("p")
    def g() -> int:
        return 1

    f(), g()
    write(text.replace("max_concurrent = 1", "max_concurrent = 2"))
    assert len(policies.reload()) == 2
    rooms = [each.guard._wrapper.rooms["concurrency"] for each in (f, g)]
    assert rooms[0] is rooms[1]

    @guarded(concurrency=Concurrency(max_concurrent=2, scope="gpu"))
    def h() -> int:
        return 1

    assert h.guard._wrapper.rooms["concurrency"] is rooms[0]
    write(text.replace("max_concurrent = 1", "max_concurrent = 3"))
    with pytest.raises(PolicyError, match=r"scope 'gpu' already has a Concurrency with other settings"):
        policies.reload()
    assert f.guard._wrapper.rooms["concurrency"] is rooms[0]


def test_reload_while_guards_are_off(write, flaky):
    """disabled() stays in force through a reload, and ends in the new policy."""
    write(FIRST)

    @guarded("p")
    def f() -> int:
        return flaky()

    assert flaky.tries(f) == 2
    write(SECOND)
    with disabled():
        policies.reload()
        assert flaky.tries(f) == 1
    assert flaky.tries(f) == 4


def test_outcomes_follow_a_reload(write):
    """f.guard.call is the same call, under the same policy."""
    write("[policies.p]\n")
    calls = []

    @guarded("p")
    def f(x: int) -> int:
        calls.append(x)
        return x

    f.guard.call(1), f.guard.call(1)
    write("[policies.p]\ncache = { ttl = 60 }\n")
    policies.reload()
    assert [f.guard.call(1).cached for _ in range(2)] == [False, True]


def test_reload_under_load(write):
    """Threads go on calling while the policy changes twenty times: no call fails, no name is missing."""
    write("[policies.p]\nconcurrency = { max_concurrent = 64 }\n")

    @guarded("p")
    def f(x: int) -> int:
        return x + 1

    f(1)  # bound before the file changes under its first reader
    errors: list[BaseException] = []
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            try:
                assert f(1) == 2
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(20):
        write(f"[policies.p]\nconcurrency = {{ max_concurrent = {64 + number % 7} }}\n")
        policies.reload()
    over.set()
    for thread in threads:
        thread.join()
    assert errors == []
    leftovers = [name for name in f.__globals__ if name.startswith("slot_enter")]
    assert len(leftovers) == 1


def test_bind_all_names_every_function_that_cannot_be_bound(write):
    """The start of a service is told everything at once; functions that nobody has any more hinder nobody."""
    write(FIRST)

    def dead() -> None:
        @guarded("gone")
        def f() -> int:
            return 1

    gc.disable()
    try:
        dead()
        policies.bind_all()
    finally:
        gc.enable()

    @guarded("absent")
    def f() -> int:
        return 1

    @guarded("p", cache=Cache(ttl=1))
    def g() -> Iterator[int]:
        yield 1

    @guarded("p")
    def h(x: Absent) -> int:  # noqa: F821
        return 1

    with pytest.raises(PolicyError, match="3 guarded functions can't be bound") as caught:
        policies.bind_all()
    for words in ("no policy named 'absent'", "a stream can't be cached", "names 'Absent', which is not defined"):
        assert words in str(caught.value)


def test_a_reload_that_fails_leaves_no_trace(write):
    """A cache that stays gets its new deadlines, and a scope its new settings, only when everybody can change."""
    text = "[policies.p]\ncache = { ttl = 60 }\ntimeout = { total = 5 }\n[policies.q]\n"
    write(text)

    @guarded("p")
    def f() -> int:
        return 1

    @guarded("q")
    def stream() -> Iterator[int]:
        yield 1

    f(), list(stream())
    rooms = f.guard._wrapper.rooms
    write(text.replace("total = 5", "total = 9") + "cache = { ttl = 1 }\n")
    with pytest.raises(PolicyError, match="a stream can't be cached"):
        policies.reload()
    assert rooms["cache"].deadlines is rooms["timeout"]
    write(text.replace("total = 5", "total = 9"))
    policies.reload()
    after = f.guard._wrapper.rooms
    assert after["cache"] is rooms["cache"]
    assert after["cache"].deadlines is after["timeout"] is not rooms["timeout"]


def test_per_argument_that_a_function_does_not_have(write):
    """A wrong `per` is refused at every call and at bind_all, and a reload that brings it changes nobody."""
    good = "[policies.p]\nbreaker = true\n[policies.q]\nretry = { max_retries = 1 }\n"
    bad = good.replace("true", "{ per = 'hots' }").replace("1", "2")
    write(bad)

    @guarded("p")
    def f(host: str) -> str:
        return host

    @guarded("q")
    def g() -> int:
        return 1

    for call in (lambda: f("a"), lambda: f("a"), policies.bind_all):
        with pytest.raises(PolicyError, match="has no parameter 'hots'"):
            call()
    write(good)
    policies.reload()
    assert (f("a"), g()) == ("a", 1)
    write(bad)
    with pytest.raises(PolicyError, match="has no parameter 'hots'"):
        policies.reload()
    assert (f("a"), policies.get("q").retry.max_retries) == ("a", 1)
    assert g.guard.policy.retry.max_retries == 1


@pytest.mark.parametrize("per", ["", "breaker = { per = 'x' }\n"])
def test_reloads_leave_nothing_behind(write, per):
    """Names and codes of earlier policies go, so that a service may reload for as long as it lives."""
    from mlguard.specialise import _compiled

    write(FIRST + per)

    @guarded("p")
    def f(x: int) -> int:
        return x

    f(1)
    sizes = []
    for number in range(12):
        write((SECOND if number % 2 else FIRST).replace("initial_delay = 0", "initial_delay = 1") + per)
        policies.reload()
        f(1)
        sizes.append((_compiled.cache_info().currsize, len(f.__globals__)))
    assert sizes[-2:] == sizes[2:4]


def test_a_stream_that_has_not_begun_survives_two_reloads(write):
    """A generator that nobody has asked for an item yet runs under the policy it was made under, `per` or not."""
    text = "[policies.p]\nconcurrency = { max_concurrent = 1, per = 'x' }\n"
    write(text)

    @guarded("p")
    def items(x: int) -> Iterator[int]:
        yield x

    list(items(1))
    streams = []
    for number in (2, 3, 4):
        streams.append(items(number))
        write(text.replace("1", str(number)))
        policies.reload()
    assert [list(stream) for stream in streams] == [[2], [3], [4]]
    del streams
    assert sum(name.startswith("by_key") for name in items.__globals__) == 1


def test_origins_are_those_of_the_policy_in_force(write):
    """What code redefines shows when the reload has put it in force; a line that moved shows at the reload."""
    path = write("[policies.p]\nretry = { max_retries = 1 }\n")
    policies.define("coded", Policy(retry=Retry(max_retries=1)))

    @guarded("coded")
    def f() -> int:
        return 1

    @guarded("p")
    def g() -> int:
        return 1

    f(), g()
    policies.define("coded", Policy(breaker=True), replace=True)
    assert set(f.guard.origins) == {"retry", "retry.max_retries"}
    write("# moved\n" + path.read_text())
    assert policies.reload()
    assert set(f.guard.origins) == {"breaker"}
    assert g.guard.origins["retry.max_retries"] == f"{path}:3"


def test_a_broken_log_breaks_no_reload(write, monkeypatch):
    """Where the warning of a ceiling can't be written, every function has changed all the same."""
    write(FIRST)
    functions = []
    for _ in range(3):

        @guarded("p", ceiling=Policy(retry=Retry(max_retries=2)))
        def f() -> int:
            return 1

        f()
        functions.append(f)

    def broken(*_, **__):
        raise OSError("no space left")

    write(SECOND)
    monkeypatch.setattr("mlguard.policies.choice._log.warning", broken)
    monkeypatch.setattr("mlguard.policies.change._log.info", broken)
    policies.reload()
    assert [each.guard.policy.retry.max_retries for each in functions] == [2, 2, 2]


class TestWatch:
    def test_a_change_before_it_begins_is_seen(self, write):
        """What was written after the policies were read, and before the watch began, is not lost."""
        write(FIRST)

        @guarded("p")
        def f() -> int:
            return 1

        f()
        write(SECOND)
        with policies.watch("10ms"):
            until(lambda: f.guard.policy.retry.max_retries == 3)

    def test_a_nearer_file(self, service, write, monkeypatch):
        """A file that appears nearer than the one in force counts, and where it goes the farther one again."""
        write(FIRST)
        (service / "sub").mkdir()
        monkeypatch.chdir(service / "sub")

        @guarded("p")
        def f() -> int:
            return 1

        f()
        with policies.watch("10ms"):
            near = write(SECOND, "sub/mlguard.toml")
            until(lambda: f.guard.policy.retry.max_retries == 3)
            near.unlink()
            until(lambda: f.guard.policy.retry.max_retries == 1)

    def test_it_survives_whatever_happens(self, write, monkeypatch):
        """Neither policies that are forgotten while the file is broken nor a broken log end the watch."""
        write(FIRST)
        with policies.watch("10ms") as watch:
            monkeypatch.setattr("mlguard.policies.watching._log.error", lambda *_, **__: 1 / 0)
            policies.reset()
            write("[policies.p\n")
            until(lambda: watch.failed)
            write(SECOND)
            until(lambda: not watch.failed)
            assert watch.running
        assert policies.get("p").retry.max_retries == 3

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_that_may_be_read_again(self, write):
        """A change of permissions is a change."""
        path = write(FIRST)
        policies.get("p")
        with policies.watch("10ms") as watch:
            path.chmod(0)
            until(lambda: watch.failed)
            path.chmod(0o600)
            until(lambda: not watch.failed)

    def test_a_changed_file_is_in_force_soon(self, write, flaky):
        """A saved file changes what bound functions do; the end of the watch ends its thread."""
        write(FIRST)

        @guarded("p")
        def f() -> int:
            return flaky()

        assert f.guard.policy.retry.max_retries == 1
        with policies.watch("10ms") as watch:
            assert watch.running
            write(SECOND)
            until(lambda: f.guard.policy.retry.max_retries == 3)
        assert not watch.running
        assert flaky.tries(f) == 4

    def test_a_bad_file_keeps_what_is_in_force_and_is_watched_on(self, write):
        """It is logged with its problem, once, and the next good one is taken."""
        path = write(FIRST)

        @guarded("p")
        def f() -> int:
            return 1

        f()
        with capture_events() as events, policies.watch("10ms") as watch:
            write("[policies.p]\nretry = { max_retries = 'many' }\n")
            until(lambda: watch.failed)
            time.sleep(0.05)
            assert f.guard.policy.retry.max_retries == 1
            write(SECOND)
            until(lambda: f.guard.policy.retry.max_retries == 3)
            until(lambda: watch.failed is None)
        assert [event["event"] for event in events] == ["mlguard.policies.reload_failed", "mlguard.policies.reloaded"]
        assert "must be a number" in events[0]["exception.message"]
        assert events[0]["mlguard.policies.source"] == str(path)

    def test_a_file_that_vanishes_and_comes_back(self, write):
        """An editor that replaces the file, or a mount that flickers, ends in what the file says."""
        path = write(FIRST)

        @guarded("p")
        def f() -> int:
            return 1

        f()
        with policies.watch("10ms") as watch:
            path.unlink()
            until(lambda: watch.failed)
            assert f() == 1
            write(SECOND)
            until(lambda: f.guard.policy.retry.max_retries == 3)

    def test_a_link_that_is_turned(self, service, write):
        """Kubernetes changes a mounted file by turning a symbolic link to another folder."""
        for name, text in (("one", FIRST), ("two", SECOND)):
            (service / name).mkdir()
            (service / name / "mlguard.toml").write_text(text)
        os.symlink("one", service / "data")
        os.symlink("data/mlguard.toml", service / "mlguard.toml")

        @guarded("p")
        def f() -> int:
            return 1

        f()
        with policies.watch("10ms"):
            os.symlink("two", service / "data.new")
            os.replace(service / "data.new", service / "data")
            until(lambda: f.guard.policy.retry.max_retries == 3)

    def test_a_file_that_appears(self, write):
        """Where there was none, one that is created is found."""
        policies.define("p", Policy(retry=Retry(max_retries=1)))

        @guarded("p")
        def f() -> int:
            return 1

        f()
        with policies.watch("10ms"):
            write(SECOND)
            until(lambda: f.guard.policy.retry.max_retries == 3)

    def test_it_goes_on_in_a_forked_child(self, write):
        """A worker that was forked from a watching parent sees changes as well."""
        write(FIRST)

        @guarded("p")
        def f() -> int:
            return 1

        f()
        with policies.watch("10ms"):
            child = os.fork()
            if child == 0:
                try:
                    until(lambda: f.guard.policy.retry.max_retries == 3)
                except BaseException:
                    os._exit(1)
                os._exit(0)
            write(SECOND)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    @pytest.mark.parametrize("interval", [0, "soon", -1])
    def test_an_impossible_interval_is_refused(self, interval):
        """What is no time between two looks is told."""
        with pytest.raises((PolicyError, ValueError)):
            policies.watch(interval)


def until(condition, seconds: float = 5.0) -> None:
    """Waits for something another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError("it did not happen")
        time.sleep(0.005)
