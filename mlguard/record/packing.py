"""Full segments are packed with gzip, which DuckDB reads as it reads the rest: events shrink to about a tenth.

The packed file takes the place of the other in one step, and says the same bytes. Where a process dies in between, both
are there, or a part: the next process that looks at the folder tidies up, and packs what killed processes left. Whether
the owner of a file is alive is told by the lock it holds; where there are no such locks, what was left stays as it is.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from mlguard.record.folder import GAIN, OPEN, PACKED, PART, SUFFIX, segments_of

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["hold", "pack", "pack_abandoned"]

_LEVEL: Final = 3  # of gzip: 0.16 s of one core for 64 MiB; level 6 makes a sixth less of it, in twice the time
_CHUNK: Final = 1 << 16
_STALE: Final = 3_600.0  # seconds after which a part is nobody's work in progress


def hold(file: int) -> bool:
    """Marks an open file as in use until it is closed or its process ends; False: another process has it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # in use, or a file system without locks
        return False
    return True


def pack(path: Path, make_room: Callable[[], object]) -> bool:
    """Puts the packed file in the place of a segment; False where it can't be done, and the segment stays.

    Args:
        path: The segment, which nobody writes to any more.
        make_room: Called once the part is there, for which whoever makes room reserves `GAIN` of the segment.
    """
    part = path.with_name(path.name + PART)
    try:
        status = path.stat()
        with path.open("rb") as plain, _created(part) as raw:
            make_room()
            _compress(plain, raw, int(status.st_size * GAIN))
            raw.flush()
            os.fsync(raw.fileno())  # the segment goes next
        os.utime(part, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.rename(part, path.with_name(path.name + PACKED))
        path.unlink()
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        return False
    return True


def pack_abandoned(folder: Path, make_room: Callable[[], object]) -> bool:
    """Packs one segment whose process is gone, and removes what a dead process had not finished; True where it did.

    Args:
        folder: Where.
        make_room: As in `pack`.

    Raises:
        OSError: The folder can't be listed.
    """
    now = time.time()
    for part in folder.glob(f"*{PART}"):
        with contextlib.suppress(OSError):
            if now - part.stat().st_mtime > _STALE:
                part.unlink()
    for one in segments_of(folder):
        if one.path.suffix == SUFFIX and now - one.last_write > OPEN:
            with _abandoned(one.path) as alone:
                if alone and pack(one.path, make_room):
                    return True
    return False


def _compress(plain: IO[bytes], raw: IO[bytes], most: int) -> None:
    with gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as packed:
        while chunk := plain.read(_CHUNK):
            packed.write(chunk)
            if raw.tell() > most:
                raise OSError("packing gains too little")


def _created(path: Path) -> IO[bytes]:
    with contextlib.suppress(FileNotFoundError):  # of a process that died at it: this one holds the segment
        path.unlink()
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


@contextlib.contextmanager
def _abandoned(path: Path) -> Iterator[bool]:
    """Whether nobody writes this file; for as long as the block runs nobody else packs it."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        yield hold(file)
    finally:
        os.close(file)
