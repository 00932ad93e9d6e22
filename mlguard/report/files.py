"""Writing a report: whole or not at all, and never over something that is none."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from mlguard.report.figures import Figures

__all__ = ["JSON_MARK", "MARK", "ReportError", "as_json", "check", "save"]

MARK: Final = '<meta name="generator" content="mlguard report">'
"""By what a page is known as a report."""

JSON_MARK: Final = '"mlguard_report": 1'
"""By what a file of figures is known as one; the number is the version of its form."""

_HEAD = 4_096  # bytes in which a mark must stand


class ReportError(Exception):
    """A report can't be written. The message names the file and the fix."""


def as_json(figures: Figures) -> str:
    """The figures as JSON, by the names of the dataclasses in `mlguard.report.figures`; times in ISO 8601, UTC."""
    told = {"mlguard_report": 1, **_plain(dataclasses.asdict(figures))}
    return json.dumps(told, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def check(path: str | os.PathLike[str]) -> None:
    """Refuses, before any work, a path at which no report can be written.

    Raises:
        ReportError: It is a folder, its folder does not exist or can't be written to, or there is a file that is no
            report.
    """
    file = Path(path)
    try:
        _refuse(file)
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise _cannot(file, error) from None


def save(text: str, path: str | os.PathLike[str]) -> None:
    """Writes a page or its figures. An older report there stays whole until the new one is.

    Raises:
        ReportError: As `check` does, or the disk is full.
    """
    check(path)
    file = Path(os.path.realpath(path))  # a link goes on pointing to the report
    beside = file.with_name(f".{file.name[:50]}.{secrets.token_hex(4)}.new")
    try:
        with beside.open("x", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
            out.write(text)
        os.replace(beside, file)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise _cannot(file, error) from None
        raise


def _refuse(file: Path) -> None:
    folder = file.absolute().parent
    if file.is_dir():
        raise ReportError(f"{file} is a folder. Fix: name a file in it, such as {file / 'report.html'}.")
    if not folder.is_dir():
        raise ReportError(f"the folder {folder} does not exist. Fix: make it, or name a file elsewhere.")
    if not os.access(folder, os.W_OK):
        raise ReportError(f"the folder {folder} can't be written to. Fix: name a file elsewhere, or ask for the right.")
    if file.exists() and not _is_ours(file):
        raise ReportError(
            f"{file} exists and is no report, so it was not overwritten. Fix: name another file, or remove that one."
        )


def _cannot(file: Path, error: OSError) -> ReportError:
    return ReportError(
        f"{file} can't be written: {error.strerror}. Fix: name a file in a folder that may be written to and has room."
    )


def _is_ours(file: Path) -> bool:
    """An empty file is nobody's loss."""
    if not file.is_file():
        return False
    try:
        with file.open("rb") as found:
            head = found.read(_HEAD).decode("utf-8", "replace")
    except OSError:
        return False
    return not head or MARK in head or (head.startswith("{") and JSON_MARK in head)


def _plain(value: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(value, datetime):
        return f"{value.isoformat()}Z"
    if isinstance(value, float):
        return round(value, 9) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
