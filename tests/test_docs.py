"""README and docs: every Python block runs, in order, page by page, and prints what the page says it prints.

A page is one script, run in an empty directory. A ```text block after a ```python block is that block's output, where
times and ids may differ. A ```toml block that starts with a comment naming a file is that file.
"""

from __future__ import annotations

import contextlib
import gc
import io
import linecache
import re
import sys
import types
import weakref
from pathlib import Path

import pytest
import structlog

from mlguard import policies
from mlguard.monitor import readings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VOLATILE = [
    (re.compile(r'("mlguard\.(?:parent_)?call_id": )"[0-9a-f]+"'), r'\1"ID"'),
    (
        re.compile(r'("(?:mlguard\.duration|mlguard\.first_item|mlguard\.waited|mlguard\.memory\.\w+)": )[\d.e+-]+'),
        r"\1N",
    ),
    (re.compile(r'("timestamp": )"[^"]+"'), r'\1"T"'),
    (re.compile(r'("process\.pid": )\d+'), r"\1P"),
    (re.compile(r'("host\.name": )"[^"]+"'), r'\1"H"'),
    (re.compile(r'("mlguard\.policy\.fingerprint": )"[0-9a-f]+"'), r'\1"F"'),
    (re.compile(r"limit of (?:host|cgroup v\d \S+?), "), "limit of SOURCE, "),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "TIME"),
    (re.compile(r"(/[\w.-]+)+/mlguard\.toml"), "mlguard.toml"),
    (re.compile(r"\d+(?:\.\d+)?(?:KiB|MiB|GiB|TiB)"), "SIZE"),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader copies from the page works, in the order of the page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlguard.wrapper._wrappers", weakref.WeakSet())  # those of other pages are no matter here
    readings.of_this_process.after_fork()  # nor is what they counted
    policies.reset()
    module = types.ModuleType("service")
    monkeypatch.setitem(sys.modules, "service", module)
    text = page.read_text()
    printed = None
    try:
        for match in BLOCK.finditer(text):
            language, body = match.groups()
            line = text[: match.start()].count("\n") + 2
            if language == "toml" and body.startswith("# ") and body.split("\n", 1)[0].endswith(".toml"):
                (tmp_path / body.split("\n", 1)[0][2:]).write_text(body)
            elif language == "python":
                printed = _run(body, page, line, module)
            elif language == "text" and printed is not None:
                assert _steady(printed.strip()) == _steady(body.strip()), f"{page.name}:{line}"
                printed = None
    finally:
        structlog.reset_defaults()
        policies.reset()
        gc.collect()  # the guarded functions of a page are no matter for the next


def _run(body: str, page: Path, line: int, module: types.ModuleType) -> str:
    """Runs a block under the page's name and lines, so that a failure points into the page."""
    filename = f"{page}#{line}"
    source = "\n" * (line - 1) + body
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(source, filename, "exec"), module.__dict__)
    return out.getvalue()


def _steady(text: str) -> str:
    for pattern, instead in VOLATILE:
        text = pattern.sub(instead, text)
    return text
