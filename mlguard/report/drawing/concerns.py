"""The section of what each concern did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlguard.report.drawing.markup import Content, Html, tag
from mlguard.report.drawing.section import section, table_behind, time_axis
from mlguard.report.drawing.svg import area, bars, chart, grid, label, stretched
from mlguard.report.drawing.words import NOTHING, clip, count, duration, many, moment, share, size, tick
from mlguard.report.figures import Figures
from mlguard.report.figures.concerns import (
    BreakerFigures,
    CacheFigures,
    ConcurrencyFigures,
    DeadlineFigures,
    FallbackFigures,
    MemoryFigures,
    RetryFigures,
    ValidationFigures,
)
from mlguard.report.figures.failures import Failures
from mlguard.report.figures.frame import Frame

__all__ = ["concerns"]

_HIGH = 44


def concerns(figures: Figures) -> Html | None:
    """A row for each concern that left a trace: a number, a sentence, and when it happened."""
    if not figures.traffic.calls():
        return None
    frame, found = figures.frame, figures.concerns
    rows: list[Html] = []
    silent: list[str] = []
    for name, said in (
        ("Validation", found.validation and _validation(found.validation, frame, figures.failures)),
        ("Cache", found.cache and _cache(found.cache, frame)),
        ("Retry", found.retry and _retry(found.retry, frame)),
        ("Breaker", found.breaker and _breaker(found.breaker, frame)),
        ("Concurrency", found.concurrency and _concurrency(found.concurrency, frame)),
        ("Memory", found.memory and _memory(found.memory, frame)),
        ("Deadline", found.deadline and _deadline(found.deadline, frame)),
        ("Fallback", found.fallback and _fallback(found.fallback, frame)),
    ):
        if said:
            rows.append(_row(name, *said))
        else:
            silent.append(name.lower())
    return section(
        "concerns",
        "Concerns",
        _finding(figures),
        tag("div", *rows, _axis(frame) if rows else None, class_="concerns"),
        tag("p", f"Without a trace in this record: {', '.join(silent)}.", class_="note") if silent else None,
        table_behind(("concern", "what", "value"), _numbers(figures), name="The numbers of the concerns", numbers=(2,)),
        _over_time(figures) if rows and frame.steps > 1 else None,
    )


def _finding(figures: Figures) -> str:
    found = figures.concerns
    said = []
    if found.cache is not None and found.cache.hits + found.cache.coalesced:
        said.append(f"the cache answered {many(found.cache.hits + found.cache.coalesced, 'call')}")
    if found.retry is not None and found.retry.saved:
        said.append(f"retries saved {count(found.retry.saved)}")
    if found.validation is not None and found.validation.refused + found.validation.bad_results:
        said.append(f"validation stopped {count(found.validation.refused + found.validation.bad_results)}")
    if found.breaker is not None and found.breaker.refused:
        said.append(f"the breaker kept back {count(found.breaker.refused)}")
    if not said:
        return "Little for the guards to do"
    told = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    return told[0].upper() + told[1:]


_Said = tuple[str, str, list[Content], Content]
"""The number, its unit, sentences, and the plot."""


def _row(name: str, number: str, unit: str, sentences: list[Content], plot: Content) -> Html:
    return tag(
        "article",
        tag("h3", name),
        tag("p", tag("b", number), " ", tag("span", unit), class_="big"),
        tag("div", [tag("p", sentence) for sentence in sentences if sentence], class_="said"),
        tag("div", plot, class_="place"),
        class_="concern",
    )


def _axis(frame: Frame) -> Content:
    return tag("div", time_axis(frame), class_="concern-axis") if frame.steps > 1 else None


def _plot(steps: Sequence[float], frame: Frame, name: str, kind: str) -> Content:
    most = max(steps, default=0)
    if frame.steps < 2 or not most:
        return None
    where = steps.index(most)
    x = 100 * (where + 0.5) / frame.steps
    return chart(
        _HIGH + 14,
        grid([(0, "")], _HIGH, 12),
        stretched(frame.steps, _HIGH, bars(steps, most, _HIGH, f"fill {kind}"), y=12),
        label(x, 9, count(most), "tick peak", "start" if x < 4 else "end" if x > 96 else "middle"),
        title=f"{name} over time",
        text=f"At most {count(most)} in {tick(frame.step)}, from {moment(frame.at(where), frame)}.",
    )


def _reasons(reasons: Mapping[str, float]) -> str:
    return ", ".join(
        f"{clip(name.rpartition('.')[2].replace('_', ' '), 40)} {count(calls)}"
        for name, calls in list(reasons.items())[:4]
    )


def _validation(one: ValidationFigures, frame: Frame, failures: Failures) -> _Said:
    said: list[Content] = []
    if failures.refused_by_field:
        fields = failures.refused_by_field[:4]
        told = ", ".join(f"{clip(field, 40) or 'the whole'} {count(calls)}" for _, field, calls in fields)
        said.append(f"By field: {told}.")
    if one.bad_results:
        said.append(f"{many(one.bad_results, 'result')} broke the schema and failed the call.")
    if one.let_pass:
        said.append(f"{many(one.let_pass, 'call')} with violations were let pass by report mode.")
    if one.rows_taken_out:
        said.append(f"{many(one.rows_taken_out, 'row')} of tables were taken out, and answered by the fallback.")
    if one.anomalies:
        said.append(f"{many(one.anomalies, 'call')} held something that training never saw.")
    if one.shallow:
        said.append(f"Of {many(one.shallow, 'call')} a sample or the metadata was looked at, not every value.")
    return count(one.refused), "inputs refused", said, _plot(one.steps, frame, "Schemas broken", "rejected_validation")


def _cache(one: CacheFigures, frame: Frame) -> _Said:
    said: list[Content] = []
    if one.asked:
        said.append(
            f"Hit rate {share(one.hits + one.coalesced, one.asked)} of {many(one.asked, 'call')} with a key"
            + (f"; {count(one.coalesced)} shared a run." if one.coalesced else ".")
        )
    if one.spared:
        said.append(f"About {duration(one.spared)} of work spared, at the mean of each function's own runs.")
    if one.rows_hit:
        said.append(f"Row by row: {many(one.rows_hit, 'row')} were known, {count(one.rows_computed)} computed.")
    others = {name: calls for name, calls in one.by_result.items() if name not in ("miss", "coalesced")}
    if others:
        said.append(f"Also: {_reasons(others)}.")
    if one.errors:
        said.append(f"The shared store was no help: {_reasons(one.errors)}.")
    return (
        count(one.hits + one.coalesced),
        "answered",
        said,
        _plot(one.steps, frame, "Answered from the cache", "cache_hit"),
    )


def _retry(one: RetryFigures, frame: Frame) -> _Said:
    said: list[Content] = [
        f"{many(one.retried, 'call')} took {many(one.retries, 'further attempt')}; "
        f"{count(one.gave_up)} gave up in the end.",
        f"{duration(one.waited)} were spent waiting between attempts, "
        f"{duration(one.waited / one.retried)} a retried call.",
    ]
    if one.stopped:
        said.append(f"No further attempt because of: {_reasons(one.stopped)}.")
    return count(one.saved), "calls saved", said, _plot(one.steps, frame, "Further attempts", "retry")


def _breaker(one: BreakerFigures, frame: Frame) -> _Said:
    said: list[Content] = []
    if one.refused:
        said.append(
            f"Circuits of {many(one.functions, 'function')} were open: the callee was spared, the caller told at once."
        )
    else:
        said.append("Every circuit stayed closed.")
    if one.open_seen:
        said.append(f"{many(one.open_seen, 'more call')} came by while a circuit was open or on trial.")
    return (
        count(one.refused),
        "kept back",
        said,
        _plot(one.steps, frame, "Calls that met an open circuit", "rejected_breaker"),
    )


def _concurrency(one: ConcurrencyFigures, frame: Frame) -> _Said:
    said: list[Content] = [f"At most {many(one.most, 'slot was', 'slots were')} in use when a call ended."]
    if one.waited:
        said.append(
            f"{many(one.waited, 'call')} waited for a slot, {duration(one.seconds)} all together, "
            f"{duration(one.seconds / one.waited)} each."
        )
    return (
        count(one.refused),
        "turned away",
        said,
        _plot(one.steps, frame, "Refused or waiting for a slot", "rejected_concurrency"),
    )


def _memory(one: MemoryFigures, frame: Frame) -> _Said:
    said: list[Content] = []
    if one.limit:
        said.append(f"At the peak {size(one.used)} of {size(one.limit)} were in use, {share(one.used, one.limit)}.")
    if one.waited:
        said.append(f"{many(one.waited, 'call')} waited for memory, {duration(one.seconds)} all together.")
    plot: Content = None
    shares = [step or 0.0 for step in one.steps]
    if frame.steps > 1 and max(shares, default=0):
        top = max(shares)
        where = shares.index(top)
        x = 100 * (where + 0.5) / frame.steps
        plot = chart(
            _HIGH + 14,
            grid([(0, ""), (1, "")], _HIGH, 12),
            stretched(frame.steps, _HIGH, area(one.steps, 1, _HIGH, "fill memory"), y=12),
            label(100, 8, "the limit", "tick", "end"),
            label(
                x,
                7 + _HIGH * (1 - min(top, 1)),
                share(top, 1),
                "tick peak",
                "start" if x < 6 else "end" if x > 94 else "middle",
            ),
            title="Memory in use over time",
            text=f"At most {share(top, 1)} of the limit, from {moment(frame.at(where), frame)}.",
        )
    return count(one.refused), "shed", said, plot


def _deadline(one: DeadlineFigures, frame: Frame) -> _Said:
    said: list[Content] = []
    if one.late:
        said.append(f"Used although it came after the deadline: {many(one.late, 'result')}.")
    if one.slow:
        said.append(f"{many(one.slow, 'call')} took longer than their policy's slow_call.")
    return count(one.expired), "expired", said, _plot(one.steps, frame, "Deadlines missed", "failed")


def _fallback(one: FallbackFigures, frame: Frame) -> _Said:
    said: list[Content] = [f"It stood in for: {_reasons(one.causes)}."] if one.causes else []
    return count(one.answered), "degraded answers", said, _plot(one.steps, frame, "Fallbacks", "fallback")


def _over_time(figures: Figures) -> Html:
    """What the plots show, step by step; of memory the share of its limit."""
    frame = figures.frame
    found = {name: one.steps for name, one in vars(figures.concerns).items() if one is not None}

    def cell(name: str, step: int) -> str:
        value = found[name][step]
        return NOTHING if value is None else share(value, 1) if name == "memory" else count(value)

    rows = ([moment(frame.at(step), frame), *(cell(name, step) for name in found)] for step in range(frame.steps))
    numbers = range(1, len(found) + 1)
    return table_behind(("from", *found), rows, name="The numbers of the concerns over time", numbers=numbers)


_BYTES = ("used", "limit")


def _numbers(figures: Figures) -> list[list[Content]]:
    """Every number of every concern, under the name it has in the JSON."""
    rows: list[list[Content]] = []
    for concern, found in vars(figures.concerns).items():
        for name, value in (vars(found) if found is not None else {}).items():
            if isinstance(value, dict):
                rows.extend(
                    [concern, f"{name.replace('_', ' ')}: {clip(reason, 80)}", count(calls)]
                    for reason, calls in value.items()
                )
            elif not isinstance(value, tuple):
                seconds = name == "seconds" or name == "spared" or (concern == "retry" and name == "waited")
                shown = duration(value) if seconds else size(value) if name in _BYTES else count(value)
                rows.append([concern, name.replace("_", " "), shown])
    return rows
