"""How callgram's values look as columns, and back. The one place that knows both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from callgram.calls.facts import Facts
from callgram.cards import Card, Shown, Stage, Urgency
from callgram.errors import IngestError
from callgram.events import Event, Kind, read_event
from callgram.shards import part_of
from callgram.store import CallRow
from callgram.trace import Action, Op, Record

read_facts = msgspec.json.Decoder(Facts).decode
write_json = msgspec.json.encode
_read_shown = msgspec.json.Decoder(tuple[Shown, ...]).decode


def columns(rows: Iterable[Sequence[Any]], width: int) -> list[list[Any]]:
    """Rows as columns, for ``unnest``."""
    turned = [list(column) for column in zip(*rows, strict=True)]
    return turned or [[] for _ in range(width)]


def storable(text: str) -> str:
    """PostgreSQL's text cannot hold NUL."""
    return text.replace("\0", "")


def shown_text(shown: tuple[Shown, ...]) -> str:
    return write_json(shown).decode()


def read_shown(text: str) -> tuple[Shown, ...]:
    return _read_shown(text)


def found_by(row: CallRow) -> tuple[str, str, str, str]:
    """What lists find a call by. The extensions with a space around each, for LIKE."""
    extensions = f" {' '.join(row.extensions)} " if row.extensions else ""
    return row.direction, row.result, storable(row.client), storable(extensions)


def replaces_text(stages: frozenset[Stage]) -> str:
    return ",".join(stage.value for stage in sorted(stages, key=lambda stage: stage.rank))


ACTION_WIDTH, SKIP_WIDTH = 16, 14  # nobody draws what is skipped


def action_row(action: Action) -> tuple[Any, ...]:
    return (
        part_of(action.enterprise),
        action.enterprise,
        action.at,
        action.call_id,
        storable(action.unique_id),
        action.chat_id,
        action.bot_id,
        action.stage.value,
        action.op.value,
        action.message_id,
        storable(action.text),
        storable(action.outcome),
        storable(action.reason),
        action.took_s,
        action.plugin,
        action.retry_after_s,
    )


def read_card(enterprise: str, row: Any) -> Card:
    claimed = row["claimed_stage"]
    return Card(
        enterprise=enterprise,
        call_id=row["call_id"],
        chat_id=row["chat_id"],
        bot_id=row["bot_id"],
        stage=Stage(row["stage"]),
        replaces=frozenset(Stage(stage) for stage in row["replaces"].split(",") if stage),
        version=row["version"],
        mode=row["mode"],
        urgency=Urgency(row["urgency"]),
        due_at=row["due_at"],
        shown=read_shown(row["shown"]),
        claimed_stage=Stage(claimed) if claimed else None,
        claimed_fence=row["claimed_fence"],
        claimed_at=row["claimed_at"],
        attempts=row["attempts"],
    )


def read_record(row: Any) -> Record:
    """A row of the trace: an event where it has a body, an action otherwise."""
    cursor = write_cursor(int(row["xid"]), row["id"])
    return Record(cursor=cursor, item=_event(row) if row["body"] is not None else _action(row))


def _event(row: Any) -> Event:
    kind, body = Kind(row["op"]), row["body"]
    try:
        return read_event(kind, body, enterprise=row["enterprise"], received_at=row["at"], event_id=row["id"])
    except IngestError:  # an older release could read it; what it was is not lost
        return Event(
            id=row["id"],
            enterprise=row["enterprise"],
            kind=kind,
            received_at=row["at"],
            unique_id=row["unique_id"],
            raw=body,
        )


def _action(row: Any) -> Action:
    return Action(
        id=row["id"],
        at=row["at"],
        enterprise=row["enterprise"],
        call_id=row["call_id"],
        unique_id=row["unique_id"],
        chat_id=row["chat_id"],
        bot_id=row["bot_id"],
        stage=Stage(row["stage"]),
        op=Op(row["op"]),
        message_id=row["message_id"],
        text=row["text"],
        outcome=row["outcome"],
        reason=row["reason"],
        took_s=row["took_s"],
        plugin=row["plugin"],
        retry_after_s=row["retry_after_s"],
    )


def write_cursor(xid: int, number: int) -> str:
    """Fixed width, so that cursors sort as text."""
    return f"{xid:020d}-{number:019d}"


def read_cursor(cursor: str) -> tuple[str, int]:
    """The transaction, as text, and the id; '' is before everything."""
    xid, _, number = cursor.partition("-")
    return str(int(xid or 0)), int(number or 0)
