"""One guarded call from start to end: the only place that says in which order the concerns meet a call.

`specialise.py` turns these functions into the wrapper of one function under one policy: the names in CAPITALS that
`vocabulary.py` lists as flags become True or False, so that Python drops the blocks a policy does not ask for, and for
a plain function `async` and `await` go. Without a cache, `produce` is put in place of its call. Nothing else is done to
the text; read it as ordinary Python. The names in small letters that are not defined here (`bind`, `again`,
`memory_enter`, ...) belong to the runtime objects of the concerns: `vocabulary.py` declares them, `wiring.py` provides
them. `f.guard.source` prints what became of this text for the function f.

`call` is what every call meets, `produce` what a cache hit skips, `stream` stands for `call` in a generator. Waits are
written ``enter() or await wait()``, so that the free path never awaits.
"""

# pyright: reportPossiblyUnboundVariable=false
# What is bound under a flag is used under the same flag only.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlguard import clock
from mlguard.outcome import Disposition, from_within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mlguard.vocabulary import *  # noqa: F403


async def call(*args: Any, **kwargs: Any) -> Any:
    """What every call meets: monitor, fallback, input, deadline, cache."""
    this: Any = begin() if RECORD else None
    deadline = None
    dims: Any = {} if DIMS else None
    try:
        try:
            if VALIDATE:
                try:
                    ordered = POSITIONAL and len(args) == arity and not kwargs
                    values = args if ordered else shape(*args, **kwargs)
                    values = bind(values, context=dims) if DIMS else bind(values)
                    args, kwargs = (values, NO_KEYWORDS) if POSITIONAL else spread(values)
                except INVALID as error:
                    args, kwargs = refuse(this, error, args, kwargs)
            if TIMEOUT:
                deadline = deadline_from(this)
            if CACHE:
                key = key_of(args, kwargs)
                result = lookup(key)
                if result is MISS:
                    result = await share(key, produce, this, args, kwargs, deadline, dims)
                elif RECORD:
                    this.disposition = Disposition.CACHE_HIT
            else:
                result = await produce(this, args, kwargs, deadline, dims)
            if QUARANTINE:
                result = await rejoin(this, result, args, kwargs, dims)
        except Exception as error:
            if not FALLBACK or not covered(error):
                raise
            result = await fallback(this, error, args, kwargs, dims)
    except BaseException as error:
        if MONITOR:
            failed(this, error, args, kwargs)
        raise
    if MONITOR:
        succeeded(this, result, args, kwargs)
    return outcome(this, result) if OUTCOME else result


async def produce(this: Any, args: Any, kwargs: Any, deadline: float | None, dims: Any) -> Any:
    """What a cache hit skips: attempts, until one counts or the policy gives up."""
    if RETRY:
        tries = counted()  # the number of the call; after a failure, what is known of its attempts
    while True:
        if BREAKER or CONCURRENCY or RECORD or STREAM or FALLBACK:
            permit = slot = token = result = None
        if MEMORY or STREAM or THREAD:
            claim = True  # nothing to give back
        try:
            if BREAKER:
                permit = breaker_enter()
            if CONCURRENCY:
                slot = slot_enter() or await slot_wait(this, deadline)
            if MEMORY:
                claim = memory_enter(args, kwargs) or await memory_wait(this, args, kwargs, deadline)
            run = in_parts(claim) if SPLIT else function
            if THREAD:
                run = in_thread(run)
            if RECORD:
                this.attempts += 1
                token = enter(this)
            if TIMEOUT:
                async with attempt_limit(this, deadline):
                    result = await (run(*args) if POSITIONAL else run(*args, **kwargs))
            else:
                result = await (run(*args) if POSITIONAL else run(*args, **kwargs))
            if MONITOR:
                this.left_at = clock.now()
            if CHECK and type(result) is not exact:
                check(this, result, dims)
            if ON_RESULT:
                tries = unwanted(this, tries, result, deadline)
            if STREAM:
                result.hold(permit, slot, claim)
                slot, claim = None, True
            elif BREAKER:
                breaker_succeeded(permit)
            if not ON_RESULT or tries is None:
                break
        except BaseException as error:
            if BREAKER:
                breaker_failed(permit, error)
            if RECORD or FALLBACK:
                from_within(error, token)
            if STREAM and result is not None:
                await result.close()
            if THREAD:
                exits = slot_exit if CONCURRENCY else None, memory_exit if MEMORY else None
                slot, claim = left_running(this, slot, claim, *exits)
            if not RETRY:
                raise
            tries = again(this, tries, error, deadline)
            if tries is None:
                raise
        finally:
            if RECORD and token is not None:
                leave(this, token)
            if MEMORY and claim is not True:
                memory_exit(claim)
            if CONCURRENCY and slot is not None:
                slot_exit(slot)
        if ON_RESULT:
            result = None
        await sleep(tries.pause)  # here, where neither a slot nor the failed attempt's frames are kept
    return result


async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
    """`call` for a generator: `produce` brings the first item, and what it holds is held until the last."""
    this: Any = begin() if RECORD else None
    deadline = None
    opened: Any = None
    dims: Any = {} if DIMS else None
    try:
        try:
            if VALIDATE:
                try:
                    ordered = POSITIONAL and len(args) == arity and not kwargs
                    values = args if ordered else shape(*args, **kwargs)
                    values = bind(values, context=dims) if DIMS else bind(values)
                    args, kwargs = (values, NO_KEYWORDS) if POSITIONAL else spread(values)
                except INVALID as error:
                    args, kwargs = refuse(this, error, args, kwargs)
            if TIMEOUT:
                deadline = deadline_from(this)
            opened = await produce(this, args, kwargs, deadline, dims)
        except Exception as error:
            if not FALLBACK or not covered(error):
                raise
            opened = await fallback(this, error, args, kwargs, dims)
        item = opened.first()
        if RECORD:
            this.first_item_at = clock.now()
        while item is not END:
            sent = thrown = token = None
            paused = clock.now()
            try:
                sent = yield item
            except GeneratorExit:
                raise
            except BaseException as error:
                thrown = error
            if TIMEOUT and deadline is not None:
                deadline += clock.now() - paused  # the consumer's own time never counts
            try:
                if RECORD:
                    token = enter(this)
                if TIMEOUT:
                    async with idle_limit(this, deadline):
                        item = await opened.next(sent, thrown)
                else:
                    item = await opened.next(sent, thrown)
            finally:
                thrown = None  # an exception kept in the frame it points to would keep the arguments alive
                if RECORD and token is not None:
                    leave(this, token)
            if CHECK and item is not END:
                check_item(this, item, dims)
        if BREAKER:
            breaker_succeeded(opened.permit)
    except BaseException as error:
        if BREAKER and opened is not None:
            breaker_failed(opened.permit, opened.blamed(error))
        if RECORD and opened is not None:
            from_within(error)
            this.tell(mlguard__items=opened.count)
        if MONITOR:
            failed(this, error, args, kwargs)
        raise
    finally:
        if opened is not None:
            try:
                await opened.close()
            finally:
                if MEMORY and opened.claim is not True:
                    memory_exit(opened.claim)
                if CONCURRENCY and opened.slot is not None:
                    slot_exit(opened.slot)
    if MONITOR:
        succeeded(this, opened, args, kwargs)
    returned(opened.value)  # pyright: ignore[reportOptionalMemberAccess]  # Any narrowed to None, above
