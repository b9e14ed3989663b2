"""A planner's batch of one enterprise, as tests of a store like to see it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime

from callgram.calls.facts import Facts
from callgram.cards import Card
from callgram.store import Ahead, Batch, Claim, Planned, Store


@asynccontextmanager
async def plan_one(
    store: Store,
    *,
    now: datetime,
    limit: int,
    ahead: Ahead | None = None,
) -> AsyncIterator[Alone | None]:
    """``store.plan`` for one enterprise."""
    async with store.plan(now=now, limit=limit, ahead=ahead) as batch:
        yield Alone(batch) if batch is not None else None


class Alone:
    """See callgram.store.Batch and Part."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.now, (part,) = batch.now, batch.parts
        self.enterprise, self.events, self.due = part.enterprise, part.events, part.due

    async def find(self, keys: Iterable[str]) -> list[tuple[Facts, frozenset[str]]]:
        return (await self._batch.find({self.enterprise: keys})).get(self.enterprise, [])

    async def cards(self, call_ids: Iterable[int]) -> list[Card]:
        return (await self._batch.cards({self.enterprise: call_ids})).get(self.enterprise, [])

    async def commit(self, planned: Planned) -> list[Claim]:
        return await self._batch.commit({self.enterprise: planned})
