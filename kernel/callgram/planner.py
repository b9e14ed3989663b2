"""The planner: takes new events of a few enterprises, folds them into calls, and says what each chat should show.

One batch is one transaction of the store, and its commit is the fence: nothing is planned twice, a dead planner leaves
no trace. No network in here. Flow of an event: ``step`` → ``_plan`` → callgram.deciding → ``_commit``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Protocol

from loguru import logger

from callgram.calls.book import lookup_keys
from callgram.calls.facts import Facts
from callgram.calls.story import Call
from callgram.context import Directory
from callgram.deciding import Share
from callgram.errors import IngestError, OvertakenError, StoreError
from callgram.events import read_event
from callgram.loader import Plugins
from callgram.metrics import EVENTS_FAILED, EVENTS_PLANNED, PLAN_SECONDS, SKIPS
from callgram.shards import WHOLE, Shard
from callgram.store import Ahead, Batch, CardRow, Claim, NewEvent, Planned, Store

BATCH = 128  # events planned in one transaction
WIDTH = 16  # of so many enterprises at most: begin and commit cost as much for one
FEW = 8  # events whose calls are looked for while they are being stored; where more come, others wait, too
BREATH_S = 0.005  # behind a batch that was not full: its messages go first, unless new events come
# Where events come faster than they are planned, a batch of more of them costs the less for each: it is waited for so many
# times as long as the last one took, and at most so long.
RESTS, REST_S = 4.0, 0.08
POLL_S = 0.25  # the truth, where a wake-up was lost or came from another node


class Hands(Protocol):
    """The sender of this process: it takes what is due this moment right from the commit, without a claim of its own."""

    def offer(self, cards: list[CardRow]) -> list[CardRow]:
        """The same cards, with the ``fence`` set of those that it would send now."""
        ...

    def prepare(self, cards: list[CardRow], told: Sequence[tuple[Facts, Call]]) -> None:
        """``cards`` are being committed: there is time to draw those with a ``fence``. ``told`` are their calls, as the planner
        tells them."""
        ...

    def settle(self, cards: list[CardRow], claims: list[Claim]) -> None:
        """The commit is over, well or not: send ``claims``, and look for the rest of ``cards`` as ever."""
        ...


class NoHands:
    """Cards are sent by other processes."""

    def offer(self, cards: list[CardRow]) -> list[CardRow]:
        return cards

    def prepare(self, cards: list[CardRow], told: Sequence[tuple[Facts, Call]]) -> None:
        pass

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
        shard: Shard = WHOLE,
    ) -> None:
        self._store, self._plugins, self._directory, self._clock = store, plugins, directory, clock
        self._woken, self._changed, self._hands, self._shard = woken, changed, hands, shard
        self._wake, self._waits = asyncio.Event(), False
        self._ahead: Ahead | None = None
        self._more, self._width = False, WIDTH

    def wake(self, ahead: Ahead | None = None) -> None:
        """There may be something to plan, ``ahead`` is what is known of it. Any number of calls is one."""
        self._ahead = None if self._wake.is_set() else ahead  # of the only events that wait
        self._wake.set()

    def expect(self, events: Sequence[NewEvent]) -> dict[str, set[str]]:
        """``events`` are about to be stored. Answers the keys that their calls will be found by, of each enterprise, where they
        will be planned as soon as they are; nothing where other events wait, too."""
        if not self._waits or self._wake.is_set() or len(events) > FEW:
            return {}
        return self._keys(events)

    async def run(self) -> None:
        while True:
            self._wake.clear()
            ahead, self._ahead = self._ahead, None
            pause_s, began = POLL_S, time.monotonic()
            try:
                if await self.step(ahead):
                    pause_s = 0.0 if self._more else BREATH_S
                    if not self._more and self._wake.is_set():
                        await asyncio.sleep(min(REST_S, RESTS * (time.monotonic() - began)))
            except StoreError as error:
                logger.warning("planner waits for the store: {}", error)
                await asyncio.sleep(1.0)
            if pause_s:
                self._waits = True
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()
                self._waits = False

    def _keys(self, coming: Iterable[NewEvent]) -> dict[str, set[str]]:
        """What the calls of ``coming`` will be found by, of each enterprise. What cannot be read is not expected."""
        keys: dict[str, set[str]] = {}
        for new in coming:
            with suppress(IngestError):
                event = read_event(new.kind, new.body, enterprise=new.enterprise, received_at=new.received_at)
                number_plan = self._plugins.reading(new.enterprise)[1].plan
                keys.setdefault(new.enterprise, set()).update(lookup_keys(event, number_plan))
        return keys

    async def step(self, ahead: Ahead | None = None) -> bool:
        """Plan one batch; False when there was nothing to plan. See callgram.store for ``ahead``."""
        try:
            async with self._store.plan(
                now=self._clock(), limit=BATCH, width=self._width, shard=self._shard, ahead=ahead
            ) as batch:
                if batch is None:
                    return False
                self._more = sum(len(part.events) for part in batch.parts) >= BATCH
                with PLAN_SECONDS.time():
                    shares = await self._plan(batch)
                    planned = {share.enterprise: share.planned for share in shares}
                    told = [known for share in shares for known in share.told]
                    await self._commit(batch, planned, told)
        except OvertakenError:
            return True
        except StoreError:
            self._width = 1  # what one enterprise has that no store takes holds up nobody else
            raise
        self._width = min(WIDTH, 2 * self._width)
        for one in planned.values():
            EVENTS_PLANNED.inc(len(one.done))
            EVENTS_FAILED.inc(len(one.failed))
            for skip in one.skips:
                SKIPS.labels(skip.reason.partition(":")[0]).inc()
        self._changed([call for _, call in told])
        self._woken([card for one in planned.values() for card in one.cards])
        return True

    async def _plan(self, batch: Batch) -> list[Share]:
        directory = self._directory()
        shares = [Share(part, self._plugins, directory, batch.now) for part in batch.parts]
        found = await batch.find({share.enterprise: share.keys() for share in shares})
        for share in shares:
            await share.fold(found.get(share.enterprise, ()))
        cards = await batch.cards({share.enterprise: share.known() for share in shares})
        for share in shares:
            await share.fill(cards.get(share.enterprise, []))
        return shares

    async def _commit(self, batch: Batch, planned: Mapping[str, Planned], told: Sequence[tuple[Facts, Call]]) -> None:
        hands = self._hands()
        claims: list[Claim] = []
        for one in planned.values():
            if not one.absorbed:  # else cards are put together, behind the claim
                one.cards = hands.offer(one.cards)
        cards = [card for one in planned.values() for card in one.cards]
        try:
            hands.prepare(cards, told)
            claims = await batch.commit(planned)
        finally:
            hands.settle(cards, claims)
