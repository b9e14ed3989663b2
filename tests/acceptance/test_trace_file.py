"""The trace file: what came in and what was done, complete and in order, as the tracer's own parser reads it."""

from __future__ import annotations

import json

from callgram.telegram.api import plain_text
from callgram_tracer import parse_line

from .harness import SUPERUSER, Office, Program, Telegram
from .recordings import as_new_call, capture, scenario

RECORDINGS = ("incoming-answered", "incoming-cascade", "outgoing-line-failover", "internal-answered")


def play(program: Program, office: Office) -> None:
    calls = [as_new_call(scenario(name), f"37529625407{at}", 1757850000 + at) for at, name in enumerate(RECORDINGS)]
    calls.append(capture("asterisk22-pjsip/odd_names"))
    program.play([(office, call) for call in calls])
    program.settled(office)


def test_every_executed_send_edit_and_delete_is_there_once_and_in_order(
    program: Program, office: Office, telegram: Telegram
) -> None:
    play(program, office)
    lines = [line for line in program.trace(office) if line.source == "TG"]
    assert {line.what for line in lines} <= {"send", "edit", "delete", "skip"}
    for chat in (*office.chats, SUPERUSER):
        done = [(one.kind, one.message_id, one.text or "") for one in telegram.truth(office.bot, chat)]
        told = [line for line in lines if line.chat_id == chat and line.what != "skip"]
        assert [(line.what, line.message_id) for line in told] == [(kind, message) for kind, message, _ in done]
        for line, (kind, _, text) in zip(told, done, strict=True):
            assert line.stage in {"start", "dial", "bridge", "hangup"}
            assert plain_text(line.text) == text, kind
    assert {line.chat_id for line in lines if line.what != "skip"} == {*office.chats, SUPERUSER}


def test_every_event_is_there_once_in_the_order_of_its_commit_and_without_the_token(
    program: Program, office: Office
) -> None:
    play(program, office)
    stored = [json.loads(body) for body in program.stored(office)]
    assert all(body["Token"] == office.token for body in stored)
    events = [line for line in program.trace(office) if line.source == "AST"]
    assert [json.loads(line.body) for line in events] == [body | {"Token": "***"} for body in stored]
    assert [line.unique_id for line in events] == [body["UniqueId"] for body in stored]
    times = [line.at for line in events]
    assert times == sorted(times)
    text = program.trace_text(office)
    assert not [secret for secret in program.secrets if secret in text]


def test_hostile_values_neither_break_a_line_nor_change(program: Program, office: Office) -> None:
    hostile = 'a|b\\c\nd\re\u2028f\x07g"h</b>'
    event = {
        "UniqueId": hostile,
        "Phone": "375296254070",
        "CallType": 0,
        "CallerIDName": hostile,
        "Extensions": ["150"],
    }
    program.tell(office, "dial", **event)
    program.settled(office)
    lines = program.trace(office)
    assert len(program.trace_text(office).splitlines()) == len(lines)
    (line,) = [line for line in lines if line.source == "AST"]
    assert line.unique_id == hostile
    assert json.loads(line.body) == {"Token": "***", **event}
    assert {line.unique_id for line in lines if line.what == "send"} == {hostile}


def test_a_body_that_is_not_utf8_is_kept_byte_for_byte(program: Program, office: Office) -> None:
    body = (
        b'{"Token": "' + office.token.encode() + b'", "UniqueId": "1757840000.6", "CallerIDName": "\xcf\xe0\xf8\xe0"}'
    )
    assert program.post("new_callerid", body).status == 200
    (line,) = program.trace(office)
    assert line.body == body.replace(office.token.encode(), b"***")


def test_a_trace_file_can_be_replayed_as_another_enterprise(
    program: Program, office: Office, other_office: Office, telegram: Telegram
) -> None:
    program.play([(office, scenario("incoming-answered"))])
    program.settled(office)
    program.trace(office)
    path = program.work / "call_tracer" / office.number / "events.log"
    done = program.cli("replay", str(path), "--url", program.url, "--speed", "40", "--token", other_office.token)
    assert (done.returncode, done.stdout) == (0, "10 events posted, 0 refused\n")
    program.settled(other_office)
    for chat in other_office.chats:
        (text,) = telegram.texts(other_office.bot, chat)
        assert text.startswith("✅Успешный входящий звонок\n💰+375 (29) 625-40-70\n☎️151\n📡0001363\n")


def test_every_line_of_every_trace_file_can_be_read(program: Program) -> None:
    for path in (program.work / "call_tracer").glob("*/events.log*"):
        text = path.read_text("utf-8", "surrogateescape")
        for line in text.split("\n")[:-1]:
            assert parse_line(line).what
