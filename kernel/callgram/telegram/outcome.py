"""What became of a call to the Bot API: one table for everything it answers and every way in which it does not.

Pure. ``classify`` alone reads Telegram's words; whoever sends acts on ``Outcome.kind`` and ``.reason``.
Descriptions here carry no token: what looks like one is cut out, exceptions come in by their class name only.

Sources: Bot API server (tdlib/telegram-bot-api, Client.cpp ``fail_query_with_error``, Query.h ``PromiseDeleter``) and
tests/data/bot-api-rules.json, whose rule numbers (R..) are named below.
"""

from __future__ import annotations

import re
from enum import StrEnum
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

from callgram.trace import Op

DEFAULT_FLOOD_WAIT_S: Final = 5.0
SHUTDOWN_WAIT_S: Final = 5
"""R09: a server that shuts down answers what it drops with this ``retry_after``, be it executed or not."""


class Kind(StrEnum):
    """What to do next, before asking why."""

    OK = "ok"
    """It is as we wanted it, by this call or already before."""
    REJECTED = "rejected"
    """Not executed, and the same request never will be. ``reason`` says what to change, or what to give up."""
    FLOOD = "flood"
    """Not executed. The chat takes nothing for ``retry_after_s``."""
    MIGRATE = "migrate"
    """Not executed. Repeat with chat id ``migrate_to``, and remember it."""
    SERVER = "server"
    """An edit, a deletion or a question went wrong on their side or the way: repeat it, it does no harm."""
    NOT_SENT = "not_sent"
    """The request never left: repeat it."""
    AMBIGUOUS = "ambiguous"
    """A send that may have been executed, now or in minutes: repeating it may show the message twice."""


class Reason(StrEnum):
    """Why. The rows of the action table; a label of the metrics."""

    OK = "ok"
    NO_ID = "no_id"
    """Sent, but the answer names no usable message id (R94): it can never be edited or deleted."""
    VANISHED = "vanished"
    """Sent, and deleted at once by another bot of the group (R96)."""
    DONE_ALREADY = "done_already"
    GONE = "gone"
    """The message is not there (any more): what a deletion wanted, the end of an edit."""
    TOO_OLD = "too_old"
    """After 48 h, or not ours: edit it to its last words and forget it."""
    NOT_EDITABLE = "not_editable"
    CONTENT = "content"
    """The text or the keyboard is refused: repeat once as plain text."""
    FILE = "file"
    """The file is refused, or files of its kind are in this chat; texts are not."""
    CHAT_DEAD = "chat_dead"
    """Blocked, left, without rights: nothing will get into this chat until a person changes that."""
    TOPIC = "topic"
    REPLY = "reply"
    MOVED = "moved"
    TOKEN = "token"  # noqa: S105 - a label
    """The bot's token is wrong, revoked or logged out: no chat of the bot can be reached."""
    FLOOD = "flood"
    SERVER = "server"
    NOT_SENT = "not_sent"
    AMBIGUOUS = "ambiguous"
    UNKNOWN = "unknown"
    """Refused in words that nobody has met: permanent."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a call ended. ``status`` is HTTP's, 0 without an answer; ``took_s`` seconds from asking to knowing.

    ``message_id`` is what a send or an edit answered, 0 where there is none. ``description`` is Telegram's own wording,
    or the name of what broke; it is for people and never compared.
    """

    kind: Kind
    reason: Reason
    status: int = 0
    description: str = ""
    retry_after_s: float = 0.0
    migrate_to: int = 0
    message_id: int = 0
    took_s: float = 0.0

    @property
    def ok(self) -> bool:
        return self.kind is Kind.OK


class Broken(msgspec.Struct, frozen=True):
    """No whole answer came. ``left``: the request was on its way, so that it may have been executed."""

    what: str
    left: bool


class _Rule(NamedTuple):
    reason: Reason
    needles: tuple[str, ...] = ("",)
    status: int = 0


# Content stands first of those found by their words: its descriptions quote our text, which may hold any other needle.
_TABLE: Final = (
    _Rule(Reason.TOKEN, status=HTTPStatus.UNAUTHORIZED),
    _Rule(Reason.TOKEN, status=HTTPStatus.MISDIRECTED_REQUEST),
    _Rule(Reason.CHAT_DEAD, status=HTTPStatus.FORBIDDEN),
    _Rule(Reason.CONTENT, status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    _Rule(
        Reason.CONTENT,
        (
            "can't parse entities",
            "text must be non-empty",
            "message text is empty",
            "too long",
            "message_too_long",
            "button_",
            "inline keyboard button",
            "can't parse reply keyboard markup",
            "unsupported parse_mode",
            "must be encoded in utf-8",
        ),
    ),
    _Rule(
        Reason.FILE,
        (
            "wrong file identifier",
            "can't use file of type",
            "file must be non-empty",
            "there is no voice in the request",
            "there is no audio in the request",
            "there is no document in the request",
            "voice_messages_forbidden",
            "chat_send_",
            "not enough rights to send voice",
            "not enough rights to send music",
            "not enough rights to send audio",
            "not enough rights to send document",
        ),
    ),
    _Rule(Reason.DONE_ALREADY, ("message is not modified",)),
    _Rule(Reason.GONE, ("message to edit not found", "message to delete not found", "message_id_invalid")),
    _Rule(Reason.TOO_OLD, ("message can't be deleted",)),
    _Rule(Reason.NOT_EDITABLE, ("message can't be edited", "there is no text in the message")),
    _Rule(Reason.TOPIC, ("message thread not found", "topic_closed", "topic_deleted")),
    _Rule(Reason.REPLY, ("message to be replied not found",)),
    _Rule(Reason.TOKEN, ("logged out",)),
    _Rule(
        Reason.CHAT_DEAD,
        (
            "blocked",
            "deactivated",
            "kicked",
            "not a member",
            "can't initiate",
            "group chat was deleted",
            "upgraded to a supergroup",  # without the new id: with it the kind is MIGRATE
            "chat not found",
            "chat_id is empty",
            "peer_id_invalid",
            "chat_write_forbidden",
            "chat_admin_required",
            "chat_restricted",
            "channel_private",
            "not enough rights",
            "have no write access",
            "need administrator rights",
        ),
    ),
)

_TOKEN = re.compile(r"\d{3,}(?::|%3[aA])[\w-]{20,}")
_WAIT = re.compile(r"retry after (\d+)", re.IGNORECASE)
_SENDS: Final = ("send", "forward", "copy")
_LONGEST_DESCRIPTION: Final = 300


class _Parameters(msgspec.Struct, frozen=True):
    retry_after: float = 0.0
    migrate_to_chat_id: int = 0


class _Answer(msgspec.Struct, frozen=True):
    ok: bool
    result: msgspec.Raw = msgspec.Raw(b"null")
    description: str = ""
    error_code: int = 0
    parameters: _Parameters | None = None


class _Sent(msgspec.Struct, frozen=True):
    message_id: int = 0


_answer = msgspec.json.Decoder(_Answer)
_sent = msgspec.json.Decoder(_Sent)


def op_of(method: str) -> Op:
    """Which column of the table a Bot API method is in. What neither sends nor deletes can be repeated like an edit."""
    if method.startswith(_SENDS):
        return Op.SEND
    return Op.DELETE if method.startswith("delete") else Op.EDIT


def scrub(text: str) -> str:
    """``text`` on one line, cut short, with everything that looks like a bot token taken out."""
    return _TOKEN.sub("***", " ".join(text.split()))[:_LONGEST_DESCRIPTION]


def classify(op: Op, status: int, answer: bytes | Broken, *, took_s: float = 0.0) -> Outcome:
    """How the call ended. ``answer`` is the body that came with HTTP ``status``, or (status 0) what broke."""
    if isinstance(answer, Broken):
        if not answer.left:
            return Outcome(kind=Kind.NOT_SENT, reason=Reason.NOT_SENT, description=scrub(answer.what), took_s=took_s)
        return _unsure(op, Reason.AMBIGUOUS, status, answer.what, took_s)
    try:
        reply = _answer.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _unreadable(op, status, answer, took_s)
    succeeded = HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
    if succeeded and reply.ok:
        return _executed(op, status, reply, took_s)
    if reply.ok:
        return _unreadable(op, status, answer, took_s)
    # Several emulators refuse with HTTP 200; the description is right all the same.
    code = (reply.error_code or int(HTTPStatus.BAD_REQUEST)) if succeeded else status
    return _refused(op, code, reply, took_s)


def _executed(op: Op, status: int, reply: _Answer, took_s: float) -> Outcome:
    message_id = 0
    if op is not Op.DELETE:
        try:
            message_id = _sent.decode(reply.result).message_id
        except (msgspec.DecodeError, UnicodeDecodeError):
            message_id = 0  # "result": true. It was executed, whatever it looks like
    reason = Reason.NO_ID if op is Op.SEND and not message_id else Reason.OK
    return Outcome(kind=Kind.OK, reason=reason, status=status, message_id=message_id, took_s=took_s)


def _refused(op: Op, code: int, reply: _Answer, took_s: float) -> Outcome:
    told = reply.parameters or _Parameters()
    if told.retry_after or code == HTTPStatus.TOO_MANY_REQUESTS:
        return _flood(op, code, told.retry_after, reply.description, took_s)
    if told.migrate_to_chat_id:
        return Outcome(
            kind=Kind.MIGRATE,
            reason=Reason.MOVED,
            status=code,
            description=scrub(reply.description),
            migrate_to=told.migrate_to_chat_id,
            took_s=took_s,
        )
    if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        if op is Op.SEND and "immediately deleted and can't be returned" in reply.description.lower():
            kind, reason = Kind.OK, Reason.VANISHED
        else:
            return _unsure(op, Reason.SERVER, code, reply.description, took_s)
    else:
        reason = _look_up(code, reply.description.lower())
        achieved = reason is Reason.DONE_ALREADY or (reason is Reason.GONE and op is Op.DELETE)
        kind = Kind.OK if achieved else Kind.REJECTED
    return Outcome(kind=kind, reason=reason, status=code, description=scrub(reply.description), took_s=took_s)


def _look_up(code: int, words: str) -> Reason:
    if code == HTTPStatus.NOT_FOUND and words in {"not found", ""}:  # R04; "method not found" is no matter of the token
        return Reason.TOKEN
    for rule in _TABLE:
        if rule.status in {0, code} and any(needle in words for needle in rule.needles):
            return rule.reason
    return Reason.UNKNOWN


def _flood(op: Op, status: int, wait: float, description: str, took_s: float) -> Outcome:
    if not wait:
        found = _WAIT.search(description)
        wait = float(found[1]) if found else 0.0
    return Outcome(
        kind=Kind.AMBIGUOUS if op is Op.SEND and wait == SHUTDOWN_WAIT_S else Kind.FLOOD,
        reason=Reason.FLOOD,
        status=status,
        description=scrub(description),
        retry_after_s=wait or DEFAULT_FLOOD_WAIT_S,
        took_s=took_s,
    )


def _unreadable(op: Op, status: int, body: bytes, took_s: float) -> Outcome:
    """A page of some proxy on the way, or half a document. Even a 403 of this kind says nothing about the chat."""
    what = f"HTTP {status} without an answer of the Bot API"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        found = _WAIT.search(body.decode("utf-8", "replace"))
        return _flood(op, status, 0.0, f"{what}: {found[0]}" if found else what, took_s)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return Outcome(kind=Kind.REJECTED, reason=Reason.CONTENT, status=status, description=what, took_s=took_s)
    return _unsure(op, Reason.AMBIGUOUS, status, what, took_s)


def _unsure(op: Op, reason: Reason, status: int, what: str, took_s: float) -> Outcome:
    ambiguous = op is Op.SEND
    return Outcome(
        kind=Kind.AMBIGUOUS if ambiguous else Kind.SERVER,
        reason=reason if ambiguous else Reason.SERVER,
        status=status,
        description=scrub(what),
        took_s=took_s,
    )
