"""Prometheus in one process: what a scrape says is what was counted, in every form it is asked for."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the extra 'prometheus' is not installed")

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from mlguard import Breaker, Cache, Monitor, PolicyError, guarded
from mlguard.monitor import metrics, readings
from mlguard.monitor.metrics import METRICS, Histogram
from mlguard.sinks import prometheus


@pytest.fixture
def called() -> Callable[..., Any]:
    @guarded(monitor=Monitor(log=False), breaker=Breaker(), cache=Cache(ttl=9))
    def called(x: int) -> int:
        if x < 0:
            raise LookupError
        return x

    called(1)
    called(1)
    with pytest.raises(LookupError):
        called(-1)
    return called


def series(families: Any, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


@pytest.mark.parametrize(
    ("accept", "parse", "kind"),
    [
        (None, plain, "text/plain; version=0.0.4"),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", plain, "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0", openmetrics, "application/openmetrics-text; version=1.0.0"),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2",
            openmetrics,
            "application/openmetrics-text; version=1.0.0",
        ),
    ],
)
def test_a_scrape(called, accept, parse, kind) -> None:
    """Both forms parse, and have the application's own metrics beside the true counts of the guards."""
    registry = CollectorRegistry()
    Gauge("models_loaded", "The application's own.", registry=registry).set(3)
    text, content_type = prometheus.exposition(accept, registry)
    assert content_type.startswith(kind)
    families = list(parse(text.decode()))
    assert series(families, "models_loaded") == {(): 3}
    guard = ("guard", f"{__name__}.called.<locals>.called")
    calls = series(families, "mlguard_calls_total")
    assert calls[("disposition", "executed"), guard] == 1
    assert calls[("disposition", "cache_hit"), guard] == 1
    assert calls[("disposition", "failed"), guard] == 1
    buckets = series(families, "mlguard_call_duration_seconds_bucket")
    executed = {dict(labels)["le"]: value for labels, value in buckets.items() if ("disposition", "executed") in labels}
    assert list(executed) == [str(edge) for edge in metrics.CALL_DURATION.buckets] + ["+Inf"]
    assert executed["+Inf"] == executed["120.0"] == 1
    assert series(families, "mlguard_call_duration_seconds_count")[("disposition", "executed"), guard] == 1
    assert 0 < series(families, "mlguard_call_duration_seconds_sum")[("disposition", "executed"), guard] < 5
    assert series(families, "mlguard_breaker_state")[guard, ("state", "closed")] == 1


def test_real_prometheus_reads_it(called) -> None:
    """promtool finds nothing to say about names, units, helps and types."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian package prometheus) is not on this machine")
    text, _ = prometheus.exposition(None, CollectorRegistry())
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=60)
    assert checked.returncode == 0, checked.stderr.decode()
    assert checked.stderr.decode() == checked.stdout.decode() == ""


def test_every_metric_has_its_family(called) -> None:
    """Kind, help and unit come from the registry of metrics."""
    registry = CollectorRegistry()
    text, _ = prometheus.exposition("application/openmetrics-text; version=1.0.0", registry)
    families = {family.name: family for family in openmetrics(text.decode())}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation, family.unit) == (metric.kind, metric.help, metric.unit)


def test_flush_is_for_several_workers(called) -> None:
    """In one process there is nothing to write, and nothing happens."""
    prometheus.flush()


def test_register_again_changes_nothing(called) -> None:
    """As a module that is run twice does; each series is there once."""
    registry = CollectorRegistry()
    for _ in range(3):
        prometheus.register(registry)
    lines = generate_latest(registry).decode().splitlines()
    assert len(lines) == len(set(lines))


def test_autoreload(called) -> None:
    """A module that is loaded anew takes the place of the old one, and counts go on."""
    import importlib

    registry = CollectorRegistry()
    prometheus.register(registry)
    before = generate_latest(registry).decode()
    anew = importlib.reload(prometheus)
    anew.register(registry)
    called(2)
    after = generate_latest(registry).decode()
    guard = ("guard", f"{__name__}.called.<locals>.called")
    for text, count in ((before, 1), (after, 2)):
        assert series(plain(text), "mlguard_calls_total")[("disposition", "executed"), guard] == count
        lines = text.splitlines()
        assert len(lines) == len(set(lines))


def test_two_copies_add_up(called) -> None:
    """A program and a library that brought a copy of its own share a registry."""
    registry = CollectorRegistry()
    prometheus.register(registry)
    collector = vars(registry)["_mlguard"]
    name = f"{__name__}.called.<locals>.called"
    collector.reads["vendored.mlguard"] = lambda: [
        readings.Reading(metrics.CALLS, (name, "executed"), 4.0),
        readings.Reading(metrics.CALL_DURATION, (name, "executed"), Histogram((4, *(0 for _ in range(16))), 0.1)),
        readings.Reading(metrics.MEMORY_LIMIT, (), math.inf),
        readings.Reading(metrics.BREAKER_STATE, (name, "closed"), 1.0),
    ]
    families = list(plain(generate_latest(registry).decode()))
    guard = ("guard", name)
    assert series(families, "mlguard_calls_total")[("disposition", "executed"), guard] == 5
    assert series(families, "mlguard_call_duration_seconds_count")[("disposition", "executed"), guard] == 5
    assert series(families, "mlguard_breaker_state")[guard, ("state", "closed")] == 2


def test_a_name_that_is_taken(called) -> None:
    """An application's metric of one of our names is refused, with the way out."""
    registry = CollectorRegistry()
    Counter("mlguard_calls", "Mine.", registry=registry)
    with pytest.raises(PolicyError, match="Fix: rename"):
        prometheus.register(registry)


def test_one_metric_alone(called) -> None:
    """A scrape that asks for a name, ?name[]=..., gets it."""
    registry = CollectorRegistry()
    prometheus.register(registry)
    some = generate_latest(registry.restricted_registry(["mlguard_build_info"])).decode()
    assert "mlguard_build_info{" in some
    assert "mlguard_calls" not in some


def test_labels_of_any_kind_are_told_as_they_are() -> None:
    """Quotes, newlines and backslashes in a function's name don't break a scrape."""

    def f() -> None: ...

    f.__qualname__ = 'weird"\n\\name'
    g = guarded(monitor=Monitor(log=False))(f)
    g()
    text, _ = prometheus.exposition(None, CollectorRegistry())
    calls = series(plain(text.decode()), "mlguard_calls_total")
    assert calls[("disposition", "executed"), ("guard", f'{__name__}.weird"\n\\name')] == 1


def test_the_default_registry(called) -> None:
    """Without an argument it is that of prometheus_client, which start_http_server serves."""
    prometheus.register()
    assert b"mlguard_calls_total" in generate_latest(REGISTRY)
    text, _ = prometheus.exposition()
    assert b"mlguard_calls_total" in text
    assert b"process_resident_memory_bytes" in text


def test_without_the_extra() -> None:
    """What is absent is named with the line that installs it."""
    code = """
        import sys
        sys.modules["prometheus_client"] = None
        try:
            import mlguard.sinks.prometheus
        except ModuleNotFoundError as error:
            print(error)
    """
    said = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert "Fix: pip install prometheus-client" in said.stdout, said.stderr


def test_a_name_that_is_no_text(called) -> None:
    """Half a surrogate pair in a name, such as a file system may bring, is replaced; the scrape goes on."""

    def predict() -> int:
        return 1

    predict.__qualname__ = "half\ud800"
    guarded(monitor=Monitor(log=False))(predict)()
    text, _ = prometheus.exposition()
    assert f'mlguard_calls_total{{disposition="executed",guard="{__name__}.half?"}} 1.0' in text.decode()
