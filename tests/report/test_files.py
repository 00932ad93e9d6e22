"""Writing a report: whole or not at all, and never over something else."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mlguard.report import Figures, ReportError, as_json, page, save
from mlguard.report.files import JSON_MARK, MARK, check


def test_a_page_and_its_figures_are_known_as_ours(figures: Figures, tmp_path: Path) -> None:
    """What is ours may be replaced, by either."""
    for name, text, mark in (("a.html", page(figures), MARK), ("a.json", as_json(figures), JSON_MARK)):
        assert mark in text[:4_096]
        save(text, tmp_path / name)
        save(text, tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8") == text
    assert sorted(os.listdir(tmp_path)) == ["a.html", "a.json"]


def test_what_is_no_report_is_not_overwritten(figures: Figures, tmp_path: Path) -> None:
    """With an error that names the file and the fix; an empty file is nobody's loss."""
    other = tmp_path / "thesis.html"
    other.write_text("<html>years of work</html>")
    with pytest.raises(ReportError, match=r"thesis\.html exists and is no report.*Fix: name another file"):
        save("x", other)
    assert other.read_text() == "<html>years of work</html>"
    (tmp_path / "empty.html").touch()
    save(page(figures), tmp_path / "empty.html")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ReportError, match="is no report"):
            check(tmp_path / "pipe")


def test_places_where_nothing_can_be_written_are_named(tmp_path: Path) -> None:
    """A folder, a folder that is not there, a name that is too long."""
    with pytest.raises(ReportError, match=r"is a folder\. Fix: name a file in it, such as .*report\.html"):
        check(tmp_path)
    with pytest.raises(ReportError, match=r"absent does not exist\. Fix:"):
        check(tmp_path / "absent" / "report.html")
    with pytest.raises(ReportError, match=r"can't be written: .*Fix:"):
        save("x", tmp_path / ("x" * 300))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a file-size limit stands for a full disk")
def test_a_full_disk_leaves_the_old_report_whole(figures: Figures, tmp_path: Path) -> None:
    """Nothing half-written remains, and the message says what to do."""
    target = tmp_path / "report.html"
    save(page(figures), target)
    before = target.read_bytes()
    code = (
        "import resource, signal, sys\n"
        "from mlguard.report import ReportError, save\n"
        "from mlguard.report.files import MARK\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n    save(MARK + 'x' * 1_000_000, sys.argv[1])\n"
        "except ReportError as error:\n    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=True)
    assert "can't be written: File too large. Fix:" in said.stdout
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_report_has_the_rights_of_any_new_file_and_follows_links(figures: Figures, tmp_path: Path) -> None:
    """Not those of a temporary file, which nobody else could read; a link goes on pointing to it."""
    (tmp_path / "real").mkdir()
    link = tmp_path / "latest.html"
    link.symlink_to(tmp_path / "real" / "report.html")
    save(page(figures), link)
    assert link.is_symlink()
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert stat.S_IMODE((tmp_path / "real" / "report.html").stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_the_figures_as_json_are_those_of_the_page(figures: Figures) -> None:
    """By the names of the dataclasses, with times in UTC, and nothing that JSON has no word for."""
    told = json.loads(as_json(figures))
    assert told["mlguard_report"] == 1
    assert {one["disposition"]: one["calls"] for one in told["traffic"]["endings"]} == {
        one.disposition: pytest.approx(one.calls) for one in figures.traffic.endings
    }
    assert told["frame"]["start"] == "2026-11-23T00:00:00Z"
    assert told["source"]["records"] == figures.source.records
    assert told["latency"]["populations"][0]["percentiles"] == pytest.approx(
        list(figures.latency.populations[0].percentiles), abs=1e-8
    )
    assert set(told) == {"mlguard_report", *vars(figures)}
