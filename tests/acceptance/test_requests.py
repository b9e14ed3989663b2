"""What hosts may send, and what they are answered. 200 means that the event is stored; anything else that it is not."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import pytest

from ..serve import until
from .harness import Answer, Office, Program, Telegram
from .recordings import scenario

EVENT = {"UniqueId": "1757840000.6", "Phone": "375296254070", "CallType": 0, "Trunk": "0001363"}
KINDS = ("start", "dial", "bridge", "hangup", "bridge_create", "bridge_leave", "bridge_destroy", "new_callerid")


def raw(program: Program, request: bytes) -> bytes:
    """Everything that comes back for ``request`` before the connection is closed."""
    host, _, port = program.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        parts = []
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def refused(program: Program, office: Office, answer: Answer, status: int) -> Any:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/json"
    assert office.token.encode() not in answer.body
    assert program.stored(office) == []
    return answer.json


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_of_each_kind_is_answered_200_and_stored_as_it_came(
    program: Program, kind: str, office: Office
) -> None:
    body = json.dumps({"Token": office.token, "BridgeUniqueid": "b", "Новое": ["поле"], **EVENT}).encode()
    answer = program.post(kind, body)
    assert (answer.status, answer.json) == (200, {"ok": True})
    assert program.stored(office) == [body]
    program.settled(office)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"UniqueId=1757840000.6", id="a form"),
        pytest.param(b'{"Token": "1", "UniqueId": "1757840000.6"', id="cut off"),
        pytest.param(b"\x00\x01\x02", id="noise"),
    ],
)
def test_what_is_not_json_is_400(program: Program, office: Office, body: bytes) -> None:
    told = refused(program, office, program.post("start", body, ("Token", office.token)), 400)
    assert "JSON" in told["error"]


@pytest.mark.parametrize(
    "token",
    [pytest.param("nobody's", id="unknown"), pytest.param("", id="empty"), pytest.param(None, id="none")],
)
def test_an_unknown_token_is_403(program: Program, office: Office, token: str | None) -> None:
    body = EVENT | ({} if token is None else {"Token": token})
    told = refused(program, office, program.post("start", body), 403)
    assert told["field"] == "Token"
    assert not token or token not in told["error"]


def test_more_than_64_kib_are_413_announced_or_not(program: Program, office: Office) -> None:
    body = json.dumps({"Token": office.token, **EVENT, "Note": "x" * 65_536}).encode()
    refused(program, office, program.post("start", body), 413)
    chunked = b"POST /start HTTP/1.1\r\nHost: callgram\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunks = [body[at : at + 4096] for at in range(0, len(body), 4096)]
    chunked += b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    assert raw(program, chunked).startswith(b"HTTP/1.1 413 ")
    assert program.stored(office) == []
    at_most = json.dumps({"Token": office.token, "UniqueId": "1", "Note": ""}).encode()
    at_most = at_most.replace(b'""', b'"' + b"x" * (65_536 - len(at_most)) + b'"')
    assert len(at_most) == 65_536
    assert program.post("start", at_most).status == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param(b"[]", "", id="a list"),
        pytest.param(b'"start"', "", id="a text"),
        pytest.param(b'{"Phone": {"number": 1}}', "Phone", id="an object in a field"),
        pytest.param(b'{"Extensions": [["150"]]}', "Extensions", id="a list in a list"),
    ],
)
def test_what_is_no_event_is_422_and_the_field_is_named(
    program: Program, office: Office, body: bytes, field: str
) -> None:
    told = refused(program, office, program.post("dial", body, ("Token", office.token)), 422)
    assert told.get("field", "").startswith(field)
    assert field in told["error"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_is_405_and_post_is_offered(program: Program, office: Office, method: str) -> None:
    answer = program.request(method, "/start")
    refused(program, office, answer, 405)
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/", "/ring", "/start/1", "/hangups", "/timer"])
def test_an_unknown_path_is_404(program: Program, office: Office, path: str) -> None:
    answer = program.request("POST", path, json.dumps({"Token": office.token, **EVENT}).encode())
    assert answer.status == 404
    assert "no such route" in answer.json["error"]
    assert program.stored(office) == []


def test_numbers_nulls_and_single_values_are_read_as_old_hosts_send_them(
    program: Program, office: Office, telegram: Telegram
) -> None:
    dial = {"UniqueId": 1757840000.6, "Phone": 375296254070, "CallType": "0", "Trunk": 1363, "Extensions": "150"}
    program.tell(office, "dial", **dial, ExtPhone=None)
    program.tell(office, "hangup", **dial | {"CallStatus": "", "Extensions": None, "EndTime": 0})
    program.settled(office)
    for chat in office.chats:
        (text,) = telegram.texts(office.bot, chat)
        assert text.startswith("❌Пропущенный входящий звонок\n💰+375 (29) 625-40-70\n☎️150\n📡1363\n")


def test_headers_that_a_dialplan_repeats_are_taken(program: Program, office: Office) -> None:
    """As in captures/asterisk16-classic: curl sends Token and Content-Type two or three times."""
    headers = [("Token", office.token)] * 3 + [("Content-Type", "application/json")] * 2
    assert program.post("start", EVENT, *headers).json == {"ok": True}
    assert program.post("start", EVENT | {"Token": office.token}, ("Token", "another"), *headers).json == {"ok": True}
    assert len(program.stored(office)) == 2


def test_a_wrong_content_type_is_no_reason_to_lose_a_call(program: Program, office: Office) -> None:
    body = json.dumps({"Token": office.token, **EVENT}).encode()
    form = ("Content-Type", "application/x-www-form-urlencoded")
    assert program.request("POST", "/start", body, form).json == {"ok": True}


def test_an_exact_repetition_is_answered_200_and_stored_once(
    program: Program, office: Office, other_office: Office
) -> None:
    body = {"Token": office.token, **EVENT}
    assert program.post("start", body).json == {"ok": True}
    assert program.post("start", body).json == {"ok": True, "repeated": True}
    assert program.post("dial", body).json == {"ok": True}, "another kind is another event"
    assert program.post("start", body | {"Trunk": "0001364"}).json == {"ok": True}, "another body is another event"
    assert program.post("start", body | {"Token": other_office.token}).json == {"ok": True}, "or another enterprise's"
    assert len(program.stored(office)) == 3
    assert len(program.stored(other_office)) == 1


def test_repetitions_in_the_same_moment_are_stored_once(program: Program, office: Office) -> None:
    post = scenario("incoming-missed")[0]
    program.play([(office, [post])] * 20)
    assert len(program.stored(office)) == 1


def test_a_webhook_id_says_what_a_repetition_is(program: Program, office: Office) -> None:
    body = {"Token": office.token, **EVENT}
    assert program.post("start", body, ("webhook-id", "msg_1")).json == {"ok": True}
    assert program.post("start", body | {"Sent": 2}, ("webhook-id", "msg_1")).json == {"ok": True, "repeated": True}
    assert program.post("start", body, ("webhook-id", "msg_2")).json == {"ok": True}
    assert len(program.stored(office)) == 2


def test_one_connection_takes_many_events_and_a_refusal_between_them(program: Program, office: Office) -> None:
    def request(body: bytes, last: bool = False) -> bytes:
        head = b"POST /start HTTP/1.1\r\nHost: callgram\r\nContent-Length: %d\r\n" % len(body)
        return head + (b"Connection: close\r\n" if last else b"") + b"\r\n" + body

    bodies = [json.dumps({"Token": office.token, **EVENT, "Place": place}).encode() for place in range(3)]
    answers = raw(
        program, request(bodies[0]) + request(b"nonsense") + request(bodies[1]) + request(bodies[2], last=True)
    )
    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"200", b"400", b"200", b"200"]
    assert program.stored(office) == bodies


def test_a_host_that_hangs_up_before_the_answer_has_its_event_stored_and_served(
    program: Program, office: Office, telegram: Telegram
) -> None:
    """Senders wait 3 s and go on; what was read completely is an event all the same."""
    body = json.dumps({"Token": office.token, **EVENT, "Extensions": ["150"]}).encode()
    host, _, port = program.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /dial HTTP/1.1\r\nHost: callgram\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    until(lambda: program.stored(office) == [body], "the event is stored")
    program.settled(office)
    for chat in office.chats:
        assert telegram.texts(office.bot, chat) == ["📞 Входящий звонок\n💰+375 (29) 625-40-70\n☎️150"]
