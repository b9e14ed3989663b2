"""The player: fetches a recording from where it is, piece by piece, so that a browser plays it from here.

Refuses addresses that are not public unless the enterprise allows them, redirects, what is not audio, and what is too long.
Never tells where a recording is: not in an answer, not in the log.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from callgram import CallgramError, fetching
from callgram_recordings import Target

PIECE = 1024 * 1024  # bytes of one answer: a player asks for the next piece by itself, and a stop waits for no listener
_AUDIO = re.compile(r"audio/[\w.+-]+")
_PART = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")
_WANTED = re.compile(r"bytes=(\d{1,15})-(\d{0,15})")


class Unplayable(CallgramError):
    """The recording cannot be played. ``status`` is what a player is told."""

    def __init__(self, reason: str, status: int = 502) -> None:
        super().__init__(reason)
        self.status = status


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a recording from ``start`` on; it has ``total`` of them."""

    body: bytes
    start: int
    total: int
    media_type: str

    @property
    def end(self) -> int:
        return self.start + len(self.body)


def wanted(header: str) -> tuple[int, int] | None:
    """``(first, last)`` of a Range header, cut to one piece; ``None``: the whole is wanted, or a form that no player uses."""
    found = _WANTED.fullmatch(header.strip())
    if found is None:
        return None
    first = int(found[1])
    last = min(int(found[2]), first + PIECE - 1) if found[2] else first + PIECE - 1
    return (first, last) if first <= last else None


class Player:
    """Fetches. One session for public addresses, and one for enterprises that allow private ones."""

    def __init__(self) -> None:
        self._sessions = fetching.Sessions()

    async def close(self) -> None:
        await self._sessions.close()

    async def piece(self, target: Target, first: int = 0, last: int = PIECE - 1) -> Piece:
        """The bytes from ``first`` to ``last`` of a recording, as far as it has them.

        Raises:
            Unplayable: it is not there, may not be fetched, or is no audio.
        """
        from aiohttp import ClientError  # only where something is played

        settings = target.settings
        session = self._sessions.get(allow_private=settings.allow_private)
        asked = {"Range": f"bytes={first}-{last}", "Accept": "audio/*", "Accept-Encoding": "identity"}
        try:
            fetching.refuse_literal(target.url, allow_private=settings.allow_private)
            async with asyncio.timeout(settings.timeout_s):
                async with session.get(target.url, headers=asked, allow_redirects=False) as answer:
                    return await _read(answer, first, last, settings.max_mb * 1024 * 1024)
        except (ClientError, OSError, EOFError, ValueError) as error:  # their texts name the address
            raise Unplayable(f"its server cannot be asked: {type(error).__name__}") from None

    async def rest(self, target: Target, piece: Piece) -> AsyncIterator[bytes]:
        """``piece`` and all that follows it."""
        yield piece.body
        while piece.end < piece.total:
            piece = await self.piece(target, piece.end, min(piece.end + PIECE, piece.total) - 1)
            yield piece.body


async def _read(answer: Any, first: int, last: int, most: int) -> Piece:
    if answer.status in {404, 410}:
        raise Unplayable("it is not where it should be", 404)
    if answer.status == 416:
        raise Unplayable("it ends before that", 416)
    if answer.status not in {200, 206}:
        raise Unplayable(f"its server answers {answer.status}")
    if not _AUDIO.fullmatch(answer.content_type):
        raise Unplayable("it is not audio")
    if answer.status == 206:
        return await _part(answer, first, last, most)
    return await _cut_out(answer, first, last, most)


async def _part(answer: Any, first: int, last: int, most: int) -> Piece:
    """The part that a server was asked for."""
    found = _PART.fullmatch(answer.headers.get("content-range", ""))
    if found is None or int(found[1]) != first or not first <= int(found[2]) <= last:
        raise Unplayable("its server answers another part")
    if int(found[3]) > most:
        raise Unplayable("it is too long")
    length = int(found[2]) - first + 1
    body = await answer.content.readexactly(length)
    return Piece(body=body, start=first, total=int(found[3]), media_type=answer.content_type)


async def _cut_out(answer: Any, first: int, last: int, most: int) -> Piece:
    """The part, out of the whole of a server that knows no parts."""
    total = answer.content_length
    if total is not None and total > most:
        raise Unplayable("it is too long")
    body, n_read = bytearray(), 0
    async for chunk in answer.content.iter_any():
        body += chunk[max(first - n_read, 0) : max(last + 1 - n_read, 0)]
        n_read += len(chunk)
        if n_read > most:
            raise Unplayable("it is too long")
        if total is not None and n_read > last:
            break
    if first >= (total or n_read):
        raise Unplayable("it ends before that", 416)
    return Piece(body=bytes(body), start=first, total=total or n_read, media_type=answer.content_type)
