"""`mlguard export`: files for other systems, made from what mlguard declares of itself.

A thin reading of `mlguard.export` and of the schemas.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from mlguard.cli.output import Output, refuse_unwritable, write

__all__ = ["app"]

app = typer.Typer(help="Export: a Grafana dashboard, alert rules for Prometheus, JSON Schemas.", no_args_is_help=True)

_Job = Annotated[str | None, typer.Option(help="Only the service that Prometheus scrapes under this job name.")]
_Selector = Annotated[
    str | None, typer.Option(help='Only what these matchers select, such as \'namespace="ml",app=~"score.*"\'.')
]


class Schema(StrEnum):
    """What there is a JSON Schema of."""

    EVENT = "event"
    DRIFT_EVENT = "drift-event"
    POLICY = "policy"


@app.command()
def grafana(
    output: Output = None,
    job: _Job = None,
    selector: _Selector = None,
    title: Annotated[str, typer.Option(help="The title of the dashboard.")] = "mlguard",
    rules: Annotated[bool, typer.Option(help="Whether 'export alerts' is loaded: fleet-wide drift needs it.")] = True,
) -> None:
    """A dashboard: import it in Grafana, or put it into a provisioned folder."""
    from mlguard.export.grafana import dashboard
    from mlguard.export.promql import matchers_of

    refuse_unwritable(output)
    made = dashboard(matchers_of(selector, job), title, rules=rules)
    write(json.dumps(made, indent=2) + "\n", output)


@app.command()
def alerts(
    output: Output = None,
    job: _Job = None,
    selector: _Selector = None,
    objective: Annotated[float, typer.Option(help="The share of calls that should go well.")] = 0.99,
    invalid: Annotated[float, typer.Option(help="The share of calls with invalid input that is too much.")] = 0.05,
    degraded: Annotated[float, typer.Option(help="The share of fallbacks that is too much.")] = 0.1,
    psi: Annotated[float, typer.Option(help="The stability index of all workers that is too much.")] = 0.2,
    rows: Annotated[int, typer.Option(help="Rows an hour below which nothing is said about drift.")] = 1_000,
    memory: Annotated[float, typer.Option(help="The share of the memory limit that is too near to it.")] = 0.95,
    p99: Annotated[float | None, typer.Option(help="Seconds that the 99th percentile may take.")] = None,
) -> None:
    """Recording rules and alerts: name the file under rule_files in prometheus.yml."""
    from mlguard.export.alerts import Limits, as_yaml
    from mlguard.export.alerts import rules as rules_of
    from mlguard.export.promql import matchers_of

    refuse_unwritable(output)
    limits = Limits(objective=objective, invalid=invalid, degraded=degraded, psi=psi, rows=rows, memory=memory, p99=p99)
    write(as_yaml(rules_of(matchers_of(selector, job), limits)) + "\n", output)


@app.command("json-schema")
def json_schema(
    what: Annotated[Schema, typer.Argument(help="The event of a call, the event of drift, or the policy file.")],
    output: Output = None,
) -> None:
    """A JSON Schema, for editors, log pipelines and tests."""
    refuse_unwritable(output)
    write(json.dumps(_schema(what), indent=2) + "\n", output)


def _schema(what: Schema) -> dict[str, Any]:
    if what is Schema.EVENT:
        from mlguard.monitor.event import json_schema as of_event

        return of_event()
    if what is Schema.DRIFT_EVENT:
        from mlguard.drift.event import json_schema as of_drift

        return of_drift()
    from mlguard.policies.schema import policy_schema

    return policy_schema()
