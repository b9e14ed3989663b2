"""Hostile text: whatever comes in any field, every stage of every shipped plugin draws a readable, valid message."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import callgram_bridge
import callgram_dial
import callgram_hangup
import callgram_internal
import callgram_start
from callgram import Call, Enrichment, Kind, Stage
from callgram.events import read_event
from callgram.testing import lab

from .traffic import BEGAN, DATA

STAGES = [
    pytest.param(callgram_start, "incoming-answered", Stage.START, id="start"),
    pytest.param(callgram_dial, "incoming-answered", Stage.DIAL, id="dial incoming"),
    pytest.param(callgram_dial, "outgoing-answered", Stage.DIAL, id="dial outgoing"),
    pytest.param(callgram_bridge, "incoming-blind-transfer-answered", Stage.BRIDGE, id="bridge"),
    pytest.param(callgram_hangup, "incoming-answered", Stage.HANGUP, id="hangup answered"),
    pytest.param(callgram_hangup, "incoming-missed", Stage.HANGUP, id="hangup missed"),
    pytest.param(callgram_internal, "internal-answered", Stage.HANGUP, id="internal"),
]
NASTY = [
    pytest.param('<b>&"\'</b><a href="tg://user?id=1">x</a>', id="markup"),
    pytest.param("a\nb\r\nc\u2028d\u2029e\x0bf", id="newlines"),
    pytest.param("\u202eevil\u202c\u2066x\u2069\u200f", id="bidi"),
    pytest.param("ы" * 10_000, id="long"),
    pytest.param("\0\x01\x1b[31m\x7f\x9b", id="control"),
    pytest.param("&lt;i&gt;&#60;", id="entities"),
    pytest.param("{who}{time}%s%(x)s{0.__class__}", id="templates"),
    pytest.param("e\u0301" * 500 + "\U0001f1e7\U0001f1fe" * 200, id="marks and flags"),
    pytest.param("]]>--><!--", id="comments"),
]


def tampered(name: str, text: str, fields: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
    told = json.loads((DATA / "scenarios" / f"{name}.json").read_text("utf-8"))
    return [
        (event["path"].strip("/"), event["body"] | {field: text for field in fields if event["body"].get(field)})
        for event in told["events"]
    ]


def readable(text: str) -> None:
    """Valid Telegram HTML of our own tags only, within the limits, with nothing in it that a phone cannot show."""
    tags = re.findall(r"<[^>]*>", text)
    assert all(re.fullmatch(r'</?blockquote( expandable)?>|</a>|<a href="[^"<>]*">', tag) for tag in tags), tags
    assert re.search(r"&(?!amp;|lt;|gt;|quot;|#x27;)", text) is None
    assert len(html.unescape(re.sub(r"<[^>]*>", "", text))) <= 4096
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text) is None
    text.encode()


def shown(plugin: Any, name: str, stage: Stage, text: str, fields: tuple[str, ...]) -> str:
    room = lab(plugin)
    call: Call = room.calls(*tampered(name, text, fields))[0]
    numbers = {call.client, call.caller, call.line, *call.rung, *call.talkers} - {""}
    named = msgspec.structs.replace(
        call, names=dict.fromkeys(numbers, text), recording_link=f"https://x.example/{text}"
    )
    message = room.render(named, stage)
    assert message is not None
    return message.html


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize(("plugin", "name", "stage"), STAGES)
def test_hostile_names_and_fields_stay_text(plugin: Any, name: str, stage: Stage, text: str) -> None:
    readable(shown(plugin, name, stage, text, ("CallerIDName", "ConnectedLineName", "Trunk", "Context")))


@pytest.mark.parametrize(("plugin", "name", "stage"), STAGES)
def test_any_text_anywhere_stays_text(plugin: Any, name: str, stage: Stage) -> None:
    @settings(max_examples=25, derandomize=True, database=None, deadline=None)
    @given(
        text=st.text(max_size=300), fields=st.sampled_from([("CallerIDName",), ("Trunk",), ("Phone",), ("Channel",)])
    )
    def stays(text: str, fields: tuple[str, ...]) -> None:
        room = lab(plugin)
        for call in room.calls(*tampered(name, text, fields)):
            message = room.render(msgspec.structs.replace(call, names={call.client: text}), stage)
            readable(message.html if message else "")

    stays()


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        pytest.param(r"Clara \"C\" O\'Neil", 'Clara "C" O\'Neil', id="escaped once"),
        pytest.param(r"Clara \\\"C\\\" O\\'Neil", 'Clara "C" O\'Neil', id="escaped twice, as PJSIP does"),
        pytest.param(r"ООО \\\\Рога\\\\", r"ООО \\Рога\\", id="backslashes"),
        pytest.param("O'Neil", "O'Neil", id="nothing to do"),
    ],
)
def test_a_name_is_read_without_the_escapes_of_asterisk(sent: str, read: str) -> None:
    body = json.dumps({"Token": "t", "UniqueId": "1.1", "CallerIDName": sent}).encode()
    event = read_event(Kind.NEW_CALLERID, body, enterprise="0367", received_at=BEGAN)
    assert event.caller_name == read


def test_lone_surrogates_and_nul_are_no_reason_to_lose_a_call() -> None:
    body = rb'{"Token": "t", "UniqueId": "1.1", "CallerIDName": "A\ud83d\u0000B", "Phone": "375296254070"}'
    event = read_event(Kind.START, body, enterprise="0367", received_at=BEGAN)
    assert event.caller_name == "A\ufffdB"
    assert Enrichment(names={"1": event.caller_name}).names["1"].encode()
