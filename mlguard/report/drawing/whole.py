"""The whole page: one file that asks nobody for anything.

The content security policy in its head allows the style sheet and the script that are in it, by their digest, and
nothing else: no picture, no font, no request, and nothing that a record could have smuggled in.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources

from mlguard.report.drawing.about import about
from mlguard.report.drawing.concerns import concerns
from mlguard.report.drawing.failures import failures
from mlguard.report.drawing.functions import functions
from mlguard.report.drawing.latency import latency
from mlguard.report.drawing.markup import Html, tag
from mlguard.report.drawing.overview import headline, key_figures, standfirst
from mlguard.report.drawing.reference import reference
from mlguard.report.drawing.slowest import slowest
from mlguard.report.drawing.traffic import traffic
from mlguard.report.drawing.words import clip
from mlguard.report.figures import Figures
from mlguard.report.files import MARK

__all__ = ["page"]

_CONTENTS = {
    "traffic": "Calls",
    "latency": "Latency",
    "concerns": "Concerns",
    "failures": "Failures",
    "reference": "Reference",
    "functions": "Functions",
    "slowest": "Slowest",
    "about": "About",
}


def page(figures: Figures) -> str:
    """The report as a page."""
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    said = headline(figures)
    title = clip(figures.title or "", 200)
    sections = {
        "traffic": traffic(figures) if figures.traffic.calls() else None,
        "latency": latency(figures),
        "concerns": concerns(figures),
        "failures": failures(figures),
        "reference": reference(figures),
        "functions": functions(figures),
        "slowest": slowest(figures),
        "about": about(figures),
    }
    links = [tag("a", _CONTENTS[name], href=f"#{name}") for name, made in sections.items() if made is not None]
    kicker = title or clip(", ".join(figures.source.names), 120)
    made = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            Html(MARK),
            tag("meta", http_equiv="Content-Security-Policy", content=policy),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("meta", name="referrer", content="no-referrer"),
            tag("title", f"{said} \N{EN DASH} {title or 'mlguard report'}"),
            tag("style", Html(style)),
        ),
        tag(
            "body",
            tag("a", "Skip to the report", href="#main", class_="skip"),
            tag(
                "header",
                tag(
                    "div",
                    tag("p", kicker, class_="kicker"),
                    tag("button", "Dark", type="button", id="theme", hidden=True),
                    class_="bar",
                ),
                tag("h1", said),
                standfirst(figures),
                key_figures(figures),
                tag("nav", *links, aria_label="Sections"),
                class_="top",
            ),
            tag("main", *sections.values(), id="main"),
            tag("footer", tag("p", f"mlguard {figures.version} · made {figures.made:%-d %B %Y %H:%M} UTC")),
            tag("script", Html(script)),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{made}\n"


@functools.cache
def _asset(name: str) -> str:
    return resources.files("mlguard.report.drawing").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
