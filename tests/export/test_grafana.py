"""The dashboard: every expression is PromQL over metrics that there are, every panel is where it can be seen."""

from __future__ import annotations

import json
import re

import pytest

from mlguard.export.alerts import as_yaml, rules
from mlguard.export.grafana import dashboard
from mlguard.monitor.metrics import METRICS

MADE = dashboard('namespace="ml"')
PANELS = [panel for panel in MADE["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]] + [
    annotation["expr"] for annotation in MADE["annotations"]["list"]
]
INTERVALS = {"$__rate_interval": "5m", "$__range": "1h"}


def test_every_expression_is_promql(check) -> None:
    """promtool parses them, with Grafana's intervals filled in."""
    filled = []
    for expression in EXPRESSIONS:
        for name, value in INTERVALS.items():
            expression = expression.replace(name, value)
        filled.append({"record": f"panel_{len(filled)}", "expr": expression})
    check(as_yaml({"groups": [{"name": "dashboard", "rules": filled}]}) + "\n")


def test_every_metric_is_shown() -> None:
    """What is worth counting is worth a line; what is shown is in the registry."""
    shown = set(re.findall(r"(?<![\w:])mlguard_[a-z_]+", " ".join(EXPRESSIONS)))
    shown = {re.sub(r"_bucket$", "", name) for name in shown}
    assert shown == {metric.name for metric in METRICS}


def test_recorded_series_are_those_of_the_rules() -> None:
    """The fleet's drift comes from a rule that 'export alerts' writes; without rules, the panel is not there."""
    recorded = {rule["record"] for rule in rules()["groups"][0]["rules"]}
    used = set(re.findall(r"job_guard[\w:]*", " ".join(EXPRESSIONS)))
    assert used
    assert used <= recorded
    assert "job_guard" not in json.dumps(dashboard(rules=False))
    assert len(dashboard(rules=False)["panels"]) == len(MADE["panels"]) - 1


def test_everything_selects_the_services_and_the_variables() -> None:
    """A panel that forgets a variable would show other services' figures."""
    for expression in EXPRESSIONS:
        for selector in re.findall(r"(?<![\w:])(?:mlguard|job_guard)[\w:]*(\{[^}]*\})?", expression):
            assert 'namespace="ml"' in selector, expression
            assert 'job=~"$job"' in selector, expression


def test_places() -> None:
    """No two panels overlap, none is wider than the page, and headings go across it."""
    taken: set[tuple[int, int]] = set()
    for panel in MADE["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] != "row" or at["w"] == 24


def test_the_form_that_grafana_saves() -> None:
    """Ids are unique, every panel and target names its data source, every panel says what it shows."""
    assert len({panel["id"] for panel in MADE["panels"]}) == len(MADE["panels"])
    for panel in PANELS:
        assert panel["type"] in {"stat", "timeseries", "barchart", "table"}
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["description"].endswith(".")
        assert [target["refId"] for target in panel["targets"]] == list("ABC"[: len(panel["targets"])])
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            assert target["instant"] != target["range"]
        assert {"defaults", "overrides"} == panel["fieldConfig"].keys()
    variables = {variable["name"]: variable for variable in MADE["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "guard", "field"]
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(MADE)))
    assert used - {"__rate_interval", "__range", "__all"} <= variables.keys()
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", MADE["uid"])
    assert json.loads(json.dumps(MADE)) == MADE


def test_legends_name_labels_that_are_left() -> None:
    """A legend with a label that was added up would be empty."""
    for panel in PANELS:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = {label.strip() for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in by.split(",")}
            recorded = {"guard", "field"} if "job_guard" in target["expr"] else set()
            assert named <= kept | recorded, target


@pytest.mark.parametrize(("title", "uid"), [("mlguard", "mlguard"), ("Fraud  scoring", "fraud-scoring")])
def test_title(title, uid) -> None:
    """Two dashboards of two services have two addresses."""
    made = dashboard(title=title)
    assert (made["title"], made["uid"]) == (title, uid)
