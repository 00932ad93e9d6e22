"""A store from its URL, the same one for everybody in this process who asks for the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit
from weakref import WeakKeyDictionary, WeakValueDictionary

from mlguard.cache.stores import urls
from mlguard.cache.stores.front import Front
from mlguard.cache.stores.protocol import AsyncStore, Store
from mlguard.cache.stores.threads import InThreads
from mlguard.forks import in_children

__all__ = ["async_of", "open_store"]

_FRONT: Final[dict[str, Callable[[str], Any]]] = {"front": urls.duration, "front_bytes": urls.size}


def open_store(url: str, *, max_entries: int = 10_000, max_bytes: int = 256 << 20) -> Store:
    """The store of a URL; asked again in this process, the same one.

    Nothing is connected to before it is used, so that a server that is down stops no service from starting.

    Args:
        url: ``sqlite:///path``, ``redis://host:6379/0``, ``rediss://`` for TLS, ``valkey://``, ``valkeys://``. Options
            are in its query; for all of them: `front` (seconds for which this process answers from its own memory, such
            as ``5s``; 0 and none by default) and `front_bytes` (16MiB).
        max_entries: For a file: entries kept at most. A server has bounds of its own.
        max_bytes: For a file: bytes kept at most.

    Raises:
        PolicyError: The URL can't be honoured.
    """
    with _lock:
        wanted = url, max_entries, max_bytes
        found = _open.get(wanted)
        if found is None:
            found = _open[wanted] = _opened(url, max_entries, max_bytes)
        return found


def async_of(store: Store) -> AsyncStore:
    """A store for async functions: its own twin, or the store itself in a few threads."""
    own = getattr(store, "asynchronous", None)
    if own is not None:
        return own()  # type: ignore[no-any-return]
    with _lock:
        twin = _twins.get(store)
        if twin is None:
            twin = _twins[store] = InThreads(store)
        return twin


def _opened(url: str, max_entries: int, max_bytes: int) -> Store:
    scheme = urls.scheme_of(url)
    if scheme == "sqlite":
        from mlguard.cache.stores.sqlite import OPTIONS as SQLITE_OPTIONS
        from mlguard.cache.stores.sqlite import SqliteStore

        address = urls.parsed(url, SQLITE_OPTIONS | _FRONT)
        store: Store = SqliteStore(_without_front(url), max_entries=max_entries, max_bytes=max_bytes)
    else:
        from mlguard.cache.stores.redis import OPTIONS as REDIS_OPTIONS
        from mlguard.cache.stores.redis import RedisStore

        address = urls.parsed(url, REDIS_OPTIONS | _FRONT)
        store = RedisStore(_without_front(url))
    if "front" not in address.options:
        urls.refuse_lonely_front(address)
        return store
    return Front(store, address.options["front"], address.options.get("front_bytes", 16 << 20))


def _without_front(url: str) -> str:
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in _FRONT]
    plain, _, _ = url.partition("?")  # not parts.geturl(), which drops slashes of an empty host
    return f"{plain}?{urlencode(kept)}" if kept else plain


def _renew() -> None:
    global _lock
    _lock = threading.Lock()


_lock = threading.Lock()
_open: WeakValueDictionary[tuple[str, int, int], Store] = WeakValueDictionary()
_twins: WeakKeyDictionary[Store, InThreads] = WeakKeyDictionary()
in_children(_renew)
