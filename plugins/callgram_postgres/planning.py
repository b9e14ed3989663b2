"""The planner's half of the store: a batch of a few enterprises, in one transaction that holds their queue rows.

That row's lock is the fence: it goes with the connection of a planner that dies, and one that freezes is cut off by
``idle_in_transaction_session_timeout``. Commits without waiting for the disk: what a crash takes is planned again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple

from callgram.shards import WHOLE, Shard, part_of
from callgram.store import Batch
from callgram_postgres.batch import Ahead, Picked, PostgresBatch, find_calls
from callgram_postgres.house import House
from callgram_postgres.pools import Pools, translated
from callgram_postgres.queries import queries
from callgram_postgres.rows import columns, read_facts, storable

SQL = queries("planning")
DUE_EVERY_S = 0.25  # timers are minutes: looked for so often, and else only when no event waits
TRIES = 5  # somebody else may have planned, between our look and our lock, what we came for


class _Wanted(NamedTuple):
    """What a planner asks for: see callgram.store."""

    limit: int
    width: int
    shard: Shard
    expected: Mapping[str, Collection[str]]


class Planning(House):
    """A part of PostgresStore. Goes round the enterprises, so that a flood of one does not starve another."""

    def __init__(self, pools: Pools) -> None:
        super().__init__(pools)
        self._last: tuple[int, str] | None = None  # that was taken; None is before all
        self._due_looked_at = -DUE_EVERY_S

    @asynccontextmanager
    async def plan(
        self,
        *,
        now: datetime,
        limit: int,
        width: int = 1,
        shard: Shard = WHOLE,
        ready: Callable[[], Awaitable[datetime]] | None = None,
        expected: Mapping[str, Collection[str]] | None = None,
    ) -> AsyncIterator[Batch | None]:
        async with self._pools.take("plan") as connection:
            batch = await self._take(connection, now, _Wanted(limit, width, shard, expected or {}), ready)
            try:
                yield batch
            finally:
                if batch is not None and not batch.over:
                    await batch.undo()

    async def _take(
        self, connection: Any, now: datetime, wanted: _Wanted, ready: Callable[[], Awaitable[datetime]] | None
    ) -> PostgresBatch | None:
        for _ in range(TRIES):
            with translated():
                transaction = connection.transaction()
                await transaction.start()
                batch, ahead = None, Ahead()
                try:
                    if ready is not None:
                        if wanted.expected:
                            ahead = await self._look_ahead(connection, now, wanted.expected)
                        now, ready = await ready(), None
                    picked = await self._pick(connection, now, wanted)
                    locked = all(one.locked for one in picked)
                    if locked and any(one.rows or one.due for one in picked):
                        batch = PostgresBatch(self, connection, transaction, picked, now, ahead=ahead)
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

    async def _look_ahead(self, connection: Any, now: datetime, expected: Mapping[str, Collection[str]]) -> Ahead:
        """Lock those of the ``expected`` enterprises that are free, and find their calls by the keys.

        What is found stays true to the end of the transaction: calls and keys are written by ``write_plan`` and the absorb
        statements only, behind this very lock, and ingest and the enricher only add events. The calls are read by a statement
        of their own, whose snapshot is behind the lock: whoever had it has committed. Upkeep takes calls past the retention
        without any lock, as it may between ``find`` and ``write``.
        """
        places = sorted((part_of(number), number) for number in expected)
        locked = [row["enterprise"] for row in await connection.fetch(SQL["lock_queues"], *columns(places, 2))]
        keys = {(number, storable(key)) for number in locked for key in expected[number]}
        return Ahead(keys, await find_calls(connection, keys, now) if keys else ())

    async def _pick(self, connection: Any, now: datetime, wanted: _Wanted) -> list[Picked]:
        """Events come first, but for a moment now and then, so that neither starves."""
        looked_at = time.monotonic()
        due_first = looked_at - self._due_looked_at >= DUE_EVERY_S
        if due_first:
            self._due_looked_at = looked_at
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
