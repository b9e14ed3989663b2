"""Lookup: asks a web service of the enterprise's choice for the name of a client. One for each enterprise.

Answers are remembered, also that there is none; a service that fails is left alone for a while. Refuses addresses that
are not public unless the setting allows them, redirects, and answers past 64 KiB.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from callgram import fetching

MAX_ANSWER = 64 * 1024  # bytes
MAX_KEPT = 10_000  # numbers remembered
MAX_NAME = 200
BREAK_AFTER = 5  # failures in a row


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``lookup_url`` is asked for clients that no table names, ``{number}`` in it is the canonical number; ``lookup_field`` names
    the name in a JSON answer. ``timeout_s``: how long it may take. ``cache_s``, ``negative_cache_s``: how long a name, and
    that there is none, is remembered. ``pause_s``: how long a service that failed 5 times in a row is left alone.
    ``allow_private``: it may be in a private network. ``history``: tell how often the client called before.
    """

    lookup_url: str = ""
    lookup_field: str = "name"
    timeout_s: float = 2.5
    cache_s: float = 3600.0
    negative_cache_s: float = 600.0
    pause_s: float = 60.0
    allow_private: bool = False
    history: bool = True


def problem_of(settings: Settings) -> str:
    """What is wrong with the settings, ``""`` when nothing is."""
    url = settings.lookup_url
    if url and not url.startswith(("http://", "https://")):
        return "lookup_url must start with http:// or https://"
    if url and ("{number}" not in url or "{" in (urlsplit(url).hostname or "")):
        return "lookup_url needs {number} in its path or query, such as https://crm.example/name?phone={number}"
    return ""


class Lookup:
    """``clock`` answers monotonic seconds."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings, self._clock = settings, clock
        self._kept: dict[str, tuple[str, float]] = {}
        self._failures = 0
        self._closed_until = 0.0
        self._session: Any = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def name_of(self, number: str) -> str:
        """The name, ``""`` where there is none or it cannot be found out now. Never raises for the service's sake."""
        from aiohttp import ClientError  # only where a lookup is configured

        now = self._clock()
        name, until = self._kept.get(number, ("", 0.0))
        if now < until:
            return name
        if now < self._closed_until:
            return name  # an old name is better than none
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                found = await self._ask(number)
        except (ClientError, OSError, ValueError, msgspec.MsgspecError):
            self._failures += 1
            if self._failures >= BREAK_AFTER:
                self._closed_until = now + self.settings.pause_s
            return name
        self._failures = 0
        self._keep(number, found, now)
        return found

    def _keep(self, number: str, name: str, now: float) -> None:
        self._kept.pop(number, None)
        self._kept[number] = (name, now + (self.settings.cache_s if name else self.settings.negative_cache_s))
        while len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]

    async def _ask(self, number: str) -> str:
        url = self.settings.lookup_url.replace("{number}", quote(number, safe=""))
        session = self._session = self._session or fetching.open_session(allow_private=self.settings.allow_private)
        fetching.refuse_literal(url, allow_private=self.settings.allow_private)
        async with session.get(url, allow_redirects=False) as answer:
            if answer.status in {204, 404}:
                return ""
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            body = bytearray()
            async for piece in answer.content.iter_chunked(MAX_ANSWER):
                body += piece
                if len(body) > MAX_ANSWER:
                    raise ValueError(f"more than {MAX_ANSWER} bytes")
            return read_name(bytes(body), answer.content_type, self.settings.lookup_field)


def read_name(body: bytes, content_type: str, field: str) -> str:
    """The name in an answer: of a JSON object the field, of anything else the text. Raises for JSON that is none, and
    for a page, which is no name but says why there is none."""
    if content_type == "application/json" or body.lstrip()[:1] == b"{":
        told = msgspec.json.decode(body)
        value = told.get(field) if isinstance(told, dict) else told
        return value.strip()[:MAX_NAME] if isinstance(value, str) else ""
    text = body.decode("utf-8", "replace").strip()
    if content_type == "text/html" and text.startswith("<"):
        raise ValueError("a page and no name")
    return text[:MAX_NAME]
