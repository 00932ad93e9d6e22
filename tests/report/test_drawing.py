"""What a report is drawn with: markup that can't be made wrong, words, ticks, and a page of every odd record."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mlguard.report import Figures, gather, page
from mlguard.report.drawing.markup import Html, clean, join, tag
from mlguard.report.drawing.overview import headline
from mlguard.report.drawing.section import time_ticks
from mlguard.report.drawing.svg import area, bars, line, log_ticks, round_ticks
from mlguard.report.drawing.words import (
    NOTHING,
    THIN,
    clip,
    count,
    duration,
    many,
    moment,
    share,
    short_names,
    size,
    span,
    tick,
)
from mlguard.report.figures.concerns import (
    BreakerFigures,
    CacheFigures,
    ConcernFigures,
    ConcurrencyFigures,
    DeadlineFigures,
    MemoryFigures,
    ValidationFigures,
)
from mlguard.report.figures.frame import Frame
from mlguard.report.figures.latency import Latency, Population
from mlguard.report.figures.reference import FieldShift, merged
from mlguard.report.figures.traffic import Ending, Traffic

NOON = datetime(2026, 11, 30, 12)


class Page(HTMLParser):
    """Reads a page as a browser would: elements, their attributes, and the text outside of style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text.append(data)


def test_text_is_escaped_wherever_it_stands() -> None:
    """A string is text in content and in attributes; only an element is markup."""
    made = tag("p", '<b>&"', tag("i", "x"), title='"><script>', class_="a", data_x=1, hidden=True, id=None, open=False)
    assert made == ('<p title="&quot;&gt;&lt;script&gt;" class="a" data-x="1" hidden>&lt;b&gt;&amp;&quot;<i>x</i></p>')
    assert join(["a", None, 1, (Html("<br>"), "<")]) == "a1<br>&lt;"
    assert tag("br") == "<br>"
    assert isinstance(made, Html)


def test_nothing_that_is_obeyed_is_left_in_a_text() -> None:
    """Terminal escapes, marks that turn text around and halves of surrogate pairs are shown by their number."""
    assert (
        clean("\x1b[31m\x00 \u202eabc\u2066\ud800\ufeff") == "<U+001B>[31m<U+0000> <U+202E>abc<U+2066><U+D800><U+FEFF>"
    )
    assert clean("line\n\tعربي é 漢字 \N{ZERO WIDTH JOINER}") == "line\n\tعربي é 漢字 \N{ZERO WIDTH JOINER}"


@pytest.mark.parametrize(
    ("part", "whole", "told"),
    [
        (1, 1, "100"),
        (0, 7, "0"),
        (987, 1_000, "98.7"),
        (1, 2, "50"),
        (9_999, 10_000, "99.99"),
        (1_204_331, 1_204_332, "99.9999"),
        (10**9 - 1, 10**9, "> 99.9999"),
        (1, 10**9, "< 0.01"),
        (3, 10_000, "0.03"),
    ],
)
def test_a_share_is_all_or_nothing_only_where_it_is(part: float, whole: float, told: str) -> None:
    """99.99 % never reads as 100 %, nor one in a billion as none."""
    assert share(part, whole) == f"{told}{THIN}%"
    assert share(part, 0) == NOTHING


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "< 1 µs"),
        (1.8e-05, "18.0 µs"),
        (0.000999, "999 µs"),
        (0.011937, "11.9 ms"),
        (0.9999, "1.00 s"),
        (1.24, "1.24 s"),
        (59.9, "59.9 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (7_980, "2 h 13 min"),
        (3_599.9, "1 h"),
        (86_400 * 1.5, "1 d 12 h"),
        (86_400 * 365, "365 d"),
        (1e12, "> 3 years"),
    ],
)
def test_durations_are_told_with_two_or_three_digits(seconds: float, told: str) -> None:
    """In the unit a person would take."""
    assert duration(seconds).replace(THIN, " ") == told


def test_words() -> None:
    """Numbers, names and times as they are read."""
    assert (count(1_204_332.4), many(1, "call"), many(2, "query", "queries")) == ("1,204,332", "1 call", "2 queries")
    assert size(1_048_576) == f"1{THIN}MiB"
    ticks = {1e-6: "1 µs", 0.005: "5 ms", 1.0: "1 s", 50.0: "50 s", 300.0: "5 min"}
    assert {value: tick(value).replace(THIN, " ") for value in ticks} == ticks
    assert clip("word " * 100, 10) == "word word … (490 more characters)"
    assert short_names(["a.b.f", "a.c.f", "g", ""]) == {"a.b.f": "b.f", "a.c.f": "c.f", "g": "g", "": "(no name)"}
    assert span(NOON, NOON + timedelta(hours=1)) == "30 November 2026, 12:00 to 13:00 UTC"
    assert span(NOON, NOON) == "30 November 2026 at 12:00:00 UTC"
    assert span(NOON, NOON + timedelta(days=2)) == "30 November 2026 12:00 to 2 December 2026 12:00 UTC"
    assert span(NOON, NOON + timedelta(days=200)) == "30 November 2026 to 18 June 2027"


def test_a_moment_is_as_fine_as_the_steps() -> None:
    """The day only where a record has several, the year where it lies outside of the frame."""
    frame = Frame(NOON, 60.0, 60, NOON, NOON + timedelta(minutes=59))
    assert moment(NOON, frame) == "12:00"
    assert moment(NOON, frame, finest=1) == "12:00:00"
    assert moment(NOON - timedelta(days=365), frame) == "30 Nov 2025 12:00"
    days = Frame(NOON, 3_600.0, 72, NOON, NOON + timedelta(days=3))
    assert moment(NOON, days) == "30 Nov 12:00"
    assert moment(NOON, replace(days, step=86_400.0)) == "30 Nov 2026"
    assert moment(NOON, replace(frame, step=0.1)) == "12:00:00.0"
    assert moment(NOON, replace(frame, step=0.01)) == "12:00:00.000"
    assert moment(None, frame) == NOTHING


@pytest.mark.parametrize("step", [0.01, 1, 60, 900, 3_600, 86_400, 86_400 * 28, 86_400 * 3_640])
def test_time_ticks_are_few_and_in_the_frame(step: float) -> None:
    """Whatever the frame is, its axis has between one and ten ticks, all inside."""
    ticks = time_ticks(Frame(NOON, step, 90, NOON, NOON + timedelta(seconds=step * 90)))
    assert 1 <= len(ticks) <= 10
    assert all(0 <= x <= 100 for x, _ in ticks)
    assert time_ticks(Frame(None, 1, 0)) == []


def test_ticks_hold_what_is_drawn() -> None:
    """The last tick is never below the greatest value."""
    for most in (0.3, 1, 3, 7, 12, 855, 1_405, 1e6):
        ticks = round_ticks(most)
        assert ticks[0] == 0
        assert ticks[-1] >= most
        assert len(ticks) <= 5
    for low, high in ((1e-6, 1e-6), (0.01, 0.012), (0.003, 2.5), (1e-7, 100)):
        assert log_ticks(low, high)[0] <= low * 1.001
        assert log_ticks(low, high)[-1] >= high


def test_marks_show_little_and_nothing() -> None:
    """One call in a million is a pixel high, none is not drawn; a line breaks where there is nothing."""
    path = bars([0, 1, 1_000_000], 1_000_000, 100, "fill")
    heights = [float(low) - float(high) for low, high in re.findall(r"M\S+ (\S+?)V(\S+?)h", path)]
    assert heights == [1.0, 100.0]
    assert len(re.findall("M", line([1, 2, None, 3], 0, 3, 100, "p50"))) == 2
    assert "h.01" in line([None, 3, None], 0, 3, 100, "p50")
    assert area([None, 0, 0.5], 1, 100, "fill").count("z") == 1


def with_calls(figures: Figures, **calls: float) -> Figures:
    endings = tuple(Ending(name, number, ()) for name, number in calls.items())
    return replace(figures, traffic=Traffic(endings))


def test_the_headline_says_what_happened(figures: Figures) -> None:
    """How many calls were answered, and what explains the others."""
    none = replace(figures, failures=replace(figures.failures, refused_by_field=(), causes=()))
    assert headline(with_calls(none)) == "This record has no calls"
    assert headline(with_calls(none, executed=1)) == "The one call was answered"
    assert headline(with_calls(none, cancelled=1)) == "The one call was not answered: cancelled"
    assert headline(with_calls(none, executed=1_204_332)) == "All 1,204,332 calls were answered"
    assert headline(with_calls(none, rejected_memory=9)) == (
        "None of 9 calls was answered; a shortage of memory explains all of them"
    )
    assert headline(with_calls(none, executed=90, rejected_breaker=7, failed=3)).replace(THIN, " ") == (
        "90.0 % of 100 calls answered; an open circuit explains 70 % of the others"
    )
    refused = (("f", "age", 60.0), ("g", "income", 25.0), ("g", "city", 6.0), ("g", "x", 9.0))
    by_field = replace(figures, failures=replace(figures.failures, refused_by_field=refused))
    assert headline(with_calls(by_field, executed=900, rejected_validation=100)).replace(THIN, " ") == (
        "90.0 % of 1,000 calls answered; 3 fields explain 91.0 % of the refused inputs"
    )
    one = replace(figures, failures=replace(figures.failures, refused_by_field=(("f", "age", 95.0), ("f", "b", 5.0))))
    assert (
        headline(with_calls(one, executed=900, rejected_validation=100))
        .replace(THIN, " ")
        .endswith("the field “age” explains 95.0 % of the refused inputs")
    )
    lookup = next(one for one in figures.failures.causes if one.disposition == "failed")
    failed = replace(none, failures=replace(none.failures, causes=(replace(lookup, calls=8.0),)))
    assert (
        headline(with_calls(failed, executed=90, failed=10))
        .replace(THIN, " ")
        .endswith("LookupError in credit explains 80 % of the others")
    )


def test_a_page_stands_for_itself(figures: Figures) -> None:
    """It asks nobody for anything, and its policy forbids it to."""
    text = page(figures)
    read = Page(text)
    assert not read.open
    assert all(name not in ("link", "img", "iframe", "object", "embed", "base", "form") for name, _ in read.elements)
    for name, attributes in read.elements:
        assert not {key for key in attributes if key.startswith("on") or key in ("src", "style", "srcset")}, name
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
    (policy,) = [a["content"] for name, a in read.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_charts_have_names_words_and_tables(figures: Figures) -> None:
    """Whoever can't see a chart gets its name, what it shows, and its numbers."""
    read = Page(page(figures))
    charts = [attributes for name, attributes in read.elements if name == "svg" and attributes.get("role") == "img"]
    assert len(charts) > 15
    assert all(attributes["aria-label"] for attributes in charts)
    for name, attributes in read.elements:
        if name == "svg" and "viewbox" not in attributes and attributes.get("class") != "inner":
            assert attributes.get("aria-hidden") or attributes.get("role")
    ids = [attributes["id"] for _, attributes in read.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    tables = [text for text in read.text if text.startswith("The numbers")]
    assert set(tables) > {
        "The numbers of the concerns over time",
        "The numbers behind this chart",
        "The numbers over time",
    }
    wanted = [attributes["data-table"] for _, attributes in read.elements if attributes.get("data-table")]
    assert len(wanted) == 2
    assert set(wanted) <= set(ids)
    links = [(attributes["href"] or "")[1:] for name, attributes in read.elements if name == "a"]
    assert set(links) <= set(ids)
    labelled = [attributes["aria-labelledby"] for _, attributes in read.elements if attributes.get("aria-labelledby")]
    assert set(labelled) <= set(ids)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty", "This record has no calls"),
        ("one", "The one call was answered"),
        ("failures", "None of 45 calls was answered"),
        ("minute", "RuntimeError in work explains all of the others"),
        ("year", "All 400 calls were answered"),
        ("many", "All 600 calls were answered"),
        ("back", "1 record from far outside of the time shown, as by a wrong clock"),
        ("untimed", "No record says when it was"),
        ("bare", "calls answered"),
        ("damaged", "6 lines could not be read and are missing from every number"),
        ("hostile", "None of 374 calls was answered"),
    ],
)
def test_odd_records_make_whole_pages(told: Callable[[str], Figures], name: str, said: str) -> None:
    """Every element is closed, no text of the record became one, and the page says what is odd."""
    text = page(told(name))
    read = Page(text)
    assert not read.open
    assert said in "".join(read.text) if name != "hostile" else "None of" in "".join(read.text)
    assert [element for element, _ in read.elements].count("script") == 1
    assert not {"img", "iframe"} & {element for element, _ in read.elements}
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    assert len(text) < 1_000_000


def test_what_a_damaged_record_says_is_bounded(told: Callable[[str], Figures]) -> None:
    """A text of 20,000 characters is clipped, and how much more there was is said."""
    text = page(told("hostile"))
    assert "more characters)" in text
    assert max(map(len, re.findall(r">([^<]*)<", text.partition("</style>")[2].partition("<script>")[0]))) < 4_500


def test_cards_tell_every_state_of_a_drift(figures: Figures) -> None:
    """Begun, over, begun often, and by a profile."""
    shift = FieldShift(
        "svc.f", "age", "input", "event", True, ("[0, 9]", "a label that is far too long to stand there"), (0.5, 0.5),
        (0.9, 0.1), 0.4, 1e-9, None, 100.0, (NOON,) * 5, (), ("[0, 9]: 50 % -> 90 %",), "look",
    )  # fmt: skip
    over = replace(shift, field="income", drifts=False, recoveries=(NOON,))
    alike = replace(shift, field="city", source="profile", drifts=False, onsets=(), psi=None)
    text = page(replace(figures, reference=merged([shift, over, alike], left_out={"x": "because"})))
    said = "".join(Page(text).text)
    assert "“age” drifted from the training data" in said
    assert "and 2 more times; not over by the end of the record" in said
    assert "1 field of the profile can't be compared" in said
    text = page(replace(figures, reference=merged([over, alike])))
    assert "“income” drifted from the training data for a while, and is as before again" in "".join(Page(text).text)
    assert "The field looks like the training data" in page(replace(figures, reference=merged([alike])))
    assert "No field of the profile can be compared" in page(replace(figures, reference=merged(left_out={"x": "y"})))
    many = [replace(shift, field=f"f{number}") for number in range(30)]
    said = "".join(Page(page(replace(figures, reference=merged(many)))).text)
    assert "and 21 more drifted" in said
    assert "The 24 fields that moved most, of 30." in said


def test_concerns_are_told_in_sentences(figures: Figures) -> None:
    """Every number that a concern can have is in a sentence, in the singular as well."""
    quiet = (0.0,) * figures.frame.steps
    concerns = ConcernFigures(
        validation=ValidationFigures(1, 0, 0, 3, 7, 0, quiet),
        cache=CacheFigures(2, 1, 4, {"stale": 1.0, "bypass": 2.0}, {"timeout": 5.0}, 90, 10, 12.5, quiet),
        retry=None,
        breaker=BreakerFigures(0, 0, 0, quiet),
        concurrency=ConcurrencyFigures(0, 2, 3.0, 4, quiet),
        memory=MemoryFigures(0, 1, 2.5, 800 << 20, 1 << 30, (0.8,) * figures.frame.steps, quiet),
        deadline=DeadlineFigures(2, 1, 5, quiet),
        fallback=None,
    )
    said = "".join(Page(page(replace(figures, concerns=concerns))).text).replace(THIN, " ")
    for sentence in (
        "3 rows of tables were taken out, and answered by the fallback.",
        "Of 7 calls a sample or the metadata was looked at, not every value.",
        "Hit rate 75 % of 4 calls with a key; 1 shared a run.",
        "About 12.5 s of work spared",
        "Row by row: 90 rows were known, 10 computed.",
        "Also: stale 1, bypass 2.",
        "The shared store was no help: timeout 5.",
        "Every circuit stayed closed.",
        "At most 4 slots were in use when a call ended.",
        "2 calls waited for a slot, 3.00 s all together, 1.50 s each.",
        "1 call waited for memory, 2.50 s all together.",
        "At the peak 800 MiB of 1 GiB were in use, 78 %.",
        "Used although it came after the deadline: 1 result.",
        "5 calls took longer than their policy's slow_call.",
        "Without a trace in this record: retry, fallback.",
    ):
        assert sentence in said, sentence


def test_a_cache_alone_and_no_call_at_all_have_a_latency(figures: Figures) -> None:
    """Where nothing ran, the section says so instead of showing the cache as the model."""
    cached = Population("cache", 5.0, 0.001, 0.0003, (0.0002, 0.0003, 0.0003), {-37: 5.0})
    none = (None,) * figures.frame.steps
    text = page(replace(figures, latency=Latency((cached,), none)))
    assert "No function ran: the cache answered, half of the time within 200" in text
    refused = replace(cached, name="refused")
    assert "No call came as far as the function" in page(replace(figures, latency=Latency((refused,), none)))


def test_many_functions_and_causes_are_bounded(figures: Figures) -> None:
    """Those out of sight are counted, and folded away."""
    (first, *_) = figures.functions
    rest = replace(first, name="", percentiles=None, others=7)
    many_functions = (*(replace(first, name=f"svc.f{number}") for number in range(30)), rest)
    failures = replace(figures.failures, fields_in_all=99, causes_in_all=1_234)
    said = "".join(Page(page(replace(figures, functions=many_functions, failures=failures))).text)
    assert "The other 6 lines" in said
    assert "7 further functions" in said
    assert "most frequent of 99 fields." in said
    assert "most frequent of 1,234 causes." in said


def test_calls_that_were_read_twice_are_noticed(day: Path, tmp_path: Path) -> None:
    """A log and a record of the same calls add up to twice as many; the page says so."""
    (tmp_path / "copy.jsonl").write_bytes(day.read_bytes())
    said = "".join(Page(page(gather([day, tmp_path]))).text)
    assert "some were read twice" in said
    assert "some were read twice" not in "".join(Page(page(gather([day]))).text)
