"""Names, history and recordings all the way: posted and looked up, edited into the messages, followed from the link."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import aiohttp
from aiohttp import web

from callgram import Chat, Enterprise, Secret
from callgram.testing.memory import MemoryStore
from callgram.testing.service import service
from callgram.trace import Action, Op
from callgram_simulator.server import Simulator
from callgram_simulator.settings import FloodSettings, SimulatorSettings

PLUGINS = """
api = 1
limits = { private_per_s = 1000, private_burst = 1000 }
[[plugin]]
name = "start"
settings = { hold_s = 0.0 }
[[plugin]]
name = "dial"
[[plugin]]
name = "bridge"
[[plugin]]
name = "hangup"
[[plugin]]
name = "directory"
[[plugin]]
name = "recordings"
settings = { base_url = "http://calls.example.com" }
"""
ENTERPRISE = Enterprise(number="1", token=Secret("375290000001"), bot_token=Secret("7001:" + "A" * 35))
AUDIO = "https://pbx.example.com/rec/1.mp3"


class Chats:
    """What the one chat shows, and what was done to get there."""

    def __init__(self, telegram: Simulator) -> None:
        self._telegram = telegram

    def done(self) -> list[tuple[str, str]]:
        return [(entry.kind, entry.text or "") for entry in self._telegram.state.truth]

    async def until_seen(self, text: str) -> None:
        with self._telegram.state.feed.watch() as changes:
            while not any(text in shown for _, shown in self.done()):
                await changes.get()


def call(number: int, **more: Any) -> dict[str, Any]:
    told = {"Token": "375290000001", "UniqueId": f"1757840000.{number}", "Phone": "375296254070", "CallType": 0}
    return told | {"Trunk": "0001363"} | more


def test_names_and_a_recording_are_edited_in_and_the_link_leads_to_it() -> None:
    async def run() -> tuple[list[tuple[str, str]], int, str]:
        store = MemoryStore()
        await store.put_names("1", "customers", {"375296254070": "Иванов Иван"})
        await store.put_names("1", "extensions", {"151": "Петров"})
        no_flood = SimulatorSettings(port=0, flood=FloodSettings(enabled=False))
        async with (
            Simulator(no_flood) as telegram,
            service(
                telegram_url=telegram.url, enterprises=[(ENTERPRISE, [Chat(id=5)])], plugins=PLUGINS, store=store
            ) as running,
            aiohttp.ClientSession(running.url) as host,
        ):
            chats = Chats(telegram)

            async def post(kind: str, body: dict[str, Any]) -> None:
                async with host.post(f"/{kind}", json=body) as answer:
                    assert answer.status == 200

            await post("start", call(6))
            await chats.until_seen("Иванов Иван")
            await post("dial", call(6, Extensions=["151"]))
            await chats.until_seen("Петров (151)")
            await post("hangup", call(6, Extensions=["151"], CallStatus="2"))
            await chats.until_seen("✅")
            await post("recording", {"Token": "375290000001", "UniqueId": "1757840000.6", "Url": AUDIO})
            await chats.until_seen("Запись")
            await post("start", call(9))
            await chats.until_seen("Звонил: 1 раз")
            (link,) = {
                entity.url
                for record in telegram.state.dialog(telegram.state.bot(7001), 5).own_records.values()
                for entity in record.message.entities or ()
                if entity.url
            }
            async with host.get(link.removeprefix("http://calls.example.com"), allow_redirects=False) as answer:
                followed = answer.status, answer.headers.get("location", "")
            async with host.get("/recording/made-up", allow_redirects=False) as answer:
                assert answer.status == 404
            return chats.done(), *followed

    done, status, location = asyncio.run(asyncio.wait_for(run(), 30))
    assert (status, location) == (302, AUDIO)
    first = done[0]
    assert first[0] == "send"
    finals = [kind for kind, text in done if text.startswith("✅")]
    assert finals[0] == "send"
    assert set(finals[1:]) == {"edit"}
    assert re.search("🔉", next(text for kind, text in reversed(done) if text.startswith("✅")))


RECORDED = b"ID3" + bytes(4000)
REPLYING = PLUGINS.replace(
    'base_url = "http://calls.example.com"',
    'base_url = "http://calls.example.com", audio = "reply", allow_private = true, max_mb = 1',
)


def test_a_recording_comes_as_a_reply_into_every_chat_and_the_link_stays_where_it_cannot() -> None:
    async def run() -> None:
        store = MemoryStore()
        pbx = web.Application()

        async def recording(request: web.Request) -> web.Response:
            body = RECORDED if request.match_info["name"] == "6.mp3" else bytes(2 * 1024 * 1024)
            return web.Response(body=body, content_type="audio/mpeg")

        pbx.router.add_get("/{name}", recording)
        runner = web.AppRunner(pbx)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        place = f"http://127.0.0.1:{runner.addresses[0][1]}"
        enterprises = [(ENTERPRISE, [Chat(id=5), Chat(id=-1_001_000_000_005)])]
        no_flood = SimulatorSettings(port=0, flood=FloodSettings(enabled=False))
        async with (
            Simulator(no_flood) as telegram,
            service(telegram_url=telegram.url, enterprises=enterprises, plugins=REPLYING, store=store) as running,
            aiohttp.ClientSession(running.url) as host,
        ):

            async def post(kind: str, body: dict[str, Any]) -> None:
                async with host.post(f"/{kind}", json=body) as answer:
                    assert answer.status == 200

            async def until(condition: Any) -> None:
                with telegram.state.feed.watch() as changes:
                    while not condition():
                        await changes.get()

            async def traced(condition: Any) -> None:
                while True:
                    records = await store.trace("", limit=1000)
                    if condition([one.item for one in records if isinstance(one.item, Action)]):
                        return
                    await asyncio.sleep(0.05)

            await post("start", call(6))
            await post("hangup", call(6, Extensions=["151"], CallStatus="2"))
            await post("recording", {"Token": "375290000001", "UniqueId": "1757840000.6", "Url": f"{place}/6.mp3"})
            await until(lambda: sum(one.media == "audio" for one in telegram.state.truth) == 2)
            replies = [one for one in telegram.state.truth if one.media]
            assert {one.chat_id for one in replies} == {5, -1_001_000_000_005}
            assert telegram.state.files[replies[0].file_id or ""].body == RECORDED
            assert replies[0].file_id == replies[1].file_id, "uploaded once"
            for one in replies:
                dialog = telegram.state.dialog(telegram.state.bot(7001), one.chat_id)
                assert (dialog.records[one.reply_to or 0].message.text or "").startswith("✅")
            await post("hangup", call(9, Extensions=["151"], CallStatus="2"))
            await post("recording", {"Token": "375290000001", "UniqueId": "1757840000.9", "Url": f"{place}/9.mp3"})
            long = "no audio: it is longer than 1 MB"
            await traced(lambda actions: sum(one.op is Op.SKIP and one.reason == long for one in actions) == 2)
            await until(lambda: sum("🔉" in (one.text or "") for one in telegram.state.truth) >= 4)
            assert sum(one.media == "audio" for one in telegram.state.truth) == 2
            shown = telegram.state.dialog(telegram.state.bot(7001), 5).own_records.values()
            assert sum("🔉" in (record.message.text or "") for record in shown) == 2
        await runner.cleanup()

    asyncio.run(asyncio.wait_for(run(), 40))
