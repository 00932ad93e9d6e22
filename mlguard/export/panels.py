"""Panels of a Grafana dashboard, in the form that Grafana saves, and their places on the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

__all__ = ["SOURCE", "bars", "figure", "lines", "placed", "row", "table"]

SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
"""The data source that the dashboard's variable names."""

_COLUMNS: Final = 24


def row(title: str) -> dict[str, Any]:
    """A heading across the page."""
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "size": (_COLUMNS, 1)}


def figure(
    title: str, description: str, unit: str, expression: str, *, width: int, steps: Any = None
) -> dict[str, Any]:
    """One number, with its recent course behind it; `steps` are two colours and where the second begins."""
    (below, above), at = steps or (("green", "green"), 0)
    thresholds = {"mode": "absolute", "steps": [{"color": below, "value": None}, {"color": above, "value": at}]}
    return {
        "type": "stat",
        "title": title,
        "description": description,
        "size": (width, 4),
        "fieldConfig": {"defaults": {"unit": unit, "thresholds": thresholds}, "overrides": []},
        "options": {
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "auto",
        },
        "targets": _targets([(expression, title)]),
    }


def lines(title: str, description: str, unit: str, *targets: tuple[str, str], stacked: bool = False) -> dict[str, Any]:
    """Lines over time: expressions, each with its legend."""
    custom = {
        "drawStyle": "line",
        "fillOpacity": 40 if stacked else 5,
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
    }
    return {
        "type": "timeseries",
        "title": title,
        "description": description,
        "size": (12, 8),
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": custom}, "overrides": []},
        "options": {
            "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": _targets(targets),
    }


def bars(title: str, description: str, *targets: tuple[str, str]) -> dict[str, Any]:
    """Bars by bin, one colour for each expression."""
    return {
        "type": "barchart",
        "title": title,
        "description": description,
        "size": (12, 8),
        "fieldConfig": {"defaults": {"unit": "percentunit", "min": 0, "custom": {"fillOpacity": 70}}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "calcs": []},
            "orientation": "auto",
            "showValue": "never",
            "stacking": "none",
            "xField": "bin",
            "xTickLabelRotation": -45,
        },
        "targets": _targets(targets, instant=True),
        "transformations": [
            {"id": "joinByField", "options": {"byField": "bin", "mode": "outer"}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True, "Time 1": True, "Time 2": True},
                    "renameByName": {"Value #A": "now", "Value #B": "training"},
                },
            },
        ],
    }


def table(title: str, description: str, expression: str) -> dict[str, Any]:
    """A row for each series, with its labels."""
    return {
        "type": "table",
        "title": title,
        "description": description,
        "size": (12, 6),
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {"showHeader": True, "cellHeight": "sm"},
        "targets": _targets([(expression, "")], instant=True),
        "transformations": [{"id": "organize", "options": {"excludeByName": {"Time": True, "Value": True}}}],
    }


def _targets(targets: Any, *, instant: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "refId": chr(ord("A") + number),
            "datasource": SOURCE,
            "expr": expression,
            "legendFormat": legend,
            "instant": instant,
            "range": not instant,
            "format": "table" if instant else "time_series",
            "editorMode": "code",
        }
        for number, (expression, legend) in enumerate(targets)
    ]


def placed(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """From left to right, and on to the next line where the panel would not fit."""
    x = y = tallest = 0
    for number, panel in enumerate(panels, start=1):
        width, height = panel.pop("size")
        if x + width > _COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        at = {"x": x, "y": y, "w": width, "h": height}
        placed = {"id": number, **panel, "gridPos": at}
        yield placed if panel["type"] == "row" else {**placed, "datasource": SOURCE}
        x, tallest = x + width, max(tallest, height)
