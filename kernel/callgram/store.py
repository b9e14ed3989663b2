"""The store: what callgram asks of a database. ``plugins/callgram_postgres`` answers it, ``callgram.testing`` has its
twin.

One conformance suite (tests/integration/test_store_conformance.py) runs over every implementation. All times are aware
UTC. Methods raise :class:`callgram.errors.StoreError` when the database cannot be reached; nothing is half done then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from callgram.bell import Rings
from callgram.calls.facts import Facts
from callgram.cards import Card, Shown, Stage, Urgency
from callgram.context import Chat, Directory, Enterprise, Mode
from callgram.events import Event, Kind
from callgram.naming import Naming
from callgram.reading import Reading
from callgram.shards import WHOLE, Shard
from callgram.trace import Action, Op, Record


class NewEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event to store. ``digest`` recognises its repetition within ``repeat_s`` seconds."""

    enterprise: str
    kind: Kind
    unique_id: str
    received_at: datetime
    digest: bytes
    repeat_s: float
    body: bytes


class Ahead(msgspec.Struct, frozen=True, kw_only=True):
    """What a planner needs for events that were stored a moment ago, seen by ``append`` while it stored them.

    ``events`` of each enterprise with their ids, as of ``at``; the ``version`` of those enterprises that had nothing else to
    plan; and ``rows`` of the calls that have one of ``keys``, in the store's own form. ``durable`` is set when the events are.
    """

    at: datetime
    events: Mapping[str, Sequence[tuple[int, NewEvent]]]
    versions: Mapping[str, int]
    keys: Mapping[str, Collection[str]]
    rows: Sequence[Any] = ()
    durable: asyncio.Event = msgspec.field(default_factory=asyncio.Event)

    @property
    def is_enough(self) -> bool:
        """There is something to plan, and nothing else waits in these enterprises."""
        return bool(self.events) and self.events.keys() <= self.versions.keys()


def numbered(events: Sequence[NewEvent], ids: Sequence[int | None]) -> dict[str, list[tuple[int, NewEvent]]]:
    """The events of each enterprise with their ids; ``None`` marks a repetition, which is left out."""
    of: dict[str, list[tuple[int, NewEvent]]] = {}
    for event, number in zip(events, ids, strict=True):
        if number is not None:
            of.setdefault(event.enterprise, []).append((number, event))
    return of


class Stored(NamedTuple):
    """What became of appended events: False in ``new`` marks a repetition, which is not stored again."""

    new: list[bool]
    ahead: Ahead | None = None


class CallRow(msgspec.Struct, frozen=True, kw_only=True):
    """A call as the planner leaves it. ``keys`` are new ones to find it by; ``timer_at`` is when to look at it
    again. ``direction``, ``result``, ``client`` (canonical) and ``extensions`` are what lists find it by."""

    facts: Facts
    unique_id: str
    started_at: datetime
    ended_at: datetime | None
    timer_at: datetime | None
    keys: frozenset[str] = frozenset()
    direction: str = ""
    result: str = ""
    client: str = ""
    extensions: tuple[str, ...] = ()


class CardRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a chat should see from now on. The planner's half of a :class:`~callgram.cards.Card`.

    The store makes ``version`` grow with every write, also where it was given smaller. A card whose ``bot_id`` changes
    starts anew, with nothing shown: message ids are each bot's own. ``fence``: the sender of this process takes it in hand
    at once, by its lease of that fence.
    """

    call_id: int
    chat_id: int
    bot_id: int
    stage: Stage
    replaces: frozenset[Stage]
    version: int
    mode: Mode
    urgency: Urgency
    due_at: datetime
    fence: int | None = None


class Planned(msgspec.Struct, kw_only=True):
    """Everything that planning one batch decided; committed as a whole or not at all.

    ``absorbed`` is ``{call that turned out to be a part: the call it belongs to}``: its keys, events and visible
    messages pass to the survivor, whose cards are due then. Survivors are not absorbed themselves. ``done`` is ``{event
    id: call id}``, ``failed`` ``{event id: what went wrong}``.
    """

    calls: list[CallRow] = []
    absorbed: dict[int, int] = {}
    cards: list[CardRow] = []
    skips: list[Action] = []
    done: dict[int, int] = {}
    failed: dict[int, str] = {}


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be planned of one enterprise: its new events, oldest first, and the calls whose timer ran out."""

    enterprise: str
    events: Sequence[Event]
    due: Sequence[Facts] = ()


class Batch(Protocol):
    """Enterprises in hand. ``now`` is when their events were taken."""

    now: datetime
    parts: Sequence[Part]

    async def find(self, keys: Mapping[str, Iterable[str]]) -> Mapping[str, list[tuple[Facts, frozenset[str]]]]:
        """The calls of each enterprise that have one of its ``keys``, each with those of the keys that it has.

        A weak key (callgram.calls.book.is_weak) of a call that ended more than GRACE ago is not found.
        """
        ...

    async def cards(self, call_ids: Mapping[str, Iterable[int]]) -> Mapping[str, list[Card]]: ...

    async def commit(self, planned: Mapping[str, Planned]) -> list[Claim]:
        """Write what was planned of each enterprise, once, all of it or nothing. With claims it is durable, and always with
        what was seen ahead.

        Answers the claims of those cards with a ``fence`` whose lease is held, whose chat takes messages and that nobody
        else has in hand, as ``exchange`` would a moment later. Raises OvertakenError when another planner was faster with an
        enterprise; nothing is written then.
        """
        ...


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A card that this node now has in hand, with the newest facts of its call.

    ``ambiguous`` is true when an earlier owner had it in hand and never reported: its last send may have happened, and
    ``card.claimed_stage`` is the stage that it had in hand. ``card.claimed_fence`` is the fence to report with.
    """

    card: Card
    facts: Facts
    ambiguous: bool = False


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a claimed card. ``released`` gives it back; ``retry_at`` makes it due again then, even if its
    version did not change; without it the card is due again only if the planner has changed it meanwhile.

    ``attempts`` counts failures in a row.
    ``shown`` replaces what the card has, but for messages that came to it meanwhile (from an absorbed call, through a claim
    whose answer was lost): ``seen`` are the message ids that the claim had.
    """

    enterprise: str
    call_id: int
    chat_id: int
    bot_id: int
    fence: int
    version: int
    shown: tuple[Shown, ...]
    seen: tuple[int, ...] = ()
    actions: tuple[Action, ...] = ()
    released: bool = True
    retry_at: datetime | None = None
    attempts: int = 0


def ids_told(report: Progress) -> frozenset[int]:
    """The message ids that ``report`` says anything about. 0 is one of them: what has no id yet is the report's alone."""
    told = {0, *report.seen, *(shown.message_id for shown in report.shown)}
    return frozenset(told | {action.message_id for action in report.actions})


def unknown_sends(report: Progress, known: tuple[Shown, ...]) -> tuple[Shown, ...]:
    """The messages that ``report`` says were sent, and that are not among ``known``: a node that was frozen says so late."""
    ids = {shown.message_id for shown in known}
    sent = {action.message_id for action in report.actions if action.op is Op.SEND and action.executed} - ids - {0}
    return tuple(shown for shown in report.shown if shown.message_id in sent)


class ChatLimit(msgspec.Struct, frozen=True, kw_only=True):
    """A chat (``chat_id`` 0: a whole bot) that takes nothing until ``until``; ``None`` is until somebody resumes it."""

    bot_id: int
    chat_id: int
    until: datetime | None
    reason: str


class Store(Reading, Naming, Rings, Protocol):
    """See the module, callgram.reading for what pages and exports read, callgram.bell for ``ring`` and ``listen``.
    Implementations start usable (``open_store`` returned them connected and migrated)."""

    async def close(self) -> None: ...

    async def ping(self) -> None:
        """Raise StoreError unless the database answers."""
        ...

    # administration

    async def directory(self) -> Directory: ...

    async def put_enterprise(self, enterprise: Enterprise) -> None:
        """Add or change. Raises ConfigError when another enterprise has the token already."""
        ...

    async def change_enterprise(self, number: str, change: Callable[[Enterprise | None], Enterprise]) -> None:
        """Put what ``change`` makes of the enterprise as it is stored, ``None`` for none; nobody changes it meanwhile.

        ``change`` is pure and keeps the number; what it raises leaves everything as it was. A new token of the same bot
        takes the place of the old one in the bot's other enterprises and for its subscribers, too.
        """
        ...

    async def add_subscriber(self, number: str, chat: Chat) -> bool:
        """True when the chat was not subscribed to the enterprise's bot before. Raises ConfigError: unknown
        enterprise."""
        ...

    async def remove_subscriber(self, number: str, chat_id: int) -> bool: ...

    async def mute(self, number: str, chat_id: int, until: datetime | None) -> bool:
        """Start nothing in the chat before ``until``; ``None`` ends that. False when it is not subscribed."""
        ...

    # ingest

    async def append(
        self, events: Sequence[NewEvent], expected: Mapping[str, Collection[str]] | None = None
    ) -> Stored:
        """Store ``events`` in one transaction.

        A repetition that is stored in the same instant by another process is not recognised. Ids grow in the order
        given. ``expected`` are the enterprises of ``events`` where they will be planned at once, each with the keys that
        ``find`` will be asked for. A store may look at them meanwhile, and leave it to that plan to make the events durable:
        what is ``ahead`` is so only behind ``settle``; without it they are durable now.
        """
        ...

    async def settle(self, ahead: Ahead) -> None:
        """Answer when the events of ``ahead`` are durable. A plan of them sees to it; where none comes within a few
        milliseconds, this does."""
        ...

    async def count_repeats(self, events: Sequence[NewEvent]) -> None:
        """Count ``events``, which ``append`` answered False for, at the stored events that they repeat.

        For readers only (:class:`callgram.reading.CallFile`). A crash between the answer and this loses the count, never an
        event; what repeats an event that is gone is not counted.
        """
        ...

    # planner

    def plan(
        self,
        *,
        now: datetime,
        limit: int,
        width: int = 1,
        shard: Shard = WHOLE,
        ahead: Ahead | None = None,
    ) -> AbstractAsyncContextManager[Batch | None]:
        """Take at most ``width`` enterprises of ``shard`` that have events to plan or calls whose timer ran out, and that nobody
        else has in hand.

        At most ``limit`` events in all, and as many calls in ``due``. ``None``: nothing to plan, or all of it is in other
        hands. An event that cannot be read any more is not in ``events``, and is committed as failed. Leave
        the context within 5 s, or the transaction is cut off and ``commit`` raises StoreError.

        With ``ahead``, of this store's ``append``, the batch may be of just those events, with nothing looked at again, and
        nobody kept from the enterprise: ``commit`` raises OvertakenError where another planner was faster. Now and then it is an
        ordinary batch all the same, so that other events and timers have their turn.
        """
        ...

    # sender

    async def hold_leases(self, node: str, bots: Iterable[int], *, ttl_s: float) -> Mapping[int, int]:
        """Take or renew the lease of each of ``bots`` that is free, expired or already this node's: ``{bot: fence}``.

        The fence grows when the lease changes hands, and when a lease of this node was not given to this very store
        object: a node that restarted is another owner. Two processes must not call themselves by one ``node``. Leases
        of bots that are not asked for any more are left to run out. By the database's clock.
        """
        ...

    async def release_leases(self, node: str) -> None: ...

    async def leased(self, bots: Iterable[int]) -> frozenset[int]:
        """Those of ``bots`` that some node holds a lease of now."""
        ...

    async def exchange(
        self,
        progress: Sequence[Progress],
        *,
        leases: Mapping[int, int],
        busy: Sequence[tuple[int, int]],
        limit: int,
        now: datetime,
        per_chat: int = 1,
        at_most: Mapping[int, int] | None = None,
    ) -> list[Claim]:
        """Write ``progress``, durably, then claim at most ``per_chat`` due cards of each (bot, chat) that is
        not in ``busy``, and ``at_most`` of each bot in it, most urgent first, for bots in ``leases`` that are still leased to
        this fence.

        ``busy`` must name every (bot, chat) with a card in hand: a card of this fence outside of it counts as one whose
        claim never arrived (the answer was lost with the connection), and is handed out again. After a StoreError hand
        in the same ``progress`` again; its actions may then be in the trace twice.

        Of progress on a card that is not in hand with that fence any more only the actions are written, and messages that
        were sent are added to those of the card, which is due then: it belongs to another node. Where the card's call was
        absorbed meanwhile, it is taken for the survivor's card in that chat.
        """
        ...

    async def next_due(self, bots: Iterable[int]) -> datetime | None:
        """When the next card of ``bots`` will be due (held, or waiting to be retried), or a limit of theirs ends.

        Always in the future, by the database's clock: what is due already is answered by ``exchange``.
        """
        ...

    async def sent_ids(self, bot_id: int, chat_id: int, around: datetime) -> list[tuple[int, datetime]]:
        """``[(message id, sent at)]`` of the executed sends within an hour around ``around`` that share the chat's id
        counter: all private chats of the bot (and basic groups) have one, a supergroup its own (rules R92, R93)."""
        ...

    async def move_chat(self, bot_id: int, old: int, new: int) -> None:
        """A group became a supergroup: its subscription and its cards pass to the new id; old messages are
        forgotten."""
        ...

    async def limit_chat(self, limit: ChatLimit) -> bool:
        """Have a chat, or a whole bot, take nothing for a while; answers whether it was not suspended before. Where it is
        suspended now, what waits for it is decided against."""
        ...

    async def lift_limit(self, bot_id: int, chat_id: int) -> bool: ...

    async def limits(self) -> list[ChatLimit]: ...

    # sinks

    async def cursor(self, sink: str) -> str:
        """Where ``sink`` is; a new sink starts at the beginning of what is kept."""
        ...

    async def save_cursor(self, sink: str, cursor: str, *, held: str | None = None) -> bool:
        """Move ``sink`` to ``cursor``. With ``held`` only from there: False, and nothing moves, where somebody else has moved
        it meanwhile (``callgram sinks rewind``)."""
        ...

    async def trace(self, after: str, *, limit: int) -> list[Record]:
        """Events and actions in commit order behind ``after``, only those that nothing can slip in front of any more.

        What was answered once is durable. Events are answered once; an action twice where a sender had to repeat its
        report.
        """
        ...

    async def waiting_since(self, after: str) -> datetime | None:
        """The time of the first committed record behind ``after``, also of one that ``trace`` still holds back; ``None``:
        there is none."""
        ...

    async def trace_of(self, enterprise: str, unique_id: str) -> list[Record]:
        """The trace of the call that any leg's ``unique_id`` (or Linkedid) belongs to, oldest first.

        With it the events of that channel that are not planned yet, or failed.
        """
        ...

    # upkeep

    async def keep_house(self, *, now: datetime, retention_days: int) -> None:
        """Make the coming days' partitions, drop those past the retention, forget keys of calls that ended long ago."""
        ...
