"""The action table: what each answer of the Bot API, or none, means for a send, an edit and a deletion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from callgram.telegram.outcome import Broken, Kind, Outcome, Reason, classify, op_of
from callgram.trace import Op

RULES = {rule["id"]: rule for rule in json.loads((Path(__file__).parents[2] / "data/bot-api-rules.json").read_text())}
SEND, EDIT, DELETE = Op.SEND, Op.EDIT, Op.DELETE
OK, REJECTED, FLOOD, AMBIGUOUS, SERVER = Kind.OK, Kind.REJECTED, Kind.FLOOD, Kind.AMBIGUOUS, Kind.SERVER


def refusal(code: int, description: str, **parameters: int) -> bytes:
    body: dict[str, Any] = {"ok": False, "error_code": code, "description": description}
    return msgspec.json.encode(body | ({"parameters": parameters} if parameters else {}))


def row(op: Op, status: int, description: str, kind: Kind, reason: Reason, name: str = "") -> Any:
    return pytest.param(op, status, description, kind, reason, id=f"{op}: {name or description[:50]}")


BAD = "Bad Request: "
TABLE = [
    row(EDIT, 400, BAD + "message is not modified: specified new message content", OK, Reason.DONE_ALREADY),
    row(EDIT, 400, BAD + "message to edit not found", REJECTED, Reason.GONE),
    row(EDIT, 400, BAD + "MESSAGE_ID_INVALID", REJECTED, Reason.GONE),
    row(DELETE, 400, BAD + "message to delete not found", OK, Reason.GONE),
    row(DELETE, 400, BAD + "MESSAGE_ID_INVALID", OK, Reason.GONE),
    row(DELETE, 400, BAD + "message can't be deleted for everyone", REJECTED, Reason.TOO_OLD),
    row(DELETE, 400, BAD + "message can't be deleted", REJECTED, Reason.TOO_OLD, "message can't be deleted"),
    row(EDIT, 400, BAD + "message can't be edited", REJECTED, Reason.NOT_EDITABLE),
    row(EDIT, 400, BAD + "there is no text in the message to edit", REJECTED, Reason.NOT_EDITABLE),
    row(SEND, 400, BAD + 'can\'t parse entities: Unsupported start tag "x"', REJECTED, Reason.CONTENT),
    row(SEND, 400, BAD + 'can\'t parse entities: tag "chat not found"', REJECTED, Reason.CONTENT, "quotes our text"),
    row(SEND, 400, BAD + "text must be non-empty", REJECTED, Reason.CONTENT),
    row(SEND, 400, BAD + "message text is empty", REJECTED, Reason.CONTENT),
    row(SEND, 400, BAD + "message is too long", REJECTED, Reason.CONTENT),
    row(EDIT, 400, BAD + "MESSAGE_TOO_LONG", REJECTED, Reason.CONTENT),
    row(SEND, 400, BAD + "BUTTON_DATA_INVALID", REJECTED, Reason.CONTENT),
    row(SEND, 400, BAD + "inline keyboard button URL 'http://x' is invalid", REJECTED, Reason.CONTENT),
    row(SEND, 400, BAD + "unsupported parse_mode", REJECTED, Reason.CONTENT),
    row(SEND, 413, "Request Entity Too Large", REJECTED, Reason.CONTENT),
    row(SEND, 403, "Forbidden: bot was blocked by the user", REJECTED, Reason.CHAT_DEAD),
    row(EDIT, 403, "Forbidden: user is deactivated", REJECTED, Reason.CHAT_DEAD),
    row(DELETE, 403, "Forbidden: bot was kicked from the group chat", REJECTED, Reason.CHAT_DEAD),
    row(SEND, 403, "Forbidden: bot is not a member of the channel chat", REJECTED, Reason.CHAT_DEAD),
    row(SEND, 403, "Forbidden: bot can't initiate conversation with a user", REJECTED, Reason.CHAT_DEAD),
    row(SEND, 403, "Forbidden: the group chat was deleted", REJECTED, Reason.CHAT_DEAD),
    row(SEND, 403, "Forbidden: in words of tomorrow", REJECTED, Reason.CHAT_DEAD),
    row(SEND, 400, BAD + "chat not found", REJECTED, Reason.CHAT_DEAD),
    row(SEND, 400, BAD + "PEER_ID_INVALID", REJECTED, Reason.CHAT_DEAD),
    row(SEND, 400, BAD + "CHAT_WRITE_FORBIDDEN", REJECTED, Reason.CHAT_DEAD),
    row(SEND, 400, BAD + "not enough rights to send text messages to the chat", REJECTED, Reason.CHAT_DEAD),
    row(SEND, 400, BAD + "have no write access to the chat", REJECTED, Reason.CHAT_DEAD),
    row(SEND, 400, BAD + "need administrator rights in the channel chat", REJECTED, Reason.CHAT_DEAD),
    row(SEND, 400, BAD + "CHAT_RESTRICTED", REJECTED, Reason.CHAT_DEAD),
    row(SEND, 400, BAD + "message thread not found", REJECTED, Reason.TOPIC),
    row(SEND, 400, BAD + "TOPIC_CLOSED", REJECTED, Reason.TOPIC),
    row(SEND, 400, BAD + "TOPIC_DELETED", REJECTED, Reason.TOPIC),
    row(SEND, 400, BAD + "message to be replied not found", REJECTED, Reason.REPLY),
    row(SEND, 401, "Unauthorized", REJECTED, Reason.TOKEN),
    row(SEND, 401, "Unauthorized: invalid token specified", REJECTED, Reason.TOKEN),
    row(SEND, 404, "Not Found", REJECTED, Reason.TOKEN),
    row(SEND, 421, "Misdirected Request", REJECTED, Reason.TOKEN),
    row(SEND, 400, "Logged out", REJECTED, Reason.TOKEN),
    row(DELETE, 404, "Not Found: method not found", REJECTED, Reason.UNKNOWN),
    row(SEND, 400, BAD + "PHASE_OF_THE_MOON_INVALID", REJECTED, Reason.UNKNOWN),
    row(SEND, 409, "Conflict: terminated by other getUpdates request", REJECTED, Reason.UNKNOWN),
    row(SEND, 500, "Internal Server Error: restart", AMBIGUOUS, Reason.SERVER),
    row(EDIT, 500, "Internal Server Error: restart", SERVER, Reason.SERVER),
    row(DELETE, 500, "Internal Server Error: restart", SERVER, Reason.SERVER),
    row(SEND, 502, "Bad Gateway", AMBIGUOUS, Reason.SERVER),
    row(
        SEND,
        500,
        "Internal Server Error: sent message was immediately deleted and can't be returned",
        OK,
        Reason.VANISHED,
    ),
    row(SEND, 200, BAD + "chat not found", REJECTED, Reason.CHAT_DEAD, "an emulator refuses with HTTP 200"),
]


@pytest.mark.parametrize(("op", "status", "description", "kind", "reason"), TABLE)
def test_a_refusal_means(op: Op, status: int, description: str, kind: Kind, reason: Reason) -> None:
    outcome = classify(op, status, refusal(400 if status == 200 else status, description), took_s=0.25)

    assert (outcome.kind, outcome.reason) == (kind, reason)
    assert outcome.description == description
    assert outcome.took_s == 0.25


@pytest.mark.parametrize("op", [SEND, EDIT, DELETE])
def test_a_migrated_chat_is_told_its_new_id(op: Op) -> None:
    words = BAD + "group chat was upgraded to a supergroup chat"

    moved = classify(op, 400, refusal(400, words, migrate_to_chat_id=-1001234567890))
    lost = classify(op, 400, refusal(400, words))

    assert (moved.kind, moved.reason, moved.migrate_to) == (Kind.MIGRATE, Reason.MOVED, -1001234567890)
    assert (lost.kind, lost.reason) == (REJECTED, Reason.CHAT_DEAD)


@pytest.mark.parametrize(
    ("op", "body", "kind", "wait"),
    [
        pytest.param(SEND, refusal(429, "Too Many Requests: retry after 7", retry_after=7), FLOOD, 7, id="send"),
        pytest.param(EDIT, refusal(429, "Too Many Requests: retry after 5", retry_after=5), FLOOD, 5, id="edit, 5 s"),
        pytest.param(
            DELETE, refusal(429, "Too Many Requests: retry after 5", retry_after=5), FLOOD, 5, id="delete, 5 s"
        ),
        pytest.param(
            SEND, refusal(429, "Too Many Requests: retry after 5", retry_after=5), AMBIGUOUS, 5, id="send, 5 s"
        ),
        pytest.param(SEND, refusal(429, "Too Many Requests: retry after 35"), FLOOD, 35, id="only in the words"),
        pytest.param(SEND, refusal(429, "Too Many Requests"), FLOOD, 5, id="no wait at all"),
        pytest.param(SEND, b"<html>429 Too Many Requests</html>", FLOOD, 5, id="html"),
        pytest.param(SEND, b"<html>slow down, retry after 12</html>", FLOOD, 12, id="html with a wait"),
    ],
)
def test_a_flood_says_how_long_to_wait(op: Op, body: bytes, kind: Kind, wait: float) -> None:
    outcome = classify(op, 429, body)

    assert (outcome.kind, outcome.reason, outcome.retry_after_s) == (kind, Reason.FLOOD, wait)


UNREADABLE = [
    pytest.param(502, b"<html><h1>502 Bad Gateway</h1></html>", id="502 html"),
    pytest.param(504, b"<html><h1>504 Gateway Time-out</h1></html>", id="504 html"),
    pytest.param(403, b"<html>this site is blocked</html>", id="403 html of a firewall"),
    pytest.param(403, b'{"error": "blocked by policy"}', id="403 json of a firewall"),
    pytest.param(302, b"", id="a captive portal"),
    pytest.param(200, b'{"ok":true,"result":{"message_', id="cut json"),
    pytest.param(200, b"", id="empty"),
    pytest.param(200, b"\xff\xfe", id="no text"),
    pytest.param(200, b"[]", id="another shape"),
    pytest.param(500, b'{"ok":true,"result":true}', id="ok with 500"),
]


@pytest.mark.parametrize(("status", "body"), UNREADABLE)
def test_an_answer_that_is_not_the_bot_apis_says_nothing_about_a_send(status: int, body: bytes) -> None:
    assert classify(SEND, status, body).kind is AMBIGUOUS
    assert classify(EDIT, status, body).kind is SERVER
    assert classify(DELETE, status, body).kind is SERVER


@pytest.mark.parametrize("what", ["TimeoutError", "ServerDisconnectedError", "ClientPayloadError"])
def test_only_a_send_that_left_is_ambiguous(what: str) -> None:
    assert classify(SEND, 0, Broken(what, left=True)).kind is AMBIGUOUS
    assert classify(EDIT, 0, Broken(what, left=True)).kind is SERVER
    assert classify(DELETE, 0, Broken(what, left=True)).kind is SERVER
    for op in (SEND, EDIT, DELETE):
        assert classify(op, 0, Broken(what, left=False)).kind is Kind.NOT_SENT


@pytest.mark.parametrize(
    ("op", "result", "reason", "message_id"),
    [
        pytest.param(SEND, b'{"message_id":12,"date":1,"chat":{"id":1}}', Reason.OK, 12, id="a message"),
        pytest.param(EDIT, b'{"message_id":12}', Reason.OK, 12, id="an edited message"),
        pytest.param(DELETE, b"true", Reason.OK, 0, id="a deletion"),
        pytest.param(SEND, b"true", Reason.NO_ID, 0, id="of another shape: executed all the same"),
        pytest.param(SEND, b'{"message_id":0}', Reason.NO_ID, 0, id="scheduled by the server"),
    ],
)
def test_success_is_success_whatever_the_result_looks_like(
    op: Op, result: bytes, reason: Reason, message_id: int
) -> None:
    assert classify(op, 200, b'{"ok":true,"result":' + result + b',"new":{}}') == Outcome(
        kind=OK, reason=reason, status=200, message_id=message_id
    )


OP_OF_AREA = {"send": SEND, "topic": SEND, "reply": SEND, "markup": SEND, "edit": EDIT, "delete": DELETE}
OUR_MISTAKES = {"R59", "R62", "R71", "R72"}
"""Requests without a message id or with too many: no words of Telegram's help there."""


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(rule, id=name)
        for name, rule in RULES.items()
        if rule["area"] in OP_OF_AREA and isinstance(rule["http"], int) and rule["http"] >= 400
    ],
)
def test_every_refusal_in_the_rules_is_understood(rule: dict[str, Any]) -> None:
    description = rule["expect"].partition(" + parameters")[0].replace("<CAPS_CODE>", "TOPIC_CLOSED")
    outcome = classify(OP_OF_AREA[rule["area"]], rule["http"], refusal(rule["http"], description))

    assert (outcome.reason is Reason.UNKNOWN) == (rule["id"] in OUR_MISTAKES)


def test_no_description_holds_a_token() -> None:
    token = "123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1"
    for text in (f"no route for /bot{token}/sendMessage", f"/bot{token.replace(':', '%3A')}/getMe"):
        for outcome in (
            classify(SEND, 404, refusal(404, text)),
            classify(SEND, 500, refusal(500, text)),
            classify(SEND, 429, refusal(429, text, retry_after=3)),
            classify(SEND, 400, refusal(400, text, migrate_to_chat_id=-5)),
            classify(SEND, 502, text.encode()),
            classify(SEND, 0, Broken(text, left=True)),
            classify(SEND, 0, Broken(text, left=False)),
        ):
            assert token[10:] not in repr(outcome)


@pytest.mark.parametrize(
    ("method", "op"),
    [
        ("sendMessage", SEND),
        ("copyMessage", SEND),
        ("forwardMessage", SEND),
        ("editMessageText", EDIT),
        ("editMessageReplyMarkup", EDIT),
        ("getMe", EDIT),
        ("deleteMessage", DELETE),
        ("deleteMessages", DELETE),
    ],
)
def test_only_what_makes_a_message_is_a_send(method: str, op: Op) -> None:
    assert op_of(method) is op
