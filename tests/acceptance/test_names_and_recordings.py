"""Names, history and recordings all the way: posted and looked up, edited into the messages, followed from the link."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from ..serve import until
from .harness import Background, Office, Program, Telegram, new_office, plugins_toml

PLUGINS = ("postgres", "start", "dial", "bridge", "hangup", "directory", "recordings")
PLACE = "http://calls.example.com"
AUDIO = "https://pbx.example.com/rec/1.mp3"
RECORDED = b"ID3" + bytes(4000)
LONG = "no audio: it is longer than 1 MB"


def call(number: int, **more: Any) -> dict[str, Any]:
    return {"UniqueId": f"1757840000.{number}", "Phone": "375296254070", "CallType": 0, "Trunk": "0001363"} | more


def started(make_program: Callable[..., Program], recordings: str = "", n_chats: int = 2) -> tuple[Program, Office]:
    settings = f'{{ base_url = "{PLACE}"{recordings} }}'
    program = make_program(plugins_toml(*PLUGINS, start="{ hold_s = 0.0 }", recordings=settings))
    office = new_office(n_chats=n_chats)
    program.start()
    program.add([office])
    return program, office


def test_names_and_a_recording_are_edited_in_and_the_link_leads_to_it(
    make_program: Callable[..., Program], telegram: Telegram
) -> None:
    program, office = started(make_program, n_chats=1)
    program.with_store(lambda store: store.put_names(office.number, "customers", {"375296254070": "Иванов Иван"}))
    program.with_store(lambda store: store.put_names(office.number, "extensions", {"151": "Петров"}))

    def until_seen(text: str) -> None:
        until(lambda: any(text in (one.text or "") for one in telegram.truth(office.bot)), f"{text} is seen")

    program.tell(office, "start", **call(6))
    until_seen("Иванов Иван")
    program.tell(office, "dial", **call(6, Extensions=["151"]))
    until_seen("Петров (151)")
    program.tell(office, "hangup", **call(6, Extensions=["151"], CallStatus="2"))
    until_seen("✅")
    program.tell(office, "recording", UniqueId="1757840000.6", Url=AUDIO)
    until_seen("Запись")
    program.tell(office, "start", **call(9))
    until_seen("Звонил: 1 раз")
    (link,) = {
        entity.url for one in telegram.truth(office.bot) if "Запись" in (one.text or "") for entity in one.entities if entity.url
    }
    answer = program.get(link.removeprefix(PLACE))
    assert (answer.status, answer.headers["location"]) == (302, AUDIO)
    assert program.get("/recording/made-up").status == 404
    done = telegram.truth(office.bot)
    assert done[0].kind == "send"
    finals = [one for one in done if (one.text or "").startswith("✅")]
    assert [one.kind for one in finals] == ["send", *["edit"] * (len(finals) - 1)]
    assert "🔉" in (finals[-1].text or "")


@pytest.fixture
def pbx(background: Background) -> Iterator[str]:
    """The address of a host with a recording, ``/6.mp3``; any other is too long."""

    async def recording(request: web.Request) -> web.Response:
        body = RECORDED if request.match_info["name"] == "6.mp3" else bytes(2 * 1024 * 1024)
        return web.Response(body=body, content_type="audio/mpeg")

    app = web.Application()
    app.router.add_get("/{name}", recording)
    with background.serving(app) as port:
        yield f"http://127.0.0.1:{port}"


def test_a_recording_comes_as_a_reply_into_every_chat_and_the_link_stays_where_it_cannot(
    make_program: Callable[..., Program], telegram: Telegram, pbx: str
) -> None:
    program, office = started(make_program, ', audio = "reply", allow_private = true, max_mb = 1')

    def end(number: int) -> None:
        program.tell(office, "hangup", **call(number, Extensions=["151"], CallStatus="2"))
        program.tell(office, "recording", UniqueId=f"1757840000.{number}", Url=f"{pbx}/{number}.mp3")

    def replies() -> list[Any]:
        return [one for one in telegram.truth(office.bot) if one.media]

    program.tell(office, "start", **call(6))
    end(6)
    until(lambda: len(replies()) == 2, "there is a reply in each chat")
    assert {(one.chat_id, one.media) for one in replies()} == {(chat, "audio") for chat in office.chats}
    (file_id,) = {one.file_id for one in replies()}  # uploaded once
    assert telegram.ask(lambda state: state.files[file_id].body) == RECORDED
    finals = {one.message_id for one in telegram.truth(office.bot) if (one.text or "").startswith("✅")}
    assert {one.reply_to for one in replies()} <= finals
    end(9)
    unsent = "SELECT count(*) FROM decisions WHERE enterprise = $1 AND reason = $2"
    until(lambda: program.sql(unsent, office.number, LONG)[0][0] == 2, "that it is too long is told of each chat")
    for chat in office.chats:
        until(lambda chat=chat: sum("🔉" in text for text in telegram.texts(office.bot, chat)) == 2, "both have their links")
    assert len(replies()) == 2
