"""A real cgroup with a limit, and what happens to a process in it: was it killed, and how full did it get?

cgroup v1 is what is built here, below our own group; where that is not possible, `why_not` says why.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlguard.memory import cgroup

__all__ = ["MIB", "Box", "Ran", "box", "why_not"]

MIB = 1 << 20

_SAMPLE_EVERY = 0.005


@dataclass
class Ran:
    """What became of one process in a box."""

    killed: bool
    code: int
    out: str
    err: str
    seconds: float
    peak: int
    """The most bytes in use at any look, page cache that can be dropped left out."""
    timeline: list[tuple[float, int]] = field(default_factory=list, repr=False)
    """Seconds since the start, and bytes in use."""


class Box:
    """A cgroup of our own, for subprocesses.

    Args:
        directory: Where its files are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.probe = cgroup.Cgroup(directory, cgroup.V1)

    def limit(self, size: int) -> None:
        """Bytes that everything in it may use; it may be changed while processes run."""
        (self.directory / "memory.limit_in_bytes").write_text(str(size))

    @contextlib.contextmanager
    def below(self, name: str) -> Iterator[Box]:
        """A box inside this one."""
        with _made(self.directory / name) as inner:
            yield inner

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
        """A Python process every byte of which is charged to this box."""
        enter = (
            f"import os, runpy, sys; open({str(self.directory / 'cgroup.procs')!r}, 'w').write(str(os.getpid())); "
            f"sys.argv = {list(arguments)!r}; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
        )
        return subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", enter],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            cwd=Path(__file__).parents[1],
        )

    def run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        patience: float = 120.0,
        meanwhile: Callable[[float], None] = lambda _: None,
        watched: Box | None = None,
    ) -> Ran:
        """Runs a module to its end, or its kill, and watches how full the box is.

        Args:
            arguments: The module and its arguments.
            environment: Variables on top of ours.
            patience: Seconds until it is ended from outside.
            meanwhile: Called at every look with the seconds since the start.
            watched: The box whose use is recorded; this one unless given.
        """
        process = self.start(arguments, environment or {})
        started = time.monotonic()
        told: list[str] = ["", ""]
        readers = [
            threading.Thread(target=_read, args=(told, at, stream), daemon=True)
            for at, stream in enumerate((process.stdout, process.stderr))
        ]
        for reader in readers:
            reader.start()
        watched = watched or self
        timeline = []
        while process.poll() is None:
            since = time.monotonic() - started
            timeline.append((since, watched.used()))
            meanwhile(since)
            if since > patience:
                process.terminate()
                process.wait(10)
            time.sleep(_SAMPLE_EVERY)
        for reader in readers:
            reader.join()
        code = process.returncode
        return Ran(
            killed=code == -9,
            code=code,
            out=told[0],
            err=told[1],
            seconds=time.monotonic() - started,
            peak=max((used for _, used in timeline), default=0),
            timeline=timeline,
        )

    def used(self) -> int:
        reading = self.probe.read()
        return 0 if reading is None else reading.used


def why_not() -> str | None:
    """Why no box can be made here; None where one can."""
    try:
        with box(64 * MIB):
            return None
    except OSError as error:
        return str(error)


@contextlib.contextmanager
def box(limit: int) -> Iterator[Box]:
    """A new box with a limit, gone afterwards.

    Raises:
        OSError: No cgroup can be made here.
    """
    own = [level for level in cgroup.find() if level.version is cgroup.V1]
    if not own:
        raise OSError("there is no cgroup v1 memory controller here")
    if os.geteuid() != 0:
        raise OSError("only root may move a process into a cgroup here")
    with _made(own[0].directory / f"mlguard-bench-{uuid.uuid4().hex[:8]}") as made:
        made.limit(limit)
        yield made


@contextlib.contextmanager
def _made(directory: Path) -> Iterator[Box]:
    directory.mkdir()
    made = Box(directory)
    with contextlib.suppress(OSError):  # newer kernels know nothing else
        (directory / "memory.use_hierarchy").write_text("1")
    try:
        yield made
    finally:
        made.probe.close()
        for attempt in range(100):
            for pid in (directory / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), 9)  # only what we started is in there
            try:
                directory.rmdir()
                break
            except OSError:
                if attempt == 99:
                    raise
                time.sleep(0.02)


def _read(told: list[str], at: int, stream: object) -> None:
    told[at] = stream.read()  # type: ignore[attr-defined]
