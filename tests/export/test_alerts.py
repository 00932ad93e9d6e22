"""Rules for Prometheus: the real promtool sees every alert fire and stay silent, and every recorded value be true."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from mlguard.drift.effects import population_stability, shares_of
from mlguard.errors import PolicyError
from mlguard.export import alerts
from mlguard.export.alerts import Limits, as_yaml, rules
from mlguard.export.promql import Query, matchers_of
from mlguard.monitor import metrics
from mlguard.monitor.metrics import METRICS

JOB = "api"
MATCHERS = f'job="{JOB}"'
LIMITS = Limits(p99=0.5)
ALERTS = [rule["alert"] for rule in rules(MATCHERS, LIMITS)["groups"][1]["rules"]]
RECORDED = [rule["record"] for rule in rules(MATCHERS, LIMITS)["groups"][0]["rules"]]


pytestmark = pytest.mark.long


def series(metric: metrics.Metric, values: str, suffix: str = "", /, instance: str = "a:1", **labels: str) -> Any:
    """A series for promtool, with every label that the metric has."""
    own = set(metric.labels) | ({"le"} if suffix == "_bucket" else set())
    given = {"guard": "f", **labels} if "guard" in own else labels
    assert given.keys() == own
    text = ",".join(f'{name}="{value}"' for name, value in {"job": JOB, "instance": instance, **given}.items())
    return {"series": f"{metric.name}{suffix}{{{text}}}", "values": values}


def calls(instance: str = "a:1", **values: str) -> list[Any]:
    """Calls a minute, by disposition; the others are there, at 0."""
    given = dict.fromkeys(("executed", "failed", "fallback", "cancelled", "rejected_validation"), "0x500") | values
    return [series(metrics.CALLS, value, instance=instance, disposition=name) for name, value in given.items()]


REFERENCE = [400, 300, 200, 100]


def bins(*counts: int, instance: str = "a:1") -> list[Any]:
    """Rows a minute, by bin."""
    found = []
    for number, (counted, share) in enumerate(zip(counts, shares_of(REFERENCE), strict=True)):
        labels = {"field": "age", "bin": f"{number:02}"}
        found.append(series(metrics.FEATURE_BIN, f"0+{counted}x500", instance=instance, **labels))
        found.append(series(metrics.REFERENCE_BIN, f"{share}x500", instance=instance, **labels))
    return found


def latency(slow: int) -> list[Any]:
    """A hundred calls a minute, so many of them between 0.5 s and 1 s, the others below a millisecond."""
    found = []
    for edge in (*metrics.CALL_DURATION.buckets, math.inf):
        label = "+Inf" if edge == math.inf else str(edge)
        number = 100 if edge >= 1 else 100 - slow
        found.append(series(metrics.CALL_DURATION, f"0+{number}x500", "_bucket", disposition="executed", le=label))
    return found


@dataclass
class Case:
    """What an alert is shown, and when it is asked."""

    what: str
    alert: str
    series: list[Any]
    at: str
    fires: dict[str, str] | None = None
    """The labels that it fires with; None: it stays silent."""


GUARD = {"job": JOB, "guard": "f"}
CASES = [
    Case("a fifth fails", "MlguardErrorBudgetBurnsFast", calls(executed="0+80x500", failed="0+20x500"), "70m", GUARD),
    Case(
        "one of two workers fails",
        "MlguardErrorBudgetBurnsFast",
        [*calls(executed="0+100x500"), *calls("b:1", failed="0+100x500")],
        "70m",
        GUARD,
    ),
    Case("a twentieth", "MlguardErrorBudgetBurnsFast", calls(executed="0+95x500", failed="0+5x500"), "70m"),
    Case("a bad minute", "MlguardErrorBudgetBurnsFast", calls(executed="0+95x500", failed="0x66 30x400"), "70m"),
    Case("it is over", "MlguardErrorBudgetBurnsFast", calls(executed="0+50x500", failed="0+50x60 3000x400"), "72m"),
    Case(
        "only callers err",
        "MlguardErrorBudgetBurnsFast",
        calls(executed="0+10x500", rejected_validation="0+90x500", cancelled="0+90x500"),
        "70m",
    ),
    Case("nobody calls", "MlguardErrorBudgetBurnsFast", calls(), "70m"),
    Case(
        "a little, for hours",
        "MlguardErrorBudgetBurnsSlowly",
        calls(executed="0+93x500", failed="0+7x500"),
        "390m",
        GUARD,
    ),
    Case(
        "within the objective", "MlguardErrorBudgetBurnsSlowly", calls(executed="0+995x500", failed="0+5x500"), "390m"
    ),
    Case("open", "MlguardBreakerOpen", [series(metrics.BREAKER_STATE, "0 1x60", state="open")], "10m", GUARD),
    Case("a moment", "MlguardBreakerOpen", [series(metrics.BREAKER_STATE, "0x8 1x1 0x50", state="open")], "10m"),
    Case(
        "closed",
        "MlguardBreakerOpen",
        [
            series(metrics.BREAKER_STATE, "1x60", state="closed"),
            series(metrics.BREAKER_STATE, "1x60", state="half_open"),
        ],
        "10m",
    ),
    Case(
        "refusals", "MlguardMemoryPressure", [series(metrics.MEMORY_REJECTIONS, "0+3x60", action="raise")], "15m", GUARD
    ),
    Case(
        "log mode", "MlguardMemoryPressure", [series(metrics.MEMORY_REJECTIONS, "0+3x60", action="log")], "15m", GUARD
    ),
    Case("long ago", "MlguardMemoryPressure", [series(metrics.MEMORY_REJECTIONS, "0 9x60", action="raise")], "15m"),
    Case(
        "nearly full",
        "MlguardMemoryNearLimit",
        [series(metrics.MEMORY_USED, "97x60"), series(metrics.MEMORY_LIMIT, "100x60")],
        "10m",
        {"job": JOB, "instance": "a:1"},
    ),
    Case(
        "half full",
        "MlguardMemoryNearLimit",
        [series(metrics.MEMORY_USED, "50x60"), series(metrics.MEMORY_LIMIT, "100x60")],
        "10m",
    ),
    Case(
        "a tenth is invalid",
        "MlguardInvalidInput",
        calls(executed="0+90x60", rejected_validation="0+10x60"),
        "15m",
        GUARD,
    ),
    Case("a few are", "MlguardInvalidInput", calls(executed="0+97x60", rejected_validation="0+3x60"), "15m"),
    Case("a fifth falls back", "MlguardDegraded", calls(executed="0+80x60", fallback="0+20x60"), "25m", GUARD),
    Case("a few do", "MlguardDegraded", calls(executed="0+95x60", fallback="0+5x60"), "25m"),
    Case(
        "a field drifts",
        "MlguardDriftActive",
        [
            series(metrics.DRIFT_ACTIVE, "1x60", field="age"),
            series(metrics.DRIFT_ACTIVE, "0x60", "", "b:1", field="age"),
        ],
        "15m",
        {**GUARD, "field": "age"},
    ),
    Case("for a moment", "MlguardDriftActive", [series(metrics.DRIFT_ACTIVE, "1x8 0x60", field="age")], "15m"),
    Case(
        "both workers together",
        "MlguardFleetDrift",
        [*bins(4, 3, 6, 7), *bins(3, 3, 6, 8, instance="b:1")],
        "90m",
        {**GUARD, "field": "age"},
    ),
    Case("as in training", "MlguardFleetDrift", [*bins(4, 3, 2, 1), *bins(8, 6, 4, 2, instance="b:1")], "90m"),
    Case("too few to tell", "MlguardFleetDrift", bins(1, 1, 1, 7), "90m"),
    Case(
        "dropped",
        "MlguardEventsDropped",
        [series(metrics.EVENTS_DROPPED, "0x5 7x60", sink="record")],
        "10m",
        {"job": JOB, "sink": "record"},
    ),
    Case("long ago", "MlguardEventsDropped", [series(metrics.EVENTS_DROPPED, "0 7x60", sink="record")], "30m"),
    Case("trouble", "MlguardInstrumentationErrors", [series(metrics.INSTRUMENTATION_ERRORS, "0x5 1x60")], "10m", GUARD),
    Case("none", "MlguardInstrumentationErrors", [series(metrics.INSTRUMENTATION_ERRORS, "3x60")], "10m"),
    Case("slow", "MlguardSlow", latency(5), "15m", GUARD),
    Case("quick", "MlguardSlow", latency(0), "15m"),
    Case("nothing there", "MlguardAbsent", calls(executed="0+1x500"), "10m", {"job": JOB}),
    Case("there", "MlguardAbsent", [series(metrics.BUILD_INFO, "1x60", version="1", python="3")], "10m"),
    Case(
        "gone",
        "MlguardAbsent",
        [series(metrics.BUILD_INFO, "1x5 stale", version="1", python="3")],
        "20m",
        {"job": JOB},
    ),
]


@pytest.mark.parametrize("alert", ALERTS)
def test_alerts(tried, alert) -> None:
    """Each alert fires on what it is for, with the labels that say for whom, and is silent otherwise."""
    document = rules(MATCHERS, LIMITS)
    severity = {}
    for rule in document["groups"][1]["rules"]:
        rule.pop("annotations")  # which promtool would want to be repeated here, word for word
        severity[rule["alert"]] = rule["labels"]
    tests = []
    for case in (case for case in CASES if case.alert == alert):
        expected = [] if case.fires is None else [{"exp_labels": {**case.fires, **severity[alert]}}]
        asked = {"eval_time": case.at, "alertname": alert, "exp_alerts": expected}
        name = f"{alert}: {case.what}"
        tests.append({"name": name, "interval": "1m", "input_series": case.series, "alert_rule_test": [asked]})
    tried(document, tests)


def test_every_alert_is_seen_firing_and_silent() -> None:
    """None is left out above."""
    assert {case.alert for case in CASES if case.fires} == set(ALERTS)
    assert {case.alert for case in CASES if not case.fires} == set(ALERTS)


def test_the_words_of_an_alert(tried) -> None:
    """What a person reads has the figures in it."""
    document = rules(MATCHERS, LIMITS)
    annotations = next(rule for rule in document["groups"][1]["rules"] if rule["alert"] == "MlguardInvalidInput")[
        "annotations"
    ]
    expected = {
        "summary": "Callers send f what its schema refuses",
        "description": "10% of the calls of f (api) have invalid input.",
        "runbook": annotations["runbook"],
    }
    asked = {
        "eval_time": "15m",
        "alertname": "MlguardInvalidInput",
        "exp_alerts": [{"exp_labels": {**GUARD, "severity": "warning"}, "exp_annotations": expected}],
    }
    shown = calls(executed="0+90x60", rejected_validation="0+10x60")
    tried(document, [{"interval": "1m", "input_series": shown, "alert_rule_test": [asked]}])


def test_words_name_labels_that_the_alert_has() -> None:
    """A label that was added up would be an empty place in the sentence."""
    fires = {case.alert: case.fires for case in CASES if case.fires}
    for rule in rules(MATCHERS, LIMITS)["groups"][1]["rules"]:
        for text in rule["annotations"].values():
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= fires[rule["alert"]].keys(), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}


def near(expression: str, value: float) -> str:
    return f"abs({expression} - {value!r}) < bool {1e-6 * max(1.0, abs(value))!r}"


def true_values() -> Iterator[tuple[str, dict[str, str], float]]:
    """What each recorded series must be, of the series below."""
    for window in ("5m", "30m", "1h", "6h"):
        yield alerts.ERRORS.format(window=window), GUARD, 15 / (80 + 15)
    yield alerts.SUCCESS, GUARD, 80 / (80 + 15)
    yield alerts.LATENCY.format(percent=50), GUARD, 0.0005 * 100 / 95
    yield alerts.LATENCY.format(percent=99), GUARD, 0.5 + 0.5 * (99 - 95) / 5
    yield alerts.HITS, GUARD, 0.75
    per_hour = [60 * count for count in (7, 6, 12, 15)]
    yield alerts.ROWS, {**GUARD, "field": "age"}, sum(per_hour)
    for number, share in enumerate(shares_of(per_hour)):
        yield alerts.SHARE, {**GUARD, "field": "age", "bin": f"{number:02}"}, share
    # The correction for the size of the profile is not known to Prometheus.
    known = population_stability([1e12 * share for share in shares_of(REFERENCE)], per_hour)
    yield alerts.PSI, {**GUARD, "field": "age"}, known
    for disposition, rate in (("executed", 80 / 60), ("failed", 15 / 60), ("rejected_validation", 5 / 60)):
        yield alerts.RATE, {**GUARD, "disposition": disposition}, rate


def test_recorded_values_are_true(tried) -> None:
    """Ratios, quantiles and the fleet's stability index are what the same counts give in Python."""
    shown = [
        *calls(executed="0+40x500", failed="0+15x500", rejected_validation="0+5x500"),
        *calls("b:1", executed="0+40x500"),
        *latency(5),
        *bins(4, 3, 6, 7),
        *bins(3, 3, 6, 8, instance="b:1"),
        series(metrics.CACHE_REQUESTS, "0+60x500", result="hit"),
        series(metrics.CACHE_REQUESTS, "0+15x500", result="coalesced"),
        series(metrics.CACHE_REQUESTS, "0+25x500", result="miss"),
    ]
    asked = []
    for name, labels, value in true_values():
        matchers = "{" + ",".join(f'{key}="{text}"' for key, text in labels.items()) + "}"
        samples = [{"labels": matchers, "value": 1}]
        asked.append({"expr": near(name + matchers, value), "eval_time": "400m", "exp_samples": samples})
    tried(rules(MATCHERS, LIMITS), [{"interval": "1m", "input_series": shown, "promql_expr_test": asked}])


def test_every_recorded_series_has_a_true_value() -> None:
    """None is left out above."""
    assert {name for name, _, _ in true_values()} == set(RECORDED)


@pytest.mark.parametrize("matchers", ["", 'job="api"', 'namespace="ml",app=~"score.*",job!="x\\"y"'])
def test_the_file_is_a_rule_file(check, matchers) -> None:
    """As it is written out: promtool parses every expression and every template."""
    check(as_yaml(rules(matchers, LIMITS)) + "\n")
    check(as_yaml(rules(matchers)) + "\n")


def test_two_services_do_not_meet() -> None:
    """The rules of one service take nothing from the series, recorded ones included, of another."""
    for group in rules('namespace="ml"')["groups"]:
        for rule in group["rules"]:
            names = re.findall(r"(?<![\w:])(?:job_guard[\w:]*|mlguard_\w+)(\{[^}]*\})?", rule["expr"])
            assert names
            assert all('namespace="ml"' in selector for selector in names), rule["expr"]
            if " by (" in rule["expr"]:
                assert all("namespace" in by for by in re.findall(r" by \(([^)]*)\)", rule["expr"]))


def test_yaml_says_what_it_was_given() -> None:
    """Written by hand, to spare a dependency; read by PyYAML."""
    yaml = pytest.importorskip("yaml", reason="the extra 'yaml' is not installed")
    document = rules(MATCHERS, LIMITS)
    assert yaml.safe_load(as_yaml(document)) == document


@pytest.mark.parametrize(
    "wrong",
    [{"objective": 1.0}, {"objective": 0}, {"invalid": 5}, {"memory": -1}, {"psi": 0}, {"rows": 0}, {"p99": -1}],
)
def test_impossible_limits(wrong) -> None:
    """A percentage in place of a share would never fire, or always."""
    with pytest.raises(PolicyError, match="must be"):
        Limits(**wrong)


class TestQueries:
    def test_an_unknown_label_is_refused(self) -> None:
        """No dashboard asks for what is not there."""
        with pytest.raises(ValueError, match="no label 'dispositon'"):
            Query()(metrics.CALLS, dispositon="failed")

    def test_values_are_quoted(self) -> None:
        """A quote in a value stays in it."""
        assert Query('job="x"')(metrics.CALLS, guard='a"b') == 'mlguard_calls_total{job="x",guard="a\\"b"}'
        assert Query()(metrics.MEMORY_USED) == "mlguard_memory_used_bytes"

    @pytest.mark.parametrize(
        ("selector", "job", "expected"),
        [
            (None, None, ""),
            (None, 'a"b', 'job="a\\"b"'),
            ('{app="x"}', None, 'app="x"'),
            ('a="1", b=~"2,3" ,c!="}"', "j", 'job="j",a="1",b=~"2,3",c!="}"'),
        ],
    )
    def test_selectors(self, selector, job, expected) -> None:
        """With braces or without, and with anything in quotes."""
        assert matchers_of(selector, job) == expected

    @pytest.mark.parametrize("selector", ["app", 'app="x', 'app="x" or up', "app='x'", 'a="1"b="2"', '1="x"'])
    def test_what_is_no_selector(self, selector) -> None:
        """It is refused with the place, before a file is written that Prometheus would refuse."""
        with pytest.raises(PolicyError, match="Fix: matchers as PromQL has them"):
            matchers_of(selector, None)


def test_every_metric_of_an_alert_is_in_the_registry() -> None:
    """Words of runbooks included."""
    known = {metric.name for metric in METRICS}
    text = as_yaml(rules())
    for name in re.findall(r"(?<![\w:])mlguard_[a-z_]+", text):
        stem = re.sub(r"_(bucket|sum|count)$", "", name)
        assert stem in known or name in ("mlguard_recording", "mlguard_alerts"), name
