"""Deadlines that come with a request: who may set them, what is read, and what they bound."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.testclient import TestClient

from mlguard import PolicyError, Retry, Timeout, guarded, testing, time_left
from mlguard.integrations.fastapi import install
from mlguard.integrations.fastapi.deadlines import seconds_of


@pytest.mark.parametrize(
    ("name", "text", "seconds"),
    [
        ("grpc-timeout", b"800m", 0.8),
        ("GRPC-Timeout", b"2S", 2.0),
        ("grpc-timeout", b"1H", 3600.0),
        ("grpc-timeout", b"99999999u", 99.999999),
        ("grpc-timeout", b"500000n", 0.0005),
        ("grpc-timeout", b"123456789m", None),
        ("grpc-timeout", b"99999999H", None),
        ("grpc-timeout", b"1.5S", None),
        ("grpc-timeout", b"-1S", None),
        ("X-Envoy-Expected-Rq-Timeout-Ms", b"250", 0.25),
        ("x-envoy-expected-rq-timeout-ms", b" 0 ", 0.0),
        ("x-envoy-expected-rq-timeout-ms", b"250ms", None),
        ("x-envoy-expected-rq-timeout-ms", b"86400001", None),
        ("x-envoy-expected-rq-timeout-ms", b"9" * 5000, None),
        ("X-Request-Deadline", b"800ms", 0.8),
        ("X-Request-Deadline", b"1.5s", 1.5),
        ("X-Request-Deadline", b"0s", 0.0),
        ("X-Request-Deadline", b"86400s", 86400.0),
        ("X-Request-Deadline", b"86401s", None),
        ("X-Request-Deadline", b"800", None),
        ("X-Request-Deadline", b"1e3s", None),
        ("X-Request-Deadline", b"-5ms", None),
        ("X-Request-Deadline", b"inf", None),
        ("X-Request-Deadline", b"nan s", None),
        ("X-Request-Deadline", b"", None),
        ("X-Request-Deadline", b"\xff\x00s", None),
        ("X-Request-Deadline", "٣s".encode(), None),
        ("X-Request-Deadline", b"5s\n", None),
    ],
)
def test_what_is_read(name: str, text: bytes, seconds: float | None) -> None:
    """gRPC's form, whole milliseconds, or a number with its unit, up to a day; everything else is no deadline."""
    assert seconds_of(name, text) == pytest.approx(seconds)


def application(**settings: Any) -> FastAPI:
    app = FastAPI()
    install(app, health="/h", **settings)

    @app.get("/left")
    async def left() -> float | None:
        return time_left()

    @app.get("/in-thread")
    def in_thread() -> float | None:
        return time_left()

    return app


def counts(asked: TestClient) -> dict[str, int]:
    return asked.get("/h").json()["requests"]["deadlines"]


def test_nothing_is_read_unless_asked_for(client: Callable[..., TestClient]) -> None:
    """Without `deadline_header` no header bounds anything."""
    asked = client(application())
    assert asked.get("/left", headers={"grpc-timeout": "1m", "X-Request-Deadline": "0s"}).json() is None


def test_what_a_request_brings(client: Callable[..., TestClient]) -> None:
    """The earliest readable header is taken, in coroutines and threads; garbage is ignored and counted."""
    asked = client(application(deadline_header=["grpc-timeout", "X-Request-Deadline"], trust=True))
    with testing.FakeClock():
        assert asked.get("/left").json() is None
        assert asked.get("/left", headers={"X-Request-Deadline": "800ms"}).json() == pytest.approx(0.8)
        assert asked.get("/in-thread", headers={"x-request-deadline": "2s"}).json() == pytest.approx(2)
        both = [("grpc-timeout", "3S"), ("x-request-deadline", "2s"), ("x-request-deadline", "1s")]
        assert asked.get("/left", headers=both).json() == pytest.approx(1)
        mixed = [("grpc-timeout", "soon"), ("x-request-deadline", "2s")]
        assert asked.get("/left", headers=mixed).json() == pytest.approx(2)
        assert asked.get("/left", headers={"grpc-timeout": "soon"}).json() is None
    assert counts(asked) == {"taken": 4, "expired": 0, "ignored": 2, "untrusted": 0}


def test_one_that_has_passed(client: Callable[..., TestClient]) -> None:
    """A request without any time left is answered with 504 at once; nothing runs for it."""
    app = application(deadline_header="grpc-timeout", trust=True)
    ran = []
    app.get("/work")(lambda: ran.append(1))
    asked = client(app)
    answer = asked.get("/work", headers={"grpc-timeout": "0n"})
    assert (answer.status_code, answer.headers["content-type"]) == (504, "application/problem+json")
    assert answer.json()["type"] == "urn:problem-type:mlguard:deadline-exceeded"
    assert ran == []
    assert counts(asked)["expired"] == 1


@pytest.mark.parametrize(
    ("trust", "address", "taken"),
    [
        (["10.0.0.0/8", "192.168.1.7"], "10.3.2.1", True),
        (["10.0.0.0/8", "192.168.1.7"], "192.168.1.7", True),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        (["fd00::/8"], "fd00::1", True),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["10.0.0.0/8"], "fd00::1", False),
        (["10.0.0.0/8"], "testclient", False),
        (True, "testclient", True),
    ],
)
def test_who_may_set_it(client: Callable[..., TestClient], trust: Any, address: str, taken: bool) -> None:
    """Clients of the trusted networks, in either version of IP; who is no trusted one is counted and not heard."""
    asked = client(application(deadline_header="grpc-timeout", trust=trust), client=(address, 1))
    left = asked.get("/left", headers={"grpc-timeout": "5S"}).json()
    assert (left is not None) is taken
    assert counts(asked)["taken" if taken else "untrusted"] == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"deadline_header": "X-Deadline"}, "nobody is trusted"),
        ({"deadline_header": "X-Deadline", "trust": []}, "nobody is trusted"),
        ({"deadline_header": [], "trust": True}, "nobody is trusted"),
        ({"deadline_header": "X Deadline", "trust": True}, "no header's name"),
        ({"deadline_header": "X-Deadline", "trust": ["10.0.0.1/8"]}, "no address or network"),
        ({"deadline_header": "X-Deadline", "trust": ["proxy.local"]}, "no address or network"),
        ({"deadline_header": "X-Deadline", "trust": [5]}, "no address or network"),
        ({"trust": True}, "no deadline_header"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    """They are refused when the application is made, with the fix."""
    with pytest.raises(PolicyError, match=said) as refused:
        application(**settings)
    assert "Fix: " in str(refused.value)


def test_guarded_functions_share_it(client: Callable[..., TestClient]) -> None:
    """It cuts what has a timeout, ends retries, and never loosens a limit of the function's own."""
    app = application(deadline_header="X-Request-Deadline", trust=True)
    tried = []

    @app.get("/slow")
    @guarded(timeout=Timeout(total="1h"))
    async def slow() -> int:
        await asyncio.sleep(60)
        return 1

    @app.get("/short")
    @guarded(timeout=Timeout(total="1s"))
    async def short() -> float | None:
        return time_left()

    @app.get("/retries")
    @guarded(retry=Retry(max_retries=50, initial_delay="1h", jitter=False, max_delay="1h"))
    def retries() -> int:
        tried.append(1)
        raise ConnectionError("down")

    asked = client(app)
    answer = asked.get("/slow", headers={"X-Request-Deadline": "50ms"})
    assert answer.status_code == 504
    assert 0.9 < asked.get("/short", headers={"X-Request-Deadline": "30s"}).json() <= 1
    assert asked.get("/short", headers={"X-Request-Deadline": "900ms"}).json() <= 0.9
    assert asked.get("/retries", headers={"X-Request-Deadline": "5s"}).status_code == 500
    assert len(tried) == 1


def test_the_error_says_whose_deadline_it_was() -> None:
    """An operator reads in the message that the request brought the deadline."""
    from mlguard import clock
    from mlguard.context import Until, outside
    from mlguard.errors import DeadlineExceededError

    @guarded(timeout=Timeout(total="1h"))
    def work() -> int:
        return 1

    token = outside.set(Until(clock.now() - 1))
    try:
        with pytest.raises(DeadlineExceededError, match="the deadline of the request passed"):
            work()
    finally:
        outside.reset(token)
    assert work() == 1


def test_an_application_inside_another_keeps_the_deadline(client: Callable[..., TestClient]) -> None:
    """One that is mounted and was installed itself, without deadlines, takes none away."""
    outer = application(deadline_header="X-Request-Deadline", trust=True)
    outer.mount("/inner", application())
    outer.mount("/other", application(deadline_header="grpc-timeout", trust=True))
    asked = client(outer)
    assert asked.get("/inner/left", headers={"X-Request-Deadline": "30s"}).json() is not None
    for longer, shorter in (("X-Request-Deadline", "grpc-timeout"), ("grpc-timeout", "X-Request-Deadline")):
        sent = {
            name: f"{9 if name == shorter else 90}{'S' if name == 'grpc-timeout' else 's'}"
            for name in (longer, shorter)
        }
        assert 8 < asked.get("/other/left", headers=sent).json() <= 9


def test_what_comes_after_the_answer_has_its_own_time(client: Callable[..., TestClient]) -> None:
    """Background tasks of a request are not bound by its deadline, and the next request is not either."""
    app = application(deadline_header="X-Request-Deadline", trust=True)
    left: list[float | None] = []

    def later() -> None:
        left.append(time_left())

    @app.get("/work")
    async def work(tasks: BackgroundTasks) -> float | None:
        tasks.add_task(later)
        return time_left()

    asked = client(app)
    assert asked.get("/work", headers={"X-Request-Deadline": "30s"}).json() is not None
    assert left == [None]
    assert asked.get("/left").json() is None
