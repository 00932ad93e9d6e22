"""The secret that those who share a store have in common, and the hashes made with it.

Without a secret the hashes are plain: anybody can compute them, so they find damage but stop nobody. With one, whoever
can read the store can't guess inputs from keys, and whoever can write to it can't forge an entry or move one to another
key. It doesn't encrypt: results lie readable in the store.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any, Final

from mlguard.errors import PolicyError

__all__ = ["ENVIRONMENT", "Secret"]

ENVIRONMENT: Final = "MLGUARD_CACHE_SECRET"
"""The environment variable a secret is read from where none is given."""

_SHORTEST: Final = 16
_KEY: Final = b"mlguard key 1"
_ENTRY: Final = b"mlguard entry 1"


class Secret:
    """Hashes with or without a secret.

    Args:
        value: The secret, at least 16 characters. None: what the environment variable MLGUARD_CACHE_SECRET holds; where
            it holds nothing, the hashes are plain.

    Raises:
        PolicyError: The secret is shorter.
    """

    def __init__(self, value: str | bytes | None = None) -> None:
        source = "The secret" if value is not None else f"The environment variable {ENVIRONMENT}"
        found = os.environ.get(ENVIRONMENT) or b"" if value is None else value
        found = found.encode("utf-8", "surrogateescape") if isinstance(found, str) else found
        if (value is not None or found) and len(found) < _SHORTEST:
            raise PolicyError(
                f"{source} for shared caches has {len(found)} bytes, and {_SHORTEST} are needed. "
                f"Fix: make one with `python -c 'import secrets; print(secrets.token_hex(32))'` and give it to every "
                f"process that shares the store."
            )
        # Derived, so that a secret of any length works, and the process keeps no copy of the original.
        self._key = hashlib.blake2b(found, digest_size=64, person=b"mlguard secret").digest() if found else b""
        self.given = bool(found)
        """Whether there is a secret."""

    def key_digest(self, content: bytes) -> bytes:
        """32 bytes that stand for a call's identity in a shared store: equal for all who share the secret."""
        return hashlib.blake2b(content, digest_size=32, key=self._key, person=_KEY).digest()

    def seal(self, *parts: Any) -> bytes:
        """16 bytes that only these parts, and only this secret, give."""
        state = hashlib.blake2b(digest_size=16, key=self._key, person=_ENTRY)
        for part in parts:
            state.update(part)
        return state.digest()

    def __repr__(self) -> str:
        return f"<Secret: {'given' if self.given else 'none'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _revive, (self._key,)  # to workers that must read the same store; derived, but as powerful


def _revive(key: bytes) -> Secret:
    secret = Secret.__new__(Secret)
    secret._key = key
    secret.given = bool(key)
    return secret
