"""`Memory`: what a policy says about the memory of its calls. What it does to a call is in `guard.py`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mlguard import clock
from mlguard.memory.need import Need
from mlguard.section import Section

__all__ = ["Memory"]


class Memory(Section):
    """When a call may start, measured by the memory that its container or host has left.

    Under pressure a call waits, up to `max_wait` and its deadline, and is then refused with `MemoryPressureError`; one
    that could never fit is refused at once.
    """

    fixed: ClassVar[tuple[str, ...]] = ("return_freed_memory",)  # the allocator can't be told otherwise again

    threshold: float = Field(default=0.85, gt=0, le=1)
    """The share of the limit up to which calls are admitted. 0.85 leaves room for what nobody declared, and for what is
    allocated between the look and the call."""
    need: Need = None
    """What one call needs at its peak, on top of what is in use: bytes, a size such as "256MiB", a factor of the
    input's bytes such as "3x", or "learned" from measured peaks. None: nothing is known, and only the threshold is
    checked. `guarded(need=...)` takes a function of the arguments as well. "learned" is not the default, because calls
    run one after the other until three were measured: of 50 requests that each wait 2 s for something remote, 47 were
    refused at the start of a service; and each small call would pay 1 µs instead of 0.07."""
    max_wait: clock.Duration = 5
    """How long a call waits for memory to come back before it is refused; 0: not at all. Five seconds outlast a few
    calls in flight, and most callers' patience."""
    on_pressure: Literal["raise", "log"] = "raise"
    """"raise" waits and refuses. "log" only warns: every call goes on at once, for the first week in production."""
    collect_garbage: bool = True
    """Whether calls under pressure run the garbage collector, once until memory is free again, and have the C library
    hand back what was freed (glibc's malloc_trim, and the heap of each thread that waits); for at most 5 % of
    the time. Reference cycles can hold whole batches, and glibc keeps freed ones, so that a process with nothing to do
    could stay over its threshold."""
    shrink_caches: bool = True
    """Whether a call that lacks memory first makes mlguard's own result caches of this process give up as much as it
    lacks, entries least worth keeping first. What was cached can be computed again; a refused call can't."""
    split: bool = False
    """Whether a batch too big for the memory that is left is run in parts, one after the other, and the results joined.
    Off, because it is right only where rows are independent: a function that normalises by the batch's own mean gives
    other results for parts. It needs a `need` that grows with the input, and the batch as `guarded(rows=...)` names
    it."""
    return_freed_memory: bool = False
    """Whether blocks of 1 MiB and more go back to the system as soon as they are freed (glibc's M_MMAP_THRESHOLD), and
    not only under pressure. Threads that work on arrays otherwise keep hundreds of MiB, which other processes of the
    container lack. Off, because it is set for the whole process, and fresh memory costs time: an 8 MiB array about 1 ms
    more each time it is made. Refused where the allocator is not glibc's."""
    scope: Literal["container", "process"] = "container"
    """Whose promises count: those of all processes of the container, or only this process's. The limit is the
    container's either way, so that workers which don't know of each other's calls can fill it together; "process" is
    for a process that is alone in its container."""
