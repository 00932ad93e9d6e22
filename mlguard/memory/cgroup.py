"""Linux control groups, v1 and v2: where this process stands in the tree, and what each level above it allows.

A path in /proc/self/cgroup is only a claim: inside a cgroup namespace it reads ``/`` although the mount may still show
the host's root. So a directory counts as ours only once it lists our own process id.

Formulas: the kernel's Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst. The kubelet subtracts inactive
file pages only; the active ones are given back under pressure all the same, so here both are.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlguard import clock
from mlguard.memory.probe import Reading

__all__ = ["Cgroup", "find", "membership"]

LIMIT_LIVES = 1.0
"""Seconds a limit is trusted: containers are resized in place."""

_NO_LIMIT = 1 << 60  # v1 says "none" with the largest multiple of a page below 2**63
_DIRECTORIES_SEARCHED = 4096
_STAT_BYTES = 1 << 16


class Version(NamedTuple):
    """How one version of cgroups spells the same things."""

    name: str
    usage: str
    limits: tuple[str, ...]
    inherited_limit: re.Pattern[bytes] | None
    page_cache: re.Pattern[bytes]
    inactive: re.Pattern[bytes]


V2 = Version(
    "cgroup v2",
    usage="memory.current",
    limits=("memory.max", "memory.high"),
    inherited_limit=None,
    page_cache=re.compile(rb"^(?:in)?active_file (\d+)", re.MULTILINE),
    inactive=re.compile(rb"^inactive_file (\d+)", re.MULTILINE),
)
V1 = Version(
    "cgroup v1",
    usage="memory.usage_in_bytes",
    limits=("memory.limit_in_bytes",),
    inherited_limit=re.compile(rb"^hierarchical_memory_limit (\d+)", re.MULTILINE),
    page_cache=re.compile(rb"^total_(?:in)?active_file (\d+)", re.MULTILINE),
    inactive=re.compile(rb"^total_inactive_file (\d+)", re.MULTILINE),
)


_Kept = tuple[int, tuple[int, int]]
"""A descriptor, and what tells its file from others."""


class Cgroup:
    """One directory of a cgroup tree as a `Probe`.

    The usage files stay open, as reading through a kept descriptor costs a tenth of opening them each time.

    Args:
        directory: Where its files are.
        version: `V1` or `V2`.
        shown: The directory as people know it, where it differs from `directory`.
    """

    def __init__(self, directory: Path, version: Version, shown: str | None = None) -> None:
        self.directory = directory
        self.version = version
        self.source = f"{version.name} {_printable(shown or str(directory))}"
        self._files: tuple[_Kept, _Kept] | None = None
        self._limit: int | None = None
        self._limit_until = float("-inf")

    def read(self) -> Reading | None:
        now = clock.now()
        if now >= self._limit_until:
            self._limit = self._read_limit()
            self._limit_until = now + LIMIT_LIVES
        if self._limit is None:
            return None
        # Shared memory and tmpfs are in neither list of file pages, so they stay counted: they can't be dropped.
        return Reading(self._usage_less(self.version.page_cache), self._limit, self.source)

    def working_set(self) -> int:
        """Bytes used as the kubelet and ``kubectl top`` count them: active file pages are not taken off.

        Raises:
            OSError: It can't be read, or is gone.
            ValueError: What it says is no number.
        """
        return self._usage_less(self.version.inactive)

    @property
    def identity(self) -> str:
        """What tells this group from every other on the machine, whatever path it is seen at.

        Raises:
            OSError: It is gone.
        """
        status = self.directory.stat()
        return f"{status.st_dev}:{status.st_ino}"

    def close(self) -> None:
        files, self._files = self._files, None
        self._limit_until = float("-inf")
        for descriptor, identity in files or ():
            with contextlib.suppress(OSError):  # some daemons close every descriptor they find,
                if _identity(descriptor) == identity:  # and then the number may be another file's by now
                    os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    def _usage_less(self, pages: re.Pattern[bytes]) -> int:
        try:
            return self._difference(pages)
        except (OSError, ValueError):  # ENODEV: the group was removed, and perhaps made anew; or see `close`
            self.close()
            return self._difference(pages)

    def _difference(self, pages: re.Pattern[bytes]) -> int:
        if self._files is None:
            self._files = self._open()
        (usage, _), (stat, _) = self._files
        used = int(os.pread(usage, 32, 0))
        return max(0, used - sum(map(int, pages.findall(os.pread(stat, _STAT_BYTES, 0)))))

    def _open(self) -> tuple[_Kept, _Kept]:
        usage = os.open(self.directory / self.version.usage, os.O_RDONLY | os.O_CLOEXEC)
        try:
            stat = os.open(self.directory / "memory.stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(usage)
            raise
        return (usage, _identity(usage)), (stat, _identity(stat))

    def _read_limit(self) -> int | None:
        limits = []
        for name in self.version.limits:
            try:
                text = (self.directory / name).read_text().strip()
            except FileNotFoundError:
                # The root of a tree has none, and memory.high is younger than memory.max; a group that is gone has not
                # even its usage.
                (self.directory / self.version.usage).stat()
                continue
            if text != "max":
                limits.append(int(text))
        if self.version.inherited_limit is not None:
            # Of ancestors, those out of sight of this container included.
            limits += map(int, self.version.inherited_limit.findall((self.directory / "memory.stat").read_bytes()))
        real = [limit for limit in limits if 0 <= limit < _NO_LIMIT]
        return min(real, default=None)


def membership(root: Path = Path("/")) -> str:
    """The kernel's word on which cgroups this process is in; "" where there are none. It changes when it is moved."""
    try:
        return _text_of(root / "proc/self/cgroup")
    except OSError:
        return ""


def find(root: Path = Path("/"), pid: int | None = None) -> list[Cgroup]:
    """The cgroups that may limit this process's memory, nearest first; empty where there are none.

    Both versions may be mounted (hybrid hosts); the one that controls memory is the one with usage files.

    Args:
        root: Where ``/proc`` and the mount points are looked for; another root reads a recorded layout.
        pid: The process id that confirms a directory; None: our own.
    """
    pid = os.getpid() if pid is None else pid
    paths = _memory_paths(membership(root))
    found: list[list[Cgroup]] = []
    for version in (V2, V1):
        mounts = [mount for mount in _mounts(root) if mount.version is version]
        leaves = [(mount, leaf) for mount in mounts if (leaf := _joined(root, mount, paths.get(version.name)))]
        confirmed = [(mount, leaf) for mount, leaf in leaves if _lists(leaf, pid)]
        if not confirmed and version.name in paths:
            confirmed = [(mount, leaf) for mount in mounts if (leaf := _search(_under(root, mount.point), pid))]
        found += [_levels(root, mount, leaf) for mount, leaf in confirmed]
    return max(found, key=len, default=[])  # of several mounts of one tree, the one that shows most of it


class _Mount(NamedTuple):
    version: Version
    root: str  # the directory of the tree that is seen at `point`
    point: str


def _memory_paths(text: str) -> dict[str, str]:
    """By version, the path of the group that may control memory."""
    paths = {}
    for line in text.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            paths[V2.name] = path
        elif "memory" in controllers.split(","):
            paths[V1.name] = path
    return paths


def _mounts(root: Path) -> Iterator[_Mount]:
    try:
        lines = _text_of(root / "proc/self/mountinfo").split("\n")
    except OSError:
        return
    for line in lines:
        before, _, after = line.partition(" - ")
        try:
            kind, _, options = after.split(" ", 2)
            seen, point = map(_unescaped, before.split(" ")[3:5])
        except ValueError:  # the last, empty one; and what is none of our mounts is no reason not to see those that are
            continue
        if kind == "cgroup2":
            yield _Mount(V2, seen, point)
        elif kind == "cgroup" and "memory" in options.split(","):
            yield _Mount(V1, seen, point)


def _joined(root: Path, mount: _Mount, path: str | None) -> Path | None:
    """The directory a claimed path means under a mount; None where the mount does not show it."""
    if path is None or ".." in path.split("/"):
        return None
    seen = mount.root.rstrip("/")
    if path != seen and not path.startswith(seen + "/"):
        return None
    return _under(root, mount.point + path.removeprefix(seen).rstrip("/"))


def _lists(directory: Path, pid: int) -> bool:
    """True where the process is in this very group."""
    for name in ("cgroup.procs", "cgroup.threads"):  # a threaded group refuses to read the former
        try:
            return str(pid) in (directory / name).read_text().split()
        except OSError:
            continue
    return False


def _search(top: Path, pid: int) -> Path | None:
    """The group below `top` that lists the process, for a path that namespaces made meaningless."""
    for number, (directory, _, _) in enumerate(os.walk(top)):
        if _lists(Path(directory), pid):
            return Path(directory)
        if number >= _DIRECTORIES_SEARCHED:
            break
    return None


def _levels(root: Path, mount: _Mount, leaf: Path) -> list[Cgroup]:
    """The group and its ancestors as far as the mount shows them, less those that don't control memory."""
    top = _under(root, mount.point)
    levels: list[Cgroup] = []
    for directory in (leaf, *leaf.parents):
        if levels and not _counts_children(directory):
            break
        if (directory / mount.version.usage).exists():
            levels.append(Cgroup(directory, mount.version, "/" + str(directory.relative_to(root))))
        if directory == top:
            break
    return levels


def _counts_children(directory: Path) -> bool:
    """False for a v1 group without hierarchy (kernels before 5.11), whose limit does not reach its children."""
    try:
        return (directory / "memory.use_hierarchy").read_text().strip() != "0"
    except OSError:
        return True


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _text_of(file: Path) -> str:
    """Names of groups and mount points are bytes, in whatever encoding somebody had."""
    return os.fsdecode(file.read_bytes())


def _under(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
