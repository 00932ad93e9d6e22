"""One picture of both runs: how many answers were wrong or failed, unguarded against guarded."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from mlguard.demo.compare import Comparison, Run
from mlguard.demo.service import UNSEEN

__all__ = ["draw"]

INK, QUIET = "#1f2328", "#59636e"
WRONG, FAILED, REFUSED = "#c4314b", "#e0912f", "#c3cad2"
FAILED_INK = "#a35f0b"
SUBTITLE = "Features come over HTTP from a service that fails, stalls and corrupts rows. Calls not answered rightly:"
HEIGHT = 0.42


def draw(comparison: Comparison, file: Path) -> None:
    """Writes the picture as SVG or PNG (1600 x 700 pixels), by the file's ending."""
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "svg.hashsalt": "mlguard", "svg.fonttype": "path"}):
        figure = Figure(figsize=(8, 3.5), dpi=200, facecolor="white")
        FigureCanvasAgg(figure)  # measures text, whatever the format
        axes = figure.add_axes((0.17, 0.15, 0.80, 0.61))
        runs = {"unguarded": comparison.unguarded, "guarded": comparison.guarded}
        axes.set_xlim(0, 1.02 * max(sum(width for width, *_ in _segments(run)) for run in runs.values()) or 1)
        axes.set_ylim(-0.3, 1.6)
        axes.axis("off")
        figure.text(0.03, 0.91, _title(comparison), size=13, weight="bold", color=INK)
        figure.text(0.03, 0.82, SUBTITLE, size=9.5, color=QUIET)
        for level, (name, run) in zip((1, 0), runs.items(), strict=True):
            figure.text(0.03, _height(axes, level) + 0.004, name, size=12, weight="bold", color=INK, va="bottom")
            figure.text(0.03, _height(axes, level) - 0.008, f"{run.right:,} right", size=9.5, color=QUIET, va="top")
            _row(axes, level, run)
        figure.text(0.03, 0.045, _footnote(comparison.guarded), size=9.5, color=QUIET)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def _segments(run: Run) -> list[tuple[int, str, str, str]]:
    refused = run.rejected.total() + run.shed
    segments = [
        (run.wrong, "wrong, unnoticed", WRONG, WRONG),
        (run.failed.total(), "failed", FAILED, FAILED_INK),
    ]
    return [*segments, (refused, "refused, with the reason", REFUSED, QUIET)] if refused else segments


def _row(axes: Axes, level: int, run: Run) -> None:
    """A bar of segments; each label stands above its own, or right of the label before where there is no room."""
    start, free_from = 0.0, 0.0
    gap = 0.015 * axes.get_xlim()[1]
    segments = _segments(run)
    for segment in segments:
        width, name, colour, ink = segment
        axes.barh(level, width, left=start, height=HEIGHT, color=colour, edgecolor="white", linewidth=1 if width else 0)
        at, above = max(start, free_from), level + HEIGHT / 2 + 0.05
        number = axes.text(at, above, f"{width:,}", size=14, weight="bold", color=ink, va="baseline")
        after = _end(axes, number) + 0.4 * gap
        label = axes.text(after, above, name, size=10.5, color=ink, va="baseline")
        if segment is not segments[-1] and _end(axes, label) > start + width:
            label.set_text(name.partition(",")[0])
        start, free_from = start + width, _end(axes, label) + 1.5 * gap


def _end(axes: Axes, text: Text) -> float:
    box = text.get_window_extent()
    return float(axes.transData.inverted().transform((box.x1, box.y0))[0])


def _height(axes: Axes, level: float) -> float:
    return float(axes.figure.transFigure.inverted().transform(axes.transData.transform((0, level)))[1])


def _title(comparison: Comparison) -> str:
    return f"The same {comparison.calls:,} calls to the same model, on the same bad day"


def _footnote(run: Run) -> str:
    """What a sceptic asks first: why the guarded run is not without wrong answers."""
    unseen = sum(count for cause, count in run.wrong_because.items() if UNSEEN in cause)
    if not run.wrong:
        return "Wrong: differs from the model's answer on the uncorrupted row."
    share = "All" if unseen == run.wrong else f"{unseen} of the"
    return f"{share} {run.wrong} wrong guarded answers: in the wrong unit but in range, which the schema can't see."
