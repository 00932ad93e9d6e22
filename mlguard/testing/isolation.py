"""Nothing that one test leaves in guards and policies reaches the next."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mlguard.policies.catalogue import of_this_process as catalogue
from mlguard.scopes import ScopeKey
from mlguard.scopes import of_this_process as scopes
from mlguard.wrapper import every_wrapper

__all__ = ["isolated"]


@contextmanager
def isolated() -> Iterator[None]:
    """Every guard starts afresh, and leaves nothing behind; named policies are afterwards what they were before.

    Caches, breakers, retry budgets, learned needs, drift windows and counts are forgotten on entering and on leaving.
    Policies that were defined, loaded or read meanwhile are forgotten too, and functions that use them look their
    policy up again; what a module defined while it was imported stays, as the module does. Calls in progress keep
    their slots and promises. What lies in a shared store (SQLite, Redis) is everybody's, and stays.
    """
    policies, shared, modules = catalogue.state, scopes.known(), set(sys.modules)
    _start_afresh(forget_names=False)
    try:
        yield
    finally:
        imported = {getattr(sys.modules[name], "__file__", None) for name in sys.modules.keys() - modules}
        changed = catalogue.put_back(policies, keep=lambda place: place.rpartition(":")[0] in imported)
        _start_afresh(forget_names=changed)
        _drop_scopes_since(shared)


def _start_afresh(*, forget_names: bool) -> None:
    for wrapper in every_wrapper():
        wrapper.start_afresh(forget_name=forget_names)


def _drop_scopes_since(before: set[ScopeKey]) -> None:
    """Scopes of functions that nobody has any more: the next test may use their names with other settings."""
    added = scopes.known() - before
    if added:
        gc.collect()
        scopes.drop(added.difference(*(wrapper.scopes() for wrapper in every_wrapper())))
