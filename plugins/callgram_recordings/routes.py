"""The routes behind the links: send whoever has a link of ours on to the recording, or play it; nobody else anywhere."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from litestar import Request, Response, get
from litestar.response import Stream
from loguru import logger

from callgram_recordings import Target
from callgram_recordings.player import Player, Unplayable, wanted

HEADERS = {
    "cache-control": "private, no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex, nofollow",
    "content-security-policy": "default-src 'none'; media-src 'self'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
}
TEXT = "text/plain"
LOGIN = re.compile(r"(?<=://)[^/?#]*@")  # of an address


def make_routes(player: Player, target_of: Callable[[str, datetime], Awaitable[Target | None]]) -> list[Any]:
    @get("/recording/{token:str}", tags=["recordings"])
    async def recording(request: Request[Any, Any, Any]) -> Response[str]:
        """Redirect to the recording that a signed link stands for. 404: no such link, or it has run out.

        A name and password in its address are ours: whoever follows the link is asked for theirs.
        """
        target = await target_of(request.path_params["token"], datetime.now(UTC))
        if target is None:
            return _no_such()
        return Response(
            "", status_code=302, media_type=TEXT, headers={**HEADERS, "location": LOGIN.sub("", target.url)}
        )

    @get("/recording/{token:str}/audio", tags=["recordings"])
    async def audio(request: Request[Any, Any, Any]) -> Response[Any]:
        """The recording that a signed link stands for, for a player: of a range at most 1 MiB is answered. 404: no such
        link, or it has run out; 502: it cannot be fetched, is too long, or is no audio."""
        target = await target_of(request.path_params["token"], datetime.now(UTC))
        if target is None:
            return _no_such()
        part = wanted(request.headers.get("range", ""))
        try:
            piece = await player.piece(target, *(part or ()))
        except Unplayable as refused:
            logger.info("a recording is not played: {}", refused)
            text = "The recording cannot be played."
            return Response(text, status_code=refused.status, media_type=TEXT, headers=HEADERS)
        told = {**HEADERS, "accept-ranges": "bytes"}
        if part is None:
            told["content-length"] = str(piece.total)
            return Stream(player.rest(target, piece), media_type=piece.media_type, headers=told)
        told["content-range"] = f"bytes {piece.start}-{piece.end - 1}/{piece.total}"
        return Response(piece.body, status_code=206, media_type=piece.media_type, headers=told)

    return [recording, audio]


def _no_such() -> Response[str]:
    return Response("There is no such recording.", status_code=404, media_type=TEXT, headers=HEADERS)
