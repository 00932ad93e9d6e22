"""The suite that every store must pass, on the stores that need no server: the file, the front, a user's own class."""

import threading
import time

import pytest

from mlguard.cache.stores import Front, Store, Stored, StoreInfo, open_store
from mlguard.cache.stores.conformance import StoreConformance


class DictStore:
    """A user's own store as simple as it can be: what the documentation shows."""

    largest = 1 << 20

    def __init__(self):
        self.entries = {}
        self.leases = {}
        self.lock = threading.Lock()

    def get_many(self, keys):
        now = time.monotonic()
        found = []
        for key in keys:
            payload, stored, ttl, _ = self.entries.get(key, (None, now, 0.0, None))
            left = None if ttl is None else stored + ttl - now
            fresh = payload is not None and (left is None or left > 0)
            found.append(Stored(payload, now - stored, left) if fresh else None)
        return found

    def put_many(self, items, label):
        for key, payload, ttl in items:
            self.entries[key] = payload, time.monotonic(), ttl, label

    def lease(self, key, seconds):
        with self.lock:
            now = time.monotonic()
            if self.leases.get(key, (b"", 0.0))[1] > now:
                return None
            token = str(now).encode()
            self.leases[key] = token, now + seconds
            return token

    def release(self, key, token):
        with self.lock:
            if self.leases.get(key, (b"", 0.0))[0] == token:
                del self.leases[key]

    def discard(self, *, key=None, function=None, model_version=None, tenant=None):
        wanted = function, model_version, tenant
        gone = [
            name
            for name, (*_, label) in self.entries.items()
            if key in (None, name) and all(part in (None, has) for part, has in zip(wanted, label, strict=True))
        ]
        for name in gone:
            del self.entries[name]
        return len(gone)

    def info(self):
        return StoreInfo("a dict", len(self.entries), None)

    def close(self):
        pass


@pytest.fixture(autouse=True)
def folder(request, tmp_path):
    request.instance.tmp_path = tmp_path


class TestDictStore(StoreConformance):
    store = DictStore()

    def open(self):
        assert isinstance(self.store, Store)
        return self.store


class TestSqliteStore(StoreConformance):
    def open(self):
        self.store = open_store(f"sqlite:///{self.tmp_path}/cache.db?timeout=10s")
        assert isinstance(self.store, Store)
        return self.store


class TestFrontBeforeDict(StoreConformance):
    def open(self):
        return Front(DictStore(), ttl=0.05)


class TestFrontBeforeSqlite(StoreConformance):
    def open(self):
        self.store = open_store(f"sqlite:///{self.tmp_path}/cache.db?front=100ms&timeout=10s")
        return self.store
