"""The player of recordings: any part of the audio, from servers that know ranges and others, and what is refused."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from callgram_recordings import Settings, Target
from callgram_recordings.player import PIECE, Player, Unplayable, wanted

AUDIO = random.Random(5).randbytes(5 * PIECE // 2)
Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def ranged(request: web.Request) -> web.StreamResponse:
    first, last = wanted(request.headers["Range"]) or (0, 0)
    if first >= len(AUDIO):
        return web.Response(status=416)
    body = AUDIO[first : last + 1]
    said = {"Content-Range": f"bytes {first}-{first + len(body) - 1}/{len(AUDIO)}"}
    return web.Response(status=206, body=body, content_type="audio/mpeg", headers=said)


async def whole(request: web.Request) -> web.StreamResponse:
    return web.Response(body=AUDIO, content_type="audio/mpeg")


async def chunked(request: web.Request) -> web.StreamResponse:
    """The whole, whose length is known at its end only."""
    answer = web.StreamResponse(headers={"Content-Type": "audio/mpeg"})
    await answer.prepare(request)
    for start in range(0, len(AUDIO), 100_000):
        await answer.write(AUDIO[start : start + 100_000])
    return answer


def played(serve: Serve, work: Callable[[Player, Target], Awaitable[Any]], *, host: str = "", **settings: Any) -> Any:
    """What ``work`` makes of a recording that ``serve`` serves, and how often that was asked."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range", ""))
        return await serve(request)

    async def run() -> Any:
        app = web.Application()
        app.router.add_get("/secret-place/1.mp3", answer)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://{host or '127.0.0.1'}:{runner.addresses[0][1]}/secret-place/1.mp3"
        player = Player()
        try:
            return await work(player, Target(url=url, settings=Settings(**{"allow_private": True, **settings})))
        finally:
            await player.close()
            await runner.cleanup()

    return asyncio.run(run()), asked


@pytest.mark.parametrize("serve", [ranged, whole, chunked])
@pytest.mark.parametrize(
    ("first", "last"), [(0, 0), (0, PIECE - 1), (7, 70_000), (PIECE, 2 * PIECE - 1), (2 * PIECE, 3 * PIECE - 1)]
)
def test_a_piece_is_those_bytes_and_says_how_many_there_are(serve: Serve, first: int, last: int) -> None:
    piece, _ = played(serve, lambda player, target: player.piece(target, first, last))
    assert piece.body == AUDIO[first : last + 1]
    assert (piece.start, piece.end, piece.total) == (first, min(last + 1, len(AUDIO)), len(AUDIO))
    assert piece.media_type == "audio/mpeg"


@pytest.mark.parametrize("serve", [ranged, whole, chunked])
def test_the_pieces_are_the_whole(serve: Serve) -> None:
    async def all_of(player: Player, target: Target) -> bytes:
        return b"".join([body async for body in player.rest(target, await player.piece(target))])

    body, asked = played(serve, all_of)
    assert body == AUDIO
    assert asked == [
        f"bytes={start}-{min(start + PIECE, max(len(AUDIO), PIECE)) - 1}" for start in range(0, len(AUDIO), PIECE)
    ]


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-", (0, PIECE - 1)),
        ("bytes=5-9", (5, 9)),
        (f"bytes=5-{10 * PIECE}", (5, PIECE + 4)),
        ("", None),
        ("bytes=-5", None),
        ("bytes=9-5", None),
        ("bytes=0-1,5-6", None),
        ("lines=0-1", None),
        ("bytes=" + "9" * 5000 + "-", None),
    ],
)
def test_a_range_is_cut_to_one_piece(header: str, part: tuple[int, int] | None) -> None:
    assert wanted(header) == part


def answering(status: int = 200, **more: Any) -> Serve:
    async def serve(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, **{"body": AUDIO[:100], "content_type": "audio/mpeg", **more})

    return serve


async def hung(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def torn(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "audio/mpeg", "Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(AUDIO[:10])
    assert request.transport is not None
    request.transport.close()
    return answer


async def elsewhere(request: web.Request) -> web.StreamResponse:
    if not request.query:
        raise web.HTTPFound("/secret-place/1.mp3?moved=1")
    return await ranged(request)


PART = {"Content-Range": f"bytes 5-104/{len(AUDIO)}"}
LONG = {"Content-Range": f"bytes 0-99/{2 * PIECE}"}
REFUSED = [
    pytest.param(answering(content_type="text/html"), {}, 502, id="a page"),
    pytest.param(answering(content_type="application/octet-stream"), {}, 502, id="anything"),
    pytest.param(answering(404), {}, 404, id="not there"),
    pytest.param(answering(500), {}, 502, id="broken"),
    pytest.param(answering(401), {}, 502, id="not for us"),
    pytest.param(elsewhere, {}, 502, id="elsewhere"),
    pytest.param(answering(416), {}, 416, id="past its end"),
    pytest.param(answering(206, headers=PART), {}, 502, id="another part"),
    pytest.param(answering(206), {}, 502, id="a part without its place"),
    pytest.param(answering(206, headers=LONG), {"max_mb": 1}, 502, id="a part of what is too long"),
    pytest.param(whole, {"max_mb": 1}, 502, id="too long"),
    pytest.param(hung, {"timeout_s": 0.05}, 502, id="no answer"),
    pytest.param(torn, {}, 502, id="torn"),
    pytest.param(ranged, {"allow_private": False}, 502, id="a private address"),
    pytest.param(ranged, {"allow_private": False, "host": "localhost"}, 502, id="a name of a private address"),
]


@pytest.mark.parametrize(("serve", "settings", "status"), REFUSED)
def test_what_is_refused_says_nothing_of_the_place(serve: Serve, settings: dict[str, Any], status: int) -> None:
    async def refused(player: Player, target: Target) -> Unplayable:
        with pytest.raises(Unplayable) as caught:
            await player.piece(target)
        return caught.value

    error, asked = played(serve, refused, **settings)
    assert error.status == status
    assert not any(said in str(error) for said in ("secret", "127.0.0.1", "localhost", "mp3"))
    assert bool(asked) == settings.get("allow_private", True)


def test_one_that_ends_before_the_part_is_told_so() -> None:
    async def refused(player: Player, target: Target) -> int:
        with pytest.raises(Unplayable) as caught:
            await player.piece(target, len(AUDIO), len(AUDIO) + 9)
        return caught.value.status

    assert [played(serve, refused)[0] for serve in (ranged, whole, chunked)] == [416, 416, 416]


def test_one_of_unknown_length_is_left_when_it_is_too_long() -> None:
    async def refused(player: Player, target: Target) -> str:
        with pytest.raises(Unplayable) as caught:
            await player.piece(target, 0, 9)
        return str(caught.value)

    assert played(chunked, refused, max_mb=1)[0] == "it is too long"
