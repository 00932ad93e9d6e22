"""Errors of guarded functions as answers: statuses, bodies, headers, and what they keep to themselves."""

import functools
import json
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from pydantic import AfterValidator, BaseModel, SecretStr, WithJsonSchema
from starlette.websockets import WebSocketDisconnect

from mlguard import (
    Array,
    CircuitOpenError,
    Concurrency,
    ConcurrencyLimitError,
    DeadlineExceededError,
    InvalidInputError,
    InvalidOutputError,
    MemoryPressureError,
    Monitor,
    PolicyError,
    Redacted,
    RejectedError,
    Timeout,
    guarded,
    testing,
)
from mlguard.errors import GuardError
from mlguard.integrations.fastapi import install

Numbers = Annotated[npt.NDArray[np.float64], Array("n"), Body()]
MEMORY = {"used": 90, "limit": 100, "need": 50, "source": "cgroup v2 /sys/fs/cgroup/secret-name"}


def answering(error: Exception, **settings: Any) -> FastAPI:
    """An application with one path operation that raises."""
    app = FastAPI()
    install(app, **settings)

    @app.get("/work")
    @guarded
    async def work() -> int:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "status", "kind", "after"),
    [
        (ConcurrencyLimitError("full", retry_after=0.2), 429, "concurrency-limit", 1),
        (CircuitOpenError("open", retry_after=29.01), 503, "circuit-open", 30),
        (CircuitOpenError("open"), 503, "circuit-open", None),
        (MemoryPressureError("no", **MEMORY, retry_after=5.0), 503, "memory-pressure", 5),
        (MemoryPressureError("no", **MEMORY, permanent=True, retry_after=5.0), 413, "too-large", None),
        (RejectedError("not now", retry_after=float("nan")), 503, "rejected", None),
        (DeadlineExceededError("late"), 504, "deadline-exceeded", None),
        (InvalidOutputError.of("f", [{"type": "t", "loc": ("return",), "msg": "SECRET"}]), 500, "invalid-output", None),
        (PolicyError("SECRET is misspelt"), 500, "failure", None),
        (GuardError("SECRET"), 500, "failure", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_status_body_and_retry_after(
    client: Callable[..., TestClient], error: GuardError, status: int, kind: str, after: int | None
) -> None:
    """Each error has its status; the body is RFC 9457's, and Retry-After comes in whole seconds, rounded up."""
    answer = client(answering(error)).get("/work?token=abc")
    body = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert (body["type"], body["status"], body["instance"]) == (f"urn:problem-type:mlguard:{kind}", status, "/work")
    assert answer.headers.get("retry-after") == (None if after is None else str(after))
    assert body.get("retry_after") == after
    assert {"title", "detail"} <= set(body)
    assert "SECRET" not in answer.text
    assert "cgroup" not in answer.text


def test_other_statuses_on_request(client: Callable[..., TestClient]) -> None:
    """`statuses` changes the status of a class of errors and of those below it; Retry-After stays."""
    app = answering(ConcurrencyLimitError("full", retry_after=3), statuses={RejectedError: 503})
    answer = client(app).get("/work")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    app = answering(MemoryPressureError("no", **MEMORY, permanent=True), statuses={MemoryPressureError: 507})
    assert client(app).get("/work").status_code == 507
    app = answering(MemoryPressureError("no", **MEMORY, permanent=True), statuses={ConcurrencyLimitError: 503})
    assert client(app).get("/work").status_code == 413


def test_refused_input_of_a_path_operation(client: Callable[..., TestClient]) -> None:
    """What FastAPI lets pass and the guard refuses, such as sizes that don't fit each other, is 422 with violations."""
    app = FastAPI()
    install(app)

    @app.post("/dot")
    @guarded
    def dot(a: Numbers, b: Numbers) -> float:
        return float(a @ b)

    answer = client(app).post("/dot", json={"a": [1, 2], "b": [3]})
    assert answer.status_code == 422
    (violation,) = answer.json()["violations"]
    assert (violation["loc"], violation["type"]) == (["b"], "array_dimension")
    assert "which is 2; got 1" in violation["msg"]
    assert client(app).post("/dot", json={"a": [1, 2], "b": [3, 4]}).text == "11.0"


def test_refused_input_of_dependencies(client: Callable[..., TestClient]) -> None:
    """Those of a function, a method, a generator, a class, a router and an override are the client's fault as well."""

    def even(x: int) -> int:
        if x % 2:
            raise ValueError("must be even")
        return x

    # FastAPI sees an int and lets it pass; the guard's own schema, given beside it, refuses odd ones.
    class Even(BaseModel):
        x: Annotated[int, AfterValidator(even)]

    @guarded(schema=Even)
    def plain(x: int) -> int:
        return x

    @guarded(schema=Even)
    async def stream(x: int):  # type: ignore[no-untyped-def]
        yield x

    class Maker:
        @guarded(schema=Even)
        def __init__(self, x: int) -> None:
            self.x = x

        @guarded(schema=Even)
        def method(self, x: int) -> int:
            return x

        @guarded(schema=Even)
        def __call__(self, x: int) -> int:
            return x

    app = FastAPI()
    install(app)
    maker = Maker(2)
    router = APIRouter()

    @router.get("/router")
    def router_one() -> int:
        return 1

    app.include_router(router, dependencies=[Depends(plain)])
    for name, dependency in {
        "plain": plain,
        "stream": stream,
        "class": Maker,
        "method": maker.method,
        "call": maker,
    }.items():

        def operation(found: Any = Depends(dependency)) -> str:  # noqa: B008
            return type(found).__name__

        app.get(f"/{name}")(operation)

    @app.get("/override")
    def overridden(found: Any = Depends(even)) -> int:  # noqa: B008
        return 1

    class New:
        @guarded(schema=Even)
        def __new__(cls, x: int) -> Any:
            return super().__new__(cls)

    @functools.lru_cache
    @guarded(schema=Even)
    def cached(x: int) -> int:
        return x

    for name, dependency in {"partial": functools.partial(plain), "new": New, "cached": cached}.items():

        def another(found: Any = Depends(dependency)) -> str:  # noqa: B008
            return type(found).__name__

        app.get(f"/{name}")(another)

    @guarded(schema=Even)
    def instead(x: int) -> int:
        return x

    app.dependency_overrides[even] = instead
    asked = client(app)
    for name in ("partial", "new", "cached", "plain", "stream", "class", "method", "call", "router", "override"):
        assert asked.get(f"/{name}?x=4").status_code == 200, name
        answer = asked.get(f"/{name}?x=3")
        assert answer.status_code == 422, name
        assert answer.json()["violations"] == [{"loc": ["x"], "type": "value_error", "msg": "must be even"}], name


def test_refused_input_further_in_is_our_failure(client: Callable[..., TestClient]) -> None:
    """A guarded function that our own code calls refused what we made: 500 without its words, told in the log."""
    app = FastAPI()
    install(app)

    @guarded
    def model(batch: Annotated[npt.NDArray[np.float64], Array("n", 3)]) -> float:
        return float(batch.sum())

    @app.post("/plain")
    def plain(row: Annotated[list[float], Body()]) -> float:
        return model(np.array([row]))

    @app.post("/nested")
    @guarded(monitor=Monitor(log=False))
    def nested(row: Annotated[list[float], Body()]) -> float:
        return model(np.array([row]))

    for path in ("/plain", "/nested"):
        with testing.capture_events() as events:
            answer = client(app).post(path, json=[1.0, 2.0])
        assert (answer.status_code, answer.json()["type"]) == (500, "urn:problem-type:mlguard:failure")
        assert "violations" not in answer.json()
        assert "batch" not in answer.text
        (event,) = events
        assert (event["event"], event["http.route"], event["http.response.status_code"]) == (
            "mlguard.http.failure",
            path,
            500,
        )
        assert event["mlguard.call_id"] == answer.json()["call_id"]
        assert event["code.function.name"].endswith("<locals>.model")
        assert event["exception.message"] == "batch: must have shape (n, 3), got (1, 2)"


def test_client_input_further_in(client: Callable[..., TestClient]) -> None:
    """`client_input` names functions that get what the client sent, whose refusals are the client's fault."""
    app = FastAPI()

    @guarded
    def model(batch: Annotated[npt.NDArray[np.float64], Array("n", 3)]) -> float:
        return float(batch.sum())

    install(app, client_input=[model])

    @app.post("/plain")
    def plain(row: Annotated[list[float], Body()]) -> float:
        return model(np.array([row]))

    answer = client(app).post("/plain", json=[1.0, 2.0])
    assert (answer.status_code, answer.json()["violations"][0]["loc"]) == (422, ["batch"])


def test_refusals_through_decorators_and_threads(client: Callable[..., TestClient]) -> None:
    """A decorator between FastAPI and the guard, or an attempt in a thread of its own, changes nobody's fault."""
    app = FastAPI()
    install(app)

    def decorated(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @guarded(timeout=Timeout(total="9s", sync_mode="thread"))
    def model(batch: Annotated[npt.NDArray[np.float64], Array("n", 3)]) -> float:
        return float(batch.sum())

    @app.post("/dot")
    @decorated
    @guarded(timeout=Timeout(total="9s", sync_mode="thread"))
    def dot(a: Numbers, b: Numbers) -> float:
        return float(a @ b) if len(a) < 3 else model(a[None, :1])

    asked = client(app)
    assert asked.post("/dot", json={"a": [1, 2], "b": [3]}).status_code == 422
    assert asked.post("/dot", json={"a": [1, 2, 3], "b": [1, 2, 3]}).status_code == 500


def test_a_refusal_from_elsewhere_is_not_the_path_operations_own(client: Callable[..., TestClient]) -> None:
    """One that came from another process, or from the path operation calling itself, is ours, though it looks alike."""
    import pickle

    app = FastAPI()
    install(app)

    @guarded
    def remote(a: Annotated[npt.NDArray[np.float64], Array("n", 3)]) -> float:
        return 1.0

    @app.post("/{how}")
    @guarded
    def operation(how: str, a: Numbers, b: Numbers) -> float:
        if how == "itself":
            return operation("", a, a[:1])
        try:
            return remote(a)
        except InvalidInputError as error:
            raise pickle.loads(pickle.dumps(error)) from None

    for how in ("itself", "pool"):
        assert client(app).post(f"/{how}", json={"a": [1, 2], "b": [3, 4]}).status_code == 500
    assert client(app).post("/itself", json={"a": [1, 2], "b": [3]}).status_code == 422


def test_arrays_as_answers(client: Callable[..., TestClient]) -> None:
    """They are written as lists, with null where JSON has no word; one that breaks its schema is withheld."""
    app = FastAPI()
    install(app)

    @app.get("/{value}")
    @guarded
    def answer(value: float) -> Annotated[npt.NDArray[np.float32], Array("n", le=5, allow_nan=True)]:
        return np.array([1, value], dtype=np.float32)

    asked = client(app)
    assert asked.get("/2.5").json() == [1.0, 2.5]
    assert asked.get("/nan").json() == [1.0, None]
    withheld = asked.get("/7.25")
    assert (withheld.status_code, "7.25" in withheld.text.replace("/7.25", "")) == (500, False)


def test_a_generator_called_by_our_own_code_is_further_in(client: Callable[..., TestClient]) -> None:
    """Though the framework asks a stream for its items, who called the function is to blame for its arguments."""
    from fastapi.responses import StreamingResponse

    app = FastAPI()
    install(app)

    @guarded
    async def words(count: int):  # type: ignore[no-untyped-def]
        yield "word"

    @app.get("/words")
    async def operation() -> StreamingResponse:
        return StreamingResponse(words("many"))

    assert client(app).get("/words").status_code == 500


def test_hidden_values_and_raw_input_stay_hidden(client: Callable[..., TestClient]) -> None:
    """No violation shows a hidden value, what a validator says beside one, or a key that the schema lacks."""

    def tell(value: Any) -> Any:
        raise ValueError(f"{value} is bad")

    class Person(BaseModel):
        ssn: Annotated[str, Redacted]
        password: SecretStr
        notes: dict[str, int]

    class Strict(BaseModel):
        person: Annotated[Any, AfterValidator(tell), WithJsonSchema({})] = None

    app = FastAPI()
    install(app)

    @app.post("/hidden")
    @guarded(schema=Strict)
    def hidden(person: Person) -> int:
        return 1

    sent = {"ssn": "123-45-6789", "password": "hunter2", "notes": {"my-own-key": 1}}
    answer = client(app).post("/hidden", json=sent)
    assert answer.status_code == 422
    for secret in ("123-45", "hunter2", "my-own-key"):
        assert secret not in answer.text
    assert answer.json()["violations"] == [{"loc": ["person"], "type": "value_error", "msg": "[redacted]"}]


def test_many_and_odd_violations_stay_small_json(client: Callable[..., TestClient]) -> None:
    """Thousands of violations of bytes, huge numbers, NaN and long keys become a small JSON document."""
    app = FastAPI()
    install(app)

    class Wanted(BaseModel):
        values: dict[str, Annotated[int, AfterValidator(lambda value: value)]]

    odd = [b"\xff", 10**5000, float("nan"), float("-inf"), object(), "x" * 10_000, 1.5]

    @guarded(schema=Wanted)
    def refuse(values: Any) -> int:
        return 1

    @app.get("/odd")
    @guarded
    def operation(count: int) -> int:
        return refuse({f"{number}{'k' * 500}": odd[number % len(odd)] for number in range(count)})

    install_all = FastAPI()
    install(install_all, client_input=[refuse])
    install_all.router.routes.extend(app.router.routes)
    for count, most in ((40, 21), (5_000, 21)):
        answer = client(install_all).get(f"/odd?count={count}")
        assert answer.status_code == 422
        told = json.loads(answer.text, parse_constant=pytest.fail)["violations"]
        assert 2 <= len(told) <= most
        assert len(answer.content) < 10_000
        assert (told[-1]["type"], "kkk" in answer.text) == ("more_violations", False)


def test_call_id_finds_the_event(client: Callable[..., TestClient]) -> None:
    """Where a Monitor told of the error, its event is the one that the answer names, and nothing is told twice."""
    app = FastAPI()
    install(app)

    @app.get("/work")
    @guarded(monitor=Monitor())
    def work() -> int:
        return "three"  # type: ignore[return-value]

    with testing.capture_events() as events:
        answer = client(app).get("/work")
    assert answer.status_code == 500
    assert [event["mlguard.call_id"] for event in events] == [answer.json()["call_id"]]
    assert "three" not in answer.text


def test_a_log_that_fails_costs_no_answer(client: Callable[..., TestClient]) -> None:
    """A logging set-up that raises is counted; the client gets its answer all the same."""
    import structlog

    def broken(logger: Any, name: str, event: Any) -> Any:
        raise RuntimeError("disk full")

    structlog.configure(processors=[broken])
    app = answering(PolicyError("no"), health="/h")
    asked = client(app)
    assert asked.get("/work").json()["type"] == "urn:problem-type:mlguard:failure"
    assert asked.get("/h").json()["requests"]["log_failures"] == 1


def test_an_error_that_no_guarded_function_raised(client: Callable[..., TestClient]) -> None:
    """One that code of the application's own makes is ours; the log tells the argument and the kind, no words."""
    app = FastAPI()
    install(app)

    @app.get("/{kind}")
    def operation(kind: str) -> int:
        found = [{"type": "mine", "loc": ("x", 3), "msg": "SECRET"}, {"type": "whole", "loc": (), "msg": "SECRET"}]
        raise (InvalidInputError if kind == "input" else InvalidOutputError).of("f", found)

    for kind in ("input", "output"):
        with testing.capture_events() as events:
            answer = client(app).get(f"/{kind}")
        assert (answer.status_code, "SECRET" in answer.text) == (500, False)
        assert [(one["exception.message"], "code.function.name" in one) for one in events] == [
            ("x: mine; value: whole", False)
        ]


def test_violations_say_the_fix(client: Callable[..., TestClient]) -> None:
    """Where mlguard knows how to mend the input, the client is told."""
    app = FastAPI()
    install(app)

    @guarded
    def model(batch: Annotated[npt.NDArray[np.float64], Array("n", ge=0)]) -> float:
        return 1.0

    @app.get("/work")
    def work() -> float:
        return model(np.array([np.nan]))

    inner = FastAPI()
    install(inner, client_input=[model])
    inner.router.routes.extend(app.router.routes)
    (violation,) = client(inner).get("/work").json()["violations"]
    assert violation["fix"] == "fill them in, or declare allow_nan=True where NaN spells a missing value"


def test_real_refusals(client: Callable[..., TestClient]) -> None:
    """A guard that really refuses, not an error made for the test: a full line is 429 with Retry-After."""
    app = FastAPI()
    install(app)

    @guarded(concurrency=Concurrency(max_concurrent=1, max_waiting=0, max_wait="2s"))
    def alone(work: Callable[[], int]) -> int:
        return work()

    @app.get("/work")
    def work() -> int:
        return alone(lambda: alone(lambda: 1))

    answer = client(app).get("/work")
    assert (answer.status_code, answer.json()["type"]) == (429, "urn:problem-type:mlguard:concurrency-limit")
    assert answer.headers["retry-after"] == "2"


def test_fastapis_own_answers_stay(client: Callable[..., TestClient]) -> None:
    """Requests that FastAPI refuses are answered as FastAPI does; with NaN in the body, too, where it would fail."""
    plain, installed = FastAPI(), FastAPI()
    install(installed)
    Positive = Annotated[npt.NDArray[np.float64], Array("n", gt=0), Body()]
    answers = []
    for app in (plain, installed):

        @app.post("/sum")
        @guarded
        def total(values: Positive) -> float:
            return float(values.sum())

        asked = client(app)
        answers.append([asked.post("/sum", json=sent) for sent in ([1, -1], "x", {}, [[1]])])
    for before, now in zip(*answers, strict=True):
        assert (before.status_code, before.text, before.headers["content-type"]) == (422, now.text, "application/json")
    broken = {"content": b"[1, NaN, -Infinity]", "headers": {"content-type": "application/json"}}
    assert client(plain).post("/sum", **broken).status_code == 500
    half = {"content": b'["\\ud800"]', "headers": {"content-type": "application/json"}}
    assert client(plain).post("/sum", **half).status_code == 500
    assert client(installed).post("/sum", **half).json()["detail"][0]["input"] == ["\ud800"]
    answer = client(installed).post("/sum", **broken)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["input"] == [1, "nan", "-inf"]


def test_an_own_handler_goes_first(client: Callable[..., TestClient]) -> None:
    """An application that handles one of the errors itself keeps its answer, before and after install()."""
    from fastapi.responses import PlainTextResponse

    for first in (True, False):
        app = FastAPI()
        if first:
            install(app)
        app.add_exception_handler(CircuitOpenError, lambda request, error: PlainTextResponse("mine", 599))
        if not first:
            install(app)

        @app.get("/work")
        def work() -> int:
            raise CircuitOpenError("open")

        assert client(app).get("/work").text == "mine"


def test_websockets_are_closed_with_a_reason(client: Callable[..., TestClient]) -> None:
    """Where there is no status, the close code says it: policy violation, try again later, internal error."""
    app = FastAPI()
    install(app)
    errors = {"1013": ConcurrencyLimitError("full"), "1011": PolicyError("SECRET")}

    @app.websocket("/ws/{code}")
    async def talk(socket: WebSocket, code: str) -> None:
        await socket.accept()
        await socket.receive_text()
        raise errors[code]

    for code in errors:
        with client(app).websocket_connect(f"/ws/{code}") as socket:
            socket.send_text("hello")
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_text()
        assert closed.value.code == int(code)
        assert "SECRET" not in closed.value.reason
