"""Cards: what one chat should see of one call, what it sees, and the single step that brings the second to the first.

Pure. ``next_step`` is the whole protocol of a message's life; the sender only executes what it answers.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import Any

import msgspec

from callgram.audio import Audio
from callgram.context import Mode


class Stage(StrEnum):
    """How far a call is, as its chats see it. Later stages outrank earlier ones."""

    START = "start"
    DIAL = "dial"
    BRIDGE = "bridge"
    HANGUP = "hangup"

    @property
    def rank(self) -> int:
        return _RANK[self]


_RANK = {stage: rank for rank, stage in enumerate(Stage)}


class Urgency(IntEnum):
    """Which card goes first when Telegram's limits let only some go. Lower is sooner."""

    MISSED = 0
    LIVE = 1
    REST = 2


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin wants the chats to show. ``replaces`` names the stages whose messages it makes outdated;
    ``hold_s`` delays a first sight, so that a stage right behind can make it unnecessary."""

    stage: Stage
    replaces: frozenset[Stage] = frozenset()
    hold_s: float = 0.0


class Message(msgspec.Struct, frozen=True, kw_only=False, dict=True):
    """A message as Telegram takes it: HTML of its dialect, at most 4096 characters after entity parsing. ``audio`` follows
    the final message of a call as a reply, once; it is no part of what is shown."""

    html: str
    keyboard: tuple[tuple[dict[str, Any], ...], ...] = ()
    silent: bool = False
    audio: Audio | None = None

    @cached_property
    def digest(self) -> str:
        """Equal digests show the same: the message need not be edited."""
        return hashlib.blake2b(msgspec.json.encode((self.html, self.keyboard)), digest_size=8).hexdigest()


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A message of ours that is visible in a chat. ``sent_at`` is aware UTC: after 48 h Telegram refuses to delete it.

    ``message_id`` 0: an orphan. The send may have been executed, but its answer was lost (telegram.md, ambiguous sends).

    ``audio``: it is a reply with audio, whose key is ``digest``; nothing edits, deletes or looks for it. Its ``message_id`` is 0
    from when it is promised, before it leaves, until its answer is known: whoever finds a promise that is not its own can't
    know whether it was kept. It stays 0 with an empty digest where nobody will know, and is ``NO_AUDIO`` where this audio
    can't be sent.
    """

    message_id: int
    stage: Stage
    digest: str
    sent_at: datetime
    audio: bool = False

    @property
    def is_orphan(self) -> bool:
        return self.message_id == 0 and not self.audio


NO_AUDIO = -1


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """One (call, chat): ``stage`` and ``version`` are wanted, ``shown`` is there. ``due_at`` ``None``: nothing to do.

    ``claimed_stage`` is the stage that a sender with ``claimed_fence`` took in hand at ``claimed_at`` and has not
    reported back.
    """

    enterprise: str
    call_id: int
    chat_id: int
    bot_id: int
    stage: Stage
    replaces: frozenset[Stage] = frozenset()
    version: int = 0
    mode: Mode = "replace"
    urgency: Urgency = Urgency.LIVE
    due_at: datetime | None = None
    shown: tuple[Shown, ...] = ()
    claimed_stage: Stage | None = None
    claimed_fence: int | None = None
    claimed_at: datetime | None = None
    attempts: int = 0

    @property
    def key(self) -> tuple[str, int, int]:
        return (self.enterprise, self.call_id, self.chat_id)

    @property
    def current(self) -> Shown | None:
        """The message that shows the wanted stage, where its id is known."""
        return next(
            (shown for shown in reversed(self.texts) if shown.stage is self.stage and not shown.is_orphan), None
        )

    @property
    def texts(self) -> tuple[Shown, ...]:
        return tuple(shown for shown in self.shown if not shown.audio)

    @property
    def orphans(self) -> tuple[Shown, ...]:
        return tuple(shown for shown in self.shown if shown.is_orphan)

    def outdated(self) -> tuple[Shown, ...]:
        """Messages that are no longer true: replaced stages, stages that turned out wrong, all but the newest of one.

        One message may be there twice: found by a search, and then reported by the frozen node that had sent it.
        """
        current = self.current
        return tuple(
            shown
            for shown in self.texts
            if (current is None or shown.message_id != current.message_id)
            and not shown.is_orphan
            and (shown.stage is self.stage or shown.stage in self.replaces or shown.stage.rank > self.stage.rank)
        )


class Send(msgspec.Struct, frozen=True):
    message: Message


class Edit(msgspec.Struct, frozen=True):
    message_id: int
    message: Message


class Delete(msgspec.Struct, frozen=True):
    message_ids: tuple[int, ...]


class Search(msgspec.Struct, frozen=True):
    """Look for an orphan among the message ids that nobody accounts for, to adopt or to delete it."""

    orphan: Shown


class Reply(msgspec.Struct, frozen=True):
    """Promise ``audio``: fetch it, and write down that it is about to be sent."""

    audio: Audio


class Follow(msgspec.Struct, frozen=True):
    """Keep a promise of ours by replying to ``message_id`` with ``audio`` (``None``: it isn't wanted any more), or find out what
    became of it."""

    promise: Shown
    message_id: int
    audio: Audio | None


class Nothing(msgspec.Struct, frozen=True):
    reason: str


Step = Send | Edit | Delete | Search | Reply | Follow | Nothing
UNDRAWN = "nobody draws this stage"


def next_step(card: Card, message: Message | None, *, search_first: bool = False) -> Step:
    """The one thing to do now. ``message`` is how the wanted stage looks at its newest, ``None`` when nobody draws it.

    Order is the readers': the new message appears first, then what is outdated goes, then orphans are looked for.
    An orphan of a passing stage is not sent again but folded into the next stage; one of the final stage is sent again,
    or searched for first, as the enterprise's policy says. Audio comes last, when the text of the final stage is settled; one
    that may be there is not sent again, because it is no state of the call.
    """
    if message is None:
        return Nothing(UNDRAWN)
    if not card.shown:
        return Send(message)
    current = card.current
    lost = next((orphan for orphan in card.orphans if orphan.stage is card.stage), None)
    texts = card.texts
    if current is None and card.mode == "edit" and texts and not texts[-1].is_orphan:
        return Edit(texts[-1].message_id, message)
    if current is None and lost and card.stage is not Stage.HANGUP:
        return Nothing("may have been sent; the next stage will tell")
    if current is None:
        return Search(lost) if lost and search_first else Send(message)
    if current.digest != message.digest:
        return Edit(current.message_id, message)
    outdated = card.outdated()
    if outdated:
        return Delete(tuple(shown.message_id for shown in outdated))
    if card.orphans and card.stage is Stage.HANGUP:
        return Search(card.orphans[0])
    return _next_of_audio(card, current, message.audio) or Nothing("up to date")


def _next_of_audio(card: Card, current: Shown, audio: Audio | None) -> Step | None:
    if card.stage is not Stage.HANGUP:
        return None
    replies = [shown for shown in card.shown if shown.audio and shown.message_id != NO_AUDIO]
    done = any(reply.message_id or not reply.digest for reply in replies)
    if done:
        return None
    if replies:
        return Follow(replies[0], current.message_id, audio)
    refused = any(shown.audio and audio and shown.digest == audio.key for shown in card.shown)
    return Reply(audio) if audio and not refused else None


def sent(card: Card, message: Message, message_id: int, now: datetime) -> Card:
    """The card once ``message`` has been sent; ``message_id`` 0 where its answer was lost."""
    new = Shown(message_id=message_id, stage=card.stage, digest=message.digest, sent_at=now)
    return msgspec.structs.replace(card, shown=(*card.shown, new))


def edited(card: Card, message_id: int, message: Message) -> Card:
    shown = tuple(
        msgspec.structs.replace(old, stage=card.stage, digest=message.digest) if old.message_id == message_id else old
        for old in card.shown
    )
    return msgspec.structs.replace(card, shown=shown)


def gone(card: Card, *message_ids: int) -> Card:
    """The card once these messages are no longer in the chat, or nobody will ask for them again."""
    kept = tuple(old for old in card.shown if old.is_orphan or old.message_id not in message_ids)
    return msgspec.structs.replace(card, shown=kept)


def found(card: Card, orphan: Shown, message_id: int | None) -> Card:
    """The card once the search for ``orphan`` is over: adopted under its id, or forgotten (``None``).

    What an adopted message says is not known, it may be another call's orphan: it is edited before it counts as current.
    """
    shown = list(card.shown)
    at = shown.index(orphan)
    adopted = msgspec.structs.replace(orphan, message_id=message_id, digest="") if message_id else None
    shown[at : at + 1] = [adopted] if adopted else []
    return msgspec.structs.replace(card, shown=tuple(shown))


def with_audio(card: Card, audio: Audio, now: datetime, message_id: int = 0) -> Card:
    """The card once ``audio`` is promised; or, ``NO_AUDIO``, once it is known that it can't be sent."""
    new = Shown(message_id=message_id, stage=Stage.HANGUP, digest=audio.key, sent_at=now, audio=True)
    return msgspec.structs.replace(card, shown=(new, *card.shown))  # in front: what is last shows the state of the call


def without_promise(card: Card, promise: Shown, became: Shown | None = None) -> Card:
    """The card once it is known what became of ``promise``; ``None``: it was not kept, and may be given again."""
    kept = tuple(shown for shown in card.shown if shown != promise)
    if became is None or any(shown.audio and shown.message_id == became.message_id > 0 for shown in kept):
        return msgspec.structs.replace(card, shown=kept)
    return msgspec.structs.replace(card, shown=(became, *kept))
