"""The simulator obeys the rules of tests/data/bot-api-rules.json: one case per rule, over a real server on loopback.

A rule without a case is listed in ``NOT_SIMULATED`` with the reason. Long, because it is one table.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from callgram_simulator import inbox, media
from callgram_simulator.chats import ChatState
from callgram_simulator.faults import Fault
from callgram_simulator.server import Simulator
from callgram_simulator.settings import AnswerSettings, FloodSettings, SimulatorSettings

RULES = {rule["id"]: rule for rule in json.loads((Path(__file__).parents[2] / "data/bot-api-rules.json").read_text())}
MUST = {f"R{n:02d}" for n in (*range(1, 30), *range(44, 54), *range(60, 73))}
NOT_SIMULATED: dict[str, str] = {}

TOKEN = "123456:AAA-test"
USER, GROUP, SUPERGROUP, CHANNEL = 501, -77, -1001234567890, -1002222222222
DAY_S = 86400.0
OFF = FloodSettings(enabled=False)
QUIET = SimulatorSettings(port=0, auto_chats=False, flood=OFF)


class Answer(msgspec.Struct):
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.body)
        return shown

    @property
    def result(self) -> Any:
        assert self.status == 200, self.body
        return self.json["result"]


class World:
    """A running simulator with a private chat, a group, a supergroup and a channel of one bot."""

    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession) -> None:
        self.simulator, self.session, self.state = simulator, session, simulator.state
        self.refusals: list[str] = []
        self.bot = self.state.bot(123456)
        self.private = self.state.dialog(self.bot, USER)
        self.group = self.state.dialog(self.bot, GROUP)
        self.supergroup = self.state.dialog(self.bot, SUPERGROUP)
        self.channel = self.state.dialog(self.bot, CHANNEL, "channel")

    async def request(self, path: str, http: str = "POST", **options: Any) -> Answer:
        async with self.session.request(http, self.simulator.url + path, **options) as response:
            answer = Answer(response.status, await response.read(), dict(response.headers))
        if answer.status >= 400 and response.content_type == "application/json":
            assert answer.json["error_code"] == answer.status
            self.refusals.append(answer.json["description"])
        return answer

    async def call(self, method: str, **params: Any) -> Answer:
        return await self.request(f"/bot{TOKEN}/{method}", json=params)

    async def send(self, text: str = "hello", chat_id: int = USER, **params: Any) -> Any:
        return (await self.call("sendMessage", chat_id=chat_id, text=text, **params)).result

    async def refused(self, status: int, description: str, method: str, **params: Any) -> Answer:
        answer = await self.call(method, **params)
        assert (answer.status, answer.json["description"]) == (status, description)
        return answer

    async def dropped(self, method: str, **params: Any) -> None:
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await self.call(method, **params)

    def texts(self, chat_id: int = USER) -> list[str | None]:
        return [record.message.text for record in self.bot.dialogs[chat_id].records.values()]


@asynccontextmanager
async def world(settings: SimulatorSettings = QUIET) -> AsyncIterator[World]:
    async with Simulator(settings) as simulator, aiohttp.ClientSession() as session:
        yield World(simulator, session)


Case = Callable[[World], Awaitable[None]]
CASES: dict[str, tuple[Case, SimulatorSettings]] = {}


def rule(rule_id: str, settings: SimulatorSettings = QUIET) -> Callable[[Case], Case]:
    def register(case: Case) -> Case:
        assert rule_id not in CASES
        CASES[rule_id] = case, settings
        return case

    return register


def refuses(rule_id: str, status: int, description: str, method: str = "sendMessage", **params: Any) -> None:
    """Register a rule whose request is refused in an untouched world."""

    async def case(w: World) -> None:
        await w.refused(status, description, method, **{"chat_id": USER, **params})
        assert len(w.state.truth) == 0

    rule(rule_id)(case)


NOT_EMPTY_MARKUP = {"inline_keyboard": [[{"text": "OK", "callback_data": "c:1"}]]}
PARSE = "Bad Request: can't parse entities: "
NOT_MODIFIED = (
    "Bad Request: message is not modified: specified new message content and reply markup are exactly the same "
    "as a current content and reply markup of the message"
)


@rule("R01")
async def any_way_to_ask(w: World) -> None:
    text = {"chat_id": str(USER), "text": "hi"}
    form = aiohttp.FormData(text)
    form.add_field("note", b"x", filename="note.txt")
    ways = [
        await w.request(f"/bot{TOKEN}/sendMessage", "GET", params=text),
        await w.request(f"/bot{TOKEN}/SENDMESSAGE", "POST", params=text),
        await w.request(f"/bot{TOKEN}/sendmessage", "POST", data=text),
        await w.request(f"/bot{TOKEN}/sEndMessage", "POST", json={"chat_id": USER, "text": "hi"}),
        await w.request(f"/bot{TOKEN}/sendMessage", "POST", data=form),
        await w.request("/bot123456%3AAAA-test/sendMessage", "POST", json={"chat_id": USER, "text": "hi"}),
    ]
    assert [way.result["text"] for way in ways] == ["hi"] * 6
    assert {way.headers["Content-Type"].partition(";")[0] for way in ways} == {"application/json"}


@rule("R02")
async def errors_have_one_shape(w: World) -> None:
    plain = await w.call("sendMessage", chat_id=USER)
    assert list(plain.json) == ["ok", "error_code", "description"]
    w.group.state, w.group.migrate_to = ChatState.UPGRADED, SUPERGROUP
    with_parameters = await w.call("sendMessage", chat_id=GROUP, text="x")
    assert list(with_parameters.json) == ["ok", "error_code", "description", "parameters"]


@rule("R03")
async def other_paths_are_not_found(w: World) -> None:
    answer = await w.request("/x", "GET")
    assert (answer.status, answer.json["description"]) == (404, "Not Found")


@rule("R04")
async def malformed_tokens(w: World) -> None:
    tokens = ["123", "0123:A", "x:A", "1:" + "A" * 80]
    for token in tokens:
        answer = await w.request(f"/bot{token}/getMe")
        assert (answer.status, answer.json["description"]) == (401, "Unauthorized: invalid token specified")
    w.state.change_settings(answers=AnswerSettings(malformed_token=404))
    for token in tokens:
        assert (await w.request(f"/bot{token}/getMe")).status == 404


@rule("R05", msgspec.structs.replace(QUIET, any_token=False))
async def unknown_tokens(w: World) -> None:
    assert (await w.call("getMe")).json["description"] == "Unauthorized"
    w.bot.token = TOKEN
    assert (await w.call("getMe")).result["is_bot"] is True
    assert (await w.request("/bot123456:revoked/getMe")).status == 401


refuses("R06", 404, "Not Found: method not found", "sendPigeon")


@rule("R07")
async def after_log_out(w: World) -> None:
    assert (await w.call("logOut")).result is True
    answer = await w.call("getMe")
    assert (answer.status, answer.json["description"].lower()) == (400, "bad request: logged out")


@rule("R08")
async def a_closing_server(w: World) -> None:
    w.bot.state = "closing"
    await w.refused(500, "Internal Server Error: restart", "getMe")


@rule("R09")
async def a_request_lost_at_shutdown(w: World) -> None:
    w.state.faults.add(Fault(action="429_5", method="sendMessage", executed=True))
    w.state.faults.add(Fault(action="429_5", method="sendMessage", executed=False))
    for text in ("executed", "lost"):
        answer = await w.refused(429, "Too Many Requests: retry after 5", "sendMessage", chat_id=USER, text=text)
        assert answer.json["parameters"] == {"retry_after": 5}
        assert answer.headers["Retry-After"] == "5"
    assert w.texts() == ["executed"]


@rule("R10")
async def a_bad_gateway(w: World) -> None:
    w.state.faults.add(Fault(action="502"))
    answer = await w.call("sendMessage", chat_id=USER, text="x")
    assert answer.status == 502
    assert b"<h1>502 Bad Gateway</h1>" in answer.body
    assert w.texts() == []


@rule("R11")
async def a_plain_send(w: World) -> None:
    message = await w.send("<b>hi</b> &amp;", parse_mode="HTML", reply_markup=NOT_EMPTY_MARKUP)
    assert message["message_id"] > 0
    assert abs(message["date"] - time.time()) < 5
    assert message["from"]["is_bot"] is True
    assert message["chat"] == {"id": USER, "type": "private", "first_name": f"Chat {USER}"}
    assert (message["text"], message["entities"]) == ("hi &", [{"type": "bold", "offset": 0, "length": 2}])
    assert message["reply_markup"] == NOT_EMPTY_MARKUP
    with_reply_keyboard = await w.send(reply_markup={"keyboard": [[{"text": "A"}]]})
    assert "reply_markup" not in with_reply_keyboard


@rule("R12")
async def no_text(w: World) -> None:
    for text in ({}, {"text": ""}):
        await w.refused(400, "Bad Request: message text is empty", "sendMessage", chat_id=USER, **text)


@rule("R13")
async def nothing_but_whitespace(w: World) -> None:
    for text in ("  \n ", "<b></b>", "<b> </b>", "\t"):
        await w.refused(
            400, "Bad Request: text must be non-empty", "sendMessage", chat_id=USER, text=text, parse_mode="HTML"
        )


refuses("R14", 400, "Bad Request: text is too long", text="x" * 32769)
refuses("R15", 400, "Bad Request: message is too long", text="😀" * 4097)


@rule("R16")
async def a_too_long_edit(w: World) -> None:
    sent = await w.send("😀" * 4096)
    too_long = {"chat_id": USER, "message_id": sent["message_id"], "text": "x" * 4097}
    await w.refused(400, "Bad Request: MESSAGE_TOO_LONG", "editMessageText", **too_long)


@rule("R17")
async def text_is_trimmed_and_cleaned(w: World) -> None:
    message = await w.send(" \n a\tb\r <b>c\x01 </b>\n ", parse_mode="HTML")
    assert message["text"] == "a b c"
    assert message["entities"] == [{"type": "bold", "offset": 4, "length": 1}]


refuses("R18", 400, "Bad Request: unsupported parse_mode", text="x", parse_mode="XYZ")
for _id, _source, _reason in (
    ("R19", "<b>x", 'Can\'t find end tag corresponding to start tag "b"'),
    ("R20", "<foo>", 'Unsupported start tag "foo" at byte offset 0'),
    ("R21", "a < b", 'Unsupported start tag "" at byte offset 2'),
    ("R22", "<b>x</i>", 'Unmatched end tag at byte offset 4, expected "</b>", found "</i>"'),
    ("R23", "</b>", "Unexpected end tag at byte offset 0"),
    ("R24", "<b", "Unclosed start tag at byte offset 0"),
):
    refuses(_id, 400, PARSE + _reason, text=_source, parse_mode="HTML")


@rule("R25")
async def useless_links_are_dropped(w: World) -> None:
    for href in ("tel:+79001234567", "javascript:alert(1)", "http://localhost/x", ""):
        message = await w.send(f'<a href="{href}">l</a>', parse_mode="HTML")
        assert message["text"] == "l"
        assert "entities" not in message


@rule("R26")
async def no_chat(w: World) -> None:
    for chat in ({}, {"chat_id": ""}):
        await w.refused(400, "Bad Request: chat_id is empty", "sendMessage", text="x", **chat)


@rule("R27")
async def unknown_chats(w: World) -> None:
    for chat_id in (999, 0, "abc", "@nobody", -5):
        await w.refused(400, "Bad Request: chat not found", "sendMessage", chat_id=chat_id, text="x")


def refuses_in(rule_id: str, dialog: str, state: ChatState, status: int, description: str, methods: str) -> None:
    """Register a rule that a chat's state refuses ``methods`` (s end, e dit, d elete) and lets the others pass."""

    async def case(w: World) -> None:
        chat = getattr(w, dialog)
        sent = await w.send(chat_id=chat.chat.id)
        target = {"chat_id": chat.chat.id, "message_id": sent["message_id"]}
        chat.state, chat.migrate_to = state, SUPERGROUP
        requests = {"s": ("sendMessage", {**target, "text": "x"}), "e": ("editMessageText", {**target, "text": "y"})}
        requests["d"] = ("deleteMessage", target)
        for letter, (method, params) in requests.items():
            answer = await w.call(method, **params)
            expected = status if letter in methods else 200
            assert answer.status == expected, (method, answer.body)
            if expected != 200:
                assert answer.json["description"] == description

    rule(rule_id)(case)


NO_START = "Forbidden: bot can't initiate conversation with a user"
UPGRADED = "Bad Request: group chat was upgraded to a supergroup chat"
NO_TEXT = "Bad Request: not enough rights to send text messages to the chat"
NO_POST = "Bad Request: need administrator rights in the channel chat"
KICKED = "Forbidden: bot was kicked from the supergroup chat"
LEFT = "Forbidden: bot is not a member of the channel chat"
refuses_in("R28", "private", ChatState.NOT_STARTED, 403, NO_START, "s")
refuses_in("R29", "private", ChatState.BLOCKED, 403, "Forbidden: bot was blocked by the user", "s")
refuses_in("R30", "private", ChatState.DEACTIVATED, 403, "Forbidden: user is deactivated", "sed")
refuses_in("R31", "private", ChatState.IS_BOT, 403, "Forbidden: the bot can't send messages to the bot", "s")
refuses_in("R32", "supergroup", ChatState.KICKED, 403, KICKED, "sed")
refuses_in("R33", "channel", ChatState.LEFT, 403, LEFT, "sed")
refuses_in("R34", "group", ChatState.DELETED, 403, "Forbidden: the group chat was deleted", "sd")
refuses_in("R35", "group", ChatState.UPGRADED, 400, UPGRADED, "sd")
refuses_in("R36", "group", ChatState.NO_TEXT_RIGHT, 400, NO_TEXT, "s")
refuses_in("R37", "channel", ChatState.NO_POST_RIGHT, 400, NO_POST, "s")
refuses_in("R38", "group", ChatState.NO_WRITE_ACCESS, 400, "Bad Request: have no write access to the chat", "s")
refuses_in("R39", "group", ChatState.REFUSING, 400, "Bad Request: CHAT_WRITE_FORBIDDEN", "s")


@rule("R40")
async def unknown_topics(w: World) -> None:
    w.supergroup.chat.is_forum, w.supergroup.chat.topics = True, {7}
    unknown = {"chat_id": SUPERGROUP, "text": "x", "message_thread_id": 8}
    await w.refused(400, "Bad Request: message thread not found", "sendMessage", **unknown)
    message = await w.send(chat_id=SUPERGROUP, message_thread_id=7)
    assert (message["message_thread_id"], message["is_topic_message"]) == (7, True)


@rule("R41")
async def the_general_topic(w: World) -> None:
    w.supergroup.chat.is_forum, w.supergroup.chat.topics = True, {1}
    general = {"chat_id": SUPERGROUP, "text": "x", "message_thread_id": 1}
    await w.refused(400, "Bad Request: message thread not found", "sendMessage", **general)


@rule("R42")
async def topics_without_a_forum(w: World) -> None:
    for chat_id in (SUPERGROUP, GROUP):
        assert "message_thread_id" not in await w.send(chat_id=chat_id, message_thread_id=9)


refuses("R43", 400, "Bad Request: message thread not found", text="x", message_thread_id=3)
refuses("R44", 400, "Bad Request: message to be replied not found", text="x", reply_parameters={"message_id": 4})


@rule("R45")
async def replies_may_miss(w: World) -> None:
    message = await w.send(reply_parameters={"message_id": 4, "allow_sending_without_reply": True})
    assert "reply_to_message" not in message


@rule("R46")
async def replies_show_the_message(w: World) -> None:
    first = await w.send("first")
    message = await w.send("second", reply_parameters={"message_id": first["message_id"]})
    assert message["reply_to_message"] == first


def button(**action: str) -> dict[str, Any]:
    return {"inline_keyboard": [[{"text": "b", **action}]]}


refuses("R47", 400, "Bad Request: BUTTON_DATA_INVALID", text="x", reply_markup=button(callback_data="я" * 33))
refuses(
    "R48",
    400,
    "Bad Request: inline keyboard button URL 'http://localhost' is invalid: Wrong HTTP URL",
    text="x",
    reply_markup=button(url="http://localhost"),
)
refuses(
    "R49", 400, "Bad Request: can't parse reply keyboard markup JSON object", text="x", reply_markup='{"inline_keybo'
)


@rule("R50")
async def a_plain_edit(w: World) -> None:
    sent = await w.send("one")
    w.state.clock.move(100)
    edited = (await w.call("editMessageText", chat_id=USER, message_id=sent["message_id"], text="two")).result
    assert edited == {**sent, "text": "two", "edit_date": edited["edit_date"]}
    assert edited["edit_date"] >= sent["date"] + 100


@rule("R51")
async def an_edit_without_change(w: World) -> None:
    sent = await w.send("<b>one</b>", parse_mode="HTML", reply_markup=NOT_EMPTY_MARKUP)
    target = {"chat_id": USER, "message_id": sent["message_id"], "reply_markup": NOT_EMPTY_MARKUP}
    same = {**target, "text": " <strong>one</strong>", "parse_mode": "html"}
    await w.refused(400, NOT_MODIFIED, "editMessageText", **same)
    await w.refused(400, NOT_MODIFIED, "editMessageReplyMarkup", **target)
    assert (await w.call("editMessageText", **{**same, "parse_mode": "", "text": "one"})).status == 200


@rule("R52")
async def an_edit_without_keyboard_removes_it(w: World) -> None:
    sent = await w.send("one", reply_markup=NOT_EMPTY_MARKUP)
    target = {"chat_id": USER, "message_id": sent["message_id"]}
    assert "reply_markup" not in (await w.call("editMessageText", **target, text="two")).result


@rule("R53")
async def edits_of_what_is_not_there(w: World) -> None:
    sent = await w.send(chat_id=SUPERGROUP)
    deleted = (await w.send())["message_id"]
    await w.call("deleteMessage", chat_id=USER, message_id=deleted)
    for message_id in (99, 0, -1, deleted, sent["message_id"] + 100):
        gone = {"chat_id": USER, "message_id": message_id}
        await w.refused(400, "Bad Request: message to edit not found", "editMessageText", **gone, text="x")
        await w.refused(400, "Bad Request: message to edit not found", "editMessageReplyMarkup", **gone)


@rule("R54")
async def a_message_deleted_while_its_edit_is_held(w: World) -> None:
    target = {"chat_id": USER, "message_id": (await w.send())["message_id"]}
    w.state.faults.add(Fault(action="hold", method="editMessageText", seconds=0.1))
    edit = asyncio.create_task(w.call("editMessageText", **target, text="x"))
    await until(lambda: not w.state.faults.queue)
    assert (await w.call("deleteMessage", **target)).result is True
    assert (await edit).json["description"] == "Bad Request: MESSAGE_ID_INVALID"


@rule("R55")
async def foreign_messages(w: World) -> None:
    sent = await w.send()
    forward = {"chat_id": USER, "from_chat_id": USER, "message_id": sent["message_id"]}
    ids = [
        (await w.call("forwardMessage", **forward)).result["message_id"],
        w.state.write_as_user(w.private, "mine").message_id,
        await post(w, kind="service", author_bot_id=w.bot.id),
        await post(w, author_bot_id=777),
    ]
    for message_id in ids:
        foreign = {"chat_id": USER, "message_id": message_id, "text": "x"}
        await w.refused(400, "Bad Request: message can't be edited", "editMessageText", **foreign)


async def post(w: World, **message: Any) -> int:
    """Let a message appear through the control API."""
    answer = await w.request("/sim/messages", json={"bot_id": w.bot.id, "chat_id": USER, "text": "t", **message})
    return int(answer.json["message_id"])


@rule("R56")
async def messages_with_a_reply_keyboard(w: World) -> None:
    sent = await w.send(reply_markup={"keyboard": [[{"text": "A"}]]})
    target = {"chat_id": USER, "message_id": sent["message_id"]}
    await w.refused(400, "Bad Request: message can't be edited", "editMessageText", **target, text="x")


@rule("R57")
async def media_has_no_text(w: World) -> None:
    target = {"chat_id": USER, "message_id": await post(w, kind="media", author_bot_id=w.bot.id)}
    await w.refused(400, "Bad Request: there is no text in the message to edit", "editMessageText", **target, text="x")


@rule("R58")
async def edits_have_no_age_limit(w: World) -> None:
    target = {"chat_id": USER, "message_id": (await w.send())["message_id"]}
    w.state.clock.move(400 * DAY_S)
    assert (await w.call("editMessageText", **target, text="late")).status == 200


@rule("R59")
async def an_edit_of_nothing(w: World) -> None:
    await w.refused(400, "Bad Request: message identifier is not specified", "editMessageText", text="x")


@rule("R60")
async def a_plain_delete(w: World) -> None:
    target = {"chat_id": USER, "message_id": (await w.send())["message_id"]}
    assert (await w.call("deleteMessage", **target)).result is True
    assert w.texts() == []


@rule("R61")
async def deletes_of_what_is_not_there(w: World) -> None:
    elsewhere = (await w.send(chat_id=SUPERGROUP))["message_id"]
    deleted = (await w.send())["message_id"]
    await w.call("deleteMessage", chat_id=USER, message_id=deleted)
    for message_id in (99, deleted, elsewhere):
        gone = {"chat_id": USER, "message_id": message_id}
        await w.refused(400, "Bad Request: message to delete not found", "deleteMessage", **gone)


refuses("R62", 400, "Bad Request: message identifier is not specified", "deleteMessage")


@rule("R63")
async def two_days_later_in_private_chats_and_groups(w: World) -> None:
    targets = [{"chat_id": c, "message_id": (await w.send(chat_id=c))["message_id"]} for c in (USER, GROUP)]
    w.state.clock.move(2 * DAY_S + 5)
    for target in targets:
        await w.refused(400, "Bad Request: message can't be deleted for everyone", "deleteMessage", **target)


@rule("R64")
async def what_supergroups_and_channels_keep(w: World) -> None:
    targets = [{"chat_id": c, "message_id": (await w.send(chat_id=c))["message_id"]} for c in (SUPERGROUP, CHANNEL)]
    foreign = {"chat_id": SUPERGROUP, "message_id": w.state.write_as_user(w.supergroup, "mine").message_id}
    first = {"chat_id": SUPERGROUP, "message_id": 1}
    for target in (foreign, first):
        await w.refused(400, "Bad Request: message can't be deleted", "deleteMessage", **target)
    w.supergroup.can_delete = True
    assert (await w.call("deleteMessage", **foreign)).result is True
    w.state.clock.move(2 * DAY_S + 5)
    for target in targets:
        await w.refused(400, "Bad Request: message can't be deleted", "deleteMessage", **target)


@rule("R65")
async def a_users_message_in_a_private_chat(w: World) -> None:
    target = {"chat_id": USER, "message_id": w.state.write_as_user(w.private, "mine").message_id}
    assert (await w.call("deleteMessage", **target)).result is True


@rule("R66")
async def a_users_message_in_a_group(w: World) -> None:
    target = {"chat_id": GROUP, "message_id": w.state.write_as_user(w.group, "mine").message_id}
    await w.refused(400, "Bad Request: message can't be deleted for everyone", "deleteMessage", **target)
    w.group.can_delete = True
    assert (await w.call("deleteMessage", **target)).result is True


@rule("R67")
async def two_deletes_at_once(w: World) -> None:
    for answer, expected in (("true", 200), ("not found", 400)):
        w.state.change_settings(answers=AnswerSettings(double_delete=answer))
        target = {"chat_id": USER, "message_id": (await w.send())["message_id"]}
        w.state.faults.add(Fault(action="hold", method="deleteMessage", seconds=0.1, times=2))
        both = await asyncio.gather(w.call("deleteMessage", **target), w.call("deleteMessage", **target))
        assert sorted(one.status for one in both) == [200, expected]
    assert w.refusals == ["Bad Request: message to delete not found"]


@rule("R68")
async def known_and_unknown_together(w: World) -> None:
    ids = [(await w.send())["message_id"], 88, 99]
    assert (await w.call("deleteMessages", chat_id=USER, message_ids=ids)).result is True
    assert w.texts() == []


@rule("R69")
async def nothing_known(w: World) -> None:
    assert (await w.call("deleteMessages", chat_id=USER, message_ids=[88, 99])).result is True


@rule("R70")
async def one_that_may_not_be_deleted_saves_all(w: World) -> None:
    for chat_id, suffix in ((USER, " for everyone"), (SUPERGROUP, "")):
        old = (await w.send("old", chat_id))["message_id"]
        w.state.clock.move(2 * DAY_S + 5)
        ids = [(await w.send("new", chat_id))["message_id"], old]
        both = {"chat_id": chat_id, "message_ids": ids}
        await w.refused(400, f"Bad Request: message can't be deleted{suffix}", "deleteMessages", **both)
        assert w.texts(chat_id) == ["old", "new"]


TOO_MANY_IDS = "Bad Request: too many message identifiers specified"
refuses("R71", 400, TOO_MANY_IDS, "deleteMessages", message_ids=list(range(1, 102)))


@rule("R72")
async def no_ids_or_bad_ones(w: World) -> None:
    for ids in ({}, {"message_ids": []}):
        not_specified = "Bad Request: message identifiers are not specified"
        await w.refused(400, not_specified, "deleteMessages", chat_id=USER, **ids)
    for bad in ([0], [3, -1]):
        invalid = "Bad Request: invalid message identifier specified"
        await w.refused(400, invalid, "deleteMessages", chat_id=USER, message_ids=bad)


@rule("R73")
async def copies_of_what_is_not_there(w: World) -> None:
    for method, verb in (("copyMessage", "copy"), ("forwardMessage", "forward")):
        gone = {"chat_id": GROUP, "from_chat_id": USER, "message_id": 99}
        await w.refused(400, f"Bad Request: message to {verb} not found", method, **gone)


@rule("R74")
async def a_copy_answers_an_id_only(w: World) -> None:
    sent = await w.send("original")
    copy = {"chat_id": GROUP, "from_chat_id": USER, "message_id": sent["message_id"]}
    assert list((await w.call("copyMessage", **copy)).result) == ["message_id"]
    assert w.texts(GROUP) == ["original"]


@rule("R75")
async def missing_ones_are_skipped(w: World) -> None:
    sent = await w.send("original")
    some = {"chat_id": GROUP, "from_chat_id": USER, "message_ids": [sent["message_id"], 90]}
    for method in ("copyMessages", "forwardMessages"):
        assert len((await w.call(method, **some)).result) == 1
        assert (await w.call(method, **{**some, "message_ids": [90]})).result == []
        assert (await w.call(method, **{**some, "message_ids": [2, 1]})).status == 400


refuses("R76", 400, "Bad Request: message to react not found", "setMessageReaction", message_id=9, reaction=[])
refuses("R77", 400, "Bad Request: message to pin not found", "pinChatMessage", message_id=9)


@rule("R78")
async def callback_queries_are_answered_once_and_soon(w: World) -> None:
    too_old = "Bad Request: query is too old and response timeout expired or query ID is invalid"
    sent = await w.send(reply_markup=NOT_EMPTY_MARKUP)
    await w.refused(400, too_old, "answerCallbackQuery", callback_query_id="1")
    query_id = w.state.press(w.private, sent["message_id"], "c:1")
    assert (await w.call("answerCallbackQuery", callback_query_id=query_id)).result is True
    await w.refused(400, too_old, "answerCallbackQuery", callback_query_id=query_id)
    query_id = w.state.press(w.private, sent["message_id"], "c:1")
    w.state.clock.move(3600)
    await w.refused(400, too_old, "answerCallbackQuery", callback_query_id=query_id)


def limited(**limits: Any) -> SimulatorSettings:
    return msgspec.structs.replace(QUIET, flood=FloodSettings(**limits))


@rule("R79", limited(private_per_s=10, private_burst=1))
async def a_short_wait_is_latency(w: World) -> None:
    await w.send("one")
    begin = time.monotonic()
    await w.send("two")
    assert time.monotonic() - begin > 0.05


@rule("R80", limited(private_per_s=0.1, private_burst=1))
async def a_long_wait_is_429_at_once(w: World) -> None:
    await w.send("one")
    answer = await w.refused(429, "Too Many Requests: retry after 10", "sendMessage", chat_id=USER, text="two")
    assert answer.json["parameters"] == {"retry_after": 10}
    assert answer.headers["Retry-After"] == "10"
    assert w.texts() == ["one"]


@rule("R81", limited(private_per_s=10, private_burst=1, held_s=0.25))
async def those_behind_fail_together_and_other_chats_go_on(w: World) -> None:
    answers = await asyncio.gather(*(w.call("sendMessage", chat_id=USER, text=str(n)) for n in range(7)))
    refused = [answer.json["parameters"] for answer in answers if answer.status == 429]
    assert refused == [{"retry_after": 1}] * 4
    assert len(w.texts()) == 3
    assert (await w.call("sendMessage", chat_id=USER, text="closed")).status == 429
    await w.send(chat_id=GROUP)


@rule("R82", limited(private_per_s=0.1, private_burst=2, group_per_minute=1, group_burst=1))
async def sends_and_edits_share_a_budget(w: World) -> None:
    target = {"chat_id": USER, "message_id": (await w.send())["message_id"]}
    assert (await w.call("editMessageText", **target, text="two")).status == 200
    assert (await w.call("editMessageText", **target, text="three")).status == 429
    assert (await w.call("deleteMessage", **target)).result is True
    await w.send(chat_id=GROUP)
    assert (await w.call("sendMessage", chat_id=GROUP, text="two")).json["parameters"] == {"retry_after": 60}


@rule("R83", limited(private_per_s=2, private_burst=1, unsent_per_chat=1, overload_pause_s=0.05))
async def too_many_unsent_in_a_chat(w: World) -> None:
    answers = await asyncio.gather(*(w.call("sendMessage", chat_id=USER, text=str(n)) for n in range(3)))
    assert sorted(answer.status for answer in answers) == [200, 200, 429]
    assert w.refusals == ["Too Many Requests: retry after 60"]


@rule("R84", limited(active_per_bot=1, overload_pause_s=0.05))
async def too_many_active_of_a_bot(w: World) -> None:
    answers = await asyncio.gather(*(w.call("getUpdates", timeout=1) for _ in range(1)), *(later(w) for _ in range(1)))
    assert [answer.status for answer in answers] == [200, 429]
    assert w.refusals == ["Too Many Requests: retry after 60"]


async def later(w: World) -> Answer:
    """Call while another request is under way, then let that one end."""
    await until(lambda: w.bot.n_active > 0)
    answer = await w.call("getMe")
    w.state.write_as_user(w.private, "end of poll")
    return answer


@rule("R85", limited(new_tokens_per_minute=2))
async def too_many_new_tokens(w: World) -> None:
    statuses = [(await w.request(f"/bot{number}:A/getMe")).status for number in (1, 2, 3, 1)]
    assert statuses == [200, 200, 429, 200]
    w.state.clock.move(61)
    assert (await w.request("/bot3:A/getMe")).status == 200


@rule("R86", limited(private_per_s=0.1, private_burst=1))
async def what_was_refused_was_not_done(w: World) -> None:
    first = await w.send("one")
    assert (await w.call("sendMessage", chat_id=USER, text="two")).status == 429
    w.state.clock.move(10)
    assert (await w.send("two"))["message_id"] == first["message_id"] + 1
    assert [entry.text for entry in w.state.truth] == ["one", "two"]


@rule("R87")
async def no_polling_beside_a_webhook(w: World) -> None:
    await w.call("setWebhook", url="http://127.0.0.1:9/nowhere")
    answer = await w.call("getUpdates")
    assert (answer.status, answer.json["description"]) == (409, RULES["R87"]["expect"])
    await w.call("deleteWebhook")
    assert (await w.call("getUpdates")).result == []


@rule("R88")
async def only_one_poller(w: World) -> None:
    delays = []
    for _ in range(2):
        first = asyncio.create_task(w.call("getUpdates", timeout=30))
        await until(lambda: w.bot.n_active == 1)
        begin = time.monotonic()
        second = asyncio.create_task(w.call("getUpdates", timeout=30))
        assert (await first).status == 409
        delays.append(time.monotonic() - begin)
        w.state.write_as_user(w.private, "hello")
        updates = (await second).result
        assert [update["message"]["text"] for update in updates] == ["hello"]
        await w.call("getUpdates", offset=updates[-1]["update_id"] + 1)
    assert delays[0] < 0.15 < delays[1]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


@rule("R89")
async def two_webhooks_within_a_second(w: World) -> None:
    hook = {"url": "http://127.0.0.1:9/nowhere"}
    assert (await w.call("setWebhook", **hook)).result is True
    await w.refused(429, "Too Many Requests: retry after 1", "setWebhook", **hook)


@asynccontextmanager
async def endpoint(answers: list[web.Response]) -> AsyncIterator[tuple[str, list[Any]]]:
    """A bot's webhook endpoint that gives ``answers`` in turn; yields its URL and what it received."""
    received: list[Any] = []

    async def take(request: web.BaseRequest) -> web.Response:
        assert request.headers["X-Telegram-Bot-Api-Secret-Token"] == "s3"
        received.append(json.loads(await request.read())["message"]["text"])
        return answers.pop(0) if answers else web.Response()

    runner = web.ServerRunner(web.Server(take), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/", received
    await runner.cleanup()


@rule("R90")
async def an_endpoint_may_answer_a_method(w: World) -> None:
    reply = {"method": "sendMessage", "chat_id": USER, "text": "from the endpoint"}
    async with endpoint([web.json_response({"method": "logOut"}), web.json_response(reply)]) as (url, _):
        await w.call("setWebhook", url=url, secret_token="s3")
        w.state.write_as_user(w.private, "one")
        w.state.write_as_user(w.private, "two")
        await until(lambda: "from the endpoint" in w.texts())
    assert w.bot.state == "running"


@rule("R91")
async def updates_are_repeated_in_order_until_taken(w: World) -> None:
    async with endpoint([web.Response(status=500), web.Response(status=503)]) as (url, received):
        await w.call("setWebhook", url=url, secret_token="s3")
        w.state.write_as_user(w.private, "one")
        w.state.write_as_user(w.private, "two")
        await until(lambda: len(received) == 4)
    assert received == ["one", "one", "one", "two"]


@rule("R92")
async def private_chats_and_groups_share_the_bots_counter(w: World) -> None:
    other = w.state.dialog(w.bot, 502)
    ids = [(await w.send())["message_id"], (await w.send(chat_id=GROUP))["message_id"]]
    ids += [w.state.write_as_user(other, "in").message_id]
    await w.call("pinChatMessage", chat_id=USER, message_id=ids[0])
    ids += [(await w.send(chat_id=502))["message_id"]]
    assert ids == [1, 2, 3, 5]


@rule("R93")
async def supergroups_count_for_themselves(w: World) -> None:
    second_bot = w.state.bot(777)
    seen_by_other = w.state.dialog(second_bot, SUPERGROUP)
    ids = [(await w.send(chat_id=SUPERGROUP))["message_id"]]
    ids += [w.state.write_as_user(seen_by_other, "in").message_id, (await w.send(chat_id=SUPERGROUP))["message_id"]]
    assert ids == [2, 3, 4]
    assert (await w.send())["message_id"] == 1


@rule("R94")
async def an_id_may_be_zero(w: World) -> None:
    w.state.faults.add(Fault(action="message_id_0"))
    assert (await w.send("scheduled"))["message_id"] == 0
    assert w.texts() == ["scheduled"]


@rule("R95")
async def a_dropped_connection_stops_nothing(w: World) -> None:
    w.state.faults.add(Fault(action="hold", seconds=0.1))
    host, port = w.simulator.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /bot{TOKEN}/sendMessage?chat_id={USER}&text=x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    await until(lambda: not w.state.faults.queue)
    writer.close()
    await writer.wait_closed()
    await until(lambda: w.texts() == ["x"])


@rule("R96")
async def deleted_at_once(w: World) -> None:
    w.state.faults.add(Fault(action="deleted_at_once"))
    description = "Internal Server Error: sent message was immediately deleted and can't be returned"
    await w.refused(500, description, "sendMessage", chat_id=USER, text="x")
    assert w.texts() == []
    assert [entry.kind for entry in w.state.truth] == ["send"]


def form(field: str, body: bytes, **fields: Any) -> aiohttp.FormData:
    data = aiohttp.FormData({"chat_id": str(USER)} | {name: str(value) for name, value in fields.items()})
    data.add_field(field, body, filename="1.ogg", content_type="audio/ogg")
    return data


async def uploaded(w: World, method: str, field: str, body: bytes = b"OggS", **fields: Any) -> Any:
    return (await w.request(f"/bot{TOKEN}/{method}", data=form(field, body, **fields))).result


@rule("R97")
async def files_are_uploaded(w: World) -> None:
    text = await w.send()
    for method, field in (("sendVoice", "voice"), ("sendAudio", "audio"), ("sendDocument", "document")):
        message = await uploaded(w, method, field, caption="<b>x</b>", parse_mode="HTML", reply_to_message_id=text["message_id"])
        assert (message[field]["file_size"], message[field]["mime_type"]) == (4, "audio/ogg")
        assert (message["caption"], message["caption_entities"][0]["type"]) == ("x", "bold")
        assert message["reply_to_message"]["message_id"] == text["message_id"]
        served = await w.request(f"/sim/files/{message[field]['file_id']}", "GET")
        assert (served.status, served.body) == (200, b"OggS")
        entry = list(w.state.truth)[-1]
        assert (entry.media, entry.file_id, entry.reply_to) == (field, message[field]["file_id"], text["message_id"])
    attached = await uploaded(w, "sendVoice", "other", voice="attach://other")
    assert attached["voice"]["file_size"] == 4


@rule("R98")
async def a_file_is_sent_again_by_its_id(w: World) -> None:
    first = await uploaded(w, "sendAudio", "audio", title="A call")
    again = (await w.call("sendAudio", chat_id=GROUP, audio=first["audio"]["file_id"])).result
    assert again["audio"] == first["audio"]
    assert first["audio"]["title"] == "A call"


@rule("R99")
async def a_file_id_is_one_bots(w: World) -> None:
    file_id = (await uploaded(w, "sendAudio", "audio"))["audio"]["file_id"]
    w.state.dialog(w.state.bot(99), USER)
    other = await w.request("/bot99:AAA/sendAudio", json={"chat_id": USER, "audio": file_id})
    assert other.status == 400
    await w.refused(400, "Bad Request: wrong file identifier/HTTP URL specified", "sendAudio", chat_id=USER, audio="x")


@rule("R100")
async def a_file_stays_what_it_is(w: World) -> None:
    file_id = (await uploaded(w, "sendVoice", "voice"))["voice"]["file_id"]
    description = "Bad Request: can't use file of type Voice as Document"
    await w.refused(400, description, "sendDocument", chat_id=USER, document=file_id)


refuses("R101", 400, "Bad Request: there is no voice in the request", "sendVoice")


@rule("R102")
async def a_url_is_taken(w: World) -> None:
    message = (await w.call("sendVoice", chat_id=USER, voice="https://example.com/1.ogg")).result
    served = await w.request(f"/sim/files/{message['voice']['file_id']}", "GET")
    assert served.status == 404


@rule("R103")
async def too_large(w: World) -> None:
    answer = await w.request(f"/bot{TOKEN}/sendVoice", data=form("voice", bytes(media.UPLOAD_LIMIT + 1)))
    assert (answer.status, answer.json["description"]) == (413, "Request Entity Too Large")
    empty = await w.request(f"/bot{TOKEN}/sendVoice", data=form("voice", b""))
    assert (empty.status, empty.json["description"]) == (400, "Bad Request: file must be non-empty")


refuses("R104", 400, "Bad Request: message caption is too long", "sendVoice", voice="https://x.example/1", caption="x" * 1025)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "CONFLICT_PAUSE_S", 0.2)
    monkeypatch.setattr(media, "UPLOAD_LIMIT", 1024)
    monkeypatch.setattr("callgram_simulator.webhook.FIRST_RETRY_S", 0.01)


@pytest.mark.parametrize("rule_id", sorted(CASES))
def test_rule(rule_id: str) -> None:
    case, settings = CASES[rule_id]

    async def obey() -> list[str]:
        async with world(settings) as w:
            await case(w)
            return w.refusals

    refusals = asyncio.run(obey())
    expected = RULES[rule_id]["expect"].lower()
    if RULES[rule_id]["http"] in (400, 401, 403, 404, 409, 500):
        assert any(says(expected, refusal.lower()) for refusal in refusals), (refusals, expected)


def says(expected: str, refusal: str) -> bool:
    """Whether the rule's own words hold the refusal, up to where they write ``{group|channel}`` or ``<CAPS_CODE>``."""
    stem = expected.partition("{")[0].partition("<caps")[0]
    return refusal in expected or (stem != expected and refusal.startswith(stem)) or refusal.endswith(expected)


def test_every_rule_has_a_case_or_a_reason() -> None:
    assert set(CASES) | set(NOT_SIMULATED) == set(RULES)
    assert not set(CASES) & set(NOT_SIMULATED)
    assert set(CASES) >= MUST
