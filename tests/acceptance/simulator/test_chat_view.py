"""The chat view in a real browser: what bots do is seen, hostile text stays text."""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from playwright.sync_api import expect

from callgram_simulator.server import Simulator
from callgram_simulator.settings import FloodSettings, SimulatorSettings

from ..browser import Open
from ..harness import Background

HOSTILE = "<img src=x onerror=alert(1)> <script>alert(2)</script>"


class Bot:
    """One that asks ``simulator``, which nobody else does."""

    def __init__(self, simulator: Simulator, background: Background) -> None:
        self.simulator, self._background = simulator, background

    def call(self, method: str, **params: Any) -> Any:
        return self._background.run(self._call(method, json=params))

    def upload(self, method: str, form: aiohttp.FormData) -> Any:
        return self._background.run(self._call(method, data=form))

    async def _call(self, method: str, **body: Any) -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.simulator.url}/bot42:A/{method}", **body) as response,
        ):
            answer = await response.json()
        assert answer["ok"], answer
        return answer["result"]


@pytest.fixture
def bot(background: Background) -> Iterator[Bot]:
    simulator = Simulator(SimulatorSettings(port=0, flood=FloodSettings(enabled=False)))
    background.run(simulator.__aenter__())
    yield Bot(simulator, background)
    background.run(simulator.__aexit__(None, None, None))


@pytest.fixture
def page(bot: Bot, opened: Open) -> Any:
    page = opened(bot.simulator.url)
    expect(page.locator("#link.live")).to_be_visible()
    return page


def test_a_message_appears_changes_and_disappears(bot: Bot, page: Any) -> None:
    expect(page.locator("#empty")).to_be_visible()
    sent = bot.call("sendMessage", chat_id=7, text="<b>Звонок</b> идёт", parse_mode="HTML")
    expect(page.locator(".words")).to_have_text("Звонок идёт")
    expect(page.locator(".words strong")).to_have_text("Звонок")
    bot.call("editMessageText", chat_id=7, message_id=sent["message_id"], text="Разговор окончен")
    expect(page.locator(".words")).to_have_text("Разговор окончен")
    expect(page.locator(".stamp")).to_contain_text("изм.")
    bot.call("deleteMessage", chat_id=7, message_id=sent["message_id"])
    expect(page.locator(".message")).to_have_count(0)


def test_audio_is_a_bubble_that_plays_where_its_bytes_are_here(bot: Bot, page: Any) -> None:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as tone:
        tone.setparams((1, 2, 8000, 0, "NONE", ""))
        tone.writeframes(bytes(16_000))
    form = aiohttp.FormData({"chat_id": "7", "title": HOSTILE})
    form.add_field("audio", sound.getvalue(), filename="1.wav", content_type="audio/wav")
    bot.upload("sendAudio", form)
    expect(page.locator(".file .name")).to_contain_text(HOSTILE)
    length = page.locator(".file audio").evaluate(
        "async (a) => { a.preload = 'auto'; a.load();"
        " while (!(a.duration > 0)) await new Promise(r => setTimeout(r, 20)); return a.duration; }"
    )
    assert length == 1.0


def test_hostile_text_is_shown_as_it_is(bot: Bot, page: Any) -> None:
    bot.simulator.state.dialog(bot.simulator.state.bot(42), 8, title=HOSTILE)
    key = {"inline_keyboard": [[{"text": HOSTILE, "callback_data": "c"}]]}
    entities = [{"type": "text_link", "offset": 0, "length": 4, "url": 'https://x.y/"><img src=x>'}]
    bot.call("sendMessage", chat_id=8, text=HOSTILE, reply_markup=key, entities=entities)
    expect(page.locator(".words")).to_have_text(HOSTILE)
    expect(page.locator(".row button")).to_have_text(HOSTILE)
    expect(page.locator(".who b")).to_have_text(HOSTILE)
    expect(page.locator("main img, main script")).to_have_count(0)


def test_a_pressed_button_and_a_written_message_reach_the_bot(bot: Bot, page: Any) -> None:
    key = {"inline_keyboard": [[{"text": "Перезвоню", "callback_data": "c:1"}]]}
    bot.call("sendMessage", chat_id=9, text="Пропущен", reply_markup=key)
    page.get_by_role("button", name="Перезвоню").click()
    (pressed,) = bot.call("getUpdates", timeout=5)
    assert pressed["callback_query"]["data"] == "c:1"
    query_id = pressed["callback_query"]["id"]
    bot.call("answerCallbackQuery", callback_query_id=query_id, text="Записал")
    expect(page.locator(".toast")).to_have_text("Записал")
    page.get_by_placeholder("Сообщение").fill("/start 5")
    page.keyboard.press("Enter")
    expect(page.locator(".own .words")).to_have_text("/start 5")
    (written,) = bot.call("getUpdates", offset=pressed["update_id"] + 1, timeout=5)
    assert written["message"]["text"] == "/start 5"
