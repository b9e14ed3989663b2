"""The planner's half of the store: a batch of a few enterprises, in one transaction that holds their queue rows.

That row's lock is the fence: it goes with the connection of a planner that dies, and one that freezes is cut off by
``idle_in_transaction_session_timeout``. Commits without waiting for the disk: what a crash takes is planned again.

Events that were seen while they were stored (``ahead``) are planned without holding anything: the fence is the row's version
then, which every plan makes grow, and one statement writes all.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from math import inf
from typing import Any, NamedTuple

from callgram.shards import WHOLE, Shard
from callgram.store import Ahead, Batch
from callgram_postgres.batch import Picked, PostgresBatch, ahead_picked
from callgram_postgres.house import House
from callgram_postgres.pools import Pools, translated
from callgram_postgres.queries import queries
from callgram_postgres.rows import read_facts

SQL = queries("planning")
AHEAD_S = 0.5  # so old may be what was seen ahead, and the last look at everything that may wait
DUE_EVERY_S = 0.25  # timers are minutes: looked for so often, and else only when no event waits
TRIES = 5  # somebody else may have planned, between our look and our lock, what we came for


class _Wanted(NamedTuple):
    """What a planner asks for: see callgram.store."""

    limit: int
    width: int
    shard: Shard


class Planning(House):
    """A part of PostgresStore. Goes round the enterprises, so that a flood of one does not starve another."""

    def __init__(self, pools: Pools) -> None:
        super().__init__(pools)
        self._last: tuple[int, str] | None = None  # that was taken; None is before all
        self._looked_at = self._due_looked_at = -inf

    @asynccontextmanager
    async def plan(
        self,
        *,
        now: datetime,
        limit: int,
        width: int = 1,
        shard: Shard = WHOLE,
        ahead: Ahead | None = None,
    ) -> AsyncIterator[Batch | None]:
        async with self._pools.take("plan") as connection:
            if ahead is not None and ahead.is_enough and self._is_fresh(ahead, now):
                batch: PostgresBatch | None = PostgresBatch(self, connection, ahead_picked(ahead), now, ahead=ahead)
            else:
                batch = await self._take(connection, now, _Wanted(limit, width, shard))
            try:
                yield batch
            finally:
                if batch is not None:
                    await batch.close()

    def _is_fresh(self, ahead: Ahead, now: datetime) -> bool:
        """It was seen a moment ago, and so was everything else that may wait."""
        return time.monotonic() - self._looked_at < AHEAD_S and now - ahead.at < timedelta(seconds=AHEAD_S)

    async def _take(self, connection: Any, now: datetime, wanted: _Wanted) -> PostgresBatch | None:
        for _ in range(TRIES):
            with translated():
                transaction, batch = connection.transaction(), None
                await transaction.start()
                try:
                    picked = await self._pick(connection, now, wanted)
                    locked = all(one.locked for one in picked)
                    if locked and any(one.rows or one.due for one in picked):
                        batch = PostgresBatch(self, connection, picked, now, transaction=transaction)
                finally:
                    if batch is None:
                        await transaction.rollback()
                if locked:  # where nothing waits, the next to come is found in one look
                    self._last = picked[-1].place if picked else None
                if batch is not None or not picked:
                    return batch
                for one in picked:
                    if not one.locked:
                        await connection.execute(SQL["add_queue"], *one.place)
        return None

    async def _pick(self, connection: Any, now: datetime, wanted: _Wanted) -> list[Picked]:
        """Events come first, but for a moment now and then, so that neither starves."""
        self._looked_at = time.monotonic()
        due_first = self._looked_at - self._due_looked_at >= DUE_EVERY_S
        if due_first:
            self._due_looked_at = self._looked_at
        picked = await self._pick_due(connection, now, wanted) if due_first else []
        picked = picked or await self._pick_pending(connection, wanted)
        return picked or ([] if due_first else await self._pick_due(connection, now, wanted))

    async def _pick_due(self, connection: Any, now: datetime, wanted: _Wanted) -> list[Picked]:
        row = await connection.fetchrow(SQL["pick_due"], now, wanted.shard.first, wanted.shard.behind)
        if row is None:
            return []
        place = (row["part"], row["enterprise"])
        if not row["locked"]:
            return [Picked(place)]
        events = await connection.fetch(SQL["pending_events"], *place, wanted.limit)
        due = await connection.fetch(SQL["due_calls"], *place, now, wanted.limit)
        return [Picked(place, locked=True, rows=events, due=[read_facts(one["facts"]) for one in due])]

    async def _pick_pending(self, connection: Any, wanted: _Wanted) -> list[Picked]:
        start, bounds = (wanted.shard.first, ""), (wanted.limit, wanted.width, wanted.shard.behind)
        rows = await connection.fetch(SQL["take_pending"], *(self._last or start), *bounds)
        if not rows and self._last is not None:
            rows = await connection.fetch(SQL["take_pending"], *start, *bounds)
        of: dict[tuple[int, str], list[Any]] = {}
        for row in rows:
            of.setdefault((row["part"], row["enterprise"]), []).append(row)
        return [
            Picked(place, locked=rows[0]["locked"], rows=[row for row in rows if row["id"] is not None])
            for place, rows in of.items()
        ]
