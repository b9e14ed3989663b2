"""The sender: one owner per bot brings the cards of its chats to what they should show.

Each turn is one transaction: what finished is written, what is due is claimed (and by that marked in flight), then the
HTTP calls run side by side, one per (bot, chat). What the planner of the same process finds due for an idle chat is claimed
in its own transaction (``offer``). Bots are dealt out to a few rounds of turns, so that one round's database time is the
others' sending time. A bot's limits live in its owner's memory; its lease is in the store.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence, Set
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec
from loguru import logger

from callgram.calls.facts import Facts
from callgram.calls.story import Call
from callgram.cards import Stage
from callgram.context import Directory
from callgram.delivery import Delivery, Ports
from callgram.drawing import Drawing
from callgram.errors import StoreError
from callgram.loader import Plugins
from callgram.metrics import BOTS_OWNED
from callgram.shards import WHOLE, Shard
from callgram.store import CardRow, Claim, Progress, Store
from callgram.telegram.limits import BOT, Limits

LEASE_TTL_S = 6.0
RENEW_S = 1.5
POLL_S = 0.5  # the truth, where a wake-up was lost or came from another node
GATHER_S = 0.010  # so long answers are gathered before the next turn, while any are out
ROUNDS = 2  # side by side; a bot belongs to one
IN_HAND = 256  # cards in hand at once, of one round
AT_ONCE = 8  # cards that one chat may have in hand; they are sent one after another
TURNS = 2.0  # so many turns they should last: else a chat waits for the end of the next one


class Sender:
    """Sends until drained. ``done`` is called when something was written that sinks may read.

    ``monotonic`` seconds are the clock of leases and ``limits``. ``start`` sets a coroutine going beside the others.
    """

    def __init__(
        self,
        store: Store,
        plugins: Plugins,
        directory: Callable[[], Directory],
        *,
        session: object,
        limits: Limits,
        clock: Callable[[], datetime],
        node: str,
        done: Callable[[], None],
        shard: Shard = WHOLE,
        monotonic: Callable[[], float] = time.monotonic,
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]] = asyncio.create_task,
    ) -> None:
        self.store, self.directory, self.limits, self.clock, self.done = store, directory, limits, clock, done
        self.monotonic, self.start, self._node, self._shard = monotonic, start, node, shard
        self._renew = asyncio.Event()
        self._refused: frozenset[int] = frozenset()  # bots of other nodes: asked for again only at the next renewal
        self._leases: dict[int, int] = {}
        self._leased_until = 0.0
        self._drawing: set[asyncio.Task[None]] = set()
        self.draining = False
        self._rounds = [Round(self, number) for number in range(ROUNDS)]
        self.ports = Ports(
            plugins=plugins,
            drawing=Drawing(plugins, directory, clock),
            session=session,
            limits=limits,
            clock=clock,
            monotonic=monotonic,
            chance=random.random,
            holds=self._holds,
            token_of=lambda bot: directory().bots().get(bot),
            report=lambda progress: self._rounds[progress.bot_id % ROUNDS].take(progress),
            limit_chat=store.limit_chat,
            move_chat=store.move_chat,
            sent_ids=store.sent_ids,
        )

    @property
    def owned(self) -> frozenset[int]:
        return frozenset(self._leases)

    def leases(self) -> dict[int, int]:
        """``{bot: fence}`` of the bots that may be sent for now."""
        return self._leases if self.monotonic() < self._leased_until and not self.draining else {}

    def _bots(self) -> Set[int]:
        return self._shard.bots(self.directory()).keys()

    def _holds(self, bot: int, fence: int) -> bool:
        return self._leases.get(bot) == fence and self.monotonic() < self._leased_until

    def wake(self) -> None:
        """Something may be due, or a bot may be new. Any number of calls is one."""
        for turns in self._rounds:
            turns.wake()
        if not self._leases.keys() >= self._bots() - self._refused:
            self._renew.set()

    def offer(self, cards: list[CardRow]) -> list[CardRow]:
        """See callgram.planner.Hands. Keeps the chats of the marked cards free until ``settle``."""
        leases, now = self.leases(), self.clock()
        return [self._offered(card, leases.get(card.bot_id), now) for card in cards]

    def _offered(self, card: CardRow, fence: int | None, now: datetime) -> CardRow:
        pair = (card.bot_id, card.chat_id)
        if fence is None or card.due_at > now or not self._rounds[card.bot_id % ROUNDS].reserve(pair):
            return card
        return msgspec.structs.replace(card, fence=fence)

    def prepare(self, cards: list[CardRow], told: Sequence[tuple[Facts, Call]]) -> None:
        """See callgram.planner.Hands."""
        stages = {card.call_id: card.stage for card in cards if card.fence is not None}
        if stages:
            task = self.start(self._draw_ahead(stages, told))
            self._drawing.add(task)
            task.add_done_callback(self._drawing.discard)

    async def _draw_ahead(self, stages: dict[int, Stage], told: Sequence[tuple[Facts, Call]]) -> None:
        drawing = self.ports.drawing
        for facts, call in told:
            if call.id in stages:
                drawing.remember(facts, self.ports.plugins.reading(call.enterprise)[1].plan, call)
                await drawing.draw_ahead(call, stages[call.id])

    def settle(self, cards: list[CardRow], claims: list[Claim]) -> None:
        """See callgram.planner.Hands."""
        for number, turns in enumerate(self._rounds):
            turns.settle(
                [card for card in cards if card.bot_id % ROUNDS == number],
                [claim for claim in claims if claim.card.bot_id % ROUNDS == number],
            )

    async def run(self) -> None:
        """Send until :meth:`drain`. Leases are renewed beside, also while a turn waits for the database."""
        renewing = asyncio.create_task(self._keep_leases(), name="leases")
        try:
            await asyncio.gather(*(turns.run() for turns in self._rounds))
            await self.ports.replies.close()
            await asyncio.gather(*(turns.run() for turns in self._rounds))  # what came of the replies
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    def drain(self) -> None:
        """Claim nothing more, finish what is in flight: a send is never cancelled, or it would be ambiguous."""
        self.draining = True
        self.wake()

    async def _keep_leases(self) -> None:
        while True:
            self._renew.clear()
            try:
                await self.renew()
            except StoreError as error:
                logger.warning("leases are not renewed: {}", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(RENEW_S):
                    await self._renew.wait()

    async def renew(self) -> None:
        """Keep the leases of our bots, and take those that are free."""
        began, wanted = self.monotonic(), self._bots()
        held = await self.store.hold_leases(self._node, wanted, ttl_s=LEASE_TTL_S)
        self._refused = frozenset(wanted - held.keys())
        self._take_leases(dict(held), began)

    def _take_leases(self, held: dict[int, int], began: float) -> None:
        twins = [bot for bot in held if began < self._leased_until and self._leases.get(bot, held[bot]) != held[bot]]
        if twins:
            say = "another process calls itself {}, too, and takes the same bots: see CALLGRAM_NODE"
            self.ports.trouble.say("ERROR", "twins", began, say, self._node)
        for bot in held.keys() - self._leases.keys():
            self.limits.start_bot(bot, self.monotonic(), empty=held[bot] > 1)
        for bot in self._leases.keys() - held.keys():
            self.limits.stop_bot(bot)
        changed = held.keys() != self._leases.keys()
        self._leases, self._leased_until = held, began + LEASE_TTL_S - 1.0
        BOTS_OWNED.set(len(held))
        if changed:
            for turns in self._rounds:
                turns.look_around()


class Round:
    """Turn after turn for every ``ROUNDS``-th bot."""

    def __init__(self, sender: Sender, number: int) -> None:
        self._sender, self._number = sender, number
        self._finished: list[Progress] = []
        self._jobs: dict[tuple[int, int], int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn_s, self._card_s = Average(0.0), Average(1.0)
        self._claiming = False
        self._passed_over: frozenset[tuple[int, int]] | None = None
        self._wake = asyncio.Event()
        self._due_at: datetime | None = None

    def wake(self) -> None:
        self._wake.set()

    def look_around(self) -> None:
        """Anything may be due for anyone."""
        self._passed_over = None
        self.wake()

    def take(self, progress: Progress) -> None:
        """Have the next turn write what became of a card."""
        self._finished.append(progress)
        self._wake.set()

    def reserve(self, pair: tuple[int, int]) -> bool:
        """Keep a chat free for a card that the planner claims. Not while a turn claims: it may take another card of it; nor
        where the last one had to pass the chat over: what waits there may be more urgent."""
        if self._claiming or self._passed_over is None or pair in self._jobs or len(self._jobs) >= IN_HAND:
            return False
        now = self._sender.monotonic()
        if not self._passed_over.isdisjoint((pair, (pair[0], BOT))) or self._sender.limits.ready_at(*pair, now) > now:
            return False
        self._jobs[pair] = 1
        return True

    def settle(self, cards: list[CardRow], claims: list[Claim]) -> None:
        """The planner's commit is over: send what it claimed, and look for what it did not."""
        for card in cards:
            if card.fence is not None:
                del self._jobs[card.bot_id, card.chat_id]
        self._start(claims)
        if len(claims) < len(cards):
            self.wake()

    async def run(self) -> None:
        while not (self._sender.draining and not self._jobs and not self._finished):
            self._wake.clear()
            try:
                await self.turn()
            except StoreError as error:
                logger.warning("sender waits for the store: {}", error)
                await asyncio.sleep(1.0)
            await self._rest()

    async def _rest(self) -> None:
        """Until something happens, the next card is due, or the poll."""
        if self._sender.draining and not self._jobs:
            return
        if self._jobs:
            await asyncio.sleep(GATHER_S)
        timeout = POLL_S
        now = self._sender.monotonic()
        ready = self._sender.limits.next_ready(now)
        if ready is not None:
            timeout = min(timeout, max(0.0, ready - now))
        if self._due_at is not None:
            timeout = min(timeout, max(0.0, (self._due_at - self._sender.clock()).total_seconds()))
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()

    async def turn(self) -> None:
        """Write what finished, claim what is due and set it going."""
        finished, self._finished = self._finished, []
        blocked = self._sender.limits.blocked(self._sender.monotonic())
        closed = {bot for bot, chat in blocked if chat == 0}
        ended = Counter((progress.bot_id, progress.chat_id) for progress in finished if progress.released)
        freed = {pair for pair, n_ended in ended.items() if self._jobs.get(pair, 0) <= n_ended}
        held = self._sender.leases()
        leases = {bot: held[bot] for bot in held if bot % ROUNDS == self._number and bot not in closed}
        in_hand = self._jobs.keys() - freed
        began = self._sender.monotonic()
        self._claiming = True
        try:
            claims = await self._sender.store.exchange(
                finished,
                leases=leases,
                busy=[*in_hand, *(pair for pair in blocked if pair[1] != 0)],
                limit=max(0, IN_HAND - len(in_hand)),
                now=self._sender.clock(),
                per_chat=self._per_chat(),
                at_most={bot: self._sender.limits.free(bot, began) for bot in leases},
            )
        except StoreError:
            self._finished = finished + self._finished
            self._passed_over = None
            raise
        finally:
            self._claiming = False
        self._passed_over = frozenset(blocked)
        if any(progress.actions for progress in finished):
            self._sender.done()
        for pair, n_ended in ended.items():
            self._jobs[pair] = self._jobs.get(pair, 0) - n_ended
        for pair in freed:
            del self._jobs[pair]
        self._start(claims)
        self._turn_s.add(self._sender.monotonic() - began)
        idle = bool(leases) and not claims and not self._jobs
        self._due_at = await self._sender.store.next_due(leases) if idle else None

    def _per_chat(self) -> int:
        """How many cards a chat can be sent in the time of some turns. One, but where Telegram answers faster than the database:
        what is in hand is in doubt if this process dies."""
        return max(1, min(AT_ONCE, int(TURNS * self._turn_s.value / self._card_s.value)))

    def _start(self, claims: list[Claim]) -> None:
        bots = self._sender.directory().bots() if claims else {}
        by_chat: dict[tuple[int, int], list[Delivery]] = {}
        for claim in claims:
            token, fence = bots.get(claim.card.bot_id), claim.card.claimed_fence
            if token is None or fence is None:
                continue  # the bot was taken away this very moment; the claim is found again
            line = by_chat.setdefault((claim.card.bot_id, claim.card.chat_id), [])
            line.append(Delivery(self._sender.ports, claim, fence, token, first=not line))
        for pair, line in by_chat.items():
            self._jobs[pair] = len(line)
            task = self._sender.start(self._run(line))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, line: list[Delivery]) -> None:
        """One of the two places that catch broadly: a bug in one card must not stop the others. It is retried, loudly."""
        for delivery in line:
            began = self._sender.monotonic()
            try:
                await delivery.deliver()
            except Exception:  # noqa: BLE001 - see above
                logger.exception("{}: its card cannot be delivered", delivery)
                delivery.give_back()
            self._card_s.add(self._sender.monotonic() - began)


class Average:
    """A moving average of seconds."""

    def __init__(self, value: float) -> None:
        self.value = value

    def add(self, seconds: float) -> None:
        self.value += (max(seconds, 1e-6) - self.value) / 16
