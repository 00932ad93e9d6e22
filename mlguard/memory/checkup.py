"""What the memory guard finds on this machine, and what would be worth changing: the findings of `mlguard doctor`.

Nothing is changed here, and nothing fails: what can't be found out is listed among the problems.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from mlguard import clock
from mlguard.memory import allocator, cgroup, gauge, meter
from mlguard.memory.probe import Probe

__all__ = ["examine"]

_TIGHT = 0.15
"""The share of what may be used below which it is worth saying that little is left."""

_NAMELESS = "none: nothing tells this container from others, so promises count per process"


def examine(threshold: float = 0.85, of: gauge.Gauge | None = None) -> dict[str, Any]:
    """The limit in force and the way to it, the allocator, the ledger, whether needs can be learned, and advice.

    Args:
        threshold: The share of the limit up to which calls are admitted, as in `Memory`.
        of: Where memory is read; the process's own gauge unless given.

    Returns:
        JSON-serialisable findings.
    """
    of = of or gauge.of_this_process
    problems: list[str] = []

    def tried(what: str, look: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
        try:
            return look(*given)
        except Exception as error:  # an odd machine is what a doctor is for
            problems.append(f"{what}: {type(error).__name__}: {error}")
            return {}

    levels = [tried(_name(probe), _level, probe, threshold) for probe in _probes(of, problems)]
    findings: dict[str, Any] = {
        "threshold": threshold,
        "limit": tried("limit", _nearest, [level for level in levels if level], threshold),
        "levels": [level for level in levels if level],
        "membership": cgroup.membership().split("\n")[:-1],
        "allocator": tried("allocator", _allocator),
        "ledger": tried("ledger", _ledger, of),
        "learning": tried("learning", lambda: {"possible": (why := meter.Meter().why_not) is None, "why_not": why}),
        "problems": problems,
    }
    return findings | {"advice": tried("advice", lambda: {"list": _advice(findings)}).get("list", [])}


def _probes(of: gauge.Gauge, problems: list[str]) -> list[Probe]:
    try:
        return of.levels
    except Exception as error:
        problems.append(f"cgroups: {type(error).__name__}: {error}")
        return []


def _name(probe: Probe) -> str:
    return str(getattr(probe, "source", "host"))


def _level(probe: Probe, threshold: float) -> dict[str, Any]:
    """One limit above this process: how much of it is used, and how much is left by either way of counting."""
    reading = probe.read()
    working_set = probe.working_set() if isinstance(probe, cgroup.Cgroup) else None
    if reading is None:
        return {"source": _name(probe), "limit": None, "used": None, "working_set": working_set, "room": None}
    return {
        "source": reading.source,
        "limit": reading.limit,
        "used": reading.used,
        "working_set": working_set,
        "room": reading.room(threshold),
        "room_by_kubelet": None if working_set is None else int(threshold * reading.limit) - working_set,
    }


def _nearest(levels: list[dict[str, Any]], threshold: float) -> dict[str, Any]:
    limited = [level for level in levels if level["limit"] is not None]
    if not limited:
        raise OSError("no memory limit can be read, neither of a cgroup nor of the host")
    nearest = min(limited, key=lambda level: level["room"])
    others = len(limited) - 1
    below = f"leaves the least room below {threshold * 100:.4g}%"
    why = f"of {len(limited)} limits above this process it {below}" if others else "no other limit is seen here"
    return {**nearest, "why": why}


def _allocator() -> dict[str, Any]:
    here = allocator.of_this_process()
    return {
        "name": here.name,
        "keeps_freed_memory": here.keeps,
        "heaps_at_most": here.heaps,
        "settings": dict(here.settings),
        "free_in_heaps": here.free_in_heaps(),
    }


def _ledger(of: gauge.Gauge) -> dict[str, Any]:
    """The file in which the processes of this container write down their promises."""
    from mlguard.memory.shared_file import SharedFile, UnusableError, path_for

    if of.group is None:
        return {"path": None, "state": _NAMELESS}
    try:
        path = path_for(of.group)
        if not path.exists():
            folder = path.parent
            state = "not there yet: the first guarded call that needs memory makes it"
            if not os.access(folder, os.W_OK):
                state = f"none: {folder} can't be written, so promises count per process"
            return {"path": str(path), "state": state}
        file = SharedFile(path)
        try:
            books = file.read()
        finally:
            file.close()
    except (OSError, UnusableError) as error:
        return {"path": None, "state": f"not usable, so promises count per process: {error}"}
    return {"path": str(path), "state": "in use", "processes": books.processes, "promised": books.promised}


def _advice(findings: dict[str, Any]) -> list[dict[str, str]]:
    """What to change: the setting, why, and what it costs."""
    limit, here, found = findings["limit"], findings["allocator"], []

    def advise(setting: str, because: str, costs: str) -> None:
        found.append({"setting": setting, "because": because, "costs": costs})

    if limit and all(level["source"] == "host" for level in findings["levels"] if level["limit"] is not None):
        advise(
            "a memory limit for the container",
            "none is seen here, so the guard keeps the whole machine below its threshold, with all that runs on it",
            "nothing, where it is as high as what the service needs",
        )
    if limit and limit["room"] < _TIGHT * findings["threshold"] * limit["limit"]:
        advise(
            f"a higher limit for {limit['source']}, or less in memory",
            f"only {clock.size_text(max(0, limit['room']))} are left for calls below the threshold now",
            "memory",
        )
    if here.get("keeps_freed_memory") and str(here["name"]).startswith("glibc"):
        advise(
            "Memory(return_freed_memory=True), or MALLOC_MMAP_THRESHOLD_=1048576 in the environment",
            f"{here['name']} keeps freed arrays of up to 32 MiB in as many as {here['heaps_at_most']} heaps; a thread "
            "hands its own back only when it waits for memory, and other processes of the container lack it until then",
            "about 1 ms more each time an array of 8 MiB is made",
        )
    elif here.get("keeps_freed_memory"):
        advise(
            f"a short decay in {here['name']}'s own settings, such as MALLOC_CONF=dirty_decay_ms:1000 for jemalloc",
            "it keeps what was freed for a while, and the guard can't make it hand that back",
            "fresh memory more often",
        )
    if findings["learning"].get("possible") is False:
        advise(
            'a declared need, such as need="3x", where you would say need="learned"',
            f"needs can't be measured here: {findings['learning']['why_not']}",
            "measuring it once yourself",
        )
    shared = findings["ledger"]
    if shared.get("state", "") == _NAMELESS:
        advise(
            "/proc mounted in the container, or max_concurrent for each process",
            "without /proc/self/cgroup worker processes can't find each other's promises, and can fill the limit "
            "together",
            "nothing",
        )
    elif shared.get("state", "").startswith(("none", "not usable")):
        advise(
            "a folder for the ledger that all processes of the container may write (MLGUARD_MEMORY_LEDGER), or "
            "max_concurrent for each process",
            "worker processes don't see each other's promises and can fill the limit together",
            "nothing",
        )
    working_set, used = (limit or {}).get("working_set"), (limit or {}).get("used")
    if working_set and working_set - used > _TIGHT * limit["limit"]:
        advise(
            "no alert on the kubelet's working set alone",
            f"it counts {clock.size_text(working_set - used)} of page cache that the kernel gives back when asked",
            "nothing",
        )
    return found
