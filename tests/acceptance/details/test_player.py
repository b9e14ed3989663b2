"""The recording on the call page: played from here in a real browser, by its own link only, and refused where it must be."""

from __future__ import annotations

import io
import math
import struct
import time
import wave
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from ...serve import until
from ..browser import Open
from ..harness import Background
from .conftest import BASE, Shape, Site

RATE, SECONDS = 8_000, 90
REACHED = """(player, at) => new Promise((done) => {
  if (player.currentTime > at) done();
  player.addEventListener("timeupdate", () => player.currentTime > at && done());
})"""


def sound() -> bytes:
    """A tone of 90 s, which is more than one piece of 1 MiB."""
    second = b"".join(struct.pack("<h", round(9_000 * math.sin(n * 2 * math.pi * 440 / RATE))) for n in range(RATE))
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(second * SECONDS)
    return file.getvalue()


@pytest.fixture(scope="module")
def tone() -> bytes:
    return sound()


@pytest.fixture(scope="module")
def host(background: Background, tone: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a host that keeps recordings: ``/a.wav``, and ``/page`` which is none."""
    path = tmp_path_factory.mktemp("host") / "a.wav"
    path.write_bytes(tone)
    app = web.Application()

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<h1>Log in</h1>", content_type="text/html")

    async def audio(request: web.Request) -> web.FileResponse:
        return web.FileResponse(path, headers={"Content-Type": "audio/x-wav"})

    app.router.add_get("/page", page)
    app.router.add_get("/a.wav", audio)
    with background.serving(app) as port:
        yield f"http://someone:SECRET-pw@127.0.0.1:{port}"


@pytest.fixture
def told(site: Site, host: str) -> Callable[..., str]:
    """``told(shape, path)``: the host tells of a recording; the path of the link that the message gets."""
    times = iter(range(int(time.time() * 1000), 10**15))

    def tell(shape: Shape, path: str) -> str:
        def link() -> str:
            facts = site.file(shape).facts
            return facts.found.recording if facts.found and facts.recording == host + path else ""

        site.tell(shape, "recording", UniqueId=shape.unique_id, Url=host + path, At=next(times))  # else it is a repetition
        url = until(link, "the recording has its link")
        assert url.startswith(f"{BASE}/recording/")
        return urlsplit(url).path

    return tell


def asked(site: Site, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    async def get() -> tuple[int, dict[str, str], bytes]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(site.url + path, headers=headers, allow_redirects=False) as answer,
        ):
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.read()

    found: tuple[int, dict[str, str], bytes] = site.run(get())
    return found


def test_the_whole_and_any_part_are_played_from_here(site: Site, told: Callable[..., str], tone: bytes) -> None:
    path = told(site.shapes["incoming-answered"], "/a.wav") + "/audio"
    status, headers, body = asked(site, path)
    assert (status, headers["content-type"], headers["accept-ranges"]) == (200, "audio/x-wav", "bytes")
    assert body == tone
    status, headers, body = asked(site, path, Range=f"bytes={len(tone) - 9}-")
    assert (status, body) == (206, tone[-9:])
    assert headers["content-range"] == f"bytes {len(tone) - 9}-{len(tone) - 1}/{len(tone)}"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "no-store" in headers["cache-control"]
    assert asked(site, path, Range=f"bytes={len(tone)}-")[0] == 416


@pytest.mark.parametrize(
    ("number", "path", "status"),
    [
        pytest.param("7001", "/page", 502, id="no audio"),
        pytest.param("7001", "/gone", 404, id="not there"),
        pytest.param("7002", "/a.wav", 502, id="a private address"),
        pytest.param("7003", "/a.wav", 502, id="too long"),
    ],
)
def test_what_cannot_be_played_says_no_more_than_that(
    site: Site, told: Callable[..., str], host: str, number: str, path: str, status: int
) -> None:
    shape = next(one for one in site.shapes.values() if one.enterprise == number)
    answer = asked(site, told(shape, path) + "/audio")
    assert (answer[0], answer[2]) == (status, b"The recording cannot be played.")


def test_only_the_link_of_a_call_plays_it(site: Site, told: Callable[..., str]) -> None:
    path = told(site.shapes["incoming-answered"], "/a.wav")
    token = path.rpartition("/")[2]
    payload, _, rest = token.partition(".")
    other = told(site.shapes["incoming-missed"], "/a.wav").rpartition("/")[2]
    link_of_a_page = site.link(site.shapes["incoming-answered"])
    forged = [f"{token[:-2]}xx", f"{other.partition('.')[0]}.{rest}", payload, link_of_a_page, "1", "%00", "a" * 5000]
    for made_up in forged:
        for tail in ("", "/audio"):
            assert asked(site, f"/recording/{made_up}{tail}")[0] == 404, made_up
    assert asked(site, f"{path}/audio", Range="bytes=0-0")[0] == 206


def test_nothing_says_with_what_password_a_recording_is_fetched(site: Site, told: Callable[..., str], host: str) -> None:
    shape = site.shapes["incoming-answered"]
    link = told(shape, "/a.wav")
    query = f"?s={site.link(shape)}"
    for path in (
        f"/call/details/{shape.unique_id}",
        f"/api/calls/{shape.unique_id}/export.log",
        f"/api/calls/{shape.unique_id}",
    ):
        status, _, body = asked(site, path + query)
        assert status == 200
        assert b"SECRET" not in body, path
    status, headers, _ = asked(site, link)
    assert (status, headers["location"]) == (302, host.replace("someone:SECRET-pw@", "") + "/a.wav")


def test_it_loads_plays_and_jumps_on_the_page(site: Site, told: Callable[..., str], opened: Open) -> None:
    shape = site.shapes["incoming-answered"]
    told(shape, "/a.wav")
    page = opened(site.page(shape))
    player = page.locator("section.recording audio")
    assert player.is_visible()
    assert player.evaluate("player => [player.preload, player.controls, player.readyState]") == ["none", True, 0]
    player.evaluate("player => { player.muted = true; return player.play(); }")
    player.evaluate(REACHED, 0.1)
    assert round(player.evaluate("player => player.duration")) == SECONDS
    player.evaluate("(player, at) => { player.currentTime = at; }", SECONDS - 1)
    player.evaluate(REACHED, SECONDS - 0.1)
    assert page.locator(".unplayed").is_hidden()


def test_one_that_cannot_be_played_leads_to_where_it_is(site: Site, told: Callable[..., str], browser: Any) -> None:
    shape = next(one for one in site.shapes.values() if one.enterprise == "7002")
    path = told(shape, "/a.wav")
    page = browser.new_page()
    page.goto(site.page(shape))
    page.locator("audio").evaluate("player => { player.muted = true; return player.play().catch(() => null); }")
    hint = page.locator(".unplayed")
    hint.wait_for()
    assert hint.locator("a").get_attribute("href") == BASE + path
    page.close()
