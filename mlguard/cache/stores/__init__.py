"""Shared stores: results that several processes or machines reach. `open_store` opens one by its URL.

A store keeps bytes by key and knows nothing of values: what they mean is `mlguard.cache.codec`'s concern. A store of
your own is one class with the methods of `Store`, checked with `mlguard.cache.stores.conformance`.
"""

from mlguard.cache.stores.front import Front
from mlguard.cache.stores.opening import async_of, open_store
from mlguard.cache.stores.protocol import AsyncStore, Item, Label, Store, Stored, StoreError, StoreInfo
from mlguard.cache.stores.urls import shown_url

__all__ = [
    "AsyncStore",
    "Front",
    "Item",
    "Label",
    "Store",
    "StoreError",
    "StoreInfo",
    "Stored",
    "async_of",
    "open_store",
    "shown_url",
]
