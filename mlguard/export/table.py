"""The metrics as a table of `docs/metrics.md`: ``python -m mlguard.export.table`` prints it."""

from __future__ import annotations

from mlguard.monitor.metrics import METRICS

__all__ = ["table"]


def table() -> str:
    """All metrics in Markdown, with kind, labels and help."""
    lines = ["| metric | kind | labels | what it says |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
