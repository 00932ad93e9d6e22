"""The health page and the probes: what they show, to whom, and when a process is not ready."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.testclient import TestClient

from mlguard import (
    Breaker,
    Cache,
    Concurrency,
    Memory,
    Monitor,
    Policy,
    Redacted,
    Retry,
    Timeout,
    guarded,
    memory,
    policies,
)
from mlguard.integrations.fastapi import install, page


@pytest.fixture
def app() -> FastAPI:
    """An application with a health page."""
    found = FastAPI()
    install(found, health="/h")
    return found


def everything() -> Any:
    """A function with every section, in every state worth a look."""

    @guarded(
        timeout=Timeout(total="5s"),
        cache=Cache(ttl="1m"),
        retry=Retry(max_retries=0),
        breaker=Breaker(minimum_calls=3, open_for="1m"),
        concurrency=Concurrency(max_concurrent=3),
        memory=Memory(),
        monitor=Monitor(log=False),
    )
    def predict(x: float) -> float:
        if x < 0:
            raise ConnectionError("<script>alert('down')</script>")
        return x

    predict(1.0)
    predict(1.0)
    return predict


def function_of(report: dict[str, Any]) -> dict[str, Any]:
    (found,) = report["functions"]
    return found


def test_json_for_probes_and_html_for_people(client: Callable[..., TestClient], app: FastAPI) -> None:
    """HTML where the client asks for it, else JSON; `?format=` decides. None of it is in the OpenAPI document."""
    asked = client(app)
    kinds = {
        ("/h", "*/*"): "application/json",
        ("/h", "application/json"): "application/json",
        ("/h", "text/html,application/xhtml+xml,*/*;q=0.8"): "text/html; charset=utf-8",
        ("/h?format=json", "text/html"): "application/json",
        ("/h?format=html", "*/*"): "text/html; charset=utf-8",
        ("/h?format=xml", "*/*"): "application/json",
    }
    for (path, accept), kind in kinds.items():
        answer = asked.get(path, headers={"accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind), (path, accept)
        assert answer.headers["cache-control"] == "no-store"
    assert asked.get("/h/live").json() == {"status": "live", "pid": os.getpid()}
    assert asked.get("/h/ready").json() == {"status": "ready", "reasons": [], "pid": os.getpid()}
    assert asked.head("/h/ready").status_code == 200
    assert app.openapi()["paths"] == {}


def test_what_the_report_has(client: Callable[..., TestClient], app: FastAPI) -> None:
    """Breaker, slots, cache, memory, events and drops of every guarded function, and which process tells."""
    predict = everything()
    for _ in range(2):
        with pytest.raises(ConnectionError):
            predict(-1.0)
    report = client(app).get("/h").json()
    assert report["process"]["pid"] == os.getpid()
    assert 0 < report["memory"]["used"] < report["memory"]["limit"]
    told = function_of(report)
    assert (told["name"].rsplit(".", 1)[-1], told["kind"], told["policy"]) == ("predict", "function", None)
    stats = told["stats"]
    assert (stats["breaker"]["state"], stats["breaker"]["failures"]) == ("open", 2)
    assert (stats["concurrency"]["in_use"], stats["concurrency"]["max_concurrent"]) == (0, 3)
    assert (stats["cache"]["hits"], stats["cache"]["entries"]) == (1, 1)
    assert (stats["memory"]["threshold"], stats["memory"]["rejected"]) == (0.85, 0)
    assert stats["monitor"]["calls"] == {"executed": 1, "cache_hit": 1, "failed": 2}
    assert {"suppressed", "instrumentation_errors"} <= set(stats["monitor"])


def test_an_open_breaker_is_no_reason(client: Callable[..., TestClient], app: FastAPI) -> None:
    """What is down is down for every process: taking this one out, or killing it, would help nobody."""
    predict = everything()
    for _ in range(2):
        with pytest.raises(ConnectionError):
            predict(-1.0)
    asked = client(app)
    assert predict.guard.stats()["breaker"]["state"] == "open"
    assert (asked.get("/h/ready").status_code, asked.get("/h/live").status_code) == (200, 200)
    assert ">open</b>" in asked.get("/h?format=html").text


def test_full_memory_is_a_reason(
    client: Callable[..., TestClient], app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While every guarded call would be refused, the process gets no requests, but is not killed."""
    full = memory.Reading(90, 100, "cgroup v2 /sys/fs/cgroup/app")
    monkeypatch.setattr(memory, "read", lambda: full)
    asked = client(app)
    assert asked.get("/h/ready").status_code == 200  # nothing guards memory here

    @guarded(memory=Memory(on_pressure="log", threshold=0.5))
    def watched() -> int:
        return 1

    assert asked.get("/h/ready").status_code == 200

    @guarded(memory=Memory(threshold=0.8))
    def guards() -> int:
        return 1

    answer = asked.get("/h/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "not_ready")
    assert answer.json()["reasons"] == [
        "memory: 90% of the limit of cgroup v2 /sys/fs/cgroup/app are used, and guarded functions start up to 80%"
    ]
    assert asked.get("/h/live").status_code == 200
    html = asked.get("/h?format=html")
    assert (html.status_code, "not ready" in html.text) == (200, True)


def test_a_policy_that_is_missing_is_a_reason(client: Callable[..., TestClient], app: FastAPI) -> None:
    """A function that will fail at its first call keeps its process from getting any; the page says which and why."""

    @guarded("no_such_policy_here")
    def predict() -> int:
        return 1

    try:
        answer = client(app).get("/h/ready")
        assert answer.status_code == 503
        assert "no_such_policy_here" in answer.json()["reasons"][0]
        assert "no_such_policy_here" in function_of(client(app).get("/h").json())["problem"]
        assert "no_such_policy_here" in client(app).get("/h?format=html").text
        policies.define("no_such_policy_here", Policy(retry=Retry()))
        assert client(app).get("/h/ready").status_code == 200
    finally:
        policies.reset()


def test_a_function_that_breaks_the_figures(
    client: Callable[..., TestClient], app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that can't be made ready, or whose figures can't be read, is shown as such; the others are shown as ever."""

    @guarded
    def broken() -> int:
        return 1

    @guarded
    def fine() -> int:
        return 1

    asked = client(app)
    wrapper = broken.guard._wrapper
    with monkeypatch.context() as patch:
        patch.setattr(wrapper.rooms["validation"], "stats", lambda: 1 / 0)
        told = {each["name"].rsplit(".", 1)[-1]: each for each in asked.get("/h").json()["functions"]}
    assert told["broken"]["problem"] == "its figures can't be read: ZeroDivisionError"
    assert "problem" not in told["fine"]
    monkeypatch.setattr(wrapper, "settle", lambda: 1 / 0)
    answer = asked.get("/h/ready")
    assert answer.status_code == 503
    assert answer.json()["reasons"][0].endswith("broken: can't be made ready: ZeroDivisionError")
    assert asked.get("/h?format=html").status_code == 200


def test_values_that_keep_state_apart_are_not_shown(client: Callable[..., TestClient], app: FastAPI) -> None:
    """Where a breaker is kept for each tenant, the page counts tenants and states, and names none."""

    @guarded(breaker=Breaker(per="tenant", minimum_calls=1), concurrency=Concurrency(per="tenant", max_concurrent=2))
    def predict(tenant: str, ssn: Annotated[str, Redacted]) -> int:
        if tenant == "acme-secret":
            raise ConnectionError
        return 1

    predict("other", "1-2-3")
    with pytest.raises(ConnectionError):
        predict("acme-secret", "1-2-3")
    for form in ("json", "html"):
        text = client(app).get(f"/h?format={form}").text
        assert "acme-secret" not in text
        assert "1-2-3" not in text
    stats = function_of(client(app).get("/h").json())["stats"]
    assert stats["breaker"] == {"per": "tenant", "values": 2, "last_used": {"open": 1, "closed": 1}}


def test_nothing_on_the_page_is_markup(client: Callable[..., TestClient], app: FastAPI) -> None:
    """Names are escaped, and the browser is told to load and run nothing."""
    predict = everything()
    predict.guard._wrapper.target.__dict__["name"] = "<script>alert(1)</script>\"'&"
    for _ in range(2):
        with pytest.raises(ConnectionError):
            predict(-1.0)
    answer = client(app).get("/h?format=html")
    assert "<script" not in answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"""\s(style|on\w+)\s*=|https?://""", answer.text)


def test_the_page_has_the_applications_dependencies(client: Callable[..., TestClient]) -> None:
    """What keeps strangers out of the application keeps them from the page; probes need no key."""

    def key(x_key: Annotated[str, Header()] = "") -> None:
        if x_key != "open":
            raise HTTPException(401)

    app = FastAPI(dependencies=[Depends(key)])
    install(app, health="/h")
    asked = client(app)
    assert asked.get("/h").status_code == 401
    assert asked.get("/h", headers={"x-key": "open"}).status_code == 200
    assert (asked.get("/h/live").status_code, asked.get("/h/ready").status_code) == (200, 200)


def test_it_answers_while_every_thread_is_busy(serve: Callable[..., str], http: Any, app: FastAPI) -> None:
    """Probes run on the event loop: plain path operations that fill the thread pool don't look like a dead process."""
    import threading

    go_on = threading.Event()
    inside = threading.Semaphore(0)

    @app.get("/slow")
    @guarded
    def slow() -> int:
        inside.release()
        go_on.wait(30)
        return 1

    url = serve(app)
    threads = [threading.Thread(target=http.get, args=(f"{url}/slow",)) for _ in range(41)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(40):  # as many threads as anyio lends
            assert inside.acquire(timeout=30)
        for path in ("/h/live", "/h/ready", "/h"):
            assert http.get(f"{url}{path}").status_code == 200
    finally:
        go_on.set()
        for thread in threads:
            thread.join(30)


def test_events_that_sinks_lost(
    client: Callable[..., TestClient], app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a sink dropped is shown by sink, with nothing more than its count."""
    from mlguard.monitor import metrics, readings

    class Lossy:
        def metrics(self) -> Any:
            yield metrics.EVENTS_DROPPED, ("lossy",), 7

    monkeypatch.setattr(readings.of_this_process, "_sources", [])
    readings.also(Lossy())
    report = client(app).get("/h").json()
    assert report["events_dropped"]["lossy"] == 7
    assert "7 by lossy" in client(app).get("/h?format=html").text


def test_figures_of_drift(client: Callable[..., TestClient], app: FastAPI, tmp_path: Path) -> None:
    """Drift is told by field, without the tables behind it."""
    import numpy as np

    from mlguard import drift

    profile = drift.profile({"x": np.linspace(0, 1, 2_000)})
    profile.save(tmp_path / "profile.json")

    @guarded(monitor=Monitor(log=False, drift=str(tmp_path / "profile.json")))
    def predict(x: float) -> float:
        return x

    predict(0.5)
    told = function_of(client(app).get("/h").json())["stats"]["drift"]
    assert (told["rows"], told["active"], "counts" in told) == (1, {}, False)
    assert "1 rows seen" in client(app).get("/h?format=html").text


def test_odd_figures_stay_json() -> None:
    """NaN, long texts, sets and strangers' objects become what JSON can hold, bounded."""
    from mlguard.integrations.fastapi.figures import _plain

    odd = {"a": float("nan"), 1: {2}, "b": "x" * 1_000, "c": object(), "d": list(range(1_000)), "e": (True, None)}
    told = json.loads(json.dumps(_plain(odd), allow_nan=False))
    assert told == {
        "a": "nan",
        "1": [2],
        "b": "x" * 300,
        "c": "object",
        "d": list(range(50)),
        "e": [True, None],
    }


def test_a_page_without_functions_and_without_a_memory_limit() -> None:
    """A process that has neither still has a page."""
    report = {
        "status": "ready",
        "reasons": [],
        "process": {"pid": 1, "parent_pid": 0, "uptime": 90_000.0, "mlguard": "0"},
        "memory": None,
        "requests": {
            "answers": {"503 CircuitOpenError": 2},
            "broken_streams": 1,
            "clients_left": 2,
            "deadlines": {"taken": 1, "expired": 2, "ignored": 0, "untrusted": 0},
            "log_failures": 0,
        },
        "events_dropped": {"datadog": 3},
        "functions": [],
    }
    html = page.render(report)
    assert "No function is guarded in this process." in html
    assert "2 x 503 CircuitOpenError" in html
    assert "1.0 days" in html
    assert '<b class="bad">3</b><small>3 by datadog</small>' in html


@pytest.mark.skipif(not shutil.which("chromium") or not shutil.which("chromedriver"), reason="no chromium here")
def test_in_a_browser(serve: Callable[..., str], app: FastAPI) -> None:
    """In the dark and in the light, on a desk and on a phone: nothing sticks out, and the console stays empty."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    predict = everything()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        url = serve(app)
        backgrounds = set()
        for scheme in ("light", "dark"):
            for width in (1200, 400):
                media = [{"name": "prefers-color-scheme", "value": scheme}]
                browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
                size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
                browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                browser.get(f"{url}/h")
                browser.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
                assert browser.execute_script("return document.documentElement.scrollWidth") <= width
                backgrounds.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
                assert browser.get_log("browser") == []
        assert len(backgrounds) == 2
        assert predict.__name__ in browser.find_element("tag name", "main").text
    finally:
        browser.quit()
