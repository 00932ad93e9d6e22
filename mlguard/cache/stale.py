"""What is kept although `lookup` passes over it: results that have expired, and failures.

A stale result is served while one call in the background computes a new one, or where computing fails; a remembered
failure is raised again. Both are asked for by the policy, counted, and said in the event. The background call goes the
way of every other call: single-flight, retry, breaker, slots, memory.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mlguard import clock
from mlguard.cache.background import background
from mlguard.cache.circles import detached_context
from mlguard.cache.copies import Kept, TooLarge, Uncopyable, keep
from mlguard.context import Call
from mlguard.forks import renew_in_children
from mlguard.outcome import Disposition, Failure, classify

if TYPE_CHECKING:
    from mlguard.cache.result import ResultCache
    from mlguard.cache.store import Entry

__all__ = ["Lenient", "Refresh"]

_TRANSIENT: Final = (Failure.TRANSIENT, Failure.THROTTLED, Failure.REJECTED)
_MOST_TASKS: Final = 100


class Refresh(Call):
    """A call that nobody waits for."""


class _ChangedError(Exception):
    """An argument is not any more what its key says."""


class Lenient:
    """Stands before the flights of one cache.

    Args:
        cache: Its section says what is served stale, and which failures are remembered.
    """

    def __init__(self, cache: ResultCache) -> None:
        section = cache.section
        stale_on: tuple[Any, ...] = section.stale_on  # type: ignore[assignment]  # read by its validator
        negative_on: tuple[type[Exception], ...] = section.negative_on  # type: ignore[assignment]
        self.cache = cache
        self._stale_on = tuple(error for error in stale_on if error != "transient")
        self._transient = "transient" in stale_on
        self._negative_on = negative_on
        self._refreshing: dict[Any, object] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.forget_counts()
        renew_in_children(self)

    def share(
        self, key: Any, produce: Any, this: Call | None, args: Any, kwargs: Any, deadline: float | None, dims: Any
    ) -> Any:
        """`ThreadFlights.share`, with what is kept for bad times."""
        cache = self.cache
        entry = self._first_look(key, this)
        if entry is not None:
            if self._begins(key, led=key in cache.threads.table):
                self._refresh(key, produce, args, kwargs, dims)
            return self._stale(this, entry)
        since = cache.forgotten
        try:
            return cache.threads.share(key, produce, this, args, kwargs, deadline, dims)
        except Exception as error:
            entry = self._instead(key, error, since)
            if entry is None:
                raise
        return self._stale(this, entry)

    async def share_async(
        self, key: Any, produce: Any, this: Call | None, args: Any, kwargs: Any, deadline: float | None, dims: Any
    ) -> Any:
        """`TaskFlights.share`, likewise."""
        cache = self.cache
        entry = self._first_look(key, this)
        if entry is not None:
            if self._begins(key, led=cache.tasks.leads(key)):
                self._refresh_async(key, produce, args, kwargs, dims)
            return self._stale(this, entry)
        since = cache.forgotten
        try:
            return await cache.tasks.share(key, produce, this, args, kwargs, deadline, dims)
        except Exception as error:
            entry = self._instead(key, error, since)
            if entry is None:
                raise
        return self._stale(this, entry)

    def stats(self) -> dict[str, Any]:
        section, said = self.cache.section, dict[str, Any]()
        if section.stale_while_revalidate or section.stale_if_error:
            said["stale"] = self.stale
        if section.stale_while_revalidate:
            said |= {
                "refreshes": self.cache.refreshes,
                "refreshes_failed": self.failed,
                "refreshes_dropped": self.dropped,
            }
        if section.negative_ttl:
            said["failures_remembered"] = self.remembered
        return said

    def forget_counts(self) -> None:
        self.stale = 0
        self.remembered = 0
        self.failed = 0
        self.dropped = 0

    def after_fork(self) -> None:
        """In the child: what refreshes was the parent's."""
        self._refreshing.clear()
        self._tasks.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.cache, "lenient")

    # What is kept

    def _first_look(self, key: Any, this: Call | None) -> Entry | None:
        """What may be served stale at once; raises the failure that is remembered for a key."""
        cache = self.cache
        entry = cache.entry(key)
        if entry is None:
            return None
        if entry.failure:
            self.remembered += 1
            if this is not None:
                this.tell(mlguard__cache="negative")
            assert entry.make is not None  # noqa: S101 - for the type checker
            raise entry.make()
        age = self._age(entry)  # below 0 where it came while this call was on its way here: no stale one
        return entry if 0 <= age < cache.stale_for else None

    def _instead(self, key: Any, error: Exception, since: int) -> Entry | None:
        """What is served in place of a failure, if anything; a failure that is asked for is remembered."""
        cache = self.cache
        entry = None if key is None else cache.entry(key)
        usable = entry is not None and not entry.failure and self._age(entry) < cache.stale_if_error
        if usable and self._covers(error):
            return entry
        wanted = key is not None and isinstance(error, self._negative_on) and since == cache.forgotten
        if wanted and (entry is None or not entry.failure):
            self._remember(key, error)
        return None

    def _age(self, entry: Entry) -> float:
        """Seconds since it was fresh; below 0 where it still is. A front looks away from an entry earlier."""
        return clock.now() - (entry.until - self.cache.extra)

    def _covers(self, error: Exception) -> bool:
        return isinstance(error, self._stale_on) or (self._transient and classify(error) in _TRANSIENT)

    def _stale(self, this: Call | None, entry: Entry) -> Any:
        self.stale += 1
        entry.hits += 1
        if this is not None:
            this.disposition = Disposition.CACHE_HIT
            this.tell(mlguard__cache="stale", mlguard__cache__stale_for=round(max(0.0, self._age(entry)), 3))
        return entry.value if entry.make is None else entry.make()

    def _remember(self, key: Any, error: Exception) -> None:
        cache = self.cache
        try:
            content = keep((error.args, dict(vars(error))), cache.memory.max_bytes, writable=False)
            make = partial(_failure, type(error), content)
            same = make()
            if str(same) != str(error) or same.args != error.args:
                raise Uncopyable(type(error).__qualname__)
        except TooLarge:
            cache.not_stored["too_large"] += 1
        except Exception:
            cache.not_stored[f"uncopyable {type(error).__qualname__}"] += 1
        else:
            cache.store_failure(key, Kept(None, make, content.size + 200))

    # The call in the background

    def _begins(self, key: Any, *, led: bool) -> bool:
        """Whether this call is the one that has a key refreshed."""
        mine = object()
        return not led and self._refreshing.setdefault(key, mine) is mine

    def _refresh(self, key: Any, produce: Any, args: Any, kwargs: Any, dims: Any) -> None:
        args, kwargs, private = self._own(args, kwargs)

        def run() -> None:
            try:
                this = Refresh()
                if not private:
                    self._refuse_changed(key, args, kwargs)
                self.cache.threads.share(key, checked, this, args, kwargs, self._deadline(this), _dims_of(dims))
            except BaseException:
                self.failed += 1
            finally:
                self._refreshing.pop(key, None)

        def checked(this: Call, *arguments: Any) -> Any:
            result = produce(this, *arguments)
            if not private:
                self._refuse_changed(key, args, kwargs)
            return result

        if not background.submit(partial(detached_context().run, run)):
            self._refreshing.pop(key, None)
            self.dropped += 1

    def _refresh_async(self, key: Any, produce: Any, args: Any, kwargs: Any, dims: Any) -> None:
        if len(self._tasks) >= _MOST_TASKS:
            self._refreshing.pop(key, None)
            self.dropped += 1
            return
        args, kwargs, private = self._own(args, kwargs)

        async def run() -> None:
            try:
                this = Refresh()
                if not private:
                    self._refuse_changed(key, args, kwargs)
                await self.cache.tasks.share(key, checked, this, args, kwargs, self._deadline(this), _dims_of(dims))
            except Exception:
                self.failed += 1

        async def checked(this: Call, *arguments: Any) -> Any:
            result = await produce(this, *arguments)
            if not private:
                self._refuse_changed(key, args, kwargs)
            return result

        def done(task: asyncio.Task[None]) -> None:  # also where the task was cancelled before it began
            self._tasks.discard(task)
            self._refreshing.pop(key, None)

        task = asyncio.get_running_loop().create_task(run(), context=detached_context())
        self._tasks.add(task)
        task.add_done_callback(done)

    def _deadline(self, this: Call) -> float | None:
        deadlines = self.cache.deadlines
        return None if deadlines is None else deadlines.deadline_from(this)

    def _own(self, args: Any, kwargs: Any) -> tuple[Any, Any, bool]:
        """The arguments as they are now, because the caller may fill its arrays anew as soon as it has its answer.

        And whether all could be copied; where not, their key is looked at again.
        """
        private = True

        def copied(value: Any) -> Any:
            nonlocal private
            try:
                return keep(value, self.cache.memory.max_bytes, writable=True).fresh()
            except (Uncopyable, TooLarge):
                private = False
                return value

        return tuple(map(copied, args)), {name: copied(value) for name, value in kwargs.items()}, private

    def _refuse_changed(self, key: Any, args: Any, kwargs: Any) -> None:
        if self.cache.key_of(args, kwargs) != key:
            raise _ChangedError


def _dims_of(dims: Any) -> Any:
    # The sizes that binding the arguments noted; the first call's result may have added others to its own.
    return None if dims is None else dict(dims)


def _failure(cls: type[Exception], content: Kept) -> Exception:
    args, state = content.fresh()
    error = cls(*args)
    error.__dict__.update(state)
    return error
