"""The chat view in a real browser: what bots do is seen, hostile text stays text.

Needs Chromium at /usr/bin/chromium (or CALLGRAM_CHROMIUM); CALLGRAM_NO_BROWSER=1 leaves these tests out.
"""

import asyncio
import io
import os
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Page, async_playwright, expect

from callgram_simulator.server import Simulator
from callgram_simulator.settings import FloodSettings, SimulatorSettings

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
HOSTILE = "<img src=x onerror=alert(1)> <script>alert(2)</script>"


class Scene:
    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession, page: Page) -> None:
        self.simulator, self.page, self._session = simulator, page, session

    async def call(self, method: str, **params: Any) -> Any:
        async with self._session.post(f"{self.simulator.url}/bot42:A/{method}", json=params) as response:
            answer = await response.json()
        assert answer["ok"], answer
        return answer["result"]


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    settings = SimulatorSettings(port=0, flood=FloodSettings(enabled=False))
    async with Simulator(settings) as simulator, aiohttp.ClientSession() as session, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = await browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(simulator.url)
        await expect(page.locator("#link.live")).to_be_visible()
        yield Scene(simulator, session, page)
        await browser.close()
        assert complaints == []


def played(play: Callable[[Scene], Awaitable[None]]) -> None:
    if not Path(CHROMIUM).exists():
        pytest.fail(
            f"no browser at {CHROMIUM}: install Chromium, name it in CALLGRAM_CHROMIUM, "
            "or leave the browser tests out with CALLGRAM_NO_BROWSER=1"
        )

    async def run() -> None:
        async with scene() as set_up:
            await play(set_up)

    asyncio.run(run())


if not os.environ.get("CALLGRAM_NO_BROWSER"):

    def test_a_message_appears_changes_and_disappears() -> None:
        async def play(s: Scene) -> None:
            await expect(s.page.locator("#empty")).to_be_visible()
            sent = await s.call("sendMessage", chat_id=7, text="<b>Звонок</b> идёт", parse_mode="HTML")
            await expect(s.page.locator(".words")).to_have_text("Звонок идёт")
            await expect(s.page.locator(".words strong")).to_have_text("Звонок")
            await s.call("editMessageText", chat_id=7, message_id=sent["message_id"], text="Разговор окончен")
            await expect(s.page.locator(".words")).to_have_text("Разговор окончен")
            await expect(s.page.locator(".stamp")).to_contain_text("изм.")
            await s.call("deleteMessage", chat_id=7, message_id=sent["message_id"])
            await expect(s.page.locator(".message")).to_have_count(0)

        played(play)

    def test_audio_is_a_bubble_that_plays_where_its_bytes_are_here() -> None:
        async def play(s: Scene) -> None:
            sound = io.BytesIO()
            with wave.open(sound, "wb") as tone:
                tone.setparams((1, 2, 8000, 0, "NONE", ""))
                tone.writeframes(bytes(16_000))
            form = aiohttp.FormData({"chat_id": "7", "title": HOSTILE})
            form.add_field("audio", sound.getvalue(), filename="1.wav", content_type="audio/wav")
            async with s._session.post(f"{s.simulator.url}/bot42:A/sendAudio", data=form) as answer:
                assert answer.status == 200
            await expect(s.page.locator(".file .name")).to_contain_text(HOSTILE)
            length = await s.page.locator(".file audio").evaluate(
                "async (a) => { a.preload = 'auto'; a.load();"
                " while (!(a.duration > 0)) await new Promise(r => setTimeout(r, 20)); return a.duration; }"
            )
            assert length == 1.0

        played(play)

    def test_hostile_text_is_shown_as_it_is() -> None:
        async def play(s: Scene) -> None:
            s.simulator.state.dialog(s.simulator.state.bot(42), 8, title=HOSTILE)
            key = {"inline_keyboard": [[{"text": HOSTILE, "callback_data": "c"}]]}
            entities = [{"type": "text_link", "offset": 0, "length": 4, "url": 'https://x.y/"><img src=x>'}]
            await s.call("sendMessage", chat_id=8, text=HOSTILE, reply_markup=key, entities=entities)
            await expect(s.page.locator(".words")).to_have_text(HOSTILE)
            await expect(s.page.locator(".row button")).to_have_text(HOSTILE)
            await expect(s.page.locator(".who b")).to_have_text(HOSTILE)
            await expect(s.page.locator("main img, main script")).to_have_count(0)

        played(play)

    def test_a_pressed_button_and_a_written_message_reach_the_bot() -> None:
        async def play(s: Scene) -> None:
            key = {"inline_keyboard": [[{"text": "Перезвоню", "callback_data": "c:1"}]]}
            await s.call("sendMessage", chat_id=9, text="Пропущен", reply_markup=key)
            await s.page.get_by_role("button", name="Перезвоню").click()
            (pressed,) = await s.call("getUpdates", timeout=5)
            assert pressed["callback_query"]["data"] == "c:1"
            query_id = pressed["callback_query"]["id"]
            await s.call("answerCallbackQuery", callback_query_id=query_id, text="Записал")
            await expect(s.page.locator(".toast")).to_have_text("Записал")
            await s.page.get_by_placeholder("Сообщение").fill("/start 5")
            await s.page.keyboard.press("Enter")
            await expect(s.page.locator(".own .words")).to_have_text("/start 5")
            (written,) = await s.call("getUpdates", offset=pressed["update_id"] + 1, timeout=5)
            assert written["message"]["text"] == "/start 5"

        played(play)
