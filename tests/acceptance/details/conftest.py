"""One callgram with the details plugin, a Telegram of our own, and a call of every recorded shape, for all tests here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
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
from callgram.testing import MemoryStore, read, replay_all, service
from callgram_details.accounts import new_operator, new_token
from callgram_details.keys import PLUGIN, Vault
from callgram_simulator.server import Simulator
from callgram_simulator.settings import FloodSettings, SimulatorSettings

SCENARIOS = sorted((Path(__file__).parents[2] / "data" / "scenarios").glob("*.json"))
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
"""


class Shape(msgspec.Struct, frozen=True):
    """A recorded call as it was played: whose it is, and by which ids it is found."""

    name: str
    enterprise: str
    unique_id: str
    channels: tuple[str, ...]
    n_records: int


class Site(msgspec.Struct):
    """The running program. ``post`` plays events, ``link`` signs one as a message's button has it."""

    url: str
    store: Any
    loop: Any
    vault: Any
    enterprises: dict[str, Enterprise]
    shapes: dict[str, Shape]
    bearers: dict[str, str]
    live: Shape

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
        path.stem: Enterprise(
            number=f"{7000 + place}",
            name=path.stem,
            token=Secret(f"9{place:011}"),
            bot_token=Secret(f"{600 + place}:SECRET-bot-token-{place}"),
        )
        for place, path in enumerate([*SCENARIOS, Path("live.json")], 1)
    }
    chats = [Chat(id=574373193, name=f"Марина {HOSTILE}"), Chat(id=-1002000000001, name="Отдел продаж")]
    first, second = (offices[path.stem].number for path in SCENARIOS[:2])
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
            await play(started.url, offices)
            shapes = {name: await shape(store, name, office) for name, office in offices.items()}
            yield Site(
                started.url,
                store,
                loop,
                vault,
                {office.number: office for office in offices.values()},
                {name: one for name, one in shapes.items() if name != "live"},
                bearers,
                shapes["live"],
            )
            await vault.close()


async def play(url: str, offices: dict[str, Enterprise]) -> None:
    """Every recording at once, each for an enterprise of its own, and a call with a hostile name that goes on."""
    recorded = (replay_all([read(path)], url, speed=20, token=offices[path.stem].token.reveal()) for path in SCENARIOS)
    await asyncio.gather(*recorded)
    live = {"UniqueId": "1795000000.1", "CallType": 0, "Phone": "375296254070", "Trunk": "0001363"}
    async with aiohttp.ClientSession() as session:
        token = offices["live"].token.reveal()
        for kind, more in (("start", {}), ("new_callerid", {"CallerIDName": HOSTILE, "Channel": f"SIP/{HOSTILE}-1"})):
            async with session.post(f"{url}/{kind}", json={"Token": token, **live, **more}) as answer:
                assert answer.status == 200
    await asyncio.sleep(1.0)  # the last deletes; no test waits for a state that it does not see


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
