"""Enterprises do not see each other: not in chats, not in traces, not in calls, whatever their hosts have in common."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from .harness import SUPERUSER, Office, Program, Telegram, new_office
from .recordings import as_new_call, capture, read_final, scenario

ONE, OTHER = "375296250001", "375296250002"


def clients(texts: list[str]) -> list[str]:
    return sorted(final.client for final in map(read_final, texts) if final)


def test_equal_channel_ids_at_the_same_time_stay_two_calls(
    program: Program, office: Office, other_office: Office, telegram: Telegram
) -> None:
    epoch = 1757860000
    for name in ("incoming-attended-transfer", "outgoing-from-crm"):
        recording, epoch = scenario(name), epoch + 1
        program.play(
            [(office, as_new_call(recording, ONE, epoch)), (other_office, as_new_call(recording, OTHER, epoch))]
        )
    program.settled(office, other_office)
    for mine, own, foreign in ((office, ONE, OTHER), (other_office, OTHER, ONE)):
        for chat in (*mine.chats, SUPERUSER):
            texts = telegram.texts(mine.bot, chat)
            assert clients(texts) == [own, own]
            assert len(texts) == 2
        assert telegram.chats(mine.bot) == {*mine.chats, SUPERUSER}
        trace = program.trace(mine)
        assert all(foreign not in line.text and foreign.encode() not in line.body for line in trace)
        assert {line.chat_id for line in trace if line.source == "TG" and line.what != "skip"} == {
            *mine.chats,
            SUPERUSER,
        }
        calls = program.sql("SELECT facts FROM calls WHERE enterprise = $1 AND absorbed_into IS NULL", mine.number)
        assert len(calls) == 2
        assert all(foreign.encode() not in row["facts"] and own.encode() in row["facts"] for row in calls)


def test_two_enterprises_can_share_a_bot_and_its_chats(program: Program, telegram: Telegram) -> None:
    first = new_office()
    second = msgspec.structs.replace(new_office(), bot_token=first.bot_token, chats=first.chats)
    program.add([first, second])
    recording = capture("asterisk22-pjsip/in_answered.agent")
    program.play(
        [(first, as_new_call(recording, ONE, 1757861000)), (second, as_new_call(recording, OTHER, 1757861000))]
    )
    program.settled(first, second)
    for chat in (*first.chats, SUPERUSER):
        texts = telegram.texts(first.bot, chat)
        assert clients(texts) == [ONE, OTHER]
        assert len(texts) == 2
    for mine, foreign in ((first, OTHER), (second, ONE)):
        assert all(foreign not in line.text and foreign.encode() not in line.body for line in program.trace(mine))


def test_the_superuser_gets_the_messages_of_everybody_and_once(program: Program, telegram: Telegram) -> None:
    among = new_office()
    among = msgspec.structs.replace(among, chats=(*among.chats, SUPERUSER))
    beside = new_office()
    program.add([among, beside])
    program.play([(office, scenario("incoming-missed")) for office in (among, beside)])
    program.settled(among, beside)
    for office in (among, beside):
        texts = telegram.texts(office.bot, SUPERUSER)
        assert clients(texts) == ["375296254070"]
        assert len(texts) == 1
        n_sent = [sum(one.kind == "send" for one in telegram.truth(office.bot, chat)) for chat in office.chats]
        assert set(n_sent) == {sum(one.kind == "send" for one in telegram.truth(office.bot, SUPERUSER))}


def test_no_secret_is_in_what_telegram_shows(program: Program, telegram: Telegram) -> None:
    """Over everything that all tests have made the shared program send: texts, buttons and links."""

    def shown(state: Any) -> list[str]:
        return [json.dumps(msgspec.to_builtins(one), ensure_ascii=False) for one in state.truth]

    entries = telegram.ask(shown)
    assert not [secret for secret in program.secrets for entry in entries if secret in entry]
