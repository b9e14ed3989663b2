"""The trace: what was done, and what was not and why, as the values that sinks, the store and the call page read."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

import msgspec

from callgram.cards import Stage
from callgram.events import Event


class Op(StrEnum):
    SEND = "send"
    EDIT = "edit"
    DELETE = "delete"
    SKIP = "skip"


class Action(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One Telegram call that was made (``outcome`` says how it ended), or a stage that was skipped, with its ``reason``.

    ``at`` is when it was decided or sent, ``took_s`` how long Telegram took; ``unique_id`` is the head of the call;
    ``message_id`` is 0 where there is none. ``plugin`` drew the message; ``retry_after_s`` is how long Telegram asked to
    wait. ``executed`` is true when Telegram did it.
    """

    at: datetime
    enterprise: str
    call_id: int
    unique_id: str
    chat_id: int
    bot_id: int
    stage: Stage
    op: Op
    message_id: int = 0
    text: str = ""
    outcome: str = "ok"
    reason: str = ""
    took_s: float = 0.0
    plugin: str = ""
    retry_after_s: float = 0.0
    id: int = 0

    @property
    def executed(self) -> bool:
        return self.op is not Op.SKIP and self.outcome == "ok"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the trace in commit order. ``cursor`` is opaque and sorts as text; a sink saves the last it has done."""

    cursor: str
    item: Event | Action
