"""The lines of a trace file: one event or action each, readable, greppable, and restorable to the last character.

A line holds no control character and no line separator but its own newline, whatever a caller's name was. In a body
that is JSON they are written as JSON's own escapes, so that the last field of an ``AST`` line stays JSON; everywhere
else ``|``, ``\\`` and they are escaped as in the README. A line that was not written to its end is refused.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal

import msgspec

from callgram.events import Event
from callgram.trace import Action, Op

HALF = "\x18"
"""ASCII CANCEL: put behind a half-written line before the next one. No whole line holds it."""

_UNSAFE = re.compile(r"[\\|\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NEVER_WRITTEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_ESCAPE = re.compile(r"\\(\\|n|r|u[0-9a-f]{4})?")
_LONG = {"\\": "\\", "n": "\n", "r": "\r"}
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", re.ASCII)
_NOT_JSON = "!"  # in front of an escaped body; no JSON begins with it

# The key may be spelt with JSON escapes; a quote behind a backslash is inside of a string and begins no key.
_TOKEN = re.compile(
    rb'(?<!\\)("' + b"".join(rb"(?:%c|\\u00(?i:%02x))" % (byte, byte) for byte in b"Token") + rb'"\s*:\s*)'
    rb'(?:"(?:[^"\\]|\\.)*"?|[-+.\w]+)',
    re.DOTALL,
)


class LineError(ValueError):
    """This is not a whole line of a trace file."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line read back. ``at`` is local time as written, without a zone; 0 and ``""`` stand for what the line has not.

    ``what`` is the event's kind in an ``AST`` line, and send, edit, delete, skip or fail in a ``TG`` line. ``text`` is
    the message as far as it was kept, or the reason of a skip or failure. ``body`` is the event's, its Token masked.
    """

    at: datetime
    source: Literal["AST", "TG"]
    what: str
    unique_id: str
    body: bytes = b""
    chat_id: int = 0
    stage: str = ""
    message_id: int = 0
    text: str = ""


def event_line(event: Event, at: datetime) -> str:
    """The ``AST`` line of ``event``. ``at`` is its time in the zone of the file."""
    return f"{_stamp(at)}|AST|{event.kind}|{escape(event.unique_id)}|{_body(event.raw)}\n"


def action_line(action: Action, at: datetime, *, text_limit: int) -> str:
    """The ``TG`` line of ``action``; its text is cut at ``text_limit`` code points before escaping, a reason is not."""
    if action.executed:
        what, text = str(action.op), "" if action.op is Op.DELETE else action.text[:text_limit]
    elif action.op is Op.SKIP:
        what, text = "skip", action.reason
    else:
        what, text = "fail", ": ".join(filter(None, (action.op, action.outcome, action.reason)))
    head = f"{_stamp(at)}|TG|{what}|{action.chat_id or ''}|{action.stage}|{action.message_id or ''}"
    return f"{head}|{escape(action.unique_id)}|{escape(text)}\n"


def parse_line(line: str) -> Line:
    """Read a line back, with or without its newline.

    Leave out a file's last line while it has no newline: it may still be on its way, and a cut text does not show.

    Raises:
        LineError: it is not a line of a trace file, or was not written to its end.
    """
    line = line.removesuffix("\n")
    if _NEVER_WRITTEN.search(line):
        raise LineError("half a line: writing it was interrupted, the record follows as a whole line")
    stamp, _, rest = line.partition("|")
    source, _, rest = rest.partition("|")
    if not _STAMP.fullmatch(stamp) or source not in {"AST", "TG"}:
        raise LineError("not a line of a trace file: it must begin like 2025-11-29 15:26:33,859|AST|")
    try:
        at = datetime.fromisoformat(stamp.replace(",", "."))
        return _event(at, rest) if source == "AST" else _action(at, rest)
    except LineError:
        raise
    except ValueError as error:  # a number or a date that is none
        raise LineError(f"not a line of a trace file: {error}") from None


def escape(text: str) -> str:
    """``text`` without ``|`` and anything that ends or garbles a line, so that :func:`unescape` restores it exactly."""
    return _UNSAFE.sub(_escaped, text)


def unescape(text: str) -> str:
    return _ESCAPE.sub(_unescaped, text)


def _escaped(match: re.Match[str]) -> str:
    char = match.group()
    return _SHORT.get(char) or f"\\u{ord(char):04x}"


def _unescaped(match: re.Match[str]) -> str:
    code = match.group(1)
    if code is None:
        raise LineError("a backslash that begins no escape: the line was cut or edited")
    return _LONG.get(code) or chr(int(code[1:], 16))


def _event(at: datetime, rest: str) -> Line:
    kind, unique_id, body = _fields(rest, 3)
    if body.startswith(_NOT_JSON):
        raw = unescape(body[1:]).encode("utf-8", "surrogateescape")
    else:
        raw = body.encode()
        if _compact(raw) != raw:
            raise LineError("half a line: its JSON has no end")
    return Line(at=at, source="AST", what=kind, unique_id=unescape(unique_id), body=raw)


def _action(at: datetime, rest: str) -> Line:
    what, chat_id, stage, message_id, unique_id, text = _fields(rest, 6)
    if "|" in text:
        raise LineError("not a line of a trace file: a TG line has 8 fields")
    return Line(
        at=at,
        source="TG",
        what=what,
        chat_id=int(chat_id or 0),
        stage=stage,
        message_id=int(message_id or 0),
        unique_id=unescape(unique_id),
        text=unescape(text),
    )


def _fields(rest: str, n_fields: int) -> list[str]:
    fields = rest.split("|", n_fields - 1)
    if len(fields) < n_fields:
        raise LineError(f"half a line: {len(fields) + 2} of {n_fields + 2} fields")
    return fields


def _stamp(at: datetime) -> str:
    return at.isoformat(" ", "milliseconds")[:23].replace(".", ",")


def _body(raw: bytes) -> str:
    raw = _TOKEN.sub(rb'\1"***"', raw)
    compact = _compact(raw)
    if compact is not None:
        try:
            return _NEVER_WRITTEN.sub(lambda match: f"\\u{ord(match.group()):04x}", compact.decode())
        except UnicodeDecodeError:
            pass
    return _NOT_JSON + escape(raw.decode("utf-8", "surrogateescape"))


def _compact(raw: bytes) -> bytes | None:
    """The JSON without white space between its tokens, each number and string as it was spelt. ``None``: not JSON.

    Only an object can come out: nothing else is an event, and the rest of a cut object is never one.
    """
    if not raw.lstrip(b" \t\r\n").startswith(b"{"):
        return None
    try:
        return msgspec.json.format(raw, indent=-1)
    except (msgspec.DecodeError, RecursionError):
        return None
