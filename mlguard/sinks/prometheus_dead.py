"""The files of workers that are gone, put together: a service that recycles workers would else fill its folder.

A scrape reads every file there is, and what dead workers counted must stay in the sum (client_python #568). So once
there are many, a scrape adds them up into one file of each kind. Only files of processes that had a `Presence` are
touched, so that they are known to be gone, wherever they ran; gauges are left to `mark_process_dead`.

What is killed in the midst of it loses nothing and counts nothing twice: a plan is on disk before anything goes, and
the next scrape ends what it says.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from prometheus_client.mmap_dict import MmapedDict

fcntl: Any
try:
    import fcntl
except ModuleNotFoundError:  # Windows, where files stay
    fcntl = None

__all__ = ["MOST", "Presence", "put_together", "scraping"]

MOST: Final = 16
"""Processes whose files may lie there before they are put together."""

_KINDS: Final = ("counter", "histogram", "summary")
_ALIVE: Final = "mlguard_{pid}.alive"
_TOGETHER: Final = "_mlguard-gone-"


class Presence:
    """Says that a process is there, until it is not: the system lets go of the lock, whatever ends the process."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def begin(self, folder: Path) -> None:
        """From now on its files are known to be in use."""
        if self._file is None and fcntl is not None:
            self._file = (folder / _ALIVE.format(pid=os.getpid())).open("ab")
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def after_fork(self) -> None:
        """The lock is the parent's, and stays it."""
        if self._file is not None:
            self._file.close()  # in another process than the one that took it, this lets go of nothing
            self._file = None


@contextlib.contextmanager
def scraping(folder: Path) -> Iterator[None]:
    """Around a scrape: no other one, in whatever process, moves files under it."""
    if fcntl is None:
        yield
        return
    with (folder / "mlguard.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # goes with the file, at its closing
        yield


def put_together(folder: Path) -> None:
    """Ends what was begun; then, where many processes are gone, makes one file of theirs. Within `scraping`."""
    if fcntl is None:
        return
    for plan in folder.glob("mlguard_*.plan"):
        _carry_out(plan)
    gone = {pid for path in folder.glob(_ALIVE.format(pid="*")) if (pid := _gone(path)) is not None}
    if len(gone) <= MOST:
        return
    for kind in _KINDS:
        _merge(folder, kind, [folder / f"{kind}_{pid}.db" for pid in sorted(gone)])
    for pid in gone:
        (folder / _ALIVE.format(pid=pid)).unlink(missing_ok=True)


def _gone(path: Path) -> int | None:
    """The process of a presence, where it has ended."""
    pid = path.name.removeprefix("mlguard_").removesuffix(".alive")
    if not pid.isdigit() or int(pid) == os.getpid():  # opening and closing our own would let go of the lock
        return None
    try:
        with path.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(int(pid), 0)  # a new one that got its number
    except ProcessLookupError:
        return int(pid)
    except OSError:
        return None
    return None


def _merge(folder: Path, kind: str, files: list[Path]) -> None:
    before = sorted(folder.glob(f"{kind}{_TOGETHER}*.db"))
    totals: dict[str, float] = defaultdict(float)
    for path in [*before, *files]:
        with contextlib.suppress(Exception):  # absent, or damaged: what can't be read is in no scrape either
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
                totals[key] += value
    number = 1 + max([0, *(int(path.stem.rpartition("-")[2]) for path in before)])
    into, draft = folder / f"{kind}{_TOGETHER}{number}.db", folder / f"mlguard_{kind}.draft"
    draft.unlink(missing_ok=True)
    made: Any = MmapedDict(str(draft))  # type: ignore[no-untyped-call]  # has no types
    try:
        for key, total in totals.items():
            made.write_value(key, total, 0.0)
    finally:
        made.close()
    plan = folder / f"mlguard_{kind}.plan"
    words = {"draft": draft.name, "into": into.name, "then_remove": [path.name for path in [*before, *files]]}
    beside = plan.with_suffix(".new")
    beside.write_text(json.dumps(words), encoding="utf-8")
    os.replace(beside, plan)
    _carry_out(plan)


def _carry_out(plan: Path) -> None:
    words = json.loads(plan.read_text(encoding="utf-8"))
    into = plan.with_name(words["into"])
    if not into.exists():
        os.replace(plan.with_name(words["draft"]), into)
    for name in words["then_remove"]:
        plan.with_name(name).unlink(missing_ok=True)
    plan.unlink()
