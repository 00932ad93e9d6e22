"""The docs site: it builds without a warning, every link leads somewhere, and nothing comes from anywhere else."""

from __future__ import annotations

import importlib
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FETCHED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}
MODULES = [
    "mlguard",
    "mlguard.contracts",
    "mlguard.drift",
    "mlguard.errors",
    "mlguard.integrations.fastapi",
    "mlguard.policies",
    "mlguard.record",
    "mlguard.report",
    "mlguard.testing",
]


class Page(HTMLParser):
    """What a page of the site holds: anchors, links, and what a browser fetches for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if name := given.get("id") or (tag == "a" and given.get("name")):
            self.ids.add(str(name))
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag in FETCHED and given.get(FETCHED[tag]):
            self.fetched.append(str(given[FETCHED[tag]]))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_is_in_the_navigation() -> None:
    """A page that nobody finds is no page; and the navigation names none that is not there."""
    groups = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    entries = [entry for group in groups for items in group.values() for entry in items]
    named = [entry if isinstance(entry, str) else next(iter(entry.values())) for entry in entries]
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if "examples" not in path.parts}
    assert sorted(named) == sorted(there)


def test_links_lead_somewhere(pages: dict[Path, Page], site: Path) -> None:
    """Every link within the site, with its anchor, and every picture, script and stylesheet is there."""
    broken = []
    for path, page in pages.items():
        if path.name == "404.html":  # its links are for whatever address it is shown at
            continue
        for link in [*page.links, *page.fetched]:
            target = urlsplit(link)
            if target.scheme:
                continue
            file = path if not target.path else (path.parent / unquote(target.path)).resolve()
            if file.is_dir():
                file /= "index.html"
            anchor = unquote(target.fragment)
            if not file.is_relative_to(site.resolve()) and not file.is_relative_to(site):
                broken.append(f"{path.relative_to(site)}: {link} leads out of the site")
            elif not file.exists():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif anchor and anchor != "__skip" and file.suffix == ".html":
                known = pages.get(site / file.relative_to(site.resolve()), page)
                if anchor not in known.ids:
                    broken.append(f"{path.relative_to(site)}: {link} has no such anchor")
    assert not broken, "\n".join(broken)


def test_nothing_is_fetched_from_elsewhere(pages: dict[Path, Page]) -> None:
    """No page names a font, script, picture or stylesheet of another host."""
    assert len(pages) > 20
    assert not [(path.name, link) for path, page in pages.items() for link in page.fetched if urlsplit(link).netloc]


@pytest.mark.parametrize("module", MODULES)
def test_the_reference_has_every_public_name(pages: dict[Path, Page], module: str) -> None:
    """What can be imported can be looked up, under whichever of its names."""
    anchors = set().union(*(page.ids for path, page in pages.items() if "reference" in path.parts))
    known = [named(anchor) for anchor in anchors if anchor.startswith("mlguard.")]
    package = importlib.import_module(module)
    public = {name: getattr(package, name) for name in package.__all__}
    missing = [
        name
        for name, value in public.items()
        if not isinstance(value, ModuleType) and not any(value is each for each in known)
    ]
    assert not missing


def named(path: str) -> Any:
    """What stands under this dotted path; a module goes before a function of its name."""
    owner, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(owner), name)
    except (ImportError, AttributeError):
        return None  # a member of a class


LEFT_OVER = re.compile(r"```|\*\*[^\d*]|\n\s*[-*] |\n\s*\d+\. |\]\(|\|\s*-{3}")
SITE_ONLY = re.compile(r"^(:::|--8<--|!!!|\?\?\?|=== \"|\{[:#.])", re.MULTILINE)


def test_no_markdown_is_left_over(site: Path) -> None:
    """What a code browser shows as a list or a table is one on the site as well."""
    found = []
    for path in site.rglob("index.html"):
        article = path.read_text().partition("<article")[2].partition("</article>")[0]
        words = re.sub(r"<(pre|code|script|style)\b.*?</\1>", "", article, flags=re.DOTALL)
        pieces = re.findall(r"<(p|li|td)\b[^>]*>(.*?)</\1>", words, flags=re.DOTALL)
        found += [(path.parent.name, piece) for _, piece in pieces if LEFT_OVER.search(re.sub("<[^>]+>", "", piece))]
    assert not found


def test_pages_are_plain_markdown() -> None:
    """Every page reads as well in a code browser; only the reference and the included pages are made for the site."""
    assert not [path.name for path in DOCS.glob("*.md") if SITE_ONLY.search(_without_code(path.read_text()))]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_of_the_pages_at_the_root(name: str) -> None:
    """They are read in a code browser: each link leads to a file of the repository, and to a heading in it."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", _without_code((ROOT / name).read_text())):
        target = urlsplit(link)
        file = ROOT / (target.path or name)
        if target.scheme:
            continue
        if not file.exists() or (target.fragment and target.fragment not in _anchors(file)):
            broken.append(link)
    assert not broken


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def _anchors(file: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", _without_code(file.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_pipes_in_tables(pages: dict[Path, Page], site: Path) -> None:
    """Code in a table shows a pipe as it is, as code browsers do."""
    assert "<code>float | None</code>" in (site / "tables" / "index.html").read_text()
