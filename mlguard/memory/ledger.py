"""Admission by reservation: memory that calls were promised and may not have allocated yet.

A check alone is not enough: sixteen threads that all see 100 MiB free all start. So a call that needs much is admitted
against what is used and what is promised, and its promise is held until it ends. What this process promised is kept
here; what the other processes of its container did, in `container.py`, and who waits, in `line.py`.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from mlguard import clock
from mlguard.forks import in_children
from mlguard.memory import nested
from mlguard.memory.gauge import Gauge
from mlguard.memory.levels import Levels
from mlguard.memory.line import STALE, Line, Waiter
from mlguard.memory.probe import Reading
from mlguard.memory.shared_file import Books, Waiting

__all__ = ["Claim", "Ledger", "Look", "of_this_process"]

SMALL_BESIDE = 4
"""A call may start before one that waits longer where it needs at most a quarter of that one's bytes, and where all
that were let by needed, together, no more than it does. So small calls go on, and a big one starts in the end."""

RESPECTED_AFTER = 0.05
"""Seconds a call of another process must have waited before others let it go first. Until then processes compete, as
their turns would have to be passed on by polling."""

_SAME = 1e-6
_LOOKS = 3  # before calls that end meanwhile are accepted


class Claim:
    """What one call was promised, until it ends."""

    __slots__ = ("_ledger", "_life", "lent", "need", "note", "outer", "over")

    def __init__(self, ledger: Ledger, need: int, life: int) -> None:
        self._ledger = ledger
        self._life = life
        self.need = need
        """Bytes."""
        self.lent = 0
        """Bytes of it that calls inside this one use."""
        self.note: Any = None
        """What the guard wants to remember until the call ends."""
        self.over = False
        """True once its call has ended."""
        self.outer: Claim | None = None
        """The one of the call that this one runs inside of."""

    @property
    def held(self) -> bool:
        """True until its call ends; in a forked child it is the parent's."""
        return not self.over and self._life == self._ledger.life

    def lend(self, need: int) -> bool:
        """True where so many bytes are left for a call inside this one."""
        return self._ledger.lend(self, need)

    def give_back(self, need: int) -> None:
        """A call inside this one has ended."""
        self._ledger.take_back(self, need)

    def detach(self) -> None:
        """Its call goes on in another thread: what this context starts next is not inside of it."""
        nested.leave(self)

    def release(self) -> None:
        """Takes the promise back, once its call has ended."""
        nested.leave(self)
        self._ledger.release(self)


class _Turn(NamedTuple):
    given: bool
    passes: tuple[float, int] | None  # since when the call waits that it passes, and the bytes that passed it by then


class Look(NamedTuple):
    """What a call that asked for memory was told."""

    claim: Claim | bool | None
    """What it was promised, or True where there is nothing to give back; None: it may not start now."""
    reading: Reading
    """Of the level that leaves the least room."""
    room: int
    """Bytes left there for this call and others, what is promised taken off."""
    room_when_idle: int
    """Bytes that will be left there once all calls in flight have ended."""
    reserved: int
    """Bytes promised to calls in flight."""
    permanent: bool
    """True where it can't start as long as the limit is what it is."""


class Ledger:
    """The bytes promised to the calls in flight of one process."""

    line: Line
    """Who waits in this process."""
    begun: int
    """Promises made so far."""
    life: int
    """Another number in each forked child."""
    news: str | None = None
    """A trouble that nobody was told of yet."""
    _alone: Claim | None

    def __init__(self) -> None:
        self.renew()

    @property
    def reserved_here(self) -> int:
        """Bytes promised now by this process."""
        return self._promised

    @property
    def reserved(self) -> int:
        """Bytes promised now."""
        return self._promised

    def reserve(
        self, need: int, gauge: Gauge, share: float, waiter: Waiter | None = None, *, alone: bool = False
    ) -> Look:
        """Promises `need` bytes where they fit below that share of every limit, and nobody who waits goes first.

        Args:
            need: Bytes that the call needs.
            gauge: Where memory is read.
            share: Up to which share of each limit calls are admitted.
            waiter: The call's place in `line`, where it waits already.
            alone: Whether it needs an unknown amount: it is promised all that is left, and only where nothing else is.

        Raises:
            OSError: The gauge can't be read.
        """
        for last in (*[False] * (_LOOKS - 1), True):
            ended = self._ended + self._peek()
            # Outside the locks: reading takes longer than all the rest, and other processes wait for them as well.
            readings = gauge.readings()
            with self._lock:
                now = clock.now()
                books = self._open(now)
                if books is None:
                    return _judged(readings, share, need, Levels(), self._promised, now)
                try:
                    # A call that ended since may have left memory behind that this reading missed.
                    stale = ended != self._ended + books.ended
                    if stale and not last:
                        continue
                    promised = self._promised + books.promised
                    look = _judged(readings, share, need, books.levels, promised, now)
                    turn = self._turn(need, share, waiter, books, now)
                    if look.room >= need and turn.given and not (stale or self._alone or (alone and promised)):
                        if turn.passes is not None:
                            books.passed = turn.passes
                        look = look._replace(claim=self._promise(max(need, look.room) if alone else need, alone))
                finally:
                    self._close(books)
                return look
        raise AssertionError  # the last round returns

    def promise(self, need: int) -> Claim:
        """Promises without asking whether it fits, for a call that goes on all the same."""
        with self._lock:
            claim = self._promise(need, False)
            self._write_down()
            return claim

    def release(self, claim: Claim) -> None:
        """Takes a promise back, and tells whoever waits."""
        with self._lock:
            claim.over = True
            self._end(claim, claim.need - claim.lent)  # what it lent ends with the calls that outlive it
        self.line.ring()

    def lend(self, claim: Claim, need: int) -> bool:
        """Gives a part of a promise to a call inside its own; False where less is left."""
        with self._lock:
            if claim.over or claim.lent + need > claim.need:
                return False
            claim.lent += need
            return True

    def take_back(self, claim: Claim, need: int) -> None:
        """A call that a part was lent to has ended; the part goes where the rest went."""
        with self._lock:
            claim.lent -= need
            if claim.over:
                self._end(claim, need)
        if claim.over:
            self.line.ring()

    def leave(self, waiter: Waiter) -> None:
        """Takes a call out of the line; other processes are told."""
        self.line.leave(waiter)
        if self._published is waiter:
            with self._lock:
                self._write_down()

    def state(self) -> dict[str, Any]:
        """Whose promises are counted, as `stats()` tells it."""
        return {
            "scope": "process",
            "reserved": self._promised,
            "reserved_here": self._promised,
            "processes": 1,
            "waiting": len(self.line),
            "file": None,
            "trouble": None,
            "failures": 0,
            "other_users": [],
        }

    def explain(self) -> str:
        return "Promises to calls of this process count; those of other processes don't."

    def renew(self) -> None:
        """Starts afresh, in a forked child as well: what the parent promised is the parent's."""
        self._lock = threading.RLock()  # reentrant, as a destructor may run a guarded function while it is held
        self.life = getattr(self, "life", 0) + 1
        self._promised = 0
        self._ended = 0
        self.begun = 0
        self._alone = None
        self._books = Books()
        self._published: Waiter | None = None
        self.line = Line()

    def _end(self, claim: Claim, need: int) -> None:
        if claim._life != self.life:
            return  # made before a fork: the parent's
        self._promised -= need
        self._ended += 1
        self._alone = None if self._alone is claim else self._alone
        self._write_down()

    def _promise(self, need: int, alone: bool) -> Claim:
        self.begun += 1
        claim = Claim(self, need, self.life)
        self._promised += need
        if alone:
            self._alone = claim
        return claim

    def _turn(self, need: int, share: float, waiter: Waiter | None, books: Books, now: float) -> _Turn:
        """Whether this call may start before all that wait, and what must be written down if it does."""
        self._published = self.line.first()
        mine = self.line.first(share)
        since = now if waiter is None else waiter.since
        goes_first = [waiting for waiting, looked in books.waiting if _respected(waiting, looked, now, since, share)]
        if mine is not None and mine is not waiter:
            goes_first.append(Waiting(mine.since, mine.need, mine.share))
        if not goes_first:
            return _Turn(True, None)
        first = min(goes_first)
        same = abs(books.passed[0] - first.since) < _SAME  # on file, times are rounded
        passed = need + (books.passed[1] if same else 0)
        return _Turn(need * SMALL_BESIDE <= first.need and passed <= first.need, (first.since, passed))

    def _peek(self) -> int:
        """Calls that ended so far in other processes."""
        return 0

    def _open(self, now: float) -> Books | None:
        """What is written down, to be closed again; None where somebody else has it."""
        return self._books

    def _close(self, books: Books) -> None:
        pass

    def _write_down(self) -> None:
        pass


def _judged(readings: list[Reading], share: float, need: int, levels: Levels, promised: int, now: float) -> Look:
    """Where the least room is; for the first level that could never do, there."""
    found: Look | None = None
    for reading in readings:
        allowed = int(share * reading.limit)
        base = levels.base(reading, promised, now)
        room = allowed - max(reading.used, base + promised)
        permanent = need > allowed
        if found is None or permanent > found.permanent or (permanent == found.permanent and room < found.room):
            found = Look(None, reading, room, allowed - base, promised, permanent)
    assert found is not None  # noqa: S101 - a gauge that reads nothing raises
    return found


def _respected(waiting: Waiting, looked: float, now: float, since: float, share: float) -> bool:
    """True where a call of another process goes before one that has waited since then."""
    alive = abs(now - looked) < STALE
    return alive and waiting.since < min(since, now - RESPECTED_AFTER) and waiting.share >= share


of_this_process = Ledger()
"""Shared by every guard of the process whose scope is "process"."""

in_children(of_this_process.renew)
