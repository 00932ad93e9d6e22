"""The picture of the proof: memory over time, of the service without a guard and with one."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.memory_box import MIB
from benchmarks.memory_table import Row

__all__ = ["draw"]

INK, QUIET = "#1f2328", "#59636e"
GUARDED, UNGUARDED = "#1a7f64", "#c4314b"


def draw(guarded: Row, unguarded: Row, file: Path) -> None:
    """Writes the picture as SVG or PNG, by the file's ending."""
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "svg.hashsalt": "mlguard", "svg.fonttype": "path"}):
        figure = Figure(figsize=(8, 3.6), dpi=200, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.08, 0.14, 0.89, 0.66))
        limit = guarded.limit / MIB
        for row, colour in ((unguarded, UNGUARDED), (guarded, GUARDED)):
            times, sizes = _from_first_call(row)
            axes.plot(times, sizes, color=colour, linewidth=1.4)
            if row.killed:
                axes.plot(times[-1:], sizes[-1:], "x", color=colour, markersize=9, markeredgewidth=2.2)
                words = f"no guard: killed after {row.served} of {row.calls} calls"
                axes.annotate(words, (times[-1], sizes[-1]), (9, 6), textcoords="offset points", size=9, color=colour)
        axes.axhline(limit, color=INK, linewidth=0.9)
        axes.axhline(0.85 * limit, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
        right = axes.get_xlim()[1]
        axes.text(right, limit + 6, "limit", size=8.5, color=INK, ha="right")
        axes.text(right, 0.85 * limit + 6, "threshold, 85 %", size=8.5, color=QUIET, ha="right")
        axes.set_ylim(0, 1.12 * limit)
        axes.set_xlabel("seconds", size=9, color=QUIET)
        axes.set_ylabel("MiB in use", size=9, color=QUIET)
        axes.tick_params(labelsize=8.5, colors=QUIET)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        title = f"{guarded.served} of {guarded.calls} calls served below the limit"
        figure.text(0.03, 0.92, title, size=13, weight="bold", color=INK)
        said = f"{guarded.name} (green); 16 threads, each call needs 30 to 90 MiB, the container has {limit:.0f}."
        figure.text(0.03, 0.845, said, size=9.5, color=QUIET)
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def _from_first_call(row: Row) -> tuple[list[float], list[float]]:
    """Without the start of the interpreter: from where memory first rose by a few MiB in one look, and thinned out."""
    idle = min((used for _, used in row.timeline[-3:]), default=0) if not row.killed else 0
    start = next(
        (
            at
            for (at, used), (_, later) in zip(row.timeline, row.timeline[2:], strict=False)
            if later - used > 20 * MIB and used >= min(idle, 20 * MIB)
        ),
        0.0,
    )
    full = max(range(len(row.timeline)), key=lambda index: row.timeline[index][1])
    seen = row.timeline[: full + 1] if row.killed else row.timeline  # what the kernel frees afterwards is no news
    kept = [(at - start, used / MIB) for at, used in seen if at >= start - 0.02]
    step = max(1, len(kept) // 400)
    kept = kept[::step] + kept[-1:]
    return [at for at, _ in kept], [used for _, used in kept]
