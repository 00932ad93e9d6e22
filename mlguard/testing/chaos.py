"""Things go wrong on purpose, inside the guards, where retry, breaker and validation meet them. Reproducibly."""

from __future__ import annotations

import asyncio
import functools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from mlguard import clock
from mlguard.context import current
from mlguard.errors import PolicyError
from mlguard.handle import Handle
from mlguard.streams import end
from mlguard.target import Kind, Target
from mlguard.testing.faults import Fault
from mlguard.wrapper import surround

__all__ = ["Chaos", "chaos"]


def chaos(*faults: Fault, on: Any = None, seed: int | str = 0, key: Callable[..., Any] | None = None) -> Chaos:
    """Lets guarded functions fail, wait, hang and answer wrongly, as a context manager.

    An attempt meets one fault at most: the first of those without a rate that its number and the time allow, else one
    that is drawn by the rates. The same seed draws the same faults for the same attempts, whichever thread makes them:
    the n-th attempt of a function always meets the same. Which call makes the n-th attempt, threads decide among
    themselves; give `key`, and the faults belong to the calls instead, in whatever order they come.

        with testing.chaos(testing.fails(TimeoutError, rate=0.1), testing.nan(calls={7}), seed=1) as chaos:
            ...
        print(chaos.met)

    Args:
        *faults: What goes wrong, and when.
        on: The guarded function, or a list of them. Absent: every guarded function, and those decorated meanwhile.
        seed: Decides everything.
        key: Called with the arguments of a call; attempts are counted, and faults drawn, for each key by itself.

    Raises:
        PolicyError: A function is not guarded, or the rates are more than the whole.
    """
    functions = None if on is None else list(on) if isinstance(on, Iterable) else [on]
    return Chaos(_checked(faults), functions, seed, key)


class Chaos:
    """What `chaos` returns; entered, it is at work."""

    def __init__(
        self, faults: tuple[Fault, ...], functions: list[Any] | None, seed: int | str, key: Callable[..., Any] | None
    ) -> None:
        self.met: Counter[str] = Counter()
        """How often each fault happened, by its name."""
        self.attempts: Counter[str] = Counter()
        """How many attempts there were, by the name of the function, or by key."""
        self._faults = faults
        self._targets = None if functions is None else [_target_of(function) for function in functions]
        self._seed = seed
        self._key = key
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._hung: set[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = set()
        self._began = 0.0

    def __enter__(self) -> Self:
        if self in _active:
            raise PolicyError("chaos() is at work already. Fix: enter it once, or make another with chaos().")
        self.met.clear()
        self.attempts.clear()
        self._over.clear()
        self._began = clock.now()
        _active.append(self)
        surround(_inside)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        _active.remove(self)
        surround(_inside if _active else None)
        self._over.set()
        with self._lock:
            hung = list(self._hung)
        for loop, waiter in hung:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, waiter)

    def __reduce__(self) -> Any:
        return _none, ()  # a function that is pickled meanwhile is whole in the other process

    def drawn(self, key: Any, number: int, elapsed: float = 0.0) -> str | None:
        """The name of the fault that attempt number `number` of a key, or of a function's name, meets; None: none."""
        fault = self._plan(key, number, elapsed)[0]
        return None if fault is None else fault.name

    def covers(self, target: Target) -> bool:
        """Whether it is about this function."""
        return self._targets is None or any(target is each for each in self._targets)

    def around(self, target: Target, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with what goes wrong."""
        make = {
            Kind.PLAIN: self._plain,
            Kind.COROUTINE: self._coroutine,
            Kind.GENERATOR: self._generator,
            Kind.ASYNC_GENERATOR: self._async_generator,
        }[target.kind]
        return functools.update_wrapper(make(target, function), function)

    def _plain(self, target: Target, function: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any, **kwargs: Any) -> Any:
            fault, chance = self._meet(target, args, kwargs)
            if fault is not None:
                self._strike(fault)
            result = function(*args, **kwargs)
            return result if fault is None or fault.change is None else fault.change(result, chance)

        return attempt

    def _coroutine(self, target: Target, function: Callable[..., Any]) -> Callable[..., Any]:
        async def attempt(*args: Any, **kwargs: Any) -> Any:
            fault, chance = self._meet(target, args, kwargs)
            if fault is None:
                return await function(*args, **kwargs)
            if fault.after == 0:
                await self._strike_async(fault)
            result = await function(*args, **kwargs)
            if hasattr(result, "__aiter__") and (fault.after or fault.change is not None):
                return self._struck(result, fault, chance)
            if fault.after:  # no stream, so there is nothing to come after
                await self._strike_async(fault)
            return result if fault.change is None else fault.change(result, chance)

        return attempt

    async def _struck(self, items: Any, fault: Fault, chance: random.Random) -> Any:
        """What a coroutine function returned to be iterated, with what goes wrong at one item."""
        count = 0
        try:
            async for item in items:
                yield fault.change(item, chance) if count == fault.after and fault.change is not None else item
                count += 1
                if count == fault.after:
                    await self._strike_async(fault)
        finally:
            await end(items)

    def _generator(self, target: Target, function: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any, **kwargs: Any) -> Any:
            fault, chance = self._meet(target, args, kwargs)
            items, sent, thrown, count = function(*args, **kwargs), None, None, 0
            try:
                while True:
                    if fault is not None and count == fault.after:
                        self._strike(fault)
                    try:
                        item = items.send(sent) if thrown is None else items.throw(thrown)
                    except StopIteration as ended:
                        return ended.value
                    finally:
                        thrown = None  # its traceback holds this frame
                    if fault is not None and count == fault.after and fault.change is not None:
                        item = fault.change(item, chance)
                    count += 1
                    try:
                        sent = yield item
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        thrown = error
            finally:
                items.close()

        return attempt

    def _async_generator(self, target: Target, function: Callable[..., Any]) -> Callable[..., Any]:
        async def attempt(*args: Any, **kwargs: Any) -> Any:
            fault, chance = self._meet(target, args, kwargs)
            items, sent, thrown, count = function(*args, **kwargs), None, None, 0
            try:
                while True:
                    if fault is not None and count == fault.after:
                        await self._strike_async(fault)
                    try:
                        item = await (items.asend(sent) if thrown is None else items.athrow(thrown))
                    except StopAsyncIteration:
                        return
                    finally:
                        thrown = None  # its traceback holds this frame
                    if fault is not None and count == fault.after and fault.change is not None:
                        item = fault.change(item, chance)
                    count += 1
                    try:
                        sent = yield item
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        thrown = error
            finally:
                await items.aclose()

        return attempt

    def _meet(self, target: Target, args: Any, kwargs: Any) -> tuple[Fault | None, random.Random]:
        """The fault that an attempt meets, counted and told, and the random numbers for what it changes."""
        key = target.name if self._key is None else self._key(*args, **kwargs)
        with self._lock:
            self.attempts[key] += 1
            number = self.attempts[key]
        fault, chance = self._plan(key, number, clock.now() - self._began)
        if fault is not None:
            with self._lock:
                self.met[fault.name] += 1
            call = current.get()
            if call is not None:
                call.tell(mlguard__chaos=fault.name)
        return fault, chance

    def _plan(self, key: Any, number: int, elapsed: float) -> tuple[Fault | None, random.Random]:
        attempt = f"{self._seed}/{key}/{number}"
        left = random.Random(attempt).random()  # noqa: S311 - a reproducible plan, not a secret
        chance = random.Random(f"{attempt}/where")  # noqa: S311
        possible = [fault for fault in self._faults if fault.possible(number, elapsed)]
        for fault in possible:
            if fault.rate is None:
                return fault, chance
        for fault in possible:
            left -= fault.rate or 0.0
            if left < 0:
                return fault, chance
        return None, chance

    def _strike(self, fault: Fault) -> None:
        if fault.wait:
            if clock.sleep is time.sleep:
                self._over.wait(fault.wait)
            else:
                clock.sleep(fault.wait)
        if fault.error is not None:
            raise _made(fault.error)

    async def _strike_async(self, fault: Fault) -> None:
        if fault.wait:
            if clock.sleep_async is asyncio.sleep:
                await self._wait(fault.wait)
            else:
                await clock.sleep_async(fault.wait)
        if fault.error is not None:
            raise _made(fault.error)

    async def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        alarm = loop.call_later(seconds, _wake, waiter)
        with self._lock:
            self._hung.add((loop, waiter))
        if self._over.is_set():
            _wake(waiter)
        try:
            await waiter
        finally:
            alarm.cancel()
            with self._lock:
                self._hung.discard((loop, waiter))


_active: list[Chaos] = []


def _inside(target: Target) -> Callable[..., Any] | None:
    """What a guarded function calls in place of the user's; None: the user's own."""
    function = None
    for each in _active:
        if each.covers(target):
            function = each.around(target, function or target.function)
    return function


def _none() -> Chaos:
    return Chaos((), [], 0, None)


def _checked(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    if not faults:
        raise PolicyError("chaos() has no faults. Fix: give it some, such as testing.fails(ConnectionError, rate=0.1).")
    for fault in faults:
        if not isinstance(fault, Fault):
            raise PolicyError(f"chaos() takes faults, not {fault!r}. Fix: testing.fails(...), delays(...), nan(...).")
    always = sum(fault.rate or 0.0 for fault in faults if fault.during is None and fault.calls is None)
    if always > 1 + 1e-9:
        raise PolicyError(f"chaos(): the rates add up to {always:g}, and an attempt meets one fault. Fix: at most 1.")
    return faults


def _target_of(function: Any) -> Target:
    guard = getattr(function, "guard", None)
    if not isinstance(guard, Handle):
        raise PolicyError(f"chaos() is about guarded functions, and {function!r} is none. Fix: guard it first.")
    return guard._wrapper.target


def _made(error: Any) -> BaseException:
    return error if isinstance(error, BaseException) else error()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
