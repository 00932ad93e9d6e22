"""`install`: when it may be called, what it reaches, and what it refuses."""

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Host, Mount, Route

from mlguard import CircuitOpenError, ConcurrencyLimitError, PolicyError, guarded
from mlguard.integrations.fastapi import install


@guarded
def busy() -> int:
    raise CircuitOpenError("open", retry_after=3)


def problem(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.headers["content-type"]


PROBLEM = (503, "application/problem+json")


def test_before_and_after_routes(client: Callable[..., TestClient]) -> None:
    """Routes and routers may be added before install() and after it."""
    app = FastAPI()
    router = APIRouter()
    app.get("/before")(busy)
    router.get("/router")(busy)
    install(app)
    app.get("/after")(busy)
    app.include_router(router, prefix="/in")
    for path in ("/before", "/after", "/in/router"):
        assert problem(client(app).get(path)) == PROBLEM


def test_twice(client: Callable[..., TestClient]) -> None:
    """The same again changes nothing; other settings are refused with their names."""
    app = FastAPI()
    for _ in range(2):
        install(app, health="/h")
    app.get("/work")(busy)
    assert problem(client(app).get("/work")) == PROBLEM
    assert client(app).get("/h").json()["requests"]["answers"] == {"503 CircuitOpenError": 1}
    with pytest.raises(PolicyError, match="another health and hold_streams"):
        install(app, hold_streams=False)


def test_too_late(client: Callable[..., TestClient]) -> None:
    """An application that has answered can't be changed any more, and says so."""
    app = FastAPI()
    client(app).get("/")
    with pytest.raises(PolicyError, match="has begun to answer"):
        install(app)


def test_mounted_applications_are_reached(client: Callable[..., TestClient]) -> None:
    """Also those that are mounted later, below each other, or by host; one that was installed itself keeps its own."""
    app, inner, deepest, own, by_host = (FastAPI() for _ in range(5))
    install(app, health="/h")
    install(own, statuses={CircuitOpenError: 599})
    for each in (app, inner, deepest, own, by_host):
        each.get("/work")(busy)
    inner.mount("/deep", deepest)
    app.mount("/inner", inner)
    app.mount("/own", own)
    app.host("host.test", by_host)
    asked = client(app)
    assert [asked.get(f"{path}/work").status_code for path in ("", "/inner", "/inner/deep", "/own")] == [503] * 3 + [
        599
    ]
    assert problem(client(app, base_url="http://host.test").get("/work")) == PROBLEM
    assert asked.get("/inner/work").json()["instance"] == "/inner/work"


def test_starlette_alone(client: Callable[..., TestClient]) -> None:
    """A Starlette application gets the same: statuses, health page, mounts."""

    @guarded
    async def operation(request: Request) -> JSONResponse:
        return JSONResponse(busy())

    inner = Starlette(routes=[Route("/work", operation)])
    app = Starlette(routes=[Route("/work", operation), Mount("/inner", inner), Host("other", inner)])
    install(app, health="/h")
    for path in ("/work", "/inner/work"):
        assert problem(client(app).get(path)) == PROBLEM
    assert client(app).get("/h").json()["requests"]["answers"] == {"503 CircuitOpenError": 2}
    assert client(app).get("/h/ready").status_code == 200


def test_lifespan_and_context_variables(client: Callable[..., TestClient]) -> None:
    """The lifespan runs, and its state and context variables reach path operations."""
    events: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, int]]:
        events.append("start")
        yield {"model": 7}
        events.append("stop")

    app = FastAPI(lifespan=lifespan)
    install(app)

    @app.get("/model")
    @guarded
    async def model(request: Request) -> int:
        return request.state.model

    with client(app) as asked:
        assert asked.get("/model").json() == 7
    assert events == ["start", "stop"]


def test_other_middleware_around_and_inside(client: Callable[..., TestClient]) -> None:
    """Middleware that was added before and after sees mlguard's answers as it sees others."""
    app = FastAPI()

    @app.middleware("http")
    async def inside(request: Request, go_on: Any) -> Any:
        answer = await go_on(request)
        answer.headers["x-inside"] = str(answer.status_code)
        return answer

    install(app)

    @app.middleware("http")
    async def outside(request: Request, go_on: Any) -> Any:
        answer = await go_on(request)
        answer.headers["x-outside"] = str(answer.status_code)
        return answer

    app.get("/work")(busy)
    answer = client(app).get("/work")
    assert problem(answer) == PROBLEM
    assert (answer.headers["x-inside"], answer.headers["x-outside"]) == ("503", "503")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"health": "h"}, "no plain path"),
        ({"health": "/"}, "no plain path"),
        ({"health": "/h/{name}"}, "no plain path"),
        ({"health": 5}, "no plain path"),
        ({"health": "/taken"}, "is answered by"),
        ({"health": "/prefix"}, "is answered by"),
        ({"client_input": [len]}, "len, which is not guarded"),
        ({"statuses": {ValueError: 503}}, "no error of mlguard's"),
        ({"statuses": {ConcurrencyLimitError: 200}}, "from 400 to 599"),
        ({"statuses": {ConcurrencyLimitError: True}}, "from 400 to 599"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    """They are refused before anything was added, with the fix."""
    app = FastAPI()
    app.get("/taken")(busy)
    app.mount("/prefix", Starlette())
    routes = list(app.router.routes)
    with pytest.raises(PolicyError, match=said) as refused:
        install(app, **settings)
    assert "Fix: " in str(refused.value)
    assert (app.router.routes, app.user_middleware) == (routes, [])
    install(app)


def test_what_is_no_application() -> None:
    """What wraps an application is not the application."""
    with pytest.raises(PolicyError, match="not function"):
        install(lambda scope, receive, send: None)  # type: ignore[arg-type]


def test_routes_added_later_at_the_same_path(client: Callable[..., TestClient]) -> None:
    """The page was there first, and stays."""
    app = FastAPI()
    install(app, health="/h")
    app.get("/h")(lambda: PlainTextResponse("mine"))
    assert client(app).get("/h").json()["status"] == "ready"


async def test_an_answer_that_is_a_start_alone(client: Callable[..., TestClient]) -> None:
    """An application that sends nothing after the start of its answer is passed on as it is."""

    async def odd(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})

    app = Starlette(routes=[Mount("/odd", odd)])
    install(app)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "http", "method": "GET", "path": "/odd/x", "headers": [], "query_string": b""}
    await app(scope, None, send)  # type: ignore[arg-type]
    assert sent == ["http.response.start"]


def test_without_starlette() -> None:
    """Where the extra is not installed, the import says how to install it; mlguard itself works."""
    code = (
        "import sys; sys.modules['starlette'] = None; import mlguard\n"
        "try:\n    import mlguard.integrations.fastapi\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "needs starlette, which is not installed. Fix: pip install fastapi" in ran.stdout


def test_import_of_mlguard_loads_no_framework() -> None:
    """Neither `import mlguard` nor a guarded function brings Starlette."""
    code = "import sys, mlguard; mlguard.guarded(lambda x: x)(1); print('starlette' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "False"
