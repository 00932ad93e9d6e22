"""How long a request may take, as its client or the proxy in front says in a header.

A duration is read, never a time of day: clocks differ between machines. Whoever sets the header decides when our work
is given up, so that it counts from those only whom the application trusts. What can't be read is ignored and counted,
because a deadline is an offer to save work, and no reason to refuse any.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from mlguard.errors import PolicyError

__all__ = ["LONGEST", "DeadlineHeader", "seconds_of"]

LONGEST: Final = 86_400.0
"""Seconds; a deadline further off than a day is a mistake, and ignored."""

_GRPC: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_GRPC_TEXT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_MILLISECONDS = re.compile(rb"([0-9]{1,12})")
_WITH_UNIT = re.compile(rb"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s)")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def seconds_of(name: str, text: bytes) -> float | None:
    """The seconds that are left, as a header says; None: it says nothing that makes sense.

    Args:
        name: The header. ``grpc-timeout`` is read as gRPC writes it, such as ``800m``; a name that ends with ``-ms`` as
            whole milliseconds, such as Envoy's; any other as a number with its unit, ``800ms`` or ``1.5s``.
        text: Its value.
    """
    name, text = name.lower(), text.strip(b" \t")
    if name == "grpc-timeout":
        found = _GRPC_TEXT.fullmatch(text)
        seconds = int(found[1]) * _GRPC[found[2].decode()] if found else None
    elif name.endswith("-ms"):
        found = _MILLISECONDS.fullmatch(text)
        seconds = int(found[1]) / 1000 if found else None
    else:
        found = _WITH_UNIT.fullmatch(text)
        seconds = float(found[1]) * (1e-3 if found[2] == b"ms" else 1.0) if found else None
    return seconds if seconds is not None and seconds <= LONGEST else None


class DeadlineHeader:
    """The headers that hold a deadline, and who may set them.

    Args:
        names: The headers.
        trust: True: every client, because what stands in front sets or strips the header. Else addresses or networks of
            the clients that may set it, as the server reports them.

    Raises:
        PolicyError: A name is none, nobody is trusted, or an address is none.
    """

    def __init__(self, names: str | Collection[str], trust: bool | str | Collection[str]) -> None:
        self.names = (names,) if isinstance(names, str) else tuple(names)
        for name in self.names:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise PolicyError(
                    f"install(): deadline_header = {name!r} is no header's name. Fix: such as 'X-Request-Deadline'."
                )
        if not self.names or not trust:
            raise PolicyError(
                "install(): deadline_header is set, but nobody is trusted to set the header. Fix: trust=True where a "
                "proxy in front sets or strips it, or the networks of your own clients, such as trust=['10.0.0.0/8']."
            )
        self.networks = None if trust is True else [_network(each) for each in _each(trust)]
        self._names = {name.lower().encode(): name for name in self.names}

    def sent(self, scope: Mapping[str, Any]) -> list[tuple[str, bytes]]:
        """The headers of a request that may hold a deadline."""
        return [(self._names[name], value) for name, value in scope["headers"] if name in self._names]

    def trusts(self, scope: Mapping[str, Any]) -> bool:
        """Whether the request's client may set them."""
        if self.networks is None:
            return True
        client = scope.get("client")
        try:
            address = ipaddress.ip_address(client[0])  # type: ignore[index]  # None where it is a Unix socket
        except (TypeError, ValueError):
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.networks)


def _each(trust: Any) -> tuple[Any, ...]:
    return (trust,) if isinstance(trust, str) else tuple(trust)


def _network(text: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        if not isinstance(text, str):
            raise ValueError("no text")
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise PolicyError(
            f"install(): trust has {text!r}, which is no address or network ({error}). Fix: such as '10.0.0.0/8'."
        ) from None
