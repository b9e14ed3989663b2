"""Hostile text from outside: in any field it arrives readable, and breaks no message, no trace line and no page."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callgram import Action, Event, Kind, Record
from callgram.events import read_event
from callgram.tracelines import action_line, event_line, parse_line
from callgram_simulator.markup import parse_html

from .calls.test_messages import ENGLISH, RUSSIAN, drawn
from .calls.traffic import BEGAN, Played, Posted, hostile, play, source, timed
from .details import test_page as pages
from .hostile import EVERY, FIELDS, Hostile

SHAPES = ("incoming-blind-transfer-answered", "incoming-missed", "outgoing-answered", "internal-answered")
LINK = "https://calls.example.com/r/1"
TELEGRAM_TEXT = 4096  # UTF-16 units after entity parsing at most (Bot API, sendMessage)
GARBAGE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f\ufeff\ud800-\udfff]")


def tampered(name: str, text: str, *fields: str) -> list[Posted]:
    """A scenario whose host puts ``text`` into ``fields`` of every event; ``Extensions`` is a list, as hosts send it."""
    given = {field: [text] if field == "Extensions" else text for field in fields}
    return [hostile(post, **given) for post in source(name).posts]


def messages(played: Played, **more: Any) -> Iterator[str]:
    """Everything that chats would show, in both languages."""
    for _, call, stage in played.silence().told:
        for locale in (RUSSIAN, ENGLISH):
            yield drawn(msgspec.structs.replace(call, **more) if more else call, stage, locale).html


def shown(html: str) -> str:
    """What a reader sees; raises where Telegram would refuse, or where something outside made markup of its own."""
    visible, entities = parse_html(html)
    for entity in entities:
        assert entity.type in {"blockquote", "expandable_blockquote", "text_link"}
        assert entity.url in {None, LINK}
    assert len(visible.encode("utf-16-le")) // 2 <= TELEGRAM_TEXT
    assert len(html.encode()) <= 32_768
    assert GARBAGE.search(visible) is None
    assert max(map(len, visible.split("\n"))) <= 400
    return visible


# Messages


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("name", SHAPES)
def test_whatever_a_host_puts_into_any_field_every_message_is_sound(name: str, text: Hostile) -> None:
    for field in FIELDS:
        for html in messages(play(timed(tampered(name, text.sent, field)), show=True)):
            shown(html)


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("name", SHAPES)
def test_names_of_any_kind_are_in_every_message_that_has_them(name: str, text: Hostile) -> None:
    played = play(timed(source(name).posts), show=True)
    for _, call, stage in played.told:
        numbers = {call.client, call.caller, call.line, *call.rung, *call.talkers} - {""}
        named = msgspec.structs.replace(call, names=dict.fromkeys(numbers, text.sent), recording_link=LINK)
        visible = shown(drawn(named, stage).html)
        assert text.seen.replace("\ufffd", "") in visible


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize(
    ("name", "field"),
    [("incoming-missed", "Phone"), ("incoming-missed", "Extensions"), ("incoming-missed", "Trunk"),
     ("outgoing-answered", "Phone"), ("outgoing-answered", "Trunk")],
)  # fmt: skip
def test_what_a_host_says_is_read_as_it_was_meant(name: str, field: str, text: Hostile) -> None:
    sent = text.sent.replace(",", "").replace("&", "")  # separate extensions (docs/events.md)
    seen = text.seen.replace(",", "").replace("&", "")
    if field != "Extensions":
        sent, seen = text
    *_, last = messages(play(timed(tampered(name, sent, field)), show=True))
    assert seen in shown(last)


@pytest.mark.parametrize("link", ["javascript:alert(1)", "https://x.example/\n", "//x", "\0"])
def test_only_a_web_address_becomes_a_link(link: str) -> None:
    for html in messages(play(timed(source("incoming-answered").posts), show=True), recording_link=link):
        assert "<a " not in html


@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(text=st.text(st.characters(), max_size=300), field=st.sampled_from(FIELDS), name=st.sampled_from(SHAPES))
def test_any_text_in_any_field_leaves_every_message_sound(text: str, field: str, name: str) -> None:
    for html in messages(play(timed(tampered(name, text, field)), show=True)):
        shown(html)


# Reading


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


# Trace lines


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "as it is"])
def test_a_trace_line_gives_every_field_back_to_the_last_sign(text: Hostile, ascii_only: bool) -> None:
    sent = text.sent if ascii_only else text.sent.encode("utf-8", "replace").decode()
    body = dict.fromkeys(FIELDS, sent) | {"Extensions": [sent], sent: sent}
    raw = json.dumps(body, ensure_ascii=ascii_only).encode()
    event = read_event(Kind.DIAL, raw, enterprise="0367", received_at=BEGAN)
    line = event_line(event, BEGAN)
    assert line.splitlines() == [line.removesuffix("\n")]
    back = parse_line(line)
    assert json.loads(back.body, strict=False) == body
    assert back.unique_id == event.unique_id


@pytest.mark.parametrize("text", EVERY)
def test_a_trace_line_gives_a_message_and_a_reason_back(text: Hostile) -> None:
    for action in pages.life_of([_event(text.sent)], ended=True):
        told = msgspec.structs.replace(action, text=text.sent, reason=text.sent, unique_id=text.sent)
        line = action_line(told, BEGAN, text_limit=20_000)
        assert line.splitlines() == [line.removesuffix("\n")]
        back = parse_line(line)
        assert back.unique_id == text.sent
        assert text.sent in back.text or (action.op == "delete" and back.text == "")


def _event(unique_id: str) -> Event:
    return Event(id=1, enterprise="0367", kind=Kind.START, received_at=BEGAN, unique_id=unique_id)


# The call's page


class Skeleton(HTMLParser):
    """Which elements a page has, each with the names of its attributes; and the text that it shows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: set[tuple[str, ...]] = set()
        self.targets: set[str] = set()
        self.words: list[str] = []
        self.odd: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add((tag, *sorted(name for name, _ in attrs)))
        self.targets |= {value or "" for name, value in attrs if name in {"href", "src", "action"}}

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.odd.append(data)

    def unknown_decl(self, data: str) -> None:
        self.odd.append(data)

    @property
    def text(self) -> str:
        return unicodedata.normalize("NFC", " ".join(" ".join(self.words).split()))


def page_of(text: str, *fields: str) -> Skeleton:
    """The page of a call of which a host tells ``text`` in ``fields``, and the plugins and Telegram in all of theirs."""
    posts = tampered("incoming-answered", text, *fields)
    numbers = dict.fromkeys(("375296254070", "151", "0001363", "150"), text.encode("utf-8", "replace").decode())
    found = ("names", {"UniqueId": posts[0].event(BEGAN, 1).unique_id, "names": numbers})
    file = pages.file_of(*((str(post.kind), json.loads(post.body)) for post in posts), found)
    records = [
        Record(cursor=record.cursor, item=msgspec.structs.replace(record.item, text=text, reason=text))
        if isinstance(record.item, Action)
        else record
        for record in file.records
    ]
    failed = {record.item.id: text for record in records if isinstance(record.item, Event)}
    return Skeleton(pages.drawn(msgspec.structs.replace(file, records=tuple(records), failed=failed)))


@cache
def known_elements() -> set[tuple[str, ...]]:
    """Those of pages on which nothing is hostile: a short text, a long one, and none."""
    told = [page_of(text, *FIELDS) for text in ("Иванов", "Иванов " * 1500, "151")]
    plain = [Skeleton(pages.drawn(pages.file_of(path))) for path in pages.SCENARIOS.glob("*.json")]
    assert all(not page.odd for page in (*told, *plain))
    return {element for page in (*told, *plain) for element in page.elements}


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("fields", [FIELDS[1:], FIELDS[:1]], ids=["all but the id", "the id"])
def test_a_call_page_shows_it_as_text_and_has_no_element_of_its_making(text: Hostile, fields: tuple[str, ...]) -> None:
    page = page_of(text.sent, *fields)
    assert page.elements <= known_elements()
    assert page.odd == []
    assert [target for target in page.targets if not re.match(r"(/|#|\?|$)", target)] == []
    assert " ".join(text.seen.split()) in page.text
    assert GARBAGE.search(page.text) is None
