"""A batch too big for the memory that is left, run in parts: how it is cut, and how the parts are run and joined.

It is right only where rows are independent of each other. What the parts return is kept until the last one is done,
and counts as used like everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from mlguard import clock, context
from mlguard.batch import Batch, join, length_of
from mlguard.errors import DeadlineExceededError
from mlguard.memory.ledger import Look
from mlguard.target import Target

__all__ = ["MOST_PARTS", "Part", "Parts"]

MOST_PARTS = 64
"""Into how many parts a batch is cut at most: in thousands of slivers a call takes longer than any caller waits."""

_GUESSES = 40


class Part(NamedTuple):
    """The claim of a call that runs in parts: what it was promised is enough for any one of them."""

    claim: Any
    """What the guard takes back at the end."""
    cuts: tuple[int, ...]
    """Where the parts begin and end: 0, ..., the number of rows."""

    @property
    def parts(self) -> int:
        return len(self.cuts) - 1

    def detach(self) -> None:
        """The call goes on in another thread."""
        if self.claim is not True:
            self.claim.detach()

    def release(self) -> None:
        """Gives back what was promised."""
        if self.claim is not True:
            self.claim.release()


class Parts:
    """Cuts the batches of one function, and runs them.

    Args:
        target: The function.
        batch: Which of its arguments have the rows.
        need: The bytes that a call with these arguments needs; None where that is not known.
    """

    def __init__(self, target: Target, batch: Batch, need: Callable[[Any, Any], int | None]) -> None:
        self.label = batch.label
        """How a sentence names the batch."""
        self._target = target
        self._batch = batch
        self._need = need

    def cut(self, args: Any, kwargs: Any, room: int) -> tuple[tuple[int, ...], int] | None:
        """Where to cut so that no part needs more than `room`, and what the biggest part needs.

        None where a single row needs more, or where there would be too many parts. Rows may differ in size: each part
        takes as many of the next ones as fit.
        """
        try:
            size = take = self._batch.size(args, kwargs)
            cuts, biggest = [0], 0
            while (start := cuts[-1]) < size:
                take, need = self._most(args, kwargs, slice(start, size), take, room)
                if not take or len(cuts) > MOST_PARTS:
                    return None
                cuts.append(start + take)
                biggest = max(biggest, need)
        except (TypeError, ValueError):  # no table, or tables of different lengths: the function will say so itself
            return None
        return (tuple(cuts), biggest) if len(cuts) > 1 else None

    def smaller(self, call: Any, need: int, look: Look, share: float) -> tuple[tuple[int, ...], int] | None:
        """`cut`, for a call that was looked at and does not fit.

        Where even the whole limit is too small, parts as big as a quarter of it may wait for their turn: fewer of them
        than by what happens to be left now.
        """
        room = look.room if not look.permanent else max(look.room, int(share * look.reading.limit) // 4)
        args, kwargs = call
        return self.cut(args, kwargs, min(room, need - 1))

    def in_parts(self, claim: Any) -> Callable[..., Any]:
        """The function, or what runs it in parts where the claim is for parts."""
        return _InParts(self, claim) if type(claim) is Part else self._function

    def in_parts_async(self, claim: Any) -> Callable[..., Any]:
        """The same for a coroutine function."""
        return _InPartsAsync(self, claim) if type(claim) is Part else self._function

    def pieces(self, part: Part, args: Any, kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """The arguments of each part in turn.

        Raises:
            DeadlineExceededError: There is no time left for the next one.
        """
        for number, (start, end) in enumerate(pairwise(part.cuts)):
            if number and (deadline := context.ambient_deadline()) is not None and clock.now() >= deadline:
                raise DeadlineExceededError(
                    f"{self._target.label} ran out of time after {number} of {part.parts} parts, into which the memory "
                    "guard had cut its batch. Fix: a longer timeout, a smaller batch, or more memory."
                )
            yield self._batch.take(args, kwargs, slice(start, end))

    def joined(self, part: Part, results: list[Any]) -> Any:
        """What the parts returned, as one.

        Raises:
            TypeError: It is nothing that has rows.
            ValueError: It has not one row for each that came in.
        """
        start = f"{self._target.label} was run in {part.parts} parts for want of memory, and "
        fix = "Fix: return an array, a list or a table with one row for each that came in, or memory.split=False."
        try:
            lengths = [length_of(result) for result in results]
            whole = join(results)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{start}what they returned can't be joined: {error}. {fix}") from None
        for number, (rows, (first, end)) in enumerate(zip(lengths, pairwise(part.cuts), strict=True), 1):
            if rows != end - first:  # of each: a row too many here and one too few there would belong to other rows
                raise ValueError(f"{start}part {number} returned {rows:,} rows for {end - first:,} that came in. {fix}")
        return whole

    def call(self, args: Any, kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    @property
    def _function(self) -> Callable[..., Any]:
        return self._target.inside or self._target.function

    def _most(self, args: Any, kwargs: Any, left: slice, take: int, room: int) -> tuple[int, int]:
        """The most of the rows left that fit, and what they need; found by proportion, from a first guess."""
        best, best_need, fails = 0, 0, left.stop - left.start + 1
        take = min(take, fails - 1)
        for _ in range(_GUESSES):
            need = self._need(*self._batch.take(args, kwargs, slice(left.start, left.start + take)))
            if need is not None and need <= room:
                best, best_need = take, need
                if need * 1.1 >= room:
                    break  # close enough
            else:
                fails = take
            if fails - best <= 1:
                break
            guess = take * room // need if need else take // 2
            take = min(max(guess, best + 1), fails - 1)
        return best, best_need


class _InParts:
    """Stands for a function in one call."""

    def __init__(self, parts: Parts, part: Part) -> None:
        self._parts = parts
        self._part = part

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        parts, part = self._parts, self._part
        return parts.joined(part, [parts.call(*piece) for piece in parts.pieces(part, args, kwargs)])


class _InPartsAsync:
    """Stands for a coroutine function in one call."""

    def __init__(self, parts: Parts, part: Part) -> None:
        self._parts = parts
        self._part = part

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        parts, part = self._parts, self._part
        return parts.joined(part, [await parts.call(*piece) for piece in parts.pieces(part, args, kwargs)])
