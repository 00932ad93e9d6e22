# ruff: noqa: S101 - assertions are what this file is for
"""What every store must do, as tests: make a subclass with your store and let pytest collect it.

    class TestMyStore(StoreConformance):
        def open(self):
            return MyStore(...)

Each test opens the store anew; what earlier tests left in it does no harm, because every test has keys of its own. It
needs pytest and pytest-asyncio. The slowest test waits for a second to pass.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import time
from typing import Final

from mlguard.cache.stores.opening import async_of
from mlguard.cache.stores.protocol import Item, Label, Store, StoreInfo

__all__ = ["StoreConformance"]

_SHORT: Final = 0.3  # seconds to live, where an entry must be seen to expire


class StoreConformance:
    """The suite. `open` is the only method to fill in."""

    def open(self) -> Store:
        """A store to test."""
        raise NotImplementedError("return your store from open()")

    @staticmethod
    def key() -> bytes:
        """A key that nobody has used."""
        return os.urandom(32)

    @staticmethod
    def label() -> Label:
        """A label that nobody has used."""
        return Label(f"function {os.urandom(8).hex()}", "1", "")

    def test_gives_back_the_bytes_that_were_stored(self) -> None:
        """Whatever the bytes are, and however many, they come back as they were, with an age."""
        store, key = self.open(), self.key()
        for payload in (b"x", b"\x00" * 1000, bytes(range(256)) * 4000):
            store.put_many([Item(key, payload, 60.0)], self.label())
            (found,) = store.get_many([key])
            assert found is not None
            assert type(found.payload) is bytes
            assert found.payload == payload
            assert 0 <= found.age < 5
            assert found.left is not None
            assert 50 < found.left <= 60

    def test_answers_in_the_order_of_the_keys(self) -> None:
        """Many keys are answered one by one, the missing with None, the doubled twice."""
        store, keys = self.open(), [self.key() for _ in range(1200)]
        store.put_many([Item(key, b"%d" % place, None) for place, key in enumerate(keys) if place % 3], self.label())
        found = store.get_many([*keys, keys[1]])
        assert [None if item is None else item.payload for item in found] == [
            b"%d" % place if place % 3 else None for place in range(1200)
        ] + [b"1"]
        assert store.get_many([]) == []
        store.put_many([], self.label())

    def test_forgets_when_the_time_is_up(self) -> None:
        """An entry is never given back after its time to live; one without a time stays, and says so."""
        store, (short, long, ever) = self.open(), (self.key() for _ in range(3))
        store.put_many([Item(short, b"s", _SHORT), Item(long, b"l", 60.0), Item(ever, b"e", None)], self.label())
        time.sleep(_SHORT + 0.1)
        gone, there, always = store.get_many([short, long, ever])
        assert gone is None
        assert there is not None
        assert there.age >= _SHORT
        assert always is not None
        assert always.left is None

    def test_replaces(self) -> None:
        """What is stored twice is the second, in content, age and time to live."""
        store, key = self.open(), self.key()
        store.put_many([Item(key, b"old", 0.2)], self.label())
        time.sleep(0.1)
        store.put_many([Item(key, b"new", 60.0)], self.label())
        time.sleep(0.15)
        (found,) = store.get_many([key])
        assert found is not None
        assert found.payload == b"new"

    def test_keeps_keys_apart(self) -> None:
        """Keys that look alike, in text or as patterns, are different keys."""
        store, label = self.open(), self.label()
        keys = [bytes([byte]) * 32 for byte in (0, 10, 32, 42, 63, 91, 92, 255)]
        store.put_many([Item(key, key, 60.0) for key in keys], label)
        assert [found and found.payload for found in store.get_many(keys)] == keys
        store.discard(key=b"*" * 32)
        assert [found is None for found in store.get_many(keys)] == [key[:1] == b"*" for key in keys]

    def test_discards_what_meets_every_condition(self) -> None:
        """A key, a function, a model version, a tenant, or several at once; the number says how many went."""
        store, name = self.open(), os.urandom(8).hex()
        labels = [
            Label(f"{name}{function}", version, tenant) for function in "fg" for version in "12" for tenant in "ab"
        ]
        keys = {label: self.key() for label in labels}
        for label, key in keys.items():
            store.put_many([Item(key, b"x", 60.0)], label)

        def left() -> set[tuple[str, str, str]]:
            found = store.get_many(list(keys.values()))
            return {(label[0][-1], *label[1:]) for label, item in zip(labels, found, strict=True) if item is not None}

        assert store.discard(function=f"{name}f", model_version="1", tenant="a") == 1
        assert store.discard(function=f"{name}f", model_version="1") == 1
        assert left() == {("f", "2", "a"), ("f", "2", "b"), *(("g", v, t) for v in "12" for t in "ab")}
        assert store.discard(function=f"{name}g") == 4
        assert store.discard(function=f"{name}g") == 0
        assert store.discard(key=keys[labels[2]]) == 1
        assert left() == {("f", "2", "b")}
        store.discard(tenant="b", model_version="2")
        assert left() == set()

    def test_labels_of_any_text(self) -> None:
        """A tenant's name may be any string Python has, and is found again by it."""
        store, function = self.open(), self.label().function
        for tenant in ("", "\0", "Zoë", "\ud800", "\udcff", "x" * 5000, "'; --", "*"):
            key = self.key()
            store.put_many([Item(key, b"x", 60.0)], Label(function, "1", tenant))
            assert store.get_many([key])[0] is not None
            assert store.discard(function=function, tenant=tenant) == 1
            assert store.get_many([key]) == [None]

    def test_any_time_to_live(self) -> None:
        """Half a second, centuries, or more than a server's clock can count: all are kept meanwhile."""
        store, label = self.open(), self.label()
        for ttl in (0.5, 3e9, 1e15, 1e300):
            key = self.key()
            store.put_many([Item(key, b"x", ttl)], label)
            found = store.get_many([key])[0]
            assert found is not None
            assert found.left is not None
            assert ttl * 0.9 - 0.4 <= found.left <= ttl

    def test_one_lease_at_a_time(self) -> None:
        """Of many who ask for one key, one gets a token; released or run out, the next one does."""
        store, key = self.open(), self.key()
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            tokens = [token for token in threads.map(lambda _: store.lease(key, 60.0), range(8)) if token is not None]
        assert len(tokens) == 1
        store.release(key, b"not the token")
        assert store.lease(key, 60.0) is None
        store.release(key, tokens[0])
        short = store.lease(key, 0.1)
        assert short is not None
        time.sleep(0.2)
        after = store.lease(key, 60.0)
        assert after is not None
        store.release(key, short)  # too late: somebody else has it
        assert store.lease(key, 60.0) is None
        store.release(key, after)

    def test_many_threads(self) -> None:
        """Threads that read and write at once never see a payload of another key, or half of one."""
        store, label, keys = self.open(), self.label(), [self.key() for _ in range(20)]

        def work(number: int) -> bool:
            for turn in range(10):
                key = keys[(number + turn) % len(keys)]
                store.put_many([Item(key, key * 50, 60.0)], label)
                some = keys[turn : turn + 5]
                for wanted, found in zip(some, store.get_many(some), strict=True):
                    if found is not None and found.payload != wanted * 50:
                        return False
            return True

        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            assert all(threads.map(work, range(4)))

    def test_says_what_it_is(self) -> None:
        """`info` answers, `largest` is a size, and a closed store opens again."""
        store, key = self.open(), self.key()
        store.put_many([Item(key, b"x", 60.0)], self.label())
        info = store.info()
        assert type(info) is StoreInfo
        assert info.entries is None or info.entries >= 1
        assert info.bytes is None or info.bytes >= 1
        assert store.largest >= 1 << 16
        store.close()
        store.get_many([key])
        store.close()

    async def test_async_twin(self) -> None:
        """Coroutines reach the same entries, many at once."""
        store, key = self.open(), self.key()
        twin, label = async_of(store), self.label()
        await twin.put_many([Item(key, b"async", 60.0)], label)
        (found,) = store.get_many([key])
        assert found is not None
        assert found.payload == b"async"
        every = await asyncio.gather(*(twin.get_many([key, self.key()]) for _ in range(20)))
        assert all(item is not None and item.payload == b"async" and none is None for item, none in every)
        token = await twin.lease(key, 60.0)
        assert token is not None
        assert await twin.lease(key, 60.0) is None
        await twin.release(key, token)
        assert await twin.lease(key, 60.0) is not None
        assert await twin.discard(function=label.function) == 1
        assert (await twin.get_many([key])) == [None]
        assert await twin.get_many([]) == []
        await twin.put_many([], label)

    def test_async_twin_in_one_loop_after_another(self) -> None:
        """Two `asyncio.run`, one after the other, use one store."""
        store, key = self.open(), self.key()
        asyncio.run(async_of(store).put_many([Item(key, b"first", 60.0)], self.label()))
        (found,) = asyncio.run(async_of(store).get_many([key]))
        assert found is not None
        assert found.payload == b"first"

    async def test_a_cancelled_caller_harms_nobody(self) -> None:
        """Callers that are cancelled in the middle leave a store that answers right."""
        store, keys, label = self.open(), [self.key() for _ in range(10)], self.label()
        twin = async_of(store)
        await twin.put_many([Item(key, key, 60.0) for key in keys], label)
        for delay in (0.0, 0.0001, 0.0005, 0.002):
            tasks = [asyncio.ensure_future(twin.get_many([key])) for key in keys]
            await asyncio.sleep(delay)
            for task in tasks[::2]:
                task.cancel()
            for place, answer in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
                if not isinstance(answer, BaseException):
                    assert [item and item.payload for item in answer] == [keys[place]]
        assert [item and item.payload for item in await twin.get_many(keys)] == keys
