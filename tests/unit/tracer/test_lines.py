"""A line of the trace is one line whatever is in it, and gives back what was put in."""

import json
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callgram import Action, Event, Kind, Op, Stage
from callgram_tracer import Line, LineError, parse_line
from callgram_tracer.lines import HALF, action_line, escape, event_line, unescape

MINSK = ZoneInfo("Europe/Minsk")
AT = datetime(2025, 11, 29, 12, 26, 33, 859_999, UTC).astimezone(MINSK)
ANY = st.text(st.characters(), max_size=60)  # surrogates too
NASTY = "a|b\\c\nd\re\x85f\u2028g\u2029h\x0bi\x0cj\0k\x1bl\\n\\u0085"


def event(raw: bytes, unique_id: str = "1764429992.120") -> Event:
    return Event(enterprise="0367", kind=Kind.DIAL, received_at=AT, unique_id=unique_id, raw=raw)


def action(**given: Any) -> Action:
    values: dict[str, Any] = {
        "at": AT, "enterprise": "0367", "call_id": 1, "unique_id": "1764429992.120", "chat_id": 374573193, "bot_id": 7,
        "stage": Stage.HANGUP, "op": Op.SEND, "message_id": 12345, "text": "text",
    }  # fmt: skip
    return Action(**(values | given))


def line_of(one: Event | Action, text_limit: int = 300) -> str:
    return event_line(one, AT) if isinstance(one, Event) else action_line(one, AT, text_limit=text_limit)


@pytest.mark.parametrize(
    ("one", "line"),
    [
        pytest.param(
            event(b'{ "UniqueId": "1764429992.120",\n "Extensions": ["151"] }'),
            '2025-11-29 15:26:33,859|AST|dial|1764429992.120|{"UniqueId":"1764429992.120","Extensions":["151"]}\n',
            id="an event",
        ),
        pytest.param(
            action(), "2025-11-29 15:26:33,859|TG|send|374573193|hangup|12345|1764429992.120|text\n", id="a send"
        ),
        pytest.param(
            action(op=Op.EDIT, chat_id=-1001),
            "2025-11-29 15:26:33,859|TG|edit|-1001|hangup|12345|1764429992.120|text\n",
            id="an edit in a group",
        ),
        pytest.param(
            action(op=Op.DELETE),
            "2025-11-29 15:26:33,859|TG|delete|374573193|hangup|12345|1764429992.120|\n",
            id="a delete has no text",
        ),
        pytest.param(
            action(op=Op.SKIP, message_id=0, text="", reason="superseded by bridge", stage=Stage.DIAL),
            "2025-11-29 15:26:33,859|TG|skip|374573193|dial||1764429992.120|superseded by bridge\n",
            id="a skip",
        ),
        pytest.param(
            action(message_id=0, outcome="blocked", reason="403: bot was blocked"),
            "2025-11-29 15:26:33,859|TG|fail|374573193|hangup||1764429992.120|send: blocked: 403: bot was blocked\n",
            id="a failure",
        ),
    ],
)
def test_a_record_is_written_as_documented(one: Event | Action, line: str) -> None:
    assert line_of(one) == line


def test_a_written_line_is_read_back() -> None:
    assert parse_line(line_of(action())) == Line(
        at=datetime(2025, 11, 29, 15, 26, 33, 859_000),
        source="TG",
        what="send",
        chat_id=374573193,
        stage="hangup",
        message_id=12345,
        unique_id="1764429992.120",
        text="text",
    )


@given(ANY)
def test_any_text_survives_escaping_and_stays_in_its_field(text: str) -> None:
    escaped = escape(text)
    assert unescape(escaped) == text
    assert "|" not in escaped
    assert escaped.encode().decode().splitlines() in ([escaped], [])


@given(text=ANY, unique_id=ANY, limit=st.integers(0, 80))
def test_any_action_is_one_line_and_comes_back_cut_at_the_limit(text: str, unique_id: str, limit: int) -> None:
    line = line_of(action(text=text, unique_id=unique_id), limit)
    assert len(line.splitlines()) == 1
    read = parse_line(line.splitlines()[0])
    assert (read.unique_id, read.text) == (unique_id, text[:limit])


@given(reason=ANY, unique_id=ANY)
def test_the_reason_of_a_skip_comes_back_whole(reason: str, unique_id: str) -> None:
    read = parse_line(line_of(action(op=Op.SKIP, reason=reason, unique_id=unique_id), 1))
    assert (read.what, read.text, read.unique_id) == ("skip", reason, unique_id)


@given(
    body=st.dictionaries(
        st.text(max_size=8).filter(lambda key: key != "Token"),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=6,
        ),
        max_size=5,
    ),
    indent=st.none() | st.integers(0, 4),
    ascii_only=st.booleans(),
)
def test_any_json_body_is_one_line_and_the_same_value(
    body: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    line = line_of(event(json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode()))
    assert len(line.splitlines()) == 1
    read = parse_line(line)
    assert json.loads(read.body) == body
    assert line_of(event(read.body)) == line


@given(st.binary(max_size=60))
def test_a_body_of_any_bytes_is_one_line_and_restored(raw: bytes) -> None:
    line = line_of(event(raw))
    assert len(line.splitlines()) == 1
    assert parse_line(line).body == raw


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b'{"CallerIDName":"\xcf\xf0\xe8\xe2\xe5\xf2 | \\ "}', id="windows-1251"),
        pytest.param(b'{"CallerIDName":"\\ud83d"}', id="half an emoji"),
        pytest.param(b'{"CallerIDName":"a\nb"}', id="a raw newline in a string"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"!{}", id="looks escaped already"),
        pytest.param(b"\\u0085\\n\\\\", id="looks like escapes"),
    ],
)
def test_a_body_that_is_not_json_is_restored_to_the_byte(raw: bytes) -> None:
    assert parse_line(line_of(event(raw))).body == raw


def test_numbers_and_repeated_keys_stay_as_they_were_spelt() -> None:
    raw = b'{"UniqueId": 1764429992.120, "Phone": 1e3, "Phone": 375296254070000000000000}'
    assert parse_line(line_of(event(raw))).body == raw.replace(b" ", b"")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b'{"Token": "s3cret", "UniqueId": "1"}', id="text"),
        pytest.param(b'{"UniqueId":"1","Token":\n"s3cret"}', id="last"),
        pytest.param(b'{"Tok\\u0065n": "s3cret"}', id="key with an escape"),
        pytest.param(b'{"Token": "a\\"s3cret\\\\"}', id="quotes inside"),
        pytest.param(b'{"Token": "x", "Token": "s3cret"}', id="twice"),
        pytest.param(b'{"Token": "s3cret", "CallerIDName": "\xff"}', id="in a body that is not UTF-8"),
        pytest.param(b'{"Token": "s3cret', id="in half a body"),
    ],
)
def test_the_token_is_never_told(raw: bytes) -> None:
    line = line_of(event(raw))
    assert "s3cret" not in line
    assert '"***"' in line


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b'{"CallerIDName":"\\"Token\\": 5"}', id="the word in a name"),
        pytest.param(b'{"Tokens":"5","token":"6"}', id="other keys"),
    ],
)
def test_what_is_not_the_token_is_not_masked(raw: bytes) -> None:
    assert parse_line(line_of(event(raw))).body == raw


def test_a_numeric_token_is_masked_and_the_body_stays_json() -> None:
    line = line_of(event(b'{"Token": 375290000000, "CallType": 0}'))
    assert msgspec.json.decode(parse_line(line).body) == {"Token": "***", "CallType": 0}


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(event(f'{{"a":"{chr(0x85)}|x"}}'.encode(), NASTY), id="an event"),
        pytest.param(action(text=NASTY, unique_id=NASTY), id="an action"),
    ],
)
def test_a_line_cut_anywhere_and_closed_off_is_refused(one: Event | Action) -> None:
    data = line_of(one).encode()
    for length in range(1, len(data)):
        half = (data[:length] + HALF.encode()).decode("utf-8", "surrogateescape")
        with pytest.raises(LineError):
            parse_line(half)


def test_an_event_cut_anywhere_is_refused_even_without_the_mark() -> None:
    data = line_of(event(b'{"Phone":"+375296254070","Extensions":["151","152"]}')).removesuffix("\n")
    for length in range(len(data)):
        with pytest.raises(LineError):
            parse_line(data[:length])


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("", id="empty"),
        pytest.param("2025-11-29 15:26:33,859", id="only a time"),
        pytest.param("2025-13-29 15:26:33,859|TG|send|1|dial|2|u|t", id="no such month"),
        pytest.param("2025-11-29 15:26:33,859|XX|send|1|dial|2|u|t", id="other source"),
        pytest.param("2025-11-29 15:26:33,859|TG|send|one|dial|2|u|t", id="a chat that is no number"),
        pytest.param("2025-11-29 15:26:33,859|TG|send|1|dial|2|u|t|v", id="a field too many"),
        pytest.param("2025-11-29 15:26:33,859|TG|send|1|dial|2|u|a\\qb", id="no such escape"),
        pytest.param("2025-11-29 15:26:33,859|AST|dial|u|!\\ud800", id="a surrogate that is no byte"),
        pytest.param("2025-11-29 15:26:33,859|AST|dial|u|[1]", id="a body that is no object"),
    ],
)
def test_what_is_no_line_is_refused_by_name(line: str) -> None:
    with pytest.raises(LineError):
        parse_line(line)


def test_the_time_is_that_of_the_zone() -> None:
    at = datetime(2025, 11, 29, 22, 0, 0, 1000, UTC).astimezone(MINSK)
    assert event_line(event(b"{}"), at)[:23] == "2025-11-30 01:00:00,001"
    assert event_line(event(b"{}"), at.replace(microsecond=0))[:23] == "2025-11-30 01:00:00,000"
