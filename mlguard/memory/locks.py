"""Locks on bytes of an open file, which the kernel drops when its last descriptor is closed, so when its process ends.

They belong to the open file and not to the process ("open file description locks"): closing another descriptor of the
same file leaves them alone, and no process id is needed to see that one is held.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

if sys.platform == "linux":
    import fcntl

__all__ = ["UNAVAILABLE", "give_back", "held", "taken"]

UNAVAILABLE = None if sys.platform == "linux" and struct.calcsize("P") == 8 else "sharing them needs 64-bit Linux."
"""Why there are no such locks on this platform; None where there are."""

_FLOCK = struct.Struct("@hhqqi4x")  # type, whence, start, length, process id


if sys.platform == "linux":

    def taken(fd: int, at: int) -> bool:
        """True where the byte was nobody else's, and is now locked.

        Raises:
            OSError: The file, or its file system, has no locks.
        """
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _record(fcntl.F_WRLCK, at))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def give_back(fd: int, at: int) -> None:
        """Unlocks the byte.

        Raises:
            OSError: The descriptor is closed.
        """
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _record(fcntl.F_UNLCK, at))

    def held(fd: int, at: int, length: int = 1) -> bool:
        """True where another open file has a lock on any of these bytes.

        Raises:
            OSError: The file, or its file system, has no locks.
        """
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _record(fcntl.F_WRLCK, at, length))
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _record(kind: int, start: int, length: int = 1) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
