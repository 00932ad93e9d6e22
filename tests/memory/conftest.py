"""What the memory tests share: a made-up host, hand-written cgroup layouts, real cgroups, a clock that stands still."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlguard import clock
from mlguard.memory import Gauge, Reading, cgroup, container, ledger, shared_file
from mlguard.memory.probe import Probe

MIB = 1 << 20
PID = 4242


class Given:
    """A probe that reads what a test says: a number of bytes used, or an error."""

    def __init__(self, used: int | Exception = 0, limit: int = 1000 * MIB, source: str = "given") -> None:
        self.used = used
        self.limit = limit
        self.source = source
        self.reads = 0

    def read(self) -> Reading:
        self.reads += 1
        if isinstance(self.used, Exception):
            raise self.used
        return Reading(self.used, self.limit, self.source)

    def close(self) -> None:
        pass


class Layout:
    """A machine's /proc/self and cgroup files, written by hand, below a folder."""

    def __init__(self, root: Path, membership: str, mountinfo: str) -> None:
        self.root = root
        self.write("proc/self/cgroup", membership)
        self.write("proc/self/mountinfo", mountinfo)

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))

    def v2(
        self, path: str, *, current: int, limit: int | str = "max", procs: str = "", cache: int = 0, **more: Any
    ) -> None:
        self.write(f"{path}/cgroup.procs", procs)
        self.write(f"{path}/memory.current", f"{current}\n")
        self.write(f"{path}/memory.max", f"{limit}\n")
        self.write(
            f"{path}/memory.stat",
            f"anon 1\nfile 2\nshmem 3\ninactive_file {cache // 2}\nactive_file {cache - cache // 2}\n",
        )
        for name, value in more.items():
            self.write(f"{path}/memory.{name}", f"{value}\n")

    def v1(
        self,
        path: str,
        *,
        usage: int,
        limit: int = 2**63 - 4096,
        inherited: int = 2**63 - 4096,
        procs: str = "",
        cache: int = 0,
        hierarchy: int = 1,
    ) -> None:
        self.write(f"{path}/cgroup.procs", procs)
        self.write(f"{path}/memory.use_hierarchy", f"{hierarchy}\n")
        self.write(f"{path}/memory.usage_in_bytes", f"{usage}\n")
        self.write(f"{path}/memory.limit_in_bytes", f"{limit}\n")
        self.write(
            f"{path}/memory.stat",
            f"inactive_file 77\nactive_file 77\nhierarchical_memory_limit {inherited}\n"
            f"total_inactive_file {cache // 2}\ntotal_active_file {cache - cache // 2}\n",
        )

    def gauge(self, host: Probe | None = None) -> Gauge:
        return Gauge(self.root, PID, host or Given(0, 10**15, "host"))


class Child:
    """A real cgroup below our own, for subprocesses to live in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[subprocess.Popen[str]] = []
        self._below: list[Child] = []

    def limit(self, size: int) -> None:
        (self.directory / "memory.limit_in_bytes").write_text(str(size))

    def below(self, name: str) -> Child:
        (self.directory / name).mkdir()
        self._below.append(Child(self.directory / name))
        return self._below[-1]

    def start(self, script: str, *prefix: str) -> subprocess.Popen[str]:
        """Runs a Python script whose every byte is charged to this group."""
        enter = f"import os; open({str(self.directory / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
        command = [sys.executable, "-c", enter + textwrap.dedent(script)]
        if prefix:
            # The prefix changes what the process sees, so it must be in the group before.
            command = [
                sys.executable,
                "-c",
                enter + f"os.execvp({prefix[0]!r}, {[*prefix, sys.executable, '-c', textwrap.dedent(script)]!r})",
            ]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._processes.append(process)
        return process

    def run(self, script: str, *prefix: str) -> list[str]:
        """The lines that a script printed in this group."""
        process = self.start(script, *prefix)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, f"exit {process.returncode}: {err}"
        return out.splitlines()

    def remove(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for group in self._below:
            group.remove()
        self.directory.rmdir()


@pytest.fixture(autouse=True)
def _own_ledger(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has a ledger of its own, in this process and on file, and leaves no promise behind."""
    monkeypatch.setenv(shared_file.FOLDER_VARIABLE, str(tmp_path_factory.mktemp("ledger")))
    container.of_this_container.renew()
    yield
    left = container.of_this_container.reserved_here, ledger.of_this_process.reserved_here
    container.of_this_container.renew()
    ledger.of_this_process.renew()
    assert left == (0, 0)


@pytest.fixture
def a_host() -> type[Given]:
    """Makes the probe of a machine that says what it is told to."""
    return Given


@pytest.fixture
def given(tmp_path: Path) -> Given:
    """The only limit there is."""
    return Given()


@pytest.fixture
def gauge(given: Given, tmp_path: Path) -> Gauge:
    """A gauge on a machine without cgroups."""
    return Gauge(tmp_path / "nothing", host=given)


@pytest.fixture
def time_stands_still(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that only sleeping moves; `pauses` lists the sleeps, `on_sleep` is called in each."""
    state = SimpleNamespace(now=1000.0, pauses=[], on_sleep=lambda: None)

    def sleep(pause: float) -> None:
        state.pauses.append(pause)
        state.now += pause
        state.on_sleep()

    async def sleep_async(pause: float) -> None:
        sleep(pause)

    monkeypatch.setattr(clock, "now", lambda: state.now)
    monkeypatch.setattr(clock, "sleep", sleep)
    monkeypatch.setattr(clock, "sleep_async", sleep_async)
    return state


@pytest.fixture
def layout(tmp_path: Path) -> Callable[[str, str], Layout]:
    return lambda membership, mountinfo: Layout(tmp_path, membership, mountinfo)


@pytest.fixture
def child() -> Iterator[Child]:
    """A child of our own cgroup, removed afterwards."""
    levels = [level for level in cgroup.find() if level.version is cgroup.V1]
    if not levels:
        pytest.skip("no cgroup v1 memory controller on this machine")
    child = Child(levels[0].directory / f"mlguard-test-{uuid.uuid4().hex[:8]}")
    try:
        child.directory.mkdir()
    except OSError as error:
        pytest.skip(f"can't create a cgroup below our own: {error}")
    try:
        if os.geteuid() != 0:
            pytest.skip("only root may move a process into a cgroup here")
        yield child
    finally:
        child.remove()
