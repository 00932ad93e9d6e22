"""The file in which the processes of one container write down what they promised to their calls.

A header, and a slot of 64 bytes for each process. A process holds a lock of the kernel on its slot for as long as it
lives, so that the bytes of one that was killed come back, whatever its process id is called where. All changes but one
are made under a lock on the first byte; a process that gives bytes back and can't have that lock writes all the same.

It is read and written by system calls and not mapped into memory: that takes 3 µs more, but a mapped file that somebody
truncates, or a full disk below it, would kill the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mlguard.memory import locks
from mlguard.memory.levels import Level, Levels

__all__ = [
    "FIX",
    "FOLDER_VARIABLE",
    "Books",
    "BusyError",
    "GoneError",
    "Mine",
    "SharedFile",
    "UnusableError",
    "Waiting",
    "other_users",
    "path_for",
]

FOLDER_VARIABLE = "MLGUARD_MEMORY_LEDGER"
"""Environment variable that names another folder for the file."""

FIX = f"name a folder that all processes of the container can write to by {FOLDER_VARIABLE}."
"""What helps where the file can't be made or written."""

MOST_PROCESSES = 1024

_MAGIC = int.from_bytes(b"mlguard1", "little")
_PREFIX = "mlguard-memory-1-"
_SLOT = struct.Struct("<8Q")  # pid, promised, ended, waiting since, needs, looked, share, 0
_HEADER_WORDS, _LEVEL_WORDS, _LEVELS = 8, 4, 16  # magic, passed since, passed bytes, 0...
_HEADER = (_HEADER_WORDS + _LEVELS * _LEVEL_WORDS) * 8
_MOST_BYTES = _HEADER + MOST_PROCESSES * _SLOT.size
_NO_NUMBER = 1 << 62  # above it, nobody wrote a number of bytes
_ATTEMPTS, _BETWEEN = 40, 50e-6  # for the lock, which is held for microseconds
_NS = 1_000_000_000


class UnusableError(Exception):
    """The file can't serve; the message says why, and what the fix is."""


class BusyError(Exception):
    """Another process has had the lock for milliseconds; the message says so, and what the fix is."""


class GoneError(Exception):
    """The file was deleted, or its descriptor closed by somebody else: it must be opened anew."""


class Waiting(NamedTuple):
    """A call that waits."""

    since: float
    need: int
    share: float
    """Of the limit, up to which it may start."""


class Mine(NamedTuple):
    """What this process has to say."""

    promised: int
    ended: int
    since: float = 0.0
    need: int = 0
    looked: float = 0.0
    share: float = 0.0


@dataclass
class Books:
    """What is written down: the header, and what others promised."""

    levels: Levels = field(default_factory=Levels)
    passed: tuple[float, int] = (0.0, 0)
    """Since when the call waits that others were let by, and how many bytes those needed."""
    promised: int = 0
    """By all other processes."""
    ended: int = 0
    """Calls that ended so far, in all other processes; it tells whether any did meanwhile."""
    processes: int = 0
    """Others that are alive."""
    waiting: list[tuple[Waiting, float]] = field(default_factory=list)
    """The first in line of each other process, and when it last gave a sign of life."""


def path_for(group: str) -> Path:
    """Where the file of a container is.

    In /dev/shm, and where that is missing in the folder for temporary files: both are the container's own in most, and
    where several share them, the name keeps them apart. Each user has an own one, as nobody should write to another's.

    Args:
        group: What tells the container from others.

    Raises:
        OSError: Nothing tells this boot of the machine from others.
        UnusableError: The folder is none.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    container = hashlib.blake2b(f"{boot}{group}".encode(), digest_size=8).hexdigest()
    name = f"{_PREFIX}{container}-{os.geteuid()}"
    given = os.environ.get(FOLDER_VARIABLE)
    if given and not os.path.isdir(given):
        raise UnusableError(f"{FOLDER_VARIABLE} = {given} is no folder. Fix: make it, or unset the variable.")
    shared = "/dev/shm"  # noqa: S108 - the file is refused unless it is the user's own
    return Path(given or (shared if os.access(shared, os.W_OK) else tempfile.gettempdir()), name)


def other_users(path: Path) -> list[int]:
    """Users whose processes keep, or kept, a file of their own for the same container."""
    container, _, mine = path.name.rpartition("-")
    found = (other.name.rpartition("-")[2] for other in path.parent.glob(f"{container}-*"))
    return sorted(int(user) for user in found if user.isdecimal() and user != mine)


class SharedFile:
    """The open file, and this process's slot in it.

    Args:
        path: Where it is; it is made where it is not there.

    Raises:
        OSError: It can't be opened or written.
        BusyError: Another process has the lock.
        UnusableError: It belongs to another user, is no ledger, or there is no slot left.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._header: tuple[dict[int, Level], tuple[float, int]] | None = None  # as it is on file
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe would block
        self._fd = os.open(path, flags, 0o600)
        try:
            status = os.fstat(self._fd)
            _refuse_foreign(path, status)
            self._identity = status.st_dev, status.st_ino
            if not status.st_size:
                _remove_leftovers(path)
            self._at = self._take_slot()
        except BaseException:
            os.close(self._fd)
            raise

    def lock(self) -> None:
        """Makes the file this process's alone.

        Raises:
            BusyError: Somebody else has it.
            GoneError: It must be opened anew.
        """
        for _ in range(_ATTEMPTS):
            self._check()
            if locks.taken(self._fd, 0):
                return
            time.sleep(_BETWEEN)  # not the clock's: where tests make sleeping instant, the lock is held all the same
        raise BusyError(f"{self.path} is locked. Fix: look for a stopped process, and continue it.")

    def unlock(self) -> None:
        with contextlib.suppress(OSError):
            locks.give_back(self._fd, 0)

    def read(self, *, alive: bool = False, reap: bool = False) -> Books:
        """What is on file.

        Args:
            alive: Whether the slots of processes that are gone are left out, which costs a system call for each slot.
            reap: Whether they are emptied as well; under the lock only.

        Raises:
            OSError: It can't be read.
            UnusableError: It is no ledger.
        """
        words = self._words()
        if not words:
            self._header = None
            return Books()  # it is new, or somebody emptied it: every process writes its slot again at its next call
        books = Books(_levels(words), (words[1] / _NS, words[2]))
        self._header = (dict(books.levels), books.passed) if words[0] else None
        first = _HEADER // 8
        for at in range(first, len(words), 8):
            pid, promised, ended, since, need, looked, share = words[at : at + 7]
            if not pid or at * 8 == self._at:
                continue
            if (alive or reap) and not locks.held(self._fd, at * 8):
                if reap:
                    os.pwrite(self._fd, bytes(_SLOT.size), at * 8)
                continue
            if promised > _NO_NUMBER or need > _NO_NUMBER:
                raise UnusableError(_corrupt(self.path))
            books.promised += promised
            books.ended += ended
            books.processes += 1
            if since:
                books.waiting.append((Waiting(since / _NS, need, share / _NS), looked / _NS))
        return books

    def named(self) -> bool:
        """False where another file, or none, is at its path by now: newcomers would not meet this process here."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # nobody else gets there either
        return (status.st_dev, status.st_ino) == self._identity

    def ended(self) -> int:
        """Calls that ended so far in other processes; 0 where the file can't be read."""
        try:
            words = self._words()
        except (OSError, UnusableError):
            return 0
        first = _HEADER // 8
        return sum(words[first + 2 :: 8]) - words[self._at // 8 + 2] if len(words) > self._at // 8 else 0

    def write(self, books: Books, mine: Mine) -> None:
        """Puts down this process's slot, and the header where it changed; under the lock.

        Raises:
            OSError: It can't be written.
        """
        header = dict(books.levels), books.passed
        if header != self._header:
            os.pwrite(self._fd, _header(books), 0)
            self._header = header
        self.write_slot(mine)

    def write_slot(self, mine: Mine) -> None:
        """Puts down this process's slot alone.

        Raises:
            OSError: It can't be written.
        """
        words = [_word(mine.since * _NS), _word(mine.need), _word(mine.looked * _NS), _word(mine.share * _NS)]
        os.pwrite(self._fd, _SLOT.pack(os.getpid(), _word(mine.promised), mine.ended, *words, 0), self._at)

    def close(self) -> None:
        """Gives the slot up. Not where the descriptor is another file by now: that one is somebody else's."""
        with contextlib.suppress(OSError, GoneError):
            self._check(deleted=True)
            os.close(self._fd)

    def _check(self, *, deleted: bool = False) -> None:
        try:
            status = os.fstat(self._fd)
        except OSError as error:
            raise GoneError from error
        if (status.st_dev, status.st_ino) != self._identity or not (status.st_nlink or deleted):
            raise GoneError

    def _take_slot(self) -> int:
        self._at = 0
        self.lock()
        try:
            self._words()  # refuses what is no ledger
            for at in range(_HEADER, _MOST_BYTES, _SLOT.size):
                if locks.taken(self._fd, at):
                    os.pwrite(self._fd, bytes(_SLOT.size), at)
                    return at
        finally:
            self.unlock()
        raise UnusableError(f"{self.path} has no room for more than {MOST_PROCESSES} processes")

    def _words(self) -> tuple[int, ...]:
        data = os.pread(self._fd, _MOST_BYTES, 0)
        if not data:
            return ()
        if len(data) < _HEADER or len(data) % 8:
            raise UnusableError(_corrupt(self.path))
        words = struct.unpack(f"<{len(data) // 8}Q", data)
        blank = not any(words[: _HEADER // 8])  # slots were taken, and no call was admitted yet
        if (words[0] != _MAGIC and not blank) or (len(data) - _HEADER) % _SLOT.size:
            raise UnusableError(_corrupt(self.path))
        return words


def _word(number: float) -> int:
    return int(min(max(number, 0), _NO_NUMBER))


def _refuse_foreign(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise UnusableError(
            f"{path} is not a file that this user, and nobody else, may read and write. Fix: delete it, or name "
            f"another folder by {FOLDER_VARIABLE}."
        )


def _remove_leftovers(path: Path) -> None:
    """Deletes the files of containers that are gone: those that no process holds a slot in."""
    for other in path.parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if other == path or time.time() - other.stat().st_mtime < 60:
                continue  # a young one may be about to be used; who finds it deleted makes it anew
            fd = os.open(other, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if os.fstat(fd).st_uid == os.geteuid() and not locks.held(fd, 0, _MOST_BYTES):
                    os.unlink(other)
            finally:
                os.close(fd)


def _corrupt(path: Path) -> str:
    return f"{path} is not a ledger of mlguard. Fix: delete it; it is made anew within seconds."


def _levels(words: tuple[int, ...]) -> Levels:
    levels = Levels()
    for at in range(_HEADER_WORDS, _HEADER // 8, _LEVEL_WORDS):
        key, idle, risen, risen_at = words[at : at + _LEVEL_WORDS]
        if not key:
            break
        levels[key] = Level(idle, risen, risen_at / _NS)
    return levels


def _header(books: Books) -> bytes:
    since, passed = books.passed
    words = [_MAGIC, _word(since * _NS), _word(passed), *[0] * (_HEADER_WORDS - 3)]
    for key, level in list(books.levels.items())[-_LEVELS:]:
        words += key, _word(level.idle), _word(level.risen), _word(level.risen_at * _NS)
    words += [0] * (_HEADER // 8 - len(words))
    return struct.pack(f"<{len(words)}Q", *words)
