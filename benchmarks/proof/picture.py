"""Draws what arrived at the dependency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.proof.outage import Outage, Plan

__all__ = ["draw"]

_COLOURS = ("#c44e52", "#dd8452", "#2f6fab")
_BUCKET = 0.2


def draw(seen: Mapping[str, Outage], plan: Plan, target: Path) -> None:
    """One line of requests a second for each variant, over the time of the outage."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "mlguard"
    mpl.rcParams["svg.fonttype"] = "none"
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(plan.dies_at, plan.back_at, color="#eeeeee", lw=0)
    axes.text((plan.dies_at + plan.back_at) / 2, 0.62, "the dependency is dead", ha="center", va="top",
              transform=axes.get_xaxis_transform(), color="#777777")  # fmt: skip
    axes.axhline(plan.calls_per_second, color="#999999", lw=1, ls=":")
    moments = [step * _BUCKET for step in range(int(plan.ends_at / _BUCKET))]
    for (name, outage), colour in zip(seen.items(), _COLOURS, strict=True):
        axes.plot([m + _BUCKET / 2 for m in moments], [outage.rate(m, _BUCKET) for m in moments], color=colour,
                  lw=1.8, label=name)  # fmt: skip
    axes.set(xlabel="seconds", ylabel="requests a second that arrive", xlim=(0, plan.ends_at), ylim=(0, None))
    axes.annotate(f"{plan.calls_per_second:g} calls a second", (0.1, plan.calls_per_second), xytext=(0, 4),
                  textcoords="offset points", color="#777777", fontsize=8)  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center right", bbox_to_anchor=(1.0, 0.62))
    figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)
