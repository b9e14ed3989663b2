"""One callgram with the details plugin, a Telegram of our own, and a call of every recorded shape, for all tests here."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from callgram import Enterprise, Secret
from callgram.context import Chat
from callgram.replay import with_token
from callgram.testing import MemoryStore, service
from callgram_details.accounts import new_operator, new_token
from callgram_details.keys import PLUGIN, Vault
from callgram_simulator.server import Simulator
from callgram_simulator.settings import FloodSettings, SimulatorSettings

from ...unit.calls.traffic import scenarios, sources  # noqa: TID252 - tests is no package that is installed

SCENARIOS = [source.name for source in scenarios()]
RECORDED = {source.name: source.posts for source in sources()}
CHROMIUM = os.environ.get("CALLGRAM_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PASSWORD = "correct horse battery"
HOSTILE = "<img src=x onerror=alert(1)>'\"</script><script>alert(2)</script>"
PLUGINS = """
api = 1
limits = { private_per_s = 1000, private_burst = 1000, group_per_min = 60000, group_burst = 1000, bot_per_s = 1000 }
[[plugin]]
name = "start"
settings = { hold_s = 0.05 }
[[plugin]]
name = "dial"
[[plugin]]
name = "bridge"
[[plugin]]
name = "hangup"
[[plugin]]
name = "internal"
[[plugin]]
name = "details"
settings = { base_url = "https://calls.example.com" }
[[plugin]]
name = "recordings"
settings = { base_url = "https://calls.example.com", allow_private = true }
[enterprise.7002]
settings = { recordings = { allow_private = false } }
[enterprise.7003]
settings = { recordings = { max_mb = 1 } }
"""


class Shape(msgspec.Struct, frozen=True):
    """A recorded call as it was played: whose it is, and by which ids it is found."""

    name: str
    enterprise: str
    unique_id: str
    channels: tuple[str, ...]
    n_records: int


class Site(msgspec.Struct):
    """The running program. ``post`` plays events, ``link`` signs one as a message's button has it. ``shapes`` are the scenarios,
    ``recorded`` every call that has a golden transcript."""

    url: str
    store: Any
    loop: Any
    vault: Any
    enterprises: dict[str, Enterprise]
    shapes: dict[str, Shape]
    recorded: dict[str, Shape]
    bearers: dict[str, str]
    live: Shape
    long: Shape

    def run(self, work: Any, timeout_s: float = 20.0) -> Any:
        """Run a coroutine where the program runs."""
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return future.result(timeout_s)

    def link(self, shape: Shape, days: float = 14) -> str:
        ((enterprise, call),) = self.run(self.store.find_calls([shape.enterprise], shape.unique_id))
        return str(self.vault.sign_link(enterprise, call, datetime.now(UTC) + timedelta(days=days)))

    def page(self, shape: Shape, unique_id: str = "") -> str:
        return f"{self.url}/call/details/{unique_id or shape.unique_id}?s={self.link(shape)}"

    def post(self, shape: Shape, kind: str, **body: Any) -> None:
        async def send() -> None:
            async with aiohttp.ClientSession() as session:
                token = self.enterprises[shape.enterprise].token.reveal()
                async with session.post(f"{self.url}/{kind}", json={"Token": token, **body}) as answer:
                    assert answer.status == 200, await answer.text()

        self.run(send())


@asynccontextmanager
async def running(loop: asyncio.AbstractEventLoop) -> AsyncIterator[Site]:
    store, vault = MemoryStore(), Vault()
    offices = {
        name: Enterprise(
            number=f"{7000 + place}",
            name=name,
            token=Secret(f"9{place:011}"),
            bot_token=Secret(f"{600 + place}:SECRET-bot-token-{place}"),
        )
        for place, name in enumerate([*RECORDED, "live"], 1)
    }
    chats = [Chat(id=574373193, name=f"Марина {HOSTILE}"), Chat(id=-1002000000001, name="Отдел продаж")]
    first, second = (offices[name].number for name in SCENARIOS[:2])
    for login, enterprises, masked in (("anna", None, False), ("boris", (first,), False), ("vera", (second,), True)):
        await store.keep(PLUGIN, *new_operator(login, PASSWORD, enterprises, masked=masked))
    bearers = {}
    for office in offices.values():
        bearer, key, value = new_token(office.number, masked=False)
        bearers[office.number] = bearer
        await store.keep(PLUGIN, key, value)
    async with Simulator(SimulatorSettings(port=0, flood=FloodSettings(enabled=False))) as telegram:
        known = [(office, chats) for office in offices.values()]
        async with service(telegram_url=telegram.url, enterprises=known, plugins=PLUGINS, store=store) as started:
            await vault.open(store)
            await play(store, started.url, offices)
            await settled(store)
            shapes = {name: await shape(store, name, office) for name, office in offices.items()}
            recorded = {name: shapes[name] for name in RECORDED}
            yield Site(
                started.url,
                store,
                loop,
                vault,
                {office.number: office for office in offices.values()},
                {name: shapes[name] for name in SCENARIOS},
                recorded,
                bearers,
                shapes["live"],
                await long_call(store, started.url, offices["live"]),
            )
            await vault.close()


async def play(store: MemoryStore, url: str, offices: dict[str, Enterprise]) -> None:
    """Every recording side by side, each for an enterprise of its own, event by event, so that every stage is shown; and a call
    with a hostile name that goes on."""
    async with aiohttp.ClientSession() as session:

        async def post(name: str, kind: str, body: bytes) -> None:
            told = with_token(body, offices[name].token.reveal())
            async with session.post(f"{url}/{kind}", data=told) as answer:
                assert answer.status == 200, await answer.text()

        for turn in range(max(map(len, RECORDED.values()))):
            now = [(name, posts[turn]) for name, posts in RECORDED.items() if turn < len(posts)]
            await asyncio.gather(*(post(name, one.kind, one.body) for name, one in now))
            await settled(store)
    live = {"UniqueId": "1795000000.1", "CallType": 0, "Phone": "375296254070", "Trunk": "0001363"}
    async with aiohttp.ClientSession() as session:
        token = offices["live"].token.reveal()
        for kind, more in (("start", {}), ("new_callerid", {"CallerIDName": HOSTILE, "Channel": f"SIP/{HOSTILE}-1"})):
            async with session.post(f"{url}/{kind}", json={"Token": token, **live, **more}) as answer:
                assert answer.status == 200


async def long_call(store: MemoryStore, url: str, office: Enterprise) -> Shape:
    """A call of 140 events, which is more than one page carries whole, of the client of the live one."""
    told = {"UniqueId": "1795000001.1", "CallType": 0, "Phone": "375296254070", "Trunk": "0001363"}
    legs = [f"1795000001.{2 + n % 8}" for n in range(136)]
    events: list[tuple[str, dict[str, Any]]] = [("start", told), ("dial", {**told, "Extensions": ["150", "151"]})]
    for n, leg in enumerate(legs):
        of = {
            "UniqueId": leg,
            "Linkedid": told["UniqueId"],
            "Channel": f"SIP/15{n % 8}-1",
            "BridgeUniqueid": f"b{n // 16}",
        }
        events.append(("bridge" if n // 8 % 2 == 0 else "bridge_leave", of))
    events += [("hangup", {**told, "Extensions": ["150"], "CallStatus": "2"})]
    async with aiohttp.ClientSession() as session:
        for kind, body in events:
            async with session.post(f"{url}/{kind}", json={"Token": office.token.reveal(), **body}) as answer:
                assert answer.status == 200
    await settled(store)
    return await shape(store, "long", office)


async def settled(store: MemoryStore) -> None:
    """Returns when every event is planned and every chat shows what it should."""
    db = store._db
    while not (
        all(event.done for event in db.events.values()) and all(card.card.due_at is None for card in db.cards.values())
    ):
        await asyncio.sleep(0.02)


async def shape(store: MemoryStore, name: str, office: Enterprise) -> Shape:
    """The call with the most records: a recording may tell a small one beside it."""
    files = []
    for one in (await store.list_calls(_all_of(office.number))).calls:
        file = await store.call_file(office.number, one.facts.id)
        assert file is not None
        files.append(file)
    file = max(files, key=lambda file: len(file.records))
    ((enterprise, _), *_) = [(office.number, file.facts.id)]
    return Shape(name, enterprise, file.channels[0], file.channels, len(file.records))


def _all_of(number: str) -> Any:
    from callgram.reading import CallFilter

    return CallFilter(enterprises=(number,))


@pytest.fixture(scope="package")
def site() -> Iterator[Site]:
    """The program, in a loop of its own in a thread of its own."""
    ready: Future[Site] = Future()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main() -> None:
        try:
            async with running(loop) as one:
                ready.set_result(one)
                await stop.wait()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), name="callgram")
    thread.start()
    try:
        yield ready.result(60)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium. Its event loop is the main thread's until it is closed, so it is closed at the end of a module."""
    if os.environ.get("CALLGRAM_NO_BROWSER") == "1" or not Path(CHROMIUM).exists():
        pytest.skip("no browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def kept(browser: Any) -> dict[str, Any]:
    """Contexts that tests without a login share: making one takes longer than most of them."""
    return {}


@pytest.fixture
def opened(browser: Any, kept: dict[str, Any]) -> Iterator[Callable[..., Any]]:
    """``opened(url, again=False, **context)``: a page, which must not have complained by the end of the test. ``again``: in a
    context that other tests had before."""
    complaints: list[str] = []
    closing: list[Any] = []

    def open_page(url: str, *, again: bool = False, **options: Any) -> Any:
        home = url.partition("/call")[0]
        context = (kept.get(str(options)) if again else None) or browser.new_context(**options)
        if again:
            kept[str(options)] = context
        page = context.new_page()
        closing.append(page if again else context)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append("a script ran"), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith(home) or complaints.append(request.url))
        page.goto(url)
        return page

    yield open_page
    for one in closing:
        one.close()
    assert complaints == []
