"""What one batch decides for one enterprise: its events folded into calls, and what each chat should show of them.

Nothing in here reads or writes. Flow of an event: ``Share.fold`` → ``Book.apply`` → ``plan_message`` → ``Share.fill``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta

import msgspec
from loguru import logger

from callgram.calls.book import Book, Touch, lookup_keys
from callgram.calls.facts import Facts
from callgram.calls.story import Call, Result
from callgram.cards import Card, Plan, Stage, Urgency
from callgram.context import Chat, Context, Directory
from callgram.events import Event, Kind
from callgram.loader import Plugins
from callgram.store import CallRow, CardRow, Part, Planned
from callgram.trace import Action, Op

SUPERSEDED, HELD = "superseded", "held"  # by a later stage; before it was sent, or while it waited for one
INNER_END_S = 20.0  # a talk that everybody left and of which only a leg's hangup came: so long its own may still come


class Share:
    """One enterprise's part of a batch. ``planned`` is what was decided, ``told`` are the calls that it touched, as they are
    told now, each with its facts.

    An event that cannot be planned is tried alone, then parked with its error; the enterprise goes on.
    """

    def __init__(self, part: Part, plugins: Plugins, directory: Directory, now: datetime) -> None:
        self.enterprise, self.planned = part.enterprise, Planned()
        self._part, self._plugins, self._directory, self._now = part, plugins, directory, now
        self._events, self._due = part.events, part.due
        self._found: list[tuple[Facts, frozenset[str]]] = []
        self._work: _Work | None = None
        self._parked = False

    @property
    def told(self) -> list[tuple[Facts, Call]]:
        return self._work.changed() if self._work else []

    def keys(self) -> set[str]:
        """What the calls that the events may belong to are found by."""
        number_plan = self._plugins.reading(self.enterprise)[1].plan
        return {key for event in self._events for key in lookup_keys(event, number_plan)}

    async def fold(self, found: Iterable[tuple[Facts, frozenset[str]]]) -> None:
        """Add the events to the calls that were ``found`` by the keys, and ask the plugins."""
        self._found = list(found)
        await self._contained(self._fold)

    def known(self) -> set[int]:
        """The calls whose cards ``fill`` needs."""
        return self._work.known() if self._work else set()

    async def fill(self, cards: list[Card]) -> None:
        """Turn what was decided into rows."""

        async def fill() -> None:
            work = self._work or await self._fold()
            self.planned = work.fill(cards)

        await self._contained(fill)

    async def _contained(self, do: Callable[[], Awaitable[object]]) -> None:
        while not self._parked:
            try:
                await do()
            except Exception as error:  # noqa: BLE001 - a bug in the fold must not stop an enterprise; the event is kept
                self._work = None
                self._give_way(error)
            else:
                return

    def _give_way(self, error: Exception) -> None:
        first = self._events[:1]
        if len(self._events) > 1 or self._due:
            logger.error("enterprise {}: a batch cannot be planned: {!r}", self.enterprise, error)
            self._events, self._due = first, ()
            return
        rest = len(self._part.events) - len(first)
        logger.opt(exception=error).error(
            "enterprise {}: an event is parked as failed, {} wait behind it", self.enterprise, rest
        )
        self.planned = Planned(failed={event.id: f"{type(error).__name__}: {error}"[:500] for event in first})
        self._parked = True

    async def _fold(self) -> _Work:
        work = _Work(self._plugins, self._directory, self.enterprise, self._now)
        for facts, found_by in self._found:
            work.find(facts, found_by)
        for event in self._events:
            await work.add(event)
        for facts in self._due:
            await work.ring_timer(facts)
        self._work = work
        return work


class _Work:
    """The newest plan of each call that changed, and the stages that were passed over."""

    def __init__(self, plugins: Plugins, directory: Directory, enterprise: str, now: datetime) -> None:
        self._plugins, self._directory, self._number, self._now = plugins, directory, enterprise, now
        self._settings, self._locale = plugins.reading(enterprise)
        self._book, self._planned = Book(self._locale.plan), Planned()
        self._enabled = plugins.enabled(enterprise)
        self._contexts: dict[str, Context] = {}
        self._before: dict[int, Call] = {}
        self._told: dict[int, Call] = {}
        self._wanted: dict[int, tuple[Call, Plan]] = {}
        self._touched: set[int] = set()
        self._passed: list[tuple[Call, Plan]] = []
        self._doubted: list[Call] = []

    def find(self, facts: Facts, found_by: Iterable[str]) -> None:
        """A call that is known, with those of its keys that it was found by."""
        self._book.add(facts, found_by)
        self._before.setdefault(facts.id, self._book.told(facts))

    async def add(self, event: Event) -> None:
        touch = self._book.apply(event)
        self._planned.absorbed |= dict.fromkeys(touch.absorbed, touch.facts.id)
        self._planned.done[event.id] = touch.facts.id
        await self._consider(touch)

    async def ring_timer(self, facts: Facts) -> None:
        """A call's own clock ran out: close it, unless this very batch brought it back to life."""
        known = self._book.calls.get(facts.id)
        if known is not None and known.version != facts.version:
            return
        head = self._book.told(facts).unique_id
        event = Event(enterprise=facts.enterprise, kind=Kind.TIMER, received_at=self._now, unique_id=head)
        self.find(facts, ())
        await self._consider(self._book.close(facts.id, event))

    def known(self) -> set[int]:
        """The calls that may have cards of which ``fill`` has to know."""
        return {call for call in (*self._wanted, *self._planned.absorbed) if call in self._before}

    def changed(self) -> list[tuple[Facts, Call]]:
        """The calls that were touched, as they are told now."""
        return [(self._book.calls[call_id], self._told[call_id]) for call_id in sorted(self._touched)]

    async def _consider(self, touch: Touch) -> None:
        """Plan a call after one of its events, if the event changed anything that a reader could see."""
        facts = touch.facts
        call = self._book.told(facts)
        old = self._told.get(facts.id) or self._before.get(facts.id)
        self._told[facts.id] = call
        self._touched.add(facts.id)
        for absorbed in touch.absorbed:
            self._touched.discard(absorbed)
            gone = self._wanted.pop(absorbed, None)
            if gone:
                self._passed.append(gone)
        if call.doubt and not (old and old.doubt):
            self._doubted.append(call)
        if not call.unique_id or (old is not None and not touch.absorbed and _looks_same(old, call)):
            return
        plan = await self._ask(call, touch.event)
        if plan is None:
            return
        known = self._wanted.get(facts.id)
        if known and known[1].stage is not plan.stage:
            self._passed.append(known)
        self._wanted[facts.id] = (call, plan)

    async def _ask(self, call: Call, event: Event) -> Plan | None:
        outcomes = await self._plugins.dispatcher.every(
            "plan_message", self._enabled, lambda plugin: {"ctx": self._context(plugin), "call": call, "event": event}
        )
        plans = [outcome.value for outcome in outcomes if isinstance(outcome.value, Plan)]
        return max(plans, key=lambda plan: plan.stage.rank, default=None)

    def _context(self, plugin: str) -> Context:
        if plugin not in self._contexts:
            self._contexts[plugin] = Context(
                now=self._now,
                enterprise=self._directory.enterprises.get(self._number),
                locale=self._locale,
                settings=self._plugins.settings(plugin, self._number),
            )
        return self._contexts[plugin]

    def fill(self, cards: list[Card]) -> Planned:
        """Turn what is wanted into rows: every touched call, and a card for each chat of a call with a new plan."""
        planned, absorbed = self._planned, self._planned.absorbed
        planned.absorbed = {loser: _survivor(absorbed, loser) for loser in absorbed}
        planned.done = {event: planned.absorbed.get(call, call) for event, call in planned.done.items()}
        known = {(card.call_id, card.chat_id): card for card in cards}
        for call_id in sorted(self._touched):
            planned.calls.append(self._call_row(call_id))
        enterprise = self._directory.enterprises.get(self._number)
        if enterprise is None:
            return planned
        chats = self._directory.chats_of(self._number)
        for left in cards:
            self._leave(planned, left, enterprise.bot_id, {chat.id for chat in chats})
        for chat in chats:
            muted = _muted(chat, self._now)
            for call in self._doubted:
                reason = f"host_times: not used, {call.doubt}"
                planned.skips.append(self._skip(call, Plan(stage=Stage.HANGUP), chat.id, enterprise.bot_id, reason))
            for call, plan in self._passed:
                reason = muted or (HELD if plan.hold_s else SUPERSEDED)
                planned.skips.append(self._skip(call, plan, chat.id, enterprise.bot_id, reason))
            for call, plan in self._wanted.values():
                card = known.get((call.id, chat.id))
                if muted and card is None:
                    planned.skips.append(self._skip(call, plan, chat.id, enterprise.bot_id, muted))
                    continue
                planned.cards.append(self._card_row(call, plan, card, chat.id, enterprise.bot_id))
                if card and _never_seen(card, plan):
                    passed = msgspec.structs.replace(plan, stage=card.stage)
                    reason = HELD if card.due_at and card.due_at > self._now else SUPERSEDED
                    planned.skips.append(self._skip(call, passed, chat.id, enterprise.bot_id, reason))
        return planned

    def _leave(self, planned: Planned, card: Card, bot_id: int, chats: set[int]) -> None:
        """Say why a card is not brought up to date any more: nobody subscribes, or its call was a part of another."""
        survivor = _survivor(planned.absorbed, card.call_id)
        wanted = self._wanted.get(survivor)
        if wanted is None:
            return
        call, plan = wanted
        if card.chat_id not in chats:
            planned.skips.append(self._skip(call, plan, card.chat_id, bot_id, "filtered: not subscribed any more"))
        elif survivor != card.call_id and not any(shown.stage is card.stage for shown in card.shown):
            part = msgspec.structs.replace(plan, stage=card.stage)
            planned.skips.append(self._skip(call, part, card.chat_id, bot_id, "duplicate: part of another call"))

    def _call_row(self, call_id: int) -> CallRow:
        facts, call = self._book.calls[call_id], self._told[call_id]
        keys = self._book.new_keys.get(call_id, set())
        return CallRow(
            facts=facts,
            unique_id=call.unique_id,
            started_at=call.started_at,
            ended_at=call.ended_at,
            timer_at=self._timer_at(facts, call),
            keys=frozenset(key for key in keys if not (call.ended and key.startswith("talk:"))),
            direction=str(call.direction),
            result=str(call.result),
            client=call.client,
            extensions=tuple(dict.fromkeys(number for number in (call.caller, *call.rung, *call.talkers) if number)),
        )

    def _timer_at(self, facts: Facts, call: Call) -> datetime | None:
        """When silence means that the end was lost (the ghost rule), ``None`` once the call has ended."""
        if call.ended:
            return None
        if call.left_at and facts.hangups:
            return facts.last_at + timedelta(seconds=INNER_END_S)
        silence = self._settings.ghost_talk_s if call.talkers else self._settings.ghost_ringing_s
        return facts.last_at + timedelta(seconds=silence)

    def _card_row(self, call: Call, plan: Plan, card: Card | None, chat_id: int, bot_id: int) -> CardRow:
        due_at = self._now
        if card is None or not card.shown:
            due_at += timedelta(seconds=plan.hold_s)
            if card and card.stage is plan.stage and card.due_at:
                due_at = min(due_at, card.due_at)
        urgency = Urgency.LIVE
        if call.ended:
            urgency = Urgency.MISSED if call.result is Result.MISSED else Urgency.REST
        return CardRow(
            call_id=call.id,
            chat_id=chat_id,
            bot_id=bot_id,
            stage=plan.stage,
            replaces=plan.replaces,
            version=call.version,
            mode=self._settings.mode,
            urgency=urgency,
            due_at=due_at,
        )

    def _skip(self, call: Call, plan: Plan, chat_id: int, bot_id: int, reason: str) -> Action:
        return Action(
            at=self._now,
            enterprise=self._number,
            call_id=call.id,
            unique_id=call.unique_id,
            chat_id=chat_id,
            bot_id=bot_id,
            stage=plan.stage,
            op=Op.SKIP,
            outcome="skipped",
            reason=reason,
        )


def _survivor(absorbed: dict[int, int], call: int) -> int:
    while call in absorbed:
        call = absorbed[call]
    return call


def _looks_same(old: Call, new: Call) -> bool:
    return msgspec.structs.replace(old, version=0) == msgspec.structs.replace(new, version=0)


def _muted(chat: Chat, now: datetime) -> str:
    """Why a chat is told of no other call now, ``""`` where it is."""
    return f"muted: {chat.muted_until:%Y-%m-%d %H:%M}Z" if chat.muted_until and now < chat.muted_until else ""


def _never_seen(card: Card, plan: Plan) -> bool:
    """The stage that the card waited to show gives way to another before anybody saw it."""
    seen = card.claimed_stage is card.stage or any(shown.stage is card.stage for shown in card.shown)
    return card.stage is not plan.stage and card.due_at is not None and not seen
