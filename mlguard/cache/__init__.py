"""Results remembered by their arguments: keys that never lie, one run for equal calls, copies that can't be poisoned.

The call decides when to ask; this room decides what two calls have in common (`keys`, `function_key`), where results
lie (`store`), how they are handed out (`copies`), and who computes while others wait (`flights`).
"""

from mlguard.cache.keys import NotKeyed
from mlguard.cache.result import MISS, CacheInfo, ResultCache
from mlguard.cache.section import Cache
from mlguard.cache.store import MemoryStore, store_of

__all__ = ["MISS", "Cache", "CacheInfo", "MemoryStore", "NotKeyed", "ResultCache", "store_of"]
