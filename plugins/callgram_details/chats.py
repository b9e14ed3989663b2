"""What each chat showed at any moment: the sends, edits and deletes of a call played again. Pure."""

from __future__ import annotations

from datetime import datetime

import msgspec

from callgram import Action, Op
from callgram_details.telegram_html import safe_html


class Bubble(msgspec.Struct, frozen=True):
    """A message as it stood: ``html`` is safe in a page; ``changed`` when this very moment brought or edited it."""

    message_id: int
    stage: str
    html: str
    edited: bool
    changed: bool


class Moment(msgspec.Struct, frozen=True):
    """What a chat showed from ``at`` (milliseconds since the epoch) on. ``row`` is the action that made it so."""

    at: int
    row: str
    bubbles: tuple[Bubble, ...]


class Life(msgspec.Struct, frozen=True):
    """A message from its send (or first sight) to its delete; ``gone_at`` ``None``: it is still there.

    ``parts`` are ``[(stage, since)]``: an edited message changes its stage.
    """

    chat_id: int
    message_id: int
    parts: tuple[tuple[str, datetime], ...]
    gone_at: datetime | None


class ChatLife(msgspec.Struct, frozen=True):
    chat_id: int
    moments: tuple[Moment, ...]
    lives: tuple[Life, ...]


class _Message(msgspec.Struct):
    stage: str
    text: str
    edited: bool
    parts: list[tuple[str, datetime]]
    gone_at: datetime | None = None


def chats_of(actions: list[Action]) -> list[ChatLife]:
    """One for each chat that an action or a decision names, in the order of their first."""
    by_chat: dict[int, list[Action]] = {}
    for action in actions:
        if action.chat_id:  # 0: a decision about the call as a whole
            by_chat.setdefault(action.chat_id, []).append(action)
    return [_chat(chat_id, of_chat) for chat_id, of_chat in by_chat.items()]


def _chat(chat_id: int, actions: list[Action]) -> ChatLife:
    messages: dict[int, _Message] = {}
    moments: list[Moment] = []
    for action in actions:
        if not _apply(messages, action):
            continue
        bubbles = tuple(
            Bubble(number, one.stage, safe_html(one.text), one.edited, number == action.message_id)
            for number, one in sorted(messages.items())
            if one.gone_at is None
        )
        moments.append(Moment(int(action.at.timestamp() * 1000), f"a{action.id}", bubbles))
    lives = tuple(Life(chat_id, number, tuple(one.parts), one.gone_at) for number, one in sorted(messages.items()))
    return ChatLife(chat_id, tuple(moments), lives)


def _apply(messages: dict[int, _Message], action: Action) -> bool:
    """Whether the action changed what is seen. A message that was gone when we came to delete it is gone, too."""
    known = messages.get(action.message_id)
    stage = str(action.stage)
    if action.op is Op.DELETE and known is not None and (action.executed or "gone" in action.outcome):
        known.gone_at = known.gone_at or action.at
        return True
    if not action.executed or not action.message_id:
        return False
    if action.op is Op.SEND and known is None:
        messages[action.message_id] = _Message(stage, action.text, False, [(stage, action.at)])
        return True
    if action.op is Op.EDIT and known is None:  # sent by a call that this one absorbed, or before the trace began
        messages[action.message_id] = _Message(stage, action.text, True, [(stage, action.at)])
        return True
    if action.op is Op.EDIT and known is not None:
        known.stage, known.text, known.edited = stage, action.text, True
        known.parts.append((stage, action.at))
        return True
    return False
