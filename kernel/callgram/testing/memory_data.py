"""What the store in memory holds: the rows of its database, shared by all its processes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from callgram.cards import Card, Shown, Stage
from callgram.context import Chat, Enterprise
from callgram.events import Event, read_event
from callgram.store import CallRow, ChatLimit, Claim, NewEvent
from callgram.trace import Action, Op

CardKey = tuple[str, int, int]  # enterprise, call, chat


class StoredEvent(msgspec.Struct):
    """A stored event, what planning made of it, and how often it was posted again."""

    event: NewEvent
    id: int
    done: bool = False
    call_id: int | None = None
    failed: str | None = None
    repeats: int = 0

    def read(self) -> Event:
        given = self.event
        return read_event(
            given.kind, given.body, enterprise=given.enterprise, received_at=given.received_at, event_id=self.id
        )


class StoredCall(msgspec.Struct):
    row: CallRow
    absorbed_into: int | None = None


class StoredCard(msgspec.Struct):
    """A card, and what only the store knows: messages gained from an absorbed call, and whether a claim is in doubt."""

    card: Card
    gained: tuple[Shown, ...] = ()
    ambiguous: bool = False

    def change(self, **changes: object) -> None:
        self.card = msgspec.structs.replace(self.card, **changes)


def _has(shown: tuple[Shown, ...], stage: Stage) -> bool:
    return any(message.stage is stage and not message.is_orphan for message in shown)


class Lease(msgspec.Struct):
    owner: str
    fence: int
    until: datetime


class Database:
    """What all processes share."""

    def __init__(self) -> None:
        self.last_id = 0
        self.enterprises: dict[str, Enterprise] = {}
        self.chats: dict[tuple[str, int], Chat] = {}
        self.changes = 0
        self.events: dict[int, StoredEvent] = {}
        self.pending: dict[str, dict[int, StoredEvent]] = {}
        self.digests: dict[tuple[str, bytes], list[datetime]] = {}
        self.calls: dict[tuple[str, int], StoredCall] = {}
        self.keys: dict[tuple[str, str], set[int]] = {}
        self.timers: dict[tuple[str, int], datetime] = {}
        self.cards: dict[CardKey, StoredCard] = {}
        self.actions: list[Action] = []
        self.trace: list[StoredEvent | Action] = []
        self.planning: set[str] = set()
        self.versions: dict[str, int] = {}  # how often an enterprise was planned
        self.listeners: list[tuple[object, Callable[[], None]]] = []
        self.leases: dict[int, Lease] = {}
        self.limits: dict[tuple[int, int], ChatLimit] = {}
        self.cursors: dict[str, str] = {}
        self.kept: dict[tuple[str, str], bytes] = {}
        self.names: dict[tuple[str, str], dict[str, str]] = {}  # (enterprise, table): {number: name}

    def next_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def add(self, action: Action) -> None:
        numbered = msgspec.structs.replace(action, id=self.next_id())
        self.actions.append(numbered)
        self.trace.append(numbered)

    def is_held(self, bot: int, fence: int, now: datetime) -> bool:
        lease = self.leases.get(bot)
        return lease is not None and lease.fence == fence and lease.until > now

    def limited(self, bot: int, chat: int, now: datetime) -> bool:
        """Neither the chat nor the whole bot may be limited for something to be sent."""
        limits = [self.limits.get((bot, place)) for place in (0, chat)]
        return any(limit and (limit.until is None or limit.until > now) for limit in limits)

    def claim(self, stored: StoredCard, fence: int, now: datetime) -> Claim:
        card = stored.card
        earlier = card.claimed_fence
        twice = stored.ambiguous  # whoever took it over is gone, too, with a send that nobody knows of
        stored.ambiguous = earlier is not None and (stored.ambiguous or earlier != fence)
        stage = card.claimed_stage if stored.ambiguous else card.stage
        if stored.ambiguous and earlier != fence and stage is not None:
            # What an absorbed call had sent for that stage is not what was in hand.
            veiled = _has(stored.gained, stage) and not _has(card.shown, stage)
            unknown = [now] * twice + [card.claimed_at or now] * veiled
            stored.gained += tuple(Shown(message_id=0, stage=stage, digest="", sent_at=at) for at in unknown)
        at = card.claimed_at if stored.ambiguous else now
        stored.change(claimed_stage=stage, claimed_fence=fence, claimed_at=at, shown=stored.gained + card.shown)
        stored.gained = ()
        facts = self.calls[card.enterprise, card.call_id].row.facts
        return Claim(card=stored.card, facts=facts, ambiguous=stored.ambiguous)

    def suspended(self, bot: int, chat: int) -> str:
        """Why the chat takes nothing until it is resumed, ``""`` where it does."""
        limits = [self.limits.get((bot, place)) for place in (0, chat)]
        return next((limit.reason for limit in limits if limit and limit.until is None), "")

    def block(self, card: Card, reason: str, now: datetime) -> None:
        """The stage that ``card`` waits to show is decided against: its chat is suspended."""
        call = self.calls[card.enterprise, card.call_id].row
        self.add(
            Action(
                at=now,
                enterprise=card.enterprise,
                call_id=card.call_id,
                unique_id=call.unique_id,
                chat_id=card.chat_id,
                bot_id=card.bot_id,
                stage=card.stage,
                op=Op.SKIP,
                outcome="skipped",
                reason=f"blocked: {reason}",
            )
        )
