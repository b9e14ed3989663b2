"""The life of a message: what a chat shows of a call from its first second to its end, and in which order it changes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from ..serve import until
from .harness import Office, Program, Telegram, new_office
from .recordings import as_new_call, capture, is_final, read_final, scenario

CALL = {"UniqueId": "1757840000.6", "Phone": "375296254070", "CallType": 0, "Trunk": "0001363"}
MANAGER = {
    "UniqueId": "1757840000.8",
    "BridgeUniqueid": "9d8f8a0e-3d56-4d7c-8a3e-2f3f4e1f0a01",
    "Channel": "SIP/151-00000009",
    "Exten": "",
    "CallerIDNum": "151",
    "ConnectedLineNum": "375296254070",
}
CLIENT = MANAGER | {
    "UniqueId": "1757840000.6",
    "Channel": "SIP/0001363-00000006",
    "CallerIDNum": "375296254070",
    "ConnectedLineNum": "151",
}
HANGUP = CALL | {
    "Extensions": ["151"],
    "CallStatus": "2",
    "StartTime": "2025-09-14 12:05:23",
    "EndTime": "2025-09-14 12:06:01",
}

START = "📞 Входящий звонок\n💰+375 (29) 625-40-70"
DIAL = f"{START}\n☎️150\n☎️151"
BRIDGE = "☎️151 📞⬅️ 💰+375 (29) 625-40-70\n⏱"  # and since when
ENDED = "✅Успешный входящий звонок"


def life(telegram: Telegram, office: Office, chat: int) -> list[tuple[str, int, str]]:
    """What happened in a chat: ``[(send, edit or delete, message, text)]``; messages count from 0 in order of appearance."""
    entries = telegram.truth(office.bot, chat)
    order = list(dict.fromkeys(entry.message_id for entry in entries))
    return [(entry.kind, order.index(entry.message_id), timeless(entry.text or "")) for entry in entries]


def timeless(text: str) -> str:
    """Without the time of day since when somebody talks."""
    return re.sub(r"⏱с \d\d:\d\d:\d\d", "⏱", text)


def step(program: Program, office: Office, kind: str, fields: dict[str, Any]) -> None:
    program.tell(office, kind, **fields)
    program.settled(office)


def test_each_stage_is_sent_first_and_then_the_stages_that_it_replaces_are_deleted(
    program: Program, office: Office, telegram: Telegram
) -> None:
    step(program, office, "start", CALL)
    step(program, office, "dial", CALL | {"Extensions": ["150", "151"]})
    step(program, office, "bridge", MANAGER)
    step(program, office, "bridge", CLIENT)
    step(program, office, "hangup", HANGUP)
    for chat in office.chats:
        seen = life(telegram, office, chat)
        assert seen[:-2] == [
            ("send", 0, START),
            ("send", 1, DIAL),
            ("delete", 0, ""),
            ("send", 2, BRIDGE),
            ("delete", 1, ""),
        ]
        assert [(kind, message) for kind, message, _ in seen[-2:]] == [("send", 3), ("delete", 2)]
        final = seen[-2][2].split("\n")
        assert final[:4] == [ENDED, "💰+375 (29) 625-40-70", "☎️151", "📡0001363"]
        assert re.fullmatch(r"⏰\d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d", final[4])
        assert re.fullmatch(r"⌛Разговор 0:\d\d", final[5])
        assert telegram.texts(office.bot, chat) == ["\n".join(final)]


def test_a_hangup_replaces_the_start_of_a_caller_who_gave_up_in_the_greeting(
    program: Program, office: Office, telegram: Telegram
) -> None:
    step(program, office, "start", CALL)
    step(program, office, "hangup", CALL | {"Extensions": [""], "CallStatus": "1"})
    for chat in office.chats:
        seen = life(telegram, office, chat)
        assert [(kind, message) for kind, message, _ in seen] == [("send", 0), ("send", 1), ("delete", 0)]
        assert seen[1][2].startswith("❌Пропущенный входящий звонок\n💰+375 (29) 625-40-70\n📡0001363\n⏰")


def test_a_start_with_a_dial_right_behind_it_is_never_sent(
    program: Program, special: dict[str, Office], telegram: Telegram
) -> None:
    office = special["held"]
    ids = CALL | {"UniqueId": "1757840001.6"}
    program.tell(office, "start", **ids)
    program.tell(office, "dial", **ids, Extensions=["150", "151"])
    program.settled(office)
    for chat in office.chats:
        assert life(telegram, office, chat)[:1] == [("send", 0, DIAL)]
    skipped = [line for line in program.trace(office) if line.what == "skip" and line.unique_id == "1757840001.6"]
    assert {(line.chat_id, line.stage, line.text) for line in skipped} >= {
        (chat, "start", "held") for chat in office.chats
    }


def test_a_start_without_a_dial_appears_once_it_has_been_held(
    program: Program, special: dict[str, Office], telegram: Telegram
) -> None:
    office, client = special["held"], "375296254071"
    posted = time.time()
    program.tell(office, "start", **CALL | {"UniqueId": "1757840002.6", "Phone": client})
    text = "📞 Входящий звонок\n💰+375 (29) 625-40-71"

    def sent() -> list[float]:
        return [one.at for one in telegram.truth(office.bot) if one.kind == "send" and one.text == text]

    moments = until(lambda: len(sent()) >= len(office.chats) and sent(), "the start appears in every chat")
    assert all(1.0 <= at - posted < 2.5 for at in moments), [at - posted for at in moments]


def test_the_next_step_of_a_cascade_edits_the_message_that_says_who_rings(
    program: Program, office: Office, telegram: Telegram
) -> None:
    step(program, office, "start", CALL)
    step(program, office, "dial", CALL | {"Extensions": ["150"]})
    step(program, office, "dial", CALL | {"Extensions": ["152", "153"]})
    for chat in office.chats:
        assert life(telegram, office, chat) == [
            ("send", 0, START),
            ("send", 1, f"{START}\n☎️150"),
            ("delete", 0, ""),
            ("edit", 1, f"{START}\n☎️152\n☎️153"),
        ]


def test_a_repeated_dial_changes_nothing(program: Program, office: Office, telegram: Telegram) -> None:
    dial = CALL | {"Extensions": ["150"]}
    step(program, office, "dial", dial)
    step(program, office, "dial", dial | {"Sent": "again"})
    for chat in office.chats:
        assert [kind for kind, _, _ in life(telegram, office, chat)] == ["send"]


def test_in_edit_mode_one_message_changes_from_stage_to_stage(
    program: Program, special: dict[str, Office], telegram: Telegram
) -> None:
    office = special["edit"]
    step(program, office, "start", CALL)
    step(program, office, "dial", CALL | {"Extensions": ["150", "151"]})
    step(program, office, "bridge", MANAGER)
    step(program, office, "bridge", CLIENT)
    step(program, office, "hangup", HANGUP)
    for chat in office.chats:
        seen = life(telegram, office, chat)
        assert seen[:3] == [("send", 0, START), ("edit", 0, DIAL), ("edit", 0, BRIDGE)]
        assert [(kind, message) for kind, message, _ in seen[3:]] == [("edit", 0)]
        (text,) = telegram.texts(office.bot, chat)
        assert text.startswith(f"{ENDED}\n")


def test_an_enterprise_can_have_its_messages_in_english(
    program: Program, special: dict[str, Office], telegram: Telegram
) -> None:
    office = special["english"]
    step(program, office, "dial", CALL | {"Extensions": ["150"]})
    step(program, office, "hangup", CALL | {"Extensions": [""], "CallStatus": "0"})
    for chat in office.chats:
        (text,) = telegram.texts(office.bot, chat)
        assert text.startswith("❌Missed incoming call\n💰+375 (29) 625-40-70\n☎️150\n📡0001363\n⏰")


def test_an_outgoing_call_shows_who_calls_whom(program: Program, office: Office, telegram: Telegram) -> None:
    dial, *rest = scenario("outgoing-answered")
    program.play([(office, [dial])])
    program.settled(office)
    client = "💰+375 (29) 625-40-70"
    for chat in office.chats:
        assert telegram.texts(office.bot, chat) == [f"📞 Исходящий звонок\n☎️151 ➡️ {client}"]
    program.play([(office, rest[:5])])
    program.settled(office)
    for chat in office.chats:
        assert [timeless(text) for text in telegram.texts(office.bot, chat)] == [f"☎️151 📞➡️ {client}\n⏱"]
    program.play([(office, rest[5:])])
    program.settled(office)
    for chat in office.chats:
        (text,) = telegram.texts(office.bot, chat)
        assert text.startswith(f"✅Успешный исходящий звонок\n{client}\n☎️151\n")


def test_more_than_four_ringing_phones_fold_into_an_expandable_quote(
    program: Program, office: Office, telegram: Telegram
) -> None:
    step(program, office, "dial", CALL | {"Extensions": ["150", "151", "152", "153"]})
    step(program, office, "dial", CALL | {"Extensions": ["150", "151", "152", "153", "154"]})
    for chat in office.chats:
        plain, folded = telegram.truth(office.bot, chat)
        assert plain.entities == ()
        assert [entity.type for entity in folded.entities] == ["expandable_blockquote"]
        assert folded.text is not None
        assert folded.text.endswith("☎️150\n☎️151\n☎️152\n☎️153\n☎️154")


def test_hostile_names_and_numbers_stay_text(program: Program, office: Office, telegram: Telegram) -> None:
    hostile = '<b>151</b> & "x" </a>'
    step(program, office, "dial", CALL | {"Phone": hostile, "Extensions": ["150", hostile]})
    step(
        program,
        office,
        "hangup",
        CALL | {"Phone": hostile, "Extensions": [hostile], "Trunk": hostile, "CallStatus": "2"},
    )
    failed = program.sql(
        "SELECT op, outcome, reason FROM telegram_actions WHERE enterprise = $1 AND outcome <> 'ok'", office.number
    )
    assert failed == []
    for chat in office.chats:
        (text,) = telegram.texts(office.bot, chat)
        assert f"📡{hostile}" in text


def test_two_calls_of_one_client_at_the_same_time_have_a_message_each(
    program: Program, office: Office, telegram: Telegram
) -> None:
    """Also when the number is spelt in two ways, and the second call begins before the first one's hangup arrives."""
    first, second = CALL, CALL | {"UniqueId": "1757840000.60", "Phone": "+375296254070"}
    step(program, office, "dial", first | {"Extensions": ["150"]})
    step(program, office, "dial", second | {"Extensions": ["151"]})
    for chat in office.chats:
        assert telegram.texts(office.bot, chat) == [f"{START}\n☎️150", f"{START}\n☎️151"]
    step(program, office, "hangup", first | {"Extensions": [""], "CallStatus": "0"})
    for chat in office.chats:
        left, ended = telegram.texts(office.bot, chat)
        assert left == f"{START}\n☎️151"
        assert is_final(ended)
    step(program, office, "hangup", second | {"Extensions": [""], "CallStatus": "0"})
    for chat in office.chats:
        finals = [read_final(text) for text in telegram.texts(office.bot, chat)]
        assert [final and (final.result, final.client) for final in finals] == [("missed", "375296254070")] * 2


def test_a_dial_that_arrives_behind_the_bridge_does_not_bring_ringing_back(
    program: Program, office: Office, telegram: Telegram
) -> None:
    step(program, office, "bridge", MANAGER)
    step(program, office, "bridge", CLIENT)
    step(program, office, "dial", CALL | {"Extensions": ["150", "151"]})
    for chat in office.chats:
        assert [timeless(text) for text in telegram.texts(office.bot, chat)] == [BRIDGE]
    step(program, office, "hangup", HANGUP)
    step(program, office, "start", CALL)
    for chat in office.chats:
        (text,) = telegram.texts(office.bot, chat)
        assert text.startswith(f"{ENDED}\n")


def test_a_chat_that_refuses_messages_delays_no_other_chat(
    program: Program, office: Office, telegram: Telegram
) -> None:
    from callgram_simulator.chats import ChatState

    blocked, *others = office.chats

    def block(state: Any) -> None:
        state.dialog(state.bot(office.bot), blocked).state = ChatState.BLOCKED

    telegram.ask(block)
    program.play([(office, as_new_call(capture("asterisk16-classic/in_answered"), "375296254070", 1757849999))])
    program.settled(office)
    assert telegram.texts(office.bot, blocked) == []
    for chat in others:
        (text,) = telegram.texts(office.bot, chat)
        assert is_final(text)
    listed = program.cli("subscriber", "list", office.number).stdout
    assert "suspended" in listed
    assert listed.count(" ok") == len(others)


def blocked(program: Program, office: Office) -> set[int]:
    return {line.chat_id for line in program.trace(office) if line.text.startswith("blocked: Unauthorized")}


def test_a_revoked_token_suspends_the_bot_until_a_new_one_is_given(
    make_program: Callable[..., Program], telegram: Telegram
) -> None:
    program, office = make_program(), new_office()
    program.expected_errors = [f"bot {office.bot} is suspended: Unauthorized"]
    program.start()
    program.add([office])
    new = f"{office.bot}:ANOTHER-secret"
    program.secrets |= {new}

    def revoke(state: Any) -> None:
        state.bot(office.bot).token = new

    telegram.ask(revoke)
    program.play([(office, scenario("incoming-missed"))])
    until(lambda: f"bot {office.bot} is suspended: Unauthorized" in program.log, "it is said loudly")
    listed = program.cli("subscriber", "list", office.number).stdout
    assert listed.count("bot suspended: Unauthorized") == len(office.chats)
    until(lambda: blocked(program, office) == set(office.chats), "the trace tells why nothing came")

    n_said = program.log.count("is suspended")
    assert program.cli("subscriber", "resume", office.number, "0").stdout == "resumed\n"
    until(lambda: program.log.count("is suspended") > n_said, "the old token is of no use, and that is said again")
    given = program.cli("enterprise", "add", office.number, "--bot-token", new)
    assert f"bot {office.bot} is suspended. Next: callgram subscriber resume {office.number} 0\n" in given.stdout

    def resumed(chat: int) -> list[str]:
        program.cli("subscriber", "resume", office.number, "0")  # again where serve still had the old token
        return telegram.texts(office.bot, chat)

    for chat in office.chats:
        (text,) = until(lambda chat=chat: resumed(chat), "what was due comes")
        assert is_final(text)
    assert "suspended" not in program.cli("subscriber", "list", office.number).stdout
