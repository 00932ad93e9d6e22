"""`mlguard doctor`: which memory limit applies here and why, what the allocator keeps, and what is worth changing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from mlguard import clock
from mlguard.memory.checkup import examine

__all__ = ["doctor"]


def doctor(
    threshold: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="The share of the limit up to which calls are admitted.")
    ] = 0.85,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Which memory limit applies here and why, what the allocator keeps, and what is worth changing.

    Run it where the service runs: in its container, with its environment.
    """
    findings = examine(threshold)
    typer.echo(json.dumps(findings, indent=2) if as_json else "\n".join(_told(findings)))


def _told(findings: dict[str, Any]) -> Iterator[str]:
    limit = findings["limit"]
    yield "Memory limit"
    if limit:
        room = f"{_size(limit['room'])} left" if limit["room"] >= 0 else f"{_size(-limit['room'])} over"
        yield f"  {_size(limit['limit'])}, of {limit['source']}: {limit['why']}."
        yield f"  {_size(limit['used'])} used, {room} below {findings['threshold'] * 100:.4g}%."
    else:
        yield "  none can be read, so that the guard admits every call, with a warning."
    yield ""
    yield "The way to it, nearest first (used: without page cache; kubelet: with the active part of it)"
    yield from _table(findings["levels"], limit.get("source"))
    for line in findings["membership"]:
        if line.startswith("0::") or "memory" in line:
            yield f"  /proc/self/cgroup says {line}"
    yield ""
    yield "Allocator"
    yield from (f"  {line}" for line in _allocator(findings["allocator"]))
    yield ""
    yield "Promises of this container's processes"
    ledger = findings["ledger"]
    yield f"  {ledger.get('path') or 'no file'}: {ledger.get('state', 'unknown')}." + (
        f" {ledger['processes']} processes, {_size(ledger['promised'])} promised." if "processes" in ledger else ""
    )
    yield ""
    yield 'need="learned"'
    why_not = findings["learning"].get("why_not")
    yield f"  not possible: {why_not}." if why_not else "  possible: the kernel tells the peak of one call."
    if findings["problems"]:
        yield ""
        yield "Could not be found out"
        yield from (f"  {problem}" for problem in findings["problems"])
    yield ""
    yield "Worth changing" if findings["advice"] else "Nothing is worth changing."
    for advice in findings["advice"]:
        yield f"  - {advice['setting']}"
        yield f"    why: {advice['because']}"
        yield f"    it costs: {advice['costs']}"


def _table(levels: list[dict[str, Any]], nearest: str | None) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("", "limit", "used", "kubelet", "left", "left by kubelet")]
    for level in levels:
        figures = (level.get(key) for key in ("limit", "used", "working_set", "room", "room_by_kubelet"))
        mark = " *" if level["source"] == nearest else ""
        rows.append((level["source"] + mark, *("-" if figure is None else _size(figure) for figure in figures)))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for row in rows:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield f"  {row[0].ljust(widths[0])}  {'  '.join(cells)}".rstrip()


def _allocator(found: dict[str, Any]) -> Iterator[str]:
    if not found:
        yield "unknown."
        return
    heaps = f", in at most {found['heaps_at_most']} heaps" if found["heaps_at_most"] else ""
    keeps = "keeps freed blocks of more than 1 MiB" if found["keeps_freed_memory"] else "gives freed big blocks back"
    yield f"{found['name']}, which {keeps}{heaps if found['keeps_freed_memory'] else ''}."
    for name, value in found["settings"].items():
        yield f"{name}={value}"


def _size(size: int) -> str:
    return f"-{clock.size_text(-size)}" if size < 0 else clock.size_text(size)
