"""Whose limit it is: the user's. Never the address's, unless there is no user and it was asked for.

Many users sit behind one address, and one user has many. Who has no user shares one limit with all
who have none, or has that of the address.

A key is a hash: no id leaves the process, and no id can be made up that counts as another's.
"""

from __future__ import annotations

import hashlib
import ipaddress
from typing import TYPE_CHECKING

import msgspec

from streamtrace.serve.auth import User

if TYPE_CHECKING:
    from starlette.types import Scope

_NETWORK_BITS = 64


def address_of(scope: Scope) -> str | None:
    """The address of the client, or of the proxy before us that the server was not told to trust;
    `None` where the server does not know it."""
    client = scope.get("client")
    return client[0] if client else None


def caller_key(user: User | None, address: str | None, *, by_address: bool) -> str:
    """The key under which this caller is counted."""
    if user is not None:
        named = ["user", user.tenant, user.id]
    elif by_address and address is not None:
        named = ["address", _network(address)]
    else:
        named = ["anonymous"]
    return hashlib.sha256(msgspec.json.encode(named)).hexdigest()


def _network(address: str) -> str:
    """A household has one address of IPv4, and of IPv6 a network full of them."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _NETWORK_BITS), strict=False))
