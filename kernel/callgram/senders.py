"""Senders: who may post events. The Token names the enterprise; its address list and its secrets may ask for more.

Wrong Tokens are counted for each address, so that Tokens cannot be guessed. Hosts never send an event again: an enterprise's
host is not refused for what others do behind its address, so who has posted from where before is remembered in the store.
Nothing here answers differently for a right Token from a wrong address than for a wrong one.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from loguru import logger

from callgram.context import Directory, Enterprise
from callgram.errors import IngestError, StoreError
from callgram.signatures import key_of
from callgram.store import Store

WRONG_TOKENS = 20  # different ones within WINDOW_S from one address
WINDOW_S = 60.0
MOST_GUESSERS = 4_096  # addresses whose guesses are counted at a time, some 15 MB at worst
MOST_PLACES = 256  # addresses that are remembered of an enterprise: the last ones of a host whose address changes daily
MOST_CLEARED = 1_024
KEEPER = "ingest"  # whose the remembered addresses are in the store
SAVE_EVERY_S = 1.0
RECALL_EVERY_S = 30.0  # what other nodes have learned

_NOTHING = "no Token in the body or the headers; send the enterprise's Token"
_UNKNOWN = (
    "unknown Token, or not one for this address; "
    "`callgram enterprise list` shows the enterprises and the addresses that their hosts may post from"
)


class Guesses:
    """The different wrong Tokens of each address within a minute. The same one again is no guess: it is a host that was not
    told of a new Token, or whose enterprise is yet to be added. Of very many addresses the oldest are forgotten."""

    def __init__(self, limit: int = WRONG_TOKENS, most: int = MOST_GUESSERS) -> None:
        self._limit, self._most = limit, most
        self._tried: OrderedDict[str, dict[bytes, float]] = OrderedDict()

    def wait_s(self, place: str, token: bytes, now: float) -> float:
        """Seconds until ``place`` may try ``token``; 0 when it may now, also because it did so within the minute."""
        tried = self._tried.get(place)
        if tried is None:
            return 0.0
        for old in [one for one, at in tried.items() if now - at >= WINDOW_S]:
            del tried[old]
        if len(tried) < self._limit or token in tried:
            return 0.0
        return min(tried.values()) + WINDOW_S - now

    def note(self, place: str, token: bytes, now: float) -> None:
        self._tried.setdefault(place, {}).setdefault(token, now)
        self._tried.move_to_end(place)
        if len(self._tried) > self._most:
            self._tried.popitem(last=False)


class Sender:
    """An enterprise as one who posts events. ``cleared``: addresses that were found right since the directory changed."""

    __slots__ = ("_addresses", "cleared", "identity", "keys", "number", "require_signature")

    def __init__(self, enterprise: Enterprise) -> None:
        self.number, self._addresses = enterprise.number, enterprise.addresses
        self.identity = enterprise.number.encode()
        self.require_signature = enterprise.require_signature
        self.keys = tuple(key for key in map(key_of, enterprise.secrets) if key)
        self.cleared: set[str] = set()
        if len(self.keys) < len(enterprise.secrets):
            logger.error("enterprise {0}: a secret of it cannot be read; `callgram enterprise secret {0}` makes one", self.number)

    def admits(self, address: str) -> bool:
        """Whether events of the enterprise may come from ``address``: from anywhere, where it has no list."""
        if not self._addresses:
            return True
        ip = _ip(address)
        return ip is not None and any(ip in network for network in self._addresses)


class Senders:
    """Tells whose event it is. One of them in a process: it counts and remembers."""

    def __init__(
        self, store: Store, directory: Callable[[], Directory], seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._directory, self._seconds = store, directory, seconds
        self._mark = "-"
        self._by_token: dict[bytes, Sender] = {}
        self._guesses = Guesses()
        self._places: dict[str, OrderedDict[str, None]] = {}
        self._unsaved: dict[tuple[str, str], bool] = {}
        self._learned = asyncio.Event()
        self._said_at = -WINDOW_S

    def find(self, token: str, address: str) -> Sender:
        """Who posts with ``token`` from ``address``. Looked up by digest, so that timing tells nothing of a token.

        Raises:
            IngestError: 403; 429 when the address has tried too many Tokens, whatever this one is.
        """
        directory = self._directory()
        if self._mark != directory.mark:
            self._by_token = {_digest(one.token.reveal()): Sender(one) for one in directory.enterprises.values()}
            self._mark = directory.mark
        if not token:
            raise IngestError(403, _NOTHING, field="Token")
        digest = _digest(token)
        sender = self._by_token.get(digest)
        if sender is not None and address in sender.cleared:
            return sender
        return self._look_closer(sender, digest, address)

    def _look_closer(self, sender: Sender | None, digest: bytes, address: str) -> Sender:
        place, now = place_of(address), self._seconds()
        admitted = sender if sender is not None and sender.admits(address) else None
        if admitted is None or place not in self._places.get(admitted.number, ()):
            wait_s = self._guesses.wait_s(place, digest, now)
            if wait_s > 0:
                self._say(place, now)
                raise IngestError(429, _too_many(place), field="Token", retry_after_s=math.ceil(wait_s))
            if admitted is None:
                self._guesses.note(place, digest, now)
                raise IngestError(403, _UNKNOWN, field="Token")
        if len(admitted.cleared) >= MOST_CLEARED:
            admitted.cleared.clear()
        admitted.cleared.add(address)
        self._learn(admitted.number, place)
        return admitted

    def _learn(self, number: str, place: str) -> None:
        places = self._places.setdefault(number, OrderedDict())
        if place not in places:
            self._unsaved[number, place] = True
            self._learned.set()
        places[place] = None
        places.move_to_end(place)
        if len(places) > MOST_PLACES:
            oldest, _ = places.popitem(last=False)
            if self._unsaved.pop((number, oldest), None) is None:
                self._unsaved[number, oldest] = False

    async def recall(self) -> None:
        """Know what is remembered, by whichever node and since whenever."""
        kept = await self._store.kept(KEEPER)
        for key in sorted(kept, key=lambda key: kept[key]):
            number, _, place = key.rpartition(" ")
            places = self._places.setdefault(number, OrderedDict())
            if len(places) < MOST_PLACES:
                places.setdefault(place)

    async def remember(self) -> None:
        """Keep in the store what is learned, and learn from other nodes, until cancelled. New addresses are rare."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RECALL_EVERY_S):
                    await self._learned.wait()
            self._learned.clear()
            unsaved, self._unsaved = self._unsaved, {}
            try:
                for (number, place), known in unsaved.items():
                    value = f"{time.time():.0f}".encode() if known else None
                    await self._store.keep(KEEPER, f"{number} {place}", value)
                await self.recall()
            except StoreError:  # whoever stores the event says so
                self._unsaved = unsaved | self._unsaved
                self._learned.set()
            await asyncio.sleep(SAVE_EVERY_S)

    def _say(self, place: str, now: float) -> None:
        """At most once a minute: who guesses does so without end."""
        if now - self._said_at >= WINDOW_S:
            self._said_at = now
            logger.warning("Tokens are refused: {}", _too_many(place))


def _too_many(place: str) -> str:
    return (
        f"{WRONG_TOKENS} different wrong Tokens from {place or 'this address'} within a minute; correct the Token, and wait. "
        "If that is a proxy, name it in CALLGRAM_TRUSTED_PROXIES"
    )


def _ip(address: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


def place_of(address: str) -> str:
    """What counts as one address: of IPv6 its /64, which a single host has to itself; a text that is none, as it is."""
    ip = _ip(address)
    if isinstance(ip, IPv6Address):
        return str(ip_network((int(ip) >> 64 << 64, 64)))
    return str(ip) if ip else "".join(address.split())[:64]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
