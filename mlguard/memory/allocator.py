"""The C library's allocator: what it keeps of what a program has freed, and how to make it hand that back.

glibc keeps freed blocks in heaps, one for each of up to eight threads a core, and once blocks of up to 32 MiB were
freed it takes the next ones from there. What is free on top of a thread's heap no `malloc_trim` reaches: threads that
work on arrays can hold hundreds of MiB with nothing in flight. Settings in the environment (``MALLOC_...``) are the
user's word and are left alone.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlguard.errors import PolicyError

__all__ = ["Allocator", "of_this_process"]

MMAP_THRESHOLD = 1 << 20
"""Blocks from here on are mapped one by one, so that the system has them back when they are freed."""

TRIM_THRESHOLD = 2 * MMAP_THRESHOLD
"""What may stay free on top of a heap; twice the other is glibc's own ratio, and keeps small blocks as fast as ever."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h

_LITTLE = 4 << 20
_LEAST_TOP = 128 << 10  # glibc's own thresholds before they grow
_LARGEST_IN_HEAPS = 32 << 20  # blocks of more are always mapped one by one, on 64-bit machines

_OTHERS = ("jemalloc", "tcmalloc", "mimalloc")


class _Counts(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


@dataclass(frozen=True)
class Allocator:
    """What this process allocates with.

    Attributes:
        name: Such as "glibc 2.36", "jemalloc", "musl".
        settings: What the environment says about it, by variable.
        glibc: True where `return_freed` and `trim` can do something.
    """

    name: str
    settings: Mapping[str, str]
    glibc: bool

    @property
    def keeps(self) -> bool:
        """True where freed blocks of more than a MiB may stay in the process, as things are set now."""
        if not self.glibc:
            return self.name in _OTHERS
        return not _returning and (self._threshold_given is None or self._threshold_given > _LITTLE)

    @property
    def returning(self) -> bool:
        """True once `return_freed` has set this process up."""
        return _returning

    @property
    def heaps(self) -> int | None:
        """The most heaps that threads may have; None where that is not known."""
        if not self.glibc:
            return None
        given = self.settings.get("MALLOC_ARENA_MAX") or _tunables(self.settings).get("glibc.malloc.arena_max")
        if given is not None and given.isdigit() and int(given):
            return int(given)
        return 8 * (os.cpu_count() or 1)

    def return_freed(self) -> None:
        """Makes freed blocks of 1 MiB and more go back to the system at once, from now on, in the whole process.

        Raises:
            PolicyError: The allocator here is not glibc's, or the environment tells it otherwise.
        """
        global _returning
        if not self.glibc:
            raise PolicyError(
                "memory.return_freed_memory=True sets an option of glibc's allocator, and this process uses "
                f"{self.name}. Fix: return_freed_memory=False here, and the allocator's own settings, such as "
                "MALLOC_CONF=dirty_decay_ms:0 for jemalloc."
            )
        if self._threshold_given is not None and self._threshold_given > _LITTLE:
            raise PolicyError(
                "memory.return_freed_memory=True, but the environment has glibc keep freed blocks of up to "
                f"{self._threshold_given:,} bytes. Fix: return_freed_memory=False, or drop MALLOC_MMAP_THRESHOLD_."
            )
        if _returning or self._threshold_given is not None:
            return  # done already, here or by the environment
        mallopt = _function("mallopt")
        assert mallopt is not None  # noqa: S101 - every glibc has it
        _returning = bool(mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD)) and bool(
            mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD)
        )

    def trim(self) -> None:
        """Hands back what is free inside the heaps, and on top of the first one; else nothing."""
        trim = _function("malloc_trim")
        if self.glibc and trim is not None:
            trim(0)  # lets other threads run meanwhile, as every call through ctypes

    def trim_own_heap(self) -> bool:
        """Hands back what is free on top of the heap of the calling thread, which `trim` does not reach.

        False where that can't be done, or is not ours to do.

        glibc looks at the top of a heap only when a block is freed there, and leaves it be up to a threshold that grows
        with the blocks freed. So a block is freed with the threshold lowered; both thresholds are then put where they
        would have grown to, as setting one ends their growth. 2 µs where there is nothing to hand back.
        """
        if not self.glibc or not self.keeps or self._threshold_given is not None:
            return False
        mallopt, malloc, free = _function("mallopt"), _function("malloc"), _function("free")
        if mallopt is None or malloc is None or free is None:
            return False
        malloc.restype = ctypes.c_void_p  # type: ignore[attr-defined]
        mallopt(_M_TRIM_THRESHOLD, _LEAST_TOP)
        free(ctypes.c_void_p(malloc(_LEAST_TOP * 3 // 4)))
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAPS)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_IN_HEAPS)
        return True

    def free_in_heaps(self) -> int | None:
        """Bytes free in the heaps, some of them given back already; None where the allocator does not say."""
        counts = _function("mallinfo2") if self.glibc else None  # glibc 2.33 and newer
        if counts is None:
            return None
        counts.restype = _Counts  # type: ignore[attr-defined]
        return int(counts().fordblks)

    @functools.cached_property
    def _threshold_given(self) -> int | None:
        """The bytes from which blocks are mapped, where the environment decides that, and stops it from growing."""
        tunables = _tunables(self.settings)
        given = {
            name: self.settings.get(f"MALLOC_{name.upper()}_") or tunables.get(f"glibc.malloc.{name}")
            for name in ("mmap_threshold", "trim_threshold", "top_pad", "mmap_max")
        }
        if not any(given.values()):
            return None
        try:
            return int(given["mmap_threshold"] or str(_LEAST_TOP), 0)
        except (TypeError, ValueError):
            return _LEAST_TOP


_returning = False  # of the process, and of its forked children, as the allocator's own setting is


@functools.cache
def of_this_process() -> Allocator:
    """Looked at once: neither the allocator nor the environment it started with changes."""
    settings = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD", "_RJEM_MALLOC_CONF")
    }
    other = _preloaded()
    if other is not None:
        return Allocator(other, settings, glibc=False)
    version = _function("gnu_get_libc_version")
    if version is None:
        return Allocator(_elsewhere(), settings, glibc=False)
    version.restype = ctypes.c_char_p  # type: ignore[attr-defined]
    return Allocator(f"glibc {version().decode()}", settings, glibc=True)


def _preloaded() -> str | None:
    """An allocator that stands in for the C library's; it leaves glibc's functions in place, without effect."""
    try:
        mapped = Path("/proc/self/maps").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    libraries = {Path(line.split()[-1]).name for line in mapped.splitlines() if ".so" in line}
    preloaded = os.environ.get("LD_PRELOAD", "")
    for name in _OTHERS:
        # Libraries such as torch and pyarrow bring one for themselves only, under other names of its functions.
        if name in preloaded and any(name in library for library in libraries):
            return name
    return None


def _elsewhere() -> str:
    if platform.system() == "Linux":
        return "a C library other than glibc, such as musl"
    return f"the allocator of {platform.system() or 'an unknown system'}"


def _tunables(settings: Mapping[str, str]) -> dict[str, str]:
    parts = (part.partition("=") for part in settings.get("GLIBC_TUNABLES", "").split(":"))
    return {name: value for name, _, value in parts if value}


@functools.cache
def _function(name: str) -> Callable[..., Any] | None:
    try:
        found: Callable[..., Any] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no library without a name
        return None
    return found
