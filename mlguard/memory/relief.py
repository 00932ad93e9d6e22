"""What a call under pressure does about it before it waits: each action bounded, and only those its policy allows."""

from __future__ import annotations

from typing import Any

from mlguard.context import Call
from mlguard.memory import allocator, garbage, meter
from mlguard.memory.probe import Reading
from mlguard.memory.section import Memory

__all__ = ["Relief"]


class Relief:
    """The actions of one guard, in their order: shrink caches, collect garbage, hand back freed memory.

    Args:
        section: Its settings.

    Raises:
        PolicyError: `return_freed_memory` is set where the allocator has no such option.
    """

    _collected_in_episode: bool

    def __init__(self, section: Memory) -> None:
        self._section = section
        self._only_logs = section.on_pressure == "log"
        if section.return_freed_memory:
            allocator.of_this_process().return_freed()
        self.reset()

    def begin(self) -> None:
        """Called in the thread of a call that was not admitted at once: what only that thread can do."""
        if self._section.collect_garbage and not self._only_logs and not meter.of_this_process.measuring:
            allocator.of_this_process().trim_own_heap()

    def act(self, this: Call | None, need: int, reading: Reading) -> bool:
        """True where something was done, so that another look is due before anything else."""
        missing = need - reading.room(self._section.threshold)
        if missing <= 0:
            return False  # promises are in the way, not what is used: only the end of a call helps
        meter.of_this_process.spoil()
        if self._section.shrink_caches and self._shrink(this, missing):
            return True
        if not self._section.collect_garbage:
            return False
        if not self._collected_in_episode and garbage.of_this_process.collect() is not None:
            self._collected_in_episode = True
            self.collected += 1
            if this is not None:
                this.tell(mlguard__memory__collected=True)
            garbage.of_this_process.hand_back()
            return True
        allocator.of_this_process().trim_own_heap()
        garbage.of_this_process.hand_back()  # the next look, after a pause, will see what came back
        return False

    def over(self) -> None:
        """Memory is free again: the next time it is not, everything may be tried anew."""
        self._collected_in_episode = False

    def explain(self) -> str:
        """What it does, as words after "it"; "" where that is nothing."""
        does = []
        if self._section.shrink_caches:
            does.append("shrinks mlguard's caches")
        if self._section.collect_garbage:
            does.append("collects garbage and hands freed memory back")
        return ", ".join(does) + " (each at most 5% of the time)" if does else ""

    def stats(self) -> dict[str, Any]:
        return {"shrunk": self.shrunk, "collected": self.collected}

    def reset(self) -> None:
        self.shrunk = 0
        """Bytes that caches gave up."""
        self.collected = 0
        """Garbage collections run."""
        self._collected_in_episode = False

    def _shrink(self, this: Call | None, wanted: int) -> bool:
        try:
            freed = garbage.of_this_process.shrink(wanted)
        except Exception:  # a store's trouble is no reason to fail a prediction
            return False
        if not freed:
            return False
        self.shrunk += freed
        if this is not None:
            this.tell(mlguard__memory__shrunk=freed)
        garbage.of_this_process.hand_back()
        return True
