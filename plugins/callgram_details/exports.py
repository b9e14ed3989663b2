"""A call to take away: JSON, the lines of a trace file, a Mermaid sequence diagram. Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from callgram import Call, CallFile, Event, tracelines
from callgram_details.legs import Leg, legs_of
from callgram_details.rows import Change, Row
from callgram_details.secrets_gone import masked_body, masked_raw
from callgram_details.story import Badge, Fact, counts_of, device_of, names_of, short, split, whose
from callgram_details.wording import Wording

_MERMAID = re.compile(r"[^\w +.,:()/@\-→↔•]")
TEXT_LIMIT = 4096


class EventOut(msgspec.Struct, frozen=True, kw_only=True):
    """One event. ``body`` is what was posted, its Token starred; ``body_text`` where that is no JSON object. ``repeats`` is how
    often it was posted again, ``changes`` what it changed of the call; not told of calls of more than 120 records."""

    id: int
    at: str
    kind: str
    unique_id: str
    text: str
    body: dict[str, Any] | None = None
    body_text: str = ""
    error: str = ""
    repeats: int = 0
    changes: tuple[Change, ...] = ()


class ActionOut(msgspec.Struct, frozen=True, kw_only=True):
    """One Telegram call or decision. ``cause`` is the id of the event that it answers, 0 where that is not known."""

    id: int
    at: str
    op: str
    stage: str
    chat_id: int
    message_id: int
    outcome: str
    reason: str
    text: str
    took_s: float
    retry_after_s: float
    plugin: str
    cause: int


class CallOut(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a call, as its page shows it. Times are ISO 8601 in the zone of the enterprise; ``recording`` is the
    link to the recording, or empty."""

    enterprise: str
    call_id: int
    unique_id: str
    channels: list[str]
    direction: str
    result: str
    words: str
    client: str
    caller: str
    line: str
    rung: list[str]
    talkers: list[str]
    started_at: str
    answered_at: str | None
    ended_at: str | None
    talk_s: float | None
    wait_s: float | None
    recording: str
    badges: list[str]
    facts: dict[str, str]
    counts: dict[str, int]
    gaps: list[str]
    legs: list[Leg]
    events: list[EventOut]
    actions: list[ActionOut]


def call_out(
    file: CallFile,
    call: Call,
    rows: list[Row],
    words: Wording,
    *,
    result: str,
    badges: list[Badge],
    facts: list[Fact],
    gaps: list[str],
) -> CallOut:
    events, actions = split(file)
    by_key = {row.key: row for row in rows}
    zone = words.zone
    return CallOut(
        enterprise=call.enterprise,
        call_id=call.id,
        unique_id=call.unique_id,
        channels=list(file.channels),
        direction=str(call.direction),
        result=str(call.result),
        words=result,
        client=call.client,
        caller=call.caller,
        line=call.line,
        rung=list(call.rung),
        talkers=list(call.talkers),
        started_at=call.started_at.astimezone(zone).isoformat(),
        answered_at=call.answered_at.astimezone(zone).isoformat() if call.answered_at else None,
        ended_at=call.ended_at.astimezone(zone).isoformat() if call.ended_at else None,
        talk_s=call.talk_s,
        wait_s=call.wait_s,
        recording=call.recording_link,
        badges=[badge.kind for badge in badges],
        facts={fact.label: fact.value for fact in facts},
        counts=counts_of(file),
        gaps=gaps,
        legs=legs_of(file, call, words),
        events=[_event_out(event, by_key[f"e{event.id}"], words, file) for event in events],
        actions=[
            ActionOut(
                id=action.id,
                at=action.at.astimezone(zone).isoformat(),
                op=str(action.op),
                stage=str(action.stage),
                chat_id=action.chat_id,
                message_id=action.message_id,
                outcome=action.outcome,
                reason=action.reason,
                text=action.text,
                took_s=action.took_s,
                retry_after_s=action.retry_after_s,
                plugin=action.plugin,
                cause=int(by_key[f"a{action.id}"].cause[1:] or 0),
            )
            for action in actions
        ],
    )


def _event_out(event: Event, row: Row, words: Wording, file: CallFile) -> EventOut:
    body, body_text = masked_body(event.raw)
    return EventOut(
        id=event.id,
        at=event.received_at.astimezone(words.zone).isoformat(),
        kind=str(event.kind),
        unique_id=event.unique_id,
        text=row.text,
        body=body,
        body_text=body_text,
        error=file.failed.get(event.id, ""),
        repeats=row.repeats,
        changes=row.changes,
    )


def log_of(file: CallFile, words: Wording) -> str:
    """The lines that a trace file has of the call, oldest first."""
    lines = []
    for record in file.records:
        item = record.item
        if isinstance(item, Event):
            if item.posted:
                shown = msgspec.structs.replace(item, raw=masked_raw(item.raw))
                lines.append(tracelines.event_line(shown, item.received_at.astimezone(words.zone)))
        else:
            lines.append(tracelines.action_line(item, item.at.astimezone(words.zone), text_limit=TEXT_LIMIT))
    return "".join(lines)


def mermaid_of(file: CallFile, call: Call, rows: list[Row], chat_names: dict[int, str], words: Wording) -> str:
    """A sequence diagram: channels, callgram, chats."""
    names = names_of(file)
    channels = list(dict.fromkeys(row.lane for row in rows if row.is_event))
    chats = list(dict.fromkeys(row.chat_id for row in rows if row.chat_id))
    out = ["sequenceDiagram"]
    for place, channel in enumerate(channels):
        who = whose(file, call, channel, names, words) if channel else words["host"]
        device = device_of(file, channel)
        told = who if device in {"", who} or device in who else f"{who} ({device})"
        out.append(f"    participant c{place} as {_clean(told)}")
    out.append("    participant callgram")
    for place, chat in enumerate(chats):
        out.append(f"    participant t{place} as {_clean(chat_names.get(chat) or str(chat))}")
    for row in rows:
        text = _clean(f"{row.clock} {row.text}{f' (+{row.repeats})' if row.repeats else ''}")
        if row.is_event:
            out.append(f"    c{channels.index(row.lane)}->>callgram: {text}")
        elif not row.chat_id:
            out.append(f"    Note over callgram: {text}")
        else:
            arrow = "--x" if row.failed or row.what == "skip" else "->>"
            out.append(f"    callgram{arrow}t{chats.index(row.chat_id)}: {text}")
    return "\n".join(out) + "\n"


def _clean(text: str) -> str:
    """Mermaid has no escape for its own signs in a label: what could be one becomes a space."""
    return " ".join(_MERMAID.sub(" ", text).split())[:200] or short("unknown")
