"""Request bodies as hosts really send them: read tolerantly, and refused only with an answer that helps the sender."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from callgram.errors import IngestError
from callgram.events import MAX_FIELD, POSTED, Event, Kind, read_event, read_wire, text_of, token_of

NOON = datetime(2025, 11, 29, 12, 0, tzinfo=UTC)
DEEP = 60_000  # below the limit of a body, far beyond what a decoder can nest

INCOMING_DIAL = {
    "Token": "375290000001",
    "UniqueId": "1757840000.6",
    "Phone": "375296254070",
    "Extensions": ["150", "151", "152"],
    "CallType": 0,
    "Trunk": "0001363",
    "ExtTrunk": "",
    "ExtPhone": "375296254070",
}


def read(body: Any, kind: Kind = Kind.DIAL) -> Event:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_event(kind, raw, enterprise="0367", received_at=NOON)


def refusal(body: bytes) -> IngestError:
    with pytest.raises(IngestError) as caught:
        read_wire(body)
    return caught.value


def test_a_dial_of_an_old_host_is_read_as_it_is_spelt() -> None:
    event = read(INCOMING_DIAL)
    assert (event.unique_id, event.phone, event.extensions) == ("1757840000.6", "375296254070", ("150", "151", "152"))
    assert (event.call_type, event.trunk, event.linked_id, event.status) == (0, "0001363", "", "")
    assert json.loads(event.raw) == INCOMING_DIAL  # ExtTrunk and whatever else nobody reads is kept


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        pytest.param({"CallType": "1"}, "call_type", 1, id="CallType as text"),
        pytest.param({"CallType": 2.0}, "call_type", 2, id="CallType as a float"),
        pytest.param({"CallType": ""}, "call_type", None, id="empty CallType"),
        pytest.param({"CallType": 7}, "call_type", None, id="unknown CallType"),
        pytest.param({"CallType": None}, "call_type", None, id="CallType null"),
        pytest.param({"CallStatus": 2}, "status", "2", id="CallStatus as a number"),
        pytest.param({"CallStatus": ""}, "status", "", id="empty CallStatus"),
        pytest.param({"UniqueId": 1757840000.6}, "unique_id", "1757840000.6", id="UniqueId as a number"),
        pytest.param({"UniqueId": "pbx1-1795362627.0"}, "unique_id", "pbx1-1795362627.0", id="UniqueId with a name"),
        pytest.param({"UniqueId": ""}, "unique_id", "", id="bridge_create has no UniqueId"),
        pytest.param({"Linkedid": "1757840000.6"}, "linked_id", "1757840000.6", id="Linkedid"),
        pytest.param({"MainUniqueId": "1757840000.6"}, "main_id", "1757840000.6", id="MainUniqueId"),
        pytest.param({"BridgeUniqueid": "6513270e-269e"}, "bridge_id", "6513270e-269e", id="BridgeUniqueid"),
        pytest.param({"Phone": 375296254070}, "phone", "375296254070", id="Phone as a number"),
        pytest.param({"Phone": "<unknown>"}, "phone", "", id="Phone <unknown>"),
        pytest.param({"Phone": "Anonymous"}, "phone", "Anonymous", id="Phone Anonymous is for the number plan to read"),
        pytest.param({"Extensions": ["150", 151]}, "extensions", ("150", "151"), id="Extensions of two types"),
        pytest.param({"Extensions": [""]}, "extensions", (), id="nobody answered"),
        pytest.param({"Extensions": "150,151"}, "extensions", ("150", "151"), id="Extensions as one text"),
        pytest.param({"Extensions": ["150&151&150"]}, "extensions", ("150", "151"), id="Extensions as a dial string"),
        pytest.param({"Extensions": 150}, "extensions", ("150",), id="Extensions as a number"),
        pytest.param({"Extensions": None}, "extensions", (), id="Extensions null"),
        pytest.param({"ExternalInitiated": True}, "external", True, id="ExternalInitiated"),
        pytest.param({"ExternalInitiated": "false"}, "external", False, id="ExternalInitiated as text"),
        pytest.param({"CallerIDNum": "<unknown>"}, "caller_num", "", id="CallerIDNum"),
        pytest.param({"CallerIDName": "<Unknown>"}, "caller_name", "", id="CallerIDName in any case"),
        pytest.param({"ConnectedLineNum": "151"}, "connected_num", "151", id="ConnectedLineNum"),
        pytest.param({"ConnectedLineName": 'Иван "И" <1>'}, "connected_name", 'Иван "И" <1>', id="a name with markup"),
        pytest.param({"HangupCause": 16}, "cause", "16", id="HangupCause"),
        pytest.param({"Cause": "17", "HangupCause": 16}, "cause", "17", id="Cause before HangupCause"),
        pytest.param({"CauseTxt": "Normal Clearing"}, "cause_text", "Normal Clearing", id="CauseTxt"),
        pytest.param({"StartTime": ""}, "start_time", "", id="an internal call has no StartTime"),
        pytest.param({"Billsec": [{"any": 1}]}, "phone", "", id="an unknown field of any shape"),
        pytest.param({}, "unique_id", "", id="nothing at all"),
    ],
)
def test_no_type_is_trusted(body: dict[str, Any], field: str, value: object) -> None:
    assert getattr(read(body), field) == value


@pytest.mark.parametrize(
    ("body", "name"),
    [
        pytest.param('{"Token":"1","CallerIDName":"Ив\\ud800ан"}'.encode(), "Ив\ufffdан", id="lone high surrogate"),
        pytest.param(b'{"Token":"1","CallerIDName":"a\\uDFFFb"}', "a\ufffdb", id="lone low surrogate"),
        pytest.param(b'{"Token":"1","CallerIDName":"\\ud83d\\ude00"}', "\U0001f600", id="a pair is a character"),
        pytest.param(b'{"Token":"1","CallerIDName":"a\\\\ud800"}', "a\\ud800", id="a backslash, escaped"),
        pytest.param(b'{"Token":"1","CallerIDName":"a\xffb"}', "a\ufffdb", id="a byte that is no UTF-8"),
        pytest.param(b'{"Token":"1","CallerIDName":"\xc8\xe2\xe0\xed"}', "\ufffd" * 4, id="Windows-1251"),
        pytest.param(b'{"Token":"1","CallerIDName":"a\\u0000b"}', "ab", id="NUL"),
        pytest.param(b'{"Token":"1","CallerIDName":"\\u0000"}', "", id="nothing but NUL"),
    ],
)
def test_a_broken_caller_name_does_not_lose_the_call(body: bytes, name: str) -> None:
    assert token_of(read_wire(body)) == "1"
    assert read(body).caller_name == name


def test_ten_thousand_characters_of_a_field_are_kept_and_the_body_whole() -> None:
    exact, long = "я" * MAX_FIELD, "я" * (MAX_FIELD + 1)
    assert read({"CallerIDName": exact}).caller_name == exact
    event = read({"CallerIDName": long})
    assert event.caller_name == exact
    assert json.loads(event.raw)["CallerIDName"] == long


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        pytest.param(b"", 400, None, id="empty"),
        pytest.param(b"{", 400, None, id="cut short"),
        pytest.param(b"Token=375290000001&Phone=1", 400, None, id="a form"),
        pytest.param(b"{'Token': '1'}", 400, None, id="Python's quotes"),
        pytest.param(b'{"Token": NaN}', 400, None, id="NaN"),
        pytest.param(b"\xff\xfe", 400, None, id="not even text"),
        pytest.param(b"[1,", 400, None, id="an array cut short"),
        pytest.param(b'{"Phone":{"a":1},"x"', 400, None, id="a wrong field, then cut short"),
        pytest.param(b"null", 422, None, id="null"),
        pytest.param(b"[]", 422, None, id="an array"),
        pytest.param(b'"text"', 422, None, id="a text"),
        pytest.param(b"7", 422, None, id="a number"),
        pytest.param(b'{"Phone": {"number": 1}}', 422, "Phone", id="an object where text is due"),
        pytest.param(b'{"Token": ["1"]}', 422, "Token", id="a list where text is due"),
        pytest.param(b'{"CallerIDName": []}', 422, "CallerIDName", id="the field as the host spells it"),
        pytest.param(b'{"Phone": {}, "CallerIDName": "\\ud800"}', 422, "Phone", id="and a lone surrogate"),
    ],
)
def test_a_refusal_says_what_is_wrong_with_the_body(body: bytes, status: int, field: str | None) -> None:
    error = refusal(body)
    assert (error.status, error.field) == (status, field)
    assert field is None or field in str(error)


def test_a_refusal_names_the_list_whose_item_cannot_be_read() -> None:
    error = refusal(b'{"Extensions": [["150"]]}')
    assert error.status == 422
    assert str(error.field).startswith("Extensions")


def test_a_refusal_never_repeats_what_was_sent() -> None:
    error = refusal(b'{"Token": ["375290000001"], "Phone": "375296254070"}')
    assert "37529" not in str(error)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * DEEP, id="arrays"),
        pytest.param(b'{"x":' + b"[" * DEEP, id="arrays in an unknown field"),
        pytest.param(b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"}", id="whole arrays in an unknown field"),
        pytest.param(b'{"Extensions":' + b"[" * DEEP, id="arrays in Extensions"),
        pytest.param(b'{"x":' * 10_000, id="objects"),
    ],
)
def test_a_body_nested_too_deeply_is_refused(body: bytes) -> None:
    assert refusal(body).status in {400, 422}


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(b"1" + b"0" * 400, id="400 digits"),
        pytest.param(b"1" + b"0" * 4_200, id="4 200 digits"),
        pytest.param(b"1" + b"0" * 5_000, id="more digits than Python turns to text"),
        pytest.param(b"1e308", id="the largest float"),
        pytest.param(b"1e400", id="more than a float holds"),
        pytest.param(b"-1e400", id="less than a float holds"),
    ],
)
@pytest.mark.parametrize("field", [b"Token", b"UniqueId", b"CallType", b"Unheard"])
def test_a_number_of_any_size_is_read_or_refused(field: bytes, number: bytes) -> None:
    only_ingest_errors(b'{"' + field + b'":' + number + b"}")


finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), finite, st.text(max_size=20))
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["Token", "UniqueId", "CallType", "Phone", "Extensions", "Channel", "CallerIDName", "Other"])


def refused_or_read(body: bytes) -> IngestError | Event:
    try:
        return read(body, Kind.HANGUP)
    except IngestError as error:
        return error


def only_ingest_errors(body: bytes) -> None:
    """Read or refused, and nothing else raised; what was read can be stored."""
    found = refused_or_read(body)
    if isinstance(found, IngestError):
        assert found.status in {400, 422}
        assert str(found)
        return
    assert found.raw == body
    assert found.call_type in {None, 0, 1, 2}
    for value in (found.unique_id, found.phone, found.caller_name, *found.extensions):
        assert "\0" not in value
        assert len(value) <= MAX_FIELD
        value.encode()  # raises for a lone surrogate


@given(st.binary(max_size=200))
@example(b"[1,")
@example(b'"a\xff')
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    only_ingest_errors(body)


unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no bug


@unhurried
@given(st.dictionaries(names, anything, max_size=6), st.booleans())
def test_any_json_object_is_read_or_refused(body: dict[str, Any], ascii_only: bool) -> None:
    only_ingest_errors(json.dumps(body, ensure_ascii=ascii_only).encode())


@unhurried
@given(st.dictionaries(names, anything, max_size=4), st.integers(0, 120), st.binary(max_size=4))
def test_any_damaged_json_is_read_or_refused(body: dict[str, Any], cut: int, patch: bytes) -> None:
    raw = json.dumps(body).encode()
    only_ingest_errors(raw[:cut] + patch + raw[cut + len(patch) :])
    only_ingest_errors(raw[:cut])


@given(st.text(st.characters(codec=None), max_size=30))
@example("\ud800")
@example("\\\ud800")
@example("\udfff\ud800")
def test_any_name_with_surrogates_is_read(name: str) -> None:
    event = read(json.dumps({"Token": "1", "CallerIDName": name}).encode(), Kind.BRIDGE)
    event.caller_name.encode()
    assert "\0" not in event.caller_name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(None, "", id="null"),
        pytest.param("  x ", "x", id="spaces around"),
        pytest.param("UNKNOWN", "", id="unknown"),
        pytest.param(5, "5", id="int"),
        pytest.param(5.0, "5", id="whole float"),
        pytest.param(5.5, "5.5", id="float"),
        pytest.param(0, "0", id="zero is told"),
        pytest.param(True, "True", id="bool"),
    ],
)
def test_a_scalar_as_text(value: object, text: str) -> None:
    assert text_of(value) == text


def test_every_posted_kind_can_be_read_and_times_are_utc() -> None:
    minsk = NOON.astimezone(timezone(timedelta(hours=3)))
    for kind in POSTED:
        event = read_event(kind, b"{}", enterprise="0367", received_at=minsk, event_id=4)
        assert (event.kind, event.id, event.enterprise) == (kind, 4, "0367")
        assert event.received_at == NOON
        assert event.received_at.tzinfo is UTC
    assert Kind.TIMER not in POSTED
