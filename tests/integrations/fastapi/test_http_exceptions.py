"""HTTPException inside of guards: the function's own answer to its client, and counted as what it is."""

from collections.abc import Callable

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException as StarletteHTTPException

from mlguard import Breaker, Fallback, Monitor, Retry, guarded, testing
from mlguard.integrations.fastapi import install
from mlguard.outcome import Failure, classify


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (307, Failure.INVALID_INPUT),
        (404, Failure.INVALID_INPUT),
        (408, Failure.INVALID_INPUT),
        (429, Failure.INVALID_INPUT),
        (500, Failure.TRANSIENT),
        (501, Failure.PERMANENT),
        (503, Failure.TRANSIENT),
    ],
)
def test_classification(status: int, kind: Failure) -> None:
    """Below 500 it is about the caller; from 500 on it says what became of the work, as any status does."""
    assert classify(HTTPException(status)) is kind
    assert classify(StarletteHTTPException(status)) is kind


def test_an_answer_to_the_client_passes_untouched(client: Callable[..., TestClient]) -> None:
    """A 404 or 429 is not retried, opens no breaker, and no fallback answers for it; body and headers stay."""
    app = FastAPI()
    install(app)
    tried = []

    @app.get("/{status}")
    @guarded(retry=Retry(), breaker=Breaker(minimum_calls=1), fallback=0.5)
    async def operation(status: int) -> float:
        tried.append(status)
        raise HTTPException(status, {"why": status}, headers={"X-Why": "because", "Retry-After": "7"})

    for status in (404, 429):
        answer = client(app).get(f"/{status}")
        assert (answer.status_code, answer.json()) == (status, {"detail": {"why": status}})
        assert (answer.headers["x-why"], answer.headers["retry-after"]) == ("because", "7")
    assert tried == [404, 429]
    stats = operation.guard.stats()
    assert (stats["breaker"]["state"], stats["breaker"]["failures"]) == ("closed", 0)
    assert (stats["retry"]["retries"], stats["fallback"]["answered"]) == (0, 0)


def test_the_log_tells_of_an_answer_without_an_alarm(client: Callable[..., TestClient]) -> None:
    """A 404 is a warning without a traceback; a 500 that the function raises is an error with one."""
    app = FastAPI()

    @app.get("/{status}")
    @guarded(monitor=Monitor())
    async def operation(status: int) -> float:
        raise HTTPException(status, "no such patient")

    with testing.capture_events() as events:
        client(app).get("/404")
        client(app).get("/500")
    told = [(event["event"], event["log_level"], "exception" in event) for event in events]
    assert told == [("mlguard.call", "warning", False), ("mlguard.call.exception", "error", True)]


def test_a_failure_that_the_function_reports(client: Callable[..., TestClient]) -> None:
    """A 503 says that the work failed and may succeed soon: retried, counted, and answered by the fallback if any."""
    app = FastAPI()
    install(app)
    tried = []

    @app.get("/plain")
    @guarded(retry=Retry(max_retries=2), breaker=Breaker(minimum_calls=10))
    def plain() -> float:
        tried.append(1)
        raise HTTPException(503, "the archive is down")

    @app.get("/fallback")
    @guarded(fallback=Fallback(value=0.5))
    def with_fallback() -> float:
        raise HTTPException(503, "the archive is down")

    with testing.instant():
        answer = client(app).get("/plain")
    assert (answer.status_code, answer.json()) == (503, {"detail": "the archive is down"})
    assert len(tried) == 3
    assert plain.guard.stats()["breaker"]["failures"] == 3
    assert client(app).get("/fallback").json() == 0.5


def test_nested_guards_agree(client: Callable[..., TestClient]) -> None:
    """An HTTPException of a guarded function further in is the answer of the path operation around it, too."""
    app = FastAPI()
    install(app)

    @guarded(retry=Retry())
    def find(name: str) -> int:
        raise HTTPException(404, f"no {len(name)} letters")

    @app.get("/{name}")
    @guarded(retry=Retry(), breaker=Breaker(minimum_calls=1), fallback=1)
    def operation(name: str) -> int:
        return find(name)

    assert client(app).get("/abc").json() == {"detail": "no 3 letters"}
    assert operation.guard.stats()["breaker"]["failures"] == 0
