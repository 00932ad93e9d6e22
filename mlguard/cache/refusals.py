"""What a cache refuses, in words that name the fix."""

from __future__ import annotations

import inspect
from typing import Any

from mlguard.cache.annotations import never_copied
from mlguard.cache.keys import SHARED
from mlguard.cache.section import Cache
from mlguard.errors import PolicyError
from mlguard.target import Target

__all__ = ["no_identity", "refuse_unknown_owner", "refuse_what_cant_be_cached", "require_version"]


def refuse_what_cant_be_cached(target: Target) -> None:
    """Refuses streams, and results of which no copy can be made.

    Raises:
        PolicyError: It is one of them.
    """
    if target.kind.stream:
        raise PolicyError(
            f"{target.name}: cache is set, but a stream can't be cached: its items are consumed as they are made. "
            f"Fix: cache=False, or return a list."
        )
    reason = never_copied(target.hints.get("return", Any))
    if reason is not None:
        raise PolicyError(
            f"{target.name}: cache is set, but its result can't be kept: no safe copy can be made of {reason}. "
            f"Fix: return numpy arrays, plain values, or models or dataclasses of them, or set cache=False."
        )


def no_identity(target: Target, cls: type) -> PolicyError:
    """What a method's first call says where its object can't be told from another."""
    name = cls.__qualname__
    return PolicyError(
        f"{target.name}: cache is set, but {name} objects have no identity for a cache key, so two of them could be "
        f"given each other's results. Fix: give {name} a method __mlguard_key__() that returns what tells two of them "
        f"apart (such as its model version), mark self: Annotated[Any, NotKeyed] if all answer alike, or give key=."
    )


def require_version(target: Target, section: Cache, version: Any) -> None:
    """Refuses a shared store for a function whose model nobody can tell from the last one.

    Raises:
        PolicyError: There is no model version, or an empty one.
    """
    if version is None or version == "":
        where = section.store.partition(":")[0] if isinstance(section.store, str) else type(section.store).__qualname__
        raise PolicyError(
            f"{target.name}: Cache.store is shared ({where}), so its results outlive this process and its model, but "
            f"nothing says which model they are of. Fix: guarded(..., model_version='2026-11'), or a callable that "
            f"returns it; or store='memory'."
        )


def refuse_unknown_owner(target: Target) -> None:
    """Refuses a shared store for a bound method whose object nobody can tell from another one of its class.

    Raises:
        PolicyError: The object has no identity.
    """
    owner = getattr(target.function, "__self__", None)
    if not inspect.ismethod(target.function):
        return
    try:
        SHARED.encode(owner)
    except Exception:
        name = type(owner).__qualname__
        raise PolicyError(
            f"{target.name}: Cache.store is shared, but the method belongs to a {name} object that can't be told from "
            f"another one, so two of them could be given each other's results. Fix: guard a function of its own name "
            f"that calls the method, give {name} a method __mlguard_key__() that returns what tells two of them apart, "
            "or store='memory'."
        ) from None
