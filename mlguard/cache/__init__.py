"""Results remembered by their arguments: keys that never lie, one run for equal calls, copies that can't be poisoned.

The call decides when to ask; this room decides what two calls have in common (`keys`, `function_key`), where results
lie (`store`), how they are handed out (`copies`), and who computes while others wait (`flights`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlguard.cache.identity import NotKeyed
from mlguard.cache.section import Cache
from mlguard.later import later

if TYPE_CHECKING:
    from mlguard.batch import RowArguments
    from mlguard.cache.result import MISS, CacheInfo, ResultCache
    from mlguard.cache.store import MemoryStore, held, shrink, store_of
    from mlguard.target import Target

__all__ = [
    "MISS",
    "Cache",
    "CacheInfo",
    "MemoryStore",
    "NotKeyed",
    "ResultCache",
    "cache_for",
    "held",
    "shrink",
    "store_of",
]


def cache_for(target: Target, section: Cache, *, rows: RowArguments = None, **options: Any) -> ResultCache:
    """The cache that a section asks for: of calls or of rows, in memory or shared.

    Args:
        target: The function.
        section: The settings.
        rows: Its arguments with rows, as the decorator names them; looked at with ``rows = True`` only.
        options: As for `ResultCache`.

    Raises:
        PolicyError: The section can't be honoured for this function.
        NameError: An annotation names something that is not defined yet.
    """
    from mlguard.cache.result import ResultCache

    shared = section.store != "memory"
    if section.rows:
        from mlguard.batch import Batch
        from mlguard.cache.rows import RowCache
        from mlguard.cache.shared_rows import SharedRowCache

        return (SharedRowCache if shared else RowCache)(target, section, batch=Batch(target, rows), **options)
    if shared:
        from mlguard.cache.shared import SharedCache

        return SharedCache(target, section, **options)
    return ResultCache(target, section, **options)


__getattr__ = later(
    __name__,
    {
        "MISS": "result",
        "CacheInfo": "result",
        "ResultCache": "result",
        "MemoryStore": "store",
        "held": "store",
        "shrink": "store",
        "store_of": "store",
    },
)
