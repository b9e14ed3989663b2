"""Fetching: HTTP requests to addresses that an outsider chose, a host or a settings file. For plugins.

Refuses, unless it is allowed, what is not on the public internet. Use :func:`open_session`, ask :func:`refuse_literal` about each
address before it is fetched, and follow no redirects: where they lead, nobody has looked.
"""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

NAT64 = ipaddress.ip_network("64:ff9b::/96")  # an IPv4 address in its last 32 bits (RFC 6052)
REFUSED = "the address is not public; set allow_private to use it"


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet: not ours, not of the machine, not of a private network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or (ipaddress.ip_address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else ip)
    return ip.is_global and not ip.is_multicast


def refuse_literal(url: str, *, allow_private: bool) -> None:
    """A host that is an address is not resolved, so that no resolver would look at it. Raises ValueError."""
    host = urlsplit(url).hostname or ""
    try:
        public = is_public(host)
    except ValueError:
        return
    if not public and not allow_private:
        raise ValueError(REFUSED)


class Sessions:
    """A session for public addresses only, and one for all; each opened when it is first asked for."""

    def __init__(self) -> None:
        self._open: dict[bool, Any] = {}

    def get(self, *, allow_private: bool) -> Any:
        known = self._open.get(allow_private)
        if known is None:
            known = self._open[allow_private] = open_session(allow_private=allow_private)
        return known

    async def close(self) -> None:
        for session in self._open.values():
            await session.close()
        self._open.clear()


def open_session(*, allow_private: bool, **options: Any) -> Any:
    """An aiohttp session whose names resolve to public addresses only: checked where they are used, so that a name
    cannot show one address to the check and another to the connection. ``options`` are those of ``ClientSession``."""
    import aiohttp  # only where something is fetched
    from aiohttp.abc import AbstractResolver, ResolveResult

    class PublicOnly(AbstractResolver):
        def __init__(self) -> None:
            self._inner = aiohttp.ThreadedResolver()

        async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
            found = await self._inner.resolve(host, port, family)
            public = [one for one in found if allow_private or is_public(one["host"])]
            if not public:
                raise OSError(REFUSED)
            return public

        async def close(self) -> None:
            await self._inner.close()

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=PublicOnly(), limit=16), **options)
