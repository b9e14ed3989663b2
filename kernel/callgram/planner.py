"""The planner: takes one enterprise's new events, folds them into calls, and says what each chat should show.

One batch is one transaction of the store, and its commit is the fence: nothing is planned twice, a dead planner leaves
no trace. No network in here. Flow of an event: ``step`` → ``_plan`` → ``Book.apply`` → ``plan_message`` → ``fill``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Protocol

import msgspec
from loguru import logger

from callgram.calls.book import Book, Touch, lookup_keys
from callgram.calls.facts import Facts
from callgram.calls.story import Call, Result
from callgram.cards import Card, Plan, Stage, Urgency
from callgram.context import Chat, Context, Directory
from callgram.errors import OvertakenError, StoreError
from callgram.events import Event, Kind
from callgram.loader import Plugins
from callgram.metrics import EVENTS_FAILED, EVENTS_PLANNED, PLAN_SECONDS, SKIPS
from callgram.settings import CallSettings
from callgram.store import Batch, CallRow, CardRow, Claim, Planned, Store
from callgram.trace import Action, Op

SUPERSEDED, HELD = "superseded", "held"  # by a later stage; before it was sent, or while it waited for one
BATCH = 256  # events of one enterprise planned in one transaction
BREATH_S = 0.005  # behind a batch that was not full: its messages go first, unless new events come
POLL_S = 0.25  # the truth, where a wake-up was lost or came from another node
INNER_END_S = 20.0  # a talk that everybody left and of which only a leg's hangup came: so long its own may still come


class Hands(Protocol):
    """The sender of this process: it takes what is due this moment right from the commit, without a claim of its own."""

    def offer(self, cards: list[CardRow]) -> list[CardRow]:
        """The same cards, with the ``fence`` set of those that it would send now."""
        ...

    def settle(self, cards: list[CardRow], claims: list[Claim]) -> None:
        """The commit is over, well or not: send ``claims``, and look for the rest of ``cards`` as ever."""
        ...


class NoHands:
    """Cards are sent by other processes."""

    def offer(self, cards: list[CardRow]) -> list[CardRow]:
        return cards

    def settle(self, cards: list[CardRow], claims: list[Claim]) -> None:
        pass


class Planner:
    """Plans until stopped. After each commit ``changed`` is told which calls changed, and ``woken`` which cards."""

    def __init__(
        self,
        store: Store,
        plugins: Plugins,
        directory: Callable[[], Directory],
        clock: Callable[[], datetime],
        *,
        woken: Callable[[list[CardRow]], None],
        changed: Callable[[list[Call]], None] = lambda calls: None,
        hands: Callable[[], Hands] = NoHands,
    ) -> None:
        self._store, self._plugins, self._directory, self._clock = store, plugins, directory, clock
        self._woken, self._changed, self._hands = woken, changed, hands
        self._wake, self._expected = asyncio.Event(), asyncio.Event()
        self._more = False

    def wake(self) -> None:
        """There may be something to plan. Any number of calls is one."""
        self._expected.set()
        self._wake.set()

    def expect(self) -> None:
        """Something is being stored, and ``wake`` will follow: be ready."""
        self._expected.set()

    async def run(self) -> None:
        while True:
            ready = self._stored if self._expected.is_set() and not self._more else None
            self._expected.clear()
            pause_s = POLL_S
            try:
                if await self.step(ready):
                    pause_s = 0.0 if self._more else BREATH_S
            except StoreError as error:
                logger.warning("planner waits for the store: {}", error)
                await asyncio.sleep(1.0)
            if pause_s:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._expected.wait()

    async def _stored(self) -> datetime:
        """What is expected has come, or does not come. Answers when."""
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._wake.wait()
        self._wake.clear()
        return self._clock()

    async def step(self, ready: Callable[[], Awaitable[datetime]] | None = None) -> bool:
        """Plan one batch; False when there was nothing to plan. See callgram.store for ``ready``."""
        try:
            async with self._store.plan(now=self._clock(), limit=BATCH, ready=ready) as batch:
                if batch is None:
                    return False
                self._more = len(batch.events) >= BATCH
                with PLAN_SECONDS.time():
                    planned, told = await self._plan_safely(batch, batch.now)
                    await self._commit(batch, planned)
        except OvertakenError:
            return True
        EVENTS_PLANNED.inc(len(planned.done))
        EVENTS_FAILED.inc(len(planned.failed))
        for skip in planned.skips:
            SKIPS.labels(skip.reason.partition(":")[0]).inc()
        self._changed(told)
        self._woken(planned.cards)
        return True

    async def _commit(self, batch: Batch, planned: Planned) -> None:
        hands, claims = self._hands(), []
        if not planned.absorbed:  # else cards are put together, behind the claim
            planned.cards = hands.offer(planned.cards)
        try:
            claims = await batch.commit(planned)
        finally:
            hands.settle(planned.cards, claims)

    async def _plan_safely(self, batch: Batch, now: datetime) -> tuple[Planned, list[Call]]:
        """An event that cannot be planned is tried alone, then parked with its error; the enterprise goes on."""
        try:
            return await self._plan(batch, batch.events, now)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug in the fold must not stop an enterprise; the event is kept
            logger.error("enterprise {}: a batch cannot be planned: {!r}", batch.enterprise, error)
        first, rest = batch.events[:1], len(batch.events) - 1
        try:
            return await self._plan(batch, first, now, timers=False)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            logger.exception("enterprise {}: an event is parked as failed, {} wait behind it", batch.enterprise, rest)
            return Planned(failed={event.id: f"{type(error).__name__}: {error}"[:500] for event in first}), []

    async def _plan(
        self, batch: Batch, events: Sequence[Event], now: datetime, *, timers: bool = True
    ) -> tuple[Planned, list[Call]]:
        settings, locale = self._plugins.reading(batch.enterprise)
        number_plan = locale.plan
        book = Book(number_plan)
        keys = {key for event in events for key in lookup_keys(event, number_plan)}
        for facts, found_by in await batch.find(keys):
            book.add(facts, found_by)
        before = {facts.id: book.told(facts) for facts in book.calls.values()}
        work = _Work(self._plugins, self._directory(), settings, batch.enterprise, now)
        planned = Planned()
        for event in events:
            touch = book.apply(event)
            planned.absorbed |= dict.fromkeys(touch.absorbed, touch.facts.id)
            planned.done[event.id] = touch.facts.id
            await work.consider(touch, book, before)
        for facts in batch.due if timers else ():
            await self._ring_timer(book, facts, work, before, now)
        planned.absorbed = {loser: _survivor(planned.absorbed, loser) for loser in planned.absorbed}
        planned.done = {event: planned.absorbed.get(call, call) for event, call in planned.done.items()}
        cards = await batch.cards({call for call in (*work.wanted, *planned.absorbed) if call in before})
        work.fill(planned, book, cards)
        return planned, work.changed()

    async def _ring_timer(self, book: Book, facts: Facts, work: _Work, before: dict[int, Call], now: datetime) -> None:
        """A call's own clock ran out: close it, unless this very batch brought it back to life."""
        known = book.calls.get(facts.id)
        if known is not None and known.version != facts.version:
            return
        head = book.told(facts).unique_id
        event = Event(enterprise=facts.enterprise, kind=Kind.TIMER, received_at=now, unique_id=head)
        book.add(facts, ())
        before.setdefault(facts.id, book.told(facts))
        await work.consider(book.close(facts.id, event), book, before)


def _survivor(absorbed: dict[int, int], call: int) -> int:
    while call in absorbed:
        call = absorbed[call]
    return call


class _Work:
    """What one batch decides: the newest plan of each call that changed, and the stages that were passed over."""

    def __init__(
        self, plugins: Plugins, directory: Directory, settings: CallSettings, enterprise: str, now: datetime
    ) -> None:
        self._plugins, self._settings, self._number, self._now = plugins, settings, enterprise, now
        self._directory = directory
        self._enabled = plugins.enabled(enterprise)
        self._contexts: dict[str, Context] = {}
        self._told: dict[int, Call] = {}
        self.wanted: dict[int, tuple[Call, Plan]] = {}
        self.touched: set[int] = set()
        self._passed: list[tuple[Call, Plan]] = []
        self._doubted: list[Call] = []

    def changed(self) -> list[Call]:
        """The calls that this batch touched, as they are told now."""
        return [self._told[call_id] for call_id in sorted(self.touched)]

    async def consider(self, touch: Touch, book: Book, before: dict[int, Call]) -> None:
        """Plan a call after one of its events, if the event changed anything that a reader could see."""
        facts = touch.facts
        call = book.told(facts)
        old = self._told.get(facts.id) or before.get(facts.id)
        self._told[facts.id] = call
        self.touched.add(facts.id)
        for absorbed in touch.absorbed:
            self.touched.discard(absorbed)
            gone = self.wanted.pop(absorbed, None)
            if gone:
                self._passed.append(gone)
        if call.doubt and not (old and old.doubt):
            self._doubted.append(call)
        if not call.unique_id or (old is not None and not touch.absorbed and _looks_same(old, call)):
            return
        plan = await self._ask(call, touch.event)
        if plan is None:
            return
        known = self.wanted.get(facts.id)
        if known and known[1].stage is not plan.stage:
            self._passed.append(known)
        self.wanted[facts.id] = (call, plan)

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
                locale=self._plugins.reading(self._number)[1],
                settings=self._plugins.settings(plugin, self._number),
            )
        return self._contexts[plugin]

    def fill(self, planned: Planned, book: Book, cards: list[Card]) -> None:
        """Turn what is wanted into rows: every touched call, and a card for each chat of a call with a new plan."""
        known = {(card.call_id, card.chat_id): card for card in cards}
        for call_id in sorted(self.touched):
            planned.calls.append(self._call_row(book, call_id))
        enterprise = self._directory.enterprises.get(self._number)
        if enterprise is None:
            return
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
            for call, plan in self.wanted.values():
                card = known.get((call.id, chat.id))
                if muted and card is None:
                    planned.skips.append(self._skip(call, plan, chat.id, enterprise.bot_id, muted))
                    continue
                planned.cards.append(self._card_row(call, plan, card, chat.id, enterprise.bot_id))
                if card and _never_seen(card, plan):
                    passed = msgspec.structs.replace(plan, stage=card.stage)
                    reason = HELD if card.due_at and card.due_at > self._now else SUPERSEDED
                    planned.skips.append(self._skip(call, passed, chat.id, enterprise.bot_id, reason))

    def _leave(self, planned: Planned, card: Card, bot_id: int, chats: set[int]) -> None:
        """Say why a card is not brought up to date any more: nobody subscribes, or its call was a part of another."""
        survivor = _survivor(planned.absorbed, card.call_id)
        wanted = self.wanted.get(survivor)
        if wanted is None:
            return
        call, plan = wanted
        if card.chat_id not in chats:
            planned.skips.append(self._skip(call, plan, card.chat_id, bot_id, "filtered: not subscribed any more"))
        elif survivor != card.call_id and not any(shown.stage is card.stage for shown in card.shown):
            part = msgspec.structs.replace(plan, stage=card.stage)
            planned.skips.append(self._skip(call, part, card.chat_id, bot_id, "duplicate: part of another call"))

    def _call_row(self, book: Book, call_id: int) -> CallRow:
        facts, call = book.calls[call_id], self._told[call_id]
        keys = book.new_keys.get(call_id, set())
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


def _looks_same(old: Call, new: Call) -> bool:
    return msgspec.structs.replace(old, version=0) == msgspec.structs.replace(new, version=0)


def _muted(chat: Chat, now: datetime) -> str:
    """Why a chat is told of no other call now, ``""`` where it is."""
    return f"muted: {chat.muted_until:%Y-%m-%d %H:%M}Z" if chat.muted_until and now < chat.muted_until else ""


def _never_seen(card: Card, plan: Plan) -> bool:
    """The stage that the card waited to show gives way to another before anybody saw it."""
    seen = card.claimed_stage is card.stage or any(shown.stage is card.stage for shown in card.shown)
    return card.stage is not plan.stage and card.due_at is not None and not seen
