"""State for each value of an argument: a circuit for every host, a budget for every tenant."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import cloudpickle
import pytest
from pydantic import BaseModel

from mlguard import (
    Breaker,
    Cache,
    CircuitOpenError,
    Concurrency,
    ConcurrencyLimitError,
    Monitor,
    PolicyError,
    Redacted,
    Retry,
    guarded,
    keyed,
)
from mlguard.testing import FakeClock, capture_events


def broken_at(host: str, *, down: str = "a") -> str:
    if host == down:
        raise ConnectionError(host)
    return host


class TestBreaker:
    def test_one_circuit_for_each_value(self) -> None:
        """The circuit of a host that is down leaves the others alone, and closes by itself."""
        with FakeClock() as time:
            f = guarded(breaker=Breaker(per="host", minimum_calls=2, open_for=10))(broken_at)
            for _ in range(2):
                with pytest.raises(ConnectionError):
                    f("a")
            with pytest.raises(CircuitOpenError):
                f(host="a")
            assert f("b") == "b"
            time.advance(11)
            assert f("a", down="nobody") == "a"
            stats = f.guard.stats()["breaker"]
        assert (stats["per"], stats["values"]) == ("host", 2)
        assert {state["state"] for state in stats["by_value"].values()} == {"closed"}

    def test_an_outcome_comes_from_the_same_circuit(self) -> None:
        """f.guard.call meets the state of its value."""
        f = guarded(breaker=Breaker(per="host", minimum_calls=1))(broken_at)
        with pytest.raises(ConnectionError):
            f("a")
        with pytest.raises(CircuitOpenError):
            f.guard.call("a")
        assert f.guard.call("b").value == "b"

    def test_reset_closes_them_all(self) -> None:
        """After f.guard.reset() no value has a history."""
        f = guarded(breaker=Breaker(per="host", minimum_calls=1))(broken_at)
        with pytest.raises(ConnectionError):
            f("a")
        f.guard.reset()
        with pytest.raises(ConnectionError):
            f("a")


def test_a_field_of_an_argument() -> None:
    """The value may be a field, of a model or of the mapping that becomes one; a default counts."""

    class Request(BaseModel):
        tenant: str = "nobody"

    @guarded(concurrency=Concurrency(max_concurrent=1, per="request.tenant"))
    def f(request: Request = Request(tenant="x")) -> int:  # noqa: B008
        return f.guard.stats()["concurrency"]["values"]

    assert [f(Request(tenant="x")), f({"tenant": "x"}), f(), f({"tenant": "y"})] == [1, 1, 1, 2]


def test_hidden_values_are_not_shown() -> None:
    """stats() counts the circuits of a hidden argument, and tells nothing of its values."""

    class Request(BaseModel):
        tenant: Annotated[str, Redacted]

    @guarded(breaker=Breaker(per="token"), concurrency=Concurrency(max_concurrent=1, per="request.tenant"))
    def f(token: Annotated[str, Redacted], request: Request) -> None: ...

    f("secret-token", Request(tenant="secret-tenant"))
    assert "secret" not in str(f.guard.stats())
    assert list(f.guard.stats()["breaker"]["by_value"]) == ["hidden value 1"]


def test_values_of_different_types_are_different() -> None:
    """1, True and "1" are three hosts."""

    @guarded(concurrency=Concurrency(max_concurrent=1, per="x"))
    def f(x: Any) -> None: ...

    for x in (1, True, "1", 1.0):
        f(x)
    assert f.guard.stats()["concurrency"]["values"] == 4


def test_two_sections_by_two_arguments() -> None:
    """Slots by tenant and circuits by host stand side by side; what has no `per` is common to all."""

    @guarded(
        concurrency=Concurrency(max_concurrent=1, max_waiting=0, per="tenant"),
        breaker=Breaker(per="host", minimum_calls=1),
        cache=Cache(ttl=60),
        monitor=Monitor(),
    )
    def f(tenant: str, host: str) -> str:
        if tenant == "nested":
            return f("nested", "other")
        return broken_at(host)

    with capture_events() as events:
        with pytest.raises(ConnectionError):
            f("t", "a")
        with pytest.raises(CircuitOpenError):
            f("u", "a")
        with pytest.raises(ConcurrencyLimitError):
            f("nested", "b")
        assert f("t", "b") == f("t", "b") == "b"
    assert f.guard.cache_info().hits == 1
    assert events[-1]["mlguard.disposition"] == "cache_hit"
    stats = f.guard.stats()
    assert (stats["concurrency"]["values"], stats["breaker"]["values"]) == (3, 3)
    assert "One of these for each value of 'tenant'" in f.guard.explain()


def test_budgets_by_tenant() -> None:
    """A tenant whose calls all fail uses up its own budget only."""
    calls = []

    @guarded(retry=Retry(per="tenant", initial_delay=0, max_retries=1, budget=0))
    def f(tenant: str) -> None:
        calls.append(tenant)
        raise ConnectionError

    for _ in range(20):
        with pytest.raises(ConnectionError):
            f("loud")
    with pytest.raises(ConnectionError):
        f("quiet")
    assert calls.count("loud") == 30  # ten retries are always allowed
    assert calls.count("quiet") == 2


async def test_coroutines_and_streams_keep_their_kind() -> None:
    """Each kind of function is kept apart by value, and stays what it is."""
    section = Concurrency(max_concurrent=1, max_waiting=0, per="x")

    @guarded(concurrency=section)
    async def coroutine(x: int) -> int:
        await asyncio.sleep(0.01)
        return x

    assert await asyncio.gather(coroutine(1), coroutine(2)) == [1, 2]
    with pytest.raises(ConcurrencyLimitError):
        await asyncio.gather(coroutine(1), coroutine(1))
    assert (await coroutine.guard.acall(3)).value == 3

    @guarded(concurrency=section)
    def stream(x: int) -> Iterator[int]:
        yield x
        yield x

    first, second = stream(1), stream(2)
    assert (next(first), next(second)) == (1, 2)
    with pytest.raises(ConcurrencyLimitError):
        next(stream(1))
    assert list(first) == [1]
    assert list(stream(1)) == [1, 1]

    @guarded(concurrency=section)
    async def later(x: int) -> AsyncIterator[int]:
        yield x

    assert [item async for item in later(1)] == [1]


def test_a_scope_shares_the_circuits_of_every_value() -> None:
    """Two functions that call the same hosts know the same hosts to be down."""
    section = Breaker(per="host", minimum_calls=1, scope="hosts-of-test-keyed")
    f = guarded(breaker=section)(broken_at)

    @guarded(breaker=section)
    def g(host: str) -> str:
        return host

    with pytest.raises(ConnectionError):
        f("a")
    with pytest.raises(CircuitOpenError):
        g("a")
    assert g("b") == "b"


def test_no_more_values_than_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value unused for longest goes first, with its state."""
    monkeypatch.setattr(keyed, "MOST", 3)
    with FakeClock() as time:
        f = guarded(breaker=Breaker(per="host", minimum_calls=1, open_for=1000))(broken_at)
        with pytest.raises(ConnectionError):
            f("a")
        for host in ("b", "c"):
            f(host)
            time.advance(1)
        with pytest.raises(CircuitOpenError):
            f("a")
        time.advance(1)
        f("d")
        with pytest.raises(CircuitOpenError):
            f("a")
        assert f.guard.stats()["breaker"]["values"] == 3
        for host in ("e", "f", "g"):
            time.advance(1)
            f(host)
        with pytest.raises(ConnectionError):
            f("a")


def test_threads_agree_on_one_object_for_a_value() -> None:
    """A hundred threads that bring a new value at once count as one crowd."""

    @guarded(concurrency=Concurrency(max_concurrent=1, max_waiting=0, per="x"))
    def f(x: int) -> None:
        inside.append(x)
        over.wait()

    inside: list[int] = []
    refused: list[BaseException] = []
    over = threading.Event()
    start = threading.Barrier(20)

    def call() -> None:
        start.wait()
        try:
            f(1)
        except ConcurrencyLimitError as error:
            refused.append(error)
            if len(refused) == 19:
                over.set()

    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    over.set()
    assert (len(inside), len(refused)) == (1, 19)


def test_it_crosses_processes() -> None:
    """A guarded function with circuits by host pickles by value."""

    @guarded(breaker=Breaker(per="host", minimum_calls=1))
    def f(host: str) -> str:
        return host

    f("a")
    revived = cloudpickle.loads(cloudpickle.dumps(f))
    assert revived("b") == "b"
    assert revived.guard.stats()["breaker"]["values"] == 1


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"breaker": Breaker(per="hots")}, r"breaker.per = 'hots', but the function has no parameter 'hots'.*'host'"),
        ({"retry": Retry(per="more")}, r"retry.per = 'more', but the function has no parameter 'more'"),
    ],
)
def test_what_cannot_be_kept_apart_is_refused(section: dict[str, Any], said: str) -> None:
    """A wrong name is told at decoration, with the nearest one."""
    with pytest.raises(PolicyError, match=said):

        @guarded(**section)
        def f(host: str, *more: str) -> None: ...


def test_a_value_that_tells_nothing_apart() -> None:
    """A list can't be a key; the error says which argument, and of what type."""

    @guarded(breaker=Breaker(per="x"))
    def f(x: list[int]) -> None: ...

    with pytest.raises(PolicyError, match=r"breaker.per = 'x' is a list in this call"):
        f([1])


def test_what_is_equal_to_itself_only() -> None:
    """An object of no value of its own is refused: as a key, a thousand models would be kept alive. None is a value."""

    class Model:
        def __init__(self, host: str) -> None:
            self.host = host

        @guarded(breaker=Breaker(per="self", minimum_calls=1))
        def by_itself(self) -> None: ...

        @guarded(breaker=Breaker(per="self.host", minimum_calls=1))
        def by_host(self) -> str:
            return broken_at(self.host)

    with pytest.raises(PolicyError, match=r"breaker.per = 'self' is a .*Model in this call.*or a field of one"):
        Model("a").by_itself()
    with pytest.raises(ConnectionError):
        Model("a").by_host()
    with pytest.raises(CircuitOpenError):
        Model("a").by_host()
    assert Model("b").by_host() == "b"

    @guarded(breaker=Breaker(per="x"))
    def f(x: str | None) -> str | None:
        return x

    assert f(None) is None
    assert list(f.guard.stats()["breaker"]["by_value"]) == ["None"]


def test_awaited_streams_are_refused() -> None:
    """A coroutine function that returns an async iterator is told the fix."""

    with pytest.raises(PolicyError, match=r"breaker.per can't be honoured for a coroutine function that returns"):

        @guarded(breaker=Breaker(per="x"))
        async def f(x: int) -> AsyncIterator[int]: ...  # type: ignore[empty-body]
