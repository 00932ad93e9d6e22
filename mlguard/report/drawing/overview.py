"""The head of the page: what happened, in words."""

from __future__ import annotations

from mlguard.report.drawing.markup import Content, Html, tag
from mlguard.report.drawing.words import ENDINGS, NOTHING, clip, count, duration, many, quoted, share, short_names, span
from mlguard.report.figures import Figures
from mlguard.report.figures.facts import ANSWERED, REFUSED

__all__ = ["headline", "key_figures", "standfirst"]

_REASONS = {
    "rejected_validation": "input that breaks its schema",
    "rejected_breaker": "an open circuit",
    "rejected_memory": "a shortage of memory",
    "rejected_concurrency": "a lack of free slots",
    "failed": "failure of the function",
    "cancelled": "cancellation",
}

_MOST_OF = 0.75  # of the refused inputs, from which one field is told alone
_FIELD = 60  # characters of a name within a sentence


def headline(figures: Figures) -> str:
    """One sentence: how many calls were answered, and what explains most of the rest."""
    calls, answered = figures.traffic.calls(), figures.traffic.calls(*ANSWERED)
    if not calls:
        return "This record has no calls"
    if round(calls) == 1:
        one = figures.traffic.endings[0].disposition
        return "The one call was answered" if answered else f"The one call was not answered: {_ending(one)}"
    if answered >= calls:
        return f"All {count(calls)} calls were answered"
    begun = (
        f"{share(answered, calls)} of {count(calls)} calls answered"
        if answered
        else f"None of {count(calls)} calls was answered"
    )
    return f"{begun}; {_rest(figures, calls - answered)}"


def _rest(figures: Figures, lost: float) -> str:
    """What explains the calls that were not answered."""
    refused = figures.traffic.calls("rejected_validation")
    fields = figures.failures.refused_by_field
    if fields and refused >= 0.5 * lost:
        most = fields[0][2]
        if most >= _MOST_OF * refused:
            field = clip(fields[0][1] or "of the whole input", _FIELD)
            return f"the field {quoted(field)} explains {_share(most, refused, 'the refused inputs')}"
        together = sum(calls for _, _, calls in fields[:3])
        if together >= 0.5 * refused:
            return f"{min(3, len(fields))} fields explain {_share(together, refused, 'the refused inputs')}"
    the_rest = "the others" if figures.traffic.calls(*ANSWERED) else "them"
    endings = sorted(
        (one for one in figures.traffic.endings if one.disposition not in ANSWERED), key=lambda one: -one.calls
    )
    first = endings[0]
    if first.disposition == "failed" and figures.failures.causes:
        cause = next((one for one in figures.failures.causes if one.disposition == "failed"), None)
        if cause is not None and cause.calls >= 0.4 * lost:
            names = short_names([cause.function])
            kind = clip(cause.cause.rpartition(".")[2], _FIELD)
            return f"{kind} in {clip(names[cause.function], _FIELD)} explains {_share(cause.calls, lost, the_rest)}"
    what = _REASONS.get(first.disposition, _ending(first.disposition))
    return f"{what} explains {_share(first.calls, lost, the_rest)}"


def _share(part: float, whole: float, of: str) -> str:
    return f"all of {of}" if part >= whole else f"{share(part, whole)} of {of}"


def _ending(disposition: str) -> str:
    return ENDINGS.get(disposition, disposition.replace("_", " "))


def standfirst(figures: Figures) -> Html:
    """When, how fast, and what the guards did, in three or four sentences."""
    source, frame, traffic = figures.source, figures.frame, figures.traffic
    if not traffic.calls():
        why = (
            "Nothing matches the filters."
            if source.filters
            else "Fix: name the folder or files that the events were written to."
        )
        return tag("p", why, class_="standfirst")
    said: list[str] = []
    if frame.first is not None and frame.last is not None:
        said.append(
            f"{span(frame.first, frame.last)}: {many(traffic.calls(), 'call')} of {many(source.functions, 'function')}."
        )
    else:
        said.append(
            f"{many(traffic.calls(), 'call')} of {many(source.functions, 'function')}, at times that no record tells."
        )
    ran = figures.latency.of("ran")
    if ran is not None and ran.calls >= 2:
        p50, _, p99 = ran.percentiles
        said.append(f"A call at work took {duration(p50)} in the median, one in a hundred more than {duration(p99)}.")
    cache = figures.concerns.cache
    if cache is not None and cache.hits + cache.coalesced:
        said.append(
            f"The cache answered {share(cache.hits + cache.coalesced, traffic.calls())} of the calls and spared "
            f"about {duration(cache.spared)} of work."
        )
    refused, failed = traffic.calls(*REFUSED), traffic.calls("failed")
    if refused and failed:
        said.append(f"{_were(refused)} refused before the function ran, {count(failed)} failed in it.")
    elif refused or failed:
        said.append(
            f"{_were(refused)} refused before the function ran." if refused else f"{many(failed, 'call')} failed."
        )
    drifting = {(one.function, one.field) for one in figures.reference.shifts if one.drifts}
    if drifting:
        said.append(f"{many(len(drifting), 'field')} drifted from the training data.")
    return tag("p", " ".join(said), class_="standfirst")


def _were(calls: float) -> str:
    return many(calls, "call was", "calls were")


def key_figures(figures: Figures) -> Content:
    """The six numbers that everybody asks for."""
    traffic = figures.traffic
    calls = traffic.calls()
    if not calls:
        return None
    ran = figures.latency.of("ran")
    cache = figures.concerns.cache
    shown = [
        ("calls", count(calls), _pace(figures)),
        ("answered", share(traffic.calls(*ANSWERED), calls), count(traffic.calls(*ANSWERED))),
        ("median at work", duration(ran.percentiles[0]) if ran else NOTHING,
         f"p99 {duration(ran.percentiles[2])}" if ran else "nothing ran"),
        ("cache hit rate", share(cache.hits + cache.coalesced, cache.asked) if cache and cache.asked else NOTHING,
         f"of {count(cache.asked)} asked" if cache and cache.asked else "no cache asked"),
        ("refused", count(traffic.calls(*REFUSED)), share(traffic.calls(*REFUSED), calls)),
        ("failed", count(traffic.calls("failed")), share(traffic.calls("failed"), calls)),
    ]  # fmt: skip
    return tag(
        "dl",
        [
            tag("div", tag("dt", name), tag("dd", number), tag("dd", note, class_="note"))
            for name, number, note in shown
        ],
        class_="figures",
    )


def _pace(figures: Figures) -> str:
    frame = figures.frame
    if frame.first is None or frame.last is None:
        return "times unknown"
    seconds = (frame.last - frame.first).total_seconds()
    if seconds < 1:
        return f"within {duration(seconds)}" if seconds else "at one moment"
    rate = figures.traffic.calls() / seconds
    for unit, length in (("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400)):
        if rate * length >= 1:
            return f"{rate * length:,.3g} a {unit}" if rate * length < 1000 else f"{count(rate * length)} a {unit}"
    return f"in {duration(seconds)}"
