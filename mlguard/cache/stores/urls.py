"""Store URLs, such as `redis://user@host:6379/0?timeout=50ms`: read strictly, and shown without password."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from mlguard import clock
from mlguard.errors import PolicyError
from mlguard.section import nearest

__all__ = ["SCHEMES", "Address", "duration", "parsed", "refuse_lonely_front", "scheme_of", "shown_url", "size"]

SCHEMES: Final = {
    "sqlite": "sqlite:///path/to/file.db",
    "redis": "redis://host:6379/0",
    "rediss": "rediss://host:6379/0 (TLS)",
    "valkey": "valkey://host:6379/0",
    "valkeys": "valkeys://host:6379/0 (TLS)",
}
"""What a store may be, with an example each."""


_NO_SECRETS: Final = frozenset(
    {"timeout", "prefix", "largest", "password_env", "ca", "cert", "key", "front", "front_bytes"}
)


class Address(NamedTuple):
    """A URL that was understood."""

    scheme: str
    host: str
    port: int | None
    user: str | None
    password: str | None
    path: str
    options: dict[str, Any]
    shown: str
    """The URL for messages: no password."""

    def __repr__(self) -> str:
        return f"<Address {self.shown}>"


def parsed(url: str, options: Mapping[str, Callable[[str], Any]]) -> Address:
    """The parts of a store's URL.

    Args:
        url: As the policy has it.
        options: How to read each option its query may have.

    Raises:
        PolicyError: It can't be read, or has an option that is unknown or impossible.
    """
    shown = shown_url(url)
    parts = _split(url)
    found: dict[str, Any] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        read = options.get(name)
        if read is None:
            told = f" '{name}'" if shown != _scheme_only(url) else ""  # else it may be the end of a password
            raise PolicyError(
                f"cache.store = {shown!r} has an unknown option{told}.{nearest(name, options)}{_on_passwords(name)} "
                f"Fix: use {', '.join(sorted(options))}."
            )
        try:
            found[name] = read(value)
        except ValueError as error:
            raise PolicyError(
                f"cache.store = {shown!r}: option '{name}' = {value!r} {error}. Fix: correct it, or leave it out."
            ) from None
    try:
        port = parts.port
    except ValueError:
        raise PolicyError(f"cache.store = {shown!r} has an impossible port. Fix: use a number up to 65535.") from None
    if parts.fragment:
        raise PolicyError(
            f"cache.store = {shown!r} has a '#', which starts a part that stores have no use for. "
            f"Fix: write it as %23 where it belongs to a name or a password."
        )
    return Address(
        parts.scheme,
        parts.hostname or "",
        port,
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
        unquote(parts.path),
        found,
        shown,
    )


def shown_url(url: str) -> str:
    """A store's URL as errors, logs and `explain()` show it: without the password, and a hint that there is one."""
    try:
        parts = urlsplit(url)
        if parts.password is None and "@" not in parts.netloc:
            return (
                url.replace(f"?{parts.query}", f"?{_shown_query(parts.query)}") if "@" not in url else _scheme_only(url)
            )
        parts = parts._replace(query=_shown_query(parts.query))
        host = parts.netloc.rpartition("@")[2]
        user = parts.netloc.rpartition("@")[0].partition(":")[0]
        secret = ":***" if parts.password is not None else ""
        return parts._replace(netloc=f"{user}{secret}@{host}").geturl()
    except ValueError:
        return _scheme_only(url)


def scheme_of(url: str) -> str:
    """The scheme of a URL that names a store.

    Raises:
        PolicyError: It names none.
    """
    return _split(url).scheme


def refuse_lonely_front(address: Address) -> None:
    """An option that would be ignored is a mistake.

    Raises:
        PolicyError: The front has a size and no time.
    """
    if "front_bytes" in address.options:
        raise PolicyError(f"cache.store = {address.shown!r} has front_bytes and no front. Fix: add front=5s as well.")


def duration(text: str) -> float:
    """An option that is a duration longer than 0."""
    seconds = clock.seconds(text if not text.replace(".", "", 1).isdigit() else float(text))
    if not seconds:
        raise ValueError("must be longer than 0")
    return seconds


def size(text: str) -> int:
    """An option that is a size above 0."""
    found = clock.bytes_of(text if not text.isdigit() else int(text))
    if not found:
        raise ValueError("must be more than 0")
    return found


def _scheme_only(url: str) -> str:
    """For what can't be taken apart: anything in it may be the password."""
    scheme = re.match(r"[a-zA-Z][a-zA-Z0-9+.-]{0,19}(?=:)", url)
    return f"{scheme[0] if scheme else ''}://..."


def _shown_query(query: str) -> str:
    """Options we know hold no secret; what else people write there may be the password."""
    return "&".join(
        part if not value or name in _NO_SECRETS else f"{name}=***"
        for part in query.split("&")
        for name, _, value in [part.partition("=")]
    )


def _on_passwords(name: str) -> str:
    if name not in ("password", "username"):
        return ""
    return " A user and a password stand before the host: redis://user:password@host, or password_env=VARIABLE."


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.hostname
    except ValueError:
        raise PolicyError(
            f"cache.store = {shown_url(url)!r} is no URL: its host can't be read. "
            f"Fix: write characters such as '/', '@', '[' and '#' of a password as %2F, %40, %5B, %23."
        ) from None
    if parts.scheme not in SCHEMES:
        raise PolicyError(
            f"cache.store = {shown_url(url)!r} names no store.{nearest(parts.scheme, SCHEMES)} "
            f'Fix: use "memory", {", ".join(SCHEMES.values())}, or an object of your own with the methods of '
            f"mlguard.cache.stores.Store."
        )
    return parts
