"""Builds a cache around a function, called the way `call.py` calls it, without the other concerns."""

import inspect

import pytest

from mlguard import clock
from mlguard.cache import MISS, Cache, ResultCache
from mlguard.target import Target


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still until a test moves `now[0]`."""
    time = [1000.0]
    monkeypatch.setattr(clock, "now", lambda: time[0])
    return time


@pytest.fixture
def cached():
    """`cached(function, ttl=..., key=...)` is the function behind a cache; `.cache` is its ResultCache."""

    def build(function, *, key=None, model_version=None, store=None, **settings):
        section = Cache(**{"ttl": 60, **settings})
        cache = ResultCache(Target(function), section, key=key, model_version=model_version, store=store)
        names = cache.names(asynchronous=inspect.iscoroutinefunction(function))
        key_of, lookup, share = names["key_of"], names["lookup"], names["share"]

        if inspect.iscoroutinefunction(function):

            async def produce(this, args, kwargs, deadline, dims):
                return await function(*args, **kwargs)

            async def call(*args, this=None, deadline=None, **kwargs):
                key = key_of(args, kwargs)
                result = lookup(key)
                return await share(key, produce, this, args, kwargs, deadline, None) if result is MISS else result
        else:

            def produce(this, args, kwargs, deadline, dims):
                return function(*args, **kwargs)

            def call(*args, this=None, deadline=None, **kwargs):
                key = key_of(args, kwargs)
                result = lookup(key)
                return share(key, produce, this, args, kwargs, deadline, None) if result is MISS else result

        call.cache = cache
        return call

    return build
