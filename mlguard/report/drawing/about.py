"""The last section: what was read, what was not, and how the numbers are made."""

from __future__ import annotations

from mlguard.report.drawing.markup import Content, Html, tag
from mlguard.report.drawing.section import section
from mlguard.report.drawing.words import clip, many, share, size
from mlguard.report.figures import Figures

__all__ = ["about"]

_TWICE = 0.8  # of the records; counting ids is right to a few per cent


def about(figures: Figures) -> Html:
    """In plain sentences, with everything that a sceptic asks."""
    source, frame = figures.source, figures.frame
    said: list[Content] = [
        (
            f"Read: {clip(', '.join(source.names), 400)} ({many(source.files, 'file')}, {size(source.size)}), "
            f"{many(source.records, 'record')} of calls.",
        )
    ]
    if source.filters:
        said.append("Only: " + ", ".join(f"{name} {clip(value, 120)}" for name, value in source.filters.items()) + ".")
    if source.damaged:
        where = f", the first at {clip('; '.join(source.damaged_at), 400)}" if source.damaged_at else ""
        said.append(
            f"{many(source.damaged, 'line')} could not be read and {'is' if source.damaged == 1 else 'are'} missing "
            f"from every number{where}."
        )
    else:
        said.append("Every line could be read.")
    if source.sampled:
        said.append(
            f"{share(source.sampled, source.records)} of the records stand for more than one call, as successes were "
            f"sampled: about {many(source.estimated, 'call')} have no record of their own. Counts are estimates."
        )
    if source.suppressed:
        said.append(
            f"{many(source.suppressed, 'rejected call')} of an overload have no record of their own; the next record "
            "of their kind counts them."
        )
    if source.nested:
        said.append(
            f"{share(source.nested, source.records)} of the records are of calls inside another guarded call; both "
            "are counted."
        )
    if source.distinct < _TWICE * source.records:
        said.append(
            f"There are only about {many(source.distinct, 'different id')} of calls: some were read twice, as from a "
            "log and a record of the same service, and count twice. Fix: give one of them."
        )
    if frame.untimed:
        said.append(f"{many(frame.untimed, 'record')} without a time: counted, but not drawn over time.")
    if frame.outside:
        said.append(
            f"{many(frame.outside, 'record')} from far outside of the time shown, as by a wrong clock: counted, but "
            "not drawn over time."
        )
    said.append(
        "Durations are from a call's start to its end. At work: calls whose function ran, fallbacks and failures "
        "included."
    )
    return section(
        "about",
        "About this report",
        "Where the numbers come from",
        tag("ul", [tag("li", line) for line in said], class_="prose"),
    )
