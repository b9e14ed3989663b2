"""The lookup over HTTP: remembered, bounded in time, and never a way into the network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import msgspec
import pytest
from aiohttp import web

from callgram.fetching import is_public
from callgram_directory.lookup import BREAK_AFTER, MAX_ANSWER, Lookup, Settings, problem_of, read_name


class Crm:
    """A web service of the test's own. ``answer`` says what it does; ``asked`` is what it was asked."""

    def __init__(self, answer: Callable[[web.Request], Awaitable[web.Response]]) -> None:
        self.asked: list[str] = []
        self._answer = answer

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.query.get("phone", ""))
        return await self._answer(request)


def looked_up(
    answer: Callable[[web.Request], Awaitable[web.Response]],
    *numbers: str,
    lazily: Iterable[str] = (),
    clock: Callable[[], float] = lambda: 1000.0,
    **settings: Any,
) -> tuple[list[str], list[str]]:
    """The names found, and what the service was asked."""

    async def run() -> tuple[list[str], list[str]]:
        crm = Crm(answer)
        app = web.Application()
        app.router.add_get("/name", crm.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.05)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        url = f"http://127.0.0.1:{port}/name?phone={{number}}"
        given = {"allow_private": True, "timeout_s": 0.2, **settings}
        lookup = Lookup(Settings(lookup_url=url, **given), clock)
        try:
            return [await lookup.name_of(number) for number in (numbers or lazily)], crm.asked
        finally:
            await lookup.close()
            await runner.cleanup()

    return asyncio.run(run())


async def ivanov(request: web.Request) -> web.Response:
    return web.json_response({"name": "Иванов Иван"})


async def nobody(request: web.Request) -> web.Response:
    return web.Response(status=404)


async def broken(request: web.Request) -> web.Response:
    return web.Response(status=500)


async def slow(request: web.Request) -> web.Response:
    await asyncio.sleep(5)
    return web.Response()


async def elsewhere(request: web.Request) -> web.Response:
    raise web.HTTPFound("http://169.254.169.254/latest")


def test_a_name_is_asked_for_once() -> None:
    assert looked_up(ivanov, "375296254070", "375296254070") == (["Иванов Иван"] * 2, ["375296254070"])


def test_that_there_is_none_is_remembered_too() -> None:
    assert looked_up(nobody, "1", "1") == (["", ""], ["1"])


@pytest.mark.parametrize("answer", [broken, slow, elsewhere])
def test_a_service_that_fails_is_left_alone_after_a_while(answer: Any) -> None:
    names, asked = looked_up(answer, *(str(number) for number in range(BREAK_AFTER + 3)), timeout_s=0.05)
    assert set(names) == {""}
    assert len(asked) == BREAK_AFTER


async def piecemeal(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "application/json"})
    await answer.prepare(request)
    for piece in (b'{"na', b'me": "A', b'nna"}'):
        await answer.write(piece)
        await asyncio.sleep(0.01)
    return answer


async def endless(request: web.Request) -> web.Response:
    return web.Response(text="x" * (MAX_ANSWER + 1))


async def page(request: web.Request) -> web.Response:
    return web.Response(text="<html>Service Unavailable</html>", content_type="text/html")


@pytest.mark.parametrize(("answer", "name"), [(piecemeal, "Anna"), (endless, ""), (page, "")])
def test_an_answer_is_read_to_its_end_and_no_further(answer: Any, name: str) -> None:
    assert looked_up(answer, "1", timeout_s=2.0)[0] == [name]


class Clock:
    """Seconds that pass where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def asked_again(answer: Any, *waits_s: float) -> tuple[list[str], int]:
    """The names of one number after each wait, and how often the service was asked."""
    clock = Clock()

    def numbers() -> Iterator[str]:
        for wait_s in waits_s:
            clock.now += wait_s
            yield "375296254070"

    names, asked = looked_up(answer, lazily=numbers(), clock=clock)
    return names, len(asked)


@pytest.mark.parametrize(
    ("answer", "waits_s", "n_asked"),
    [
        pytest.param(ivanov, (0, 3599), 1, id="a name is kept for cache_s"),
        pytest.param(ivanov, (0, 3601), 2, id="and no longer"),
        pytest.param(nobody, (0, 599), 1, id="that there is none, for negative_cache_s"),
        pytest.param(nobody, (0, 601), 2, id="and no longer than that"),
        pytest.param(broken, (*[0] * BREAK_AFTER, 59), BREAK_AFTER, id="a failing service is left alone for pause_s"),
        pytest.param(broken, (*[0] * BREAK_AFTER, 61), BREAK_AFTER + 1, id="then asked once"),
        pytest.param(broken, (*[0] * BREAK_AFTER, 61, 0), BREAK_AFTER + 1, id="and left alone again"),
    ],
)
def test_how_long_it_is_remembered(answer: Any, waits_s: tuple[float, ...], n_asked: int) -> None:
    assert asked_again(answer, *waits_s)[1] == n_asked


def test_an_old_name_is_better_than_none_while_the_service_fails() -> None:
    answers = iter([ivanov, *[broken] * BREAK_AFTER])

    async def failing(request: web.Request) -> web.Response:
        return await next(answers)(request)

    names, _ = asked_again(failing, 0, 3601, *[0] * (BREAK_AFTER + 1))
    assert set(names) == {"Иванов Иван"}


def test_a_private_address_is_refused_unless_it_is_allowed() -> None:
    assert looked_up(ivanov, "1", allow_private=False) == ([""], [])


@pytest.mark.parametrize("name", ["localhost"])
def test_a_name_that_leads_to_a_private_address_is_refused(name: str) -> None:
    async def run() -> str:
        lookup = Lookup(Settings(lookup_url=f"http://{name}:9/{{number}}"))
        try:
            return await lookup.name_of("1")
        finally:
            await lookup.close()

    assert asyncio.run(run()) == ""


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2a00:1450:4010::1", True), ("10.0.0.1", False), ("127.0.0.1", False),
        ("169.254.169.254", False), ("192.168.1.1", False), ("100.64.0.1", False), ("0.0.0.0", False), ("::1", False),
        ("fe80::1%eth0", False), ("fd00::1", False), ("::ffff:10.0.0.1", False), ("224.0.0.1", False),
        ("64:ff9b::a00:1", False), ("64:ff9b::808:808", True), ("2002:a00:1::", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) == public


@pytest.mark.parametrize(
    ("body", "content_type", "name"),
    [
        (b'{"name": " A "}', "application/json", "A"),
        (b'{"name": null}', "application/json", ""),
        (b'{"other": 1}', "text/html", ""),
        ("Иванов".encode(), "text/plain", "Иванов"),
        (b"x" * 9000, "text/plain", "x" * 200),
    ],
)
def test_a_name_is_read_from_json_or_text(body: bytes, content_type: str, name: str) -> None:
    assert read_name(body, content_type, "name") == name


def test_a_broken_answer_is_no_name() -> None:
    with pytest.raises(msgspec.DecodeError):
        read_name(b"{", "application/json", "name")


@pytest.mark.parametrize("url", ["ftp://x/{number}", "https://crm.example/", "https://{number}.example/{number}"])
def test_a_lookup_that_cannot_work_is_refused_at_start(url: str) -> None:
    assert problem_of(Settings(lookup_url=url))
