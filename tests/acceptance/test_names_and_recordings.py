"""Names, history and recordings all the way: posted and looked up, edited into the messages, followed from the link."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import aiohttp

from callgram import Chat, Enterprise, Secret
from callgram.testing.memory import MemoryStore
from callgram.testing.service import service
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
