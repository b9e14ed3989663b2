"""Ingest's half of the store: new events in. Takes no lock that anybody waits for, and never NOTIFYs.

Durable with the transaction; events that are planned at once with the transaction of their plan, which flushes the log a moment
later anyway: of two flushes, one behind the other, the first is saved.

A repetition that another process stores in the same instant is not seen; folding it into a call changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import count
from typing import Any

import asyncpg

from callgram.calls.book import GRACE
from callgram.shards import part_of
from callgram.store import Ahead, NewEvent, Stored, numbered
from callgram_postgres.house import House
from callgram_postgres.pools import translated
from callgram_postgres.queries import queries
from callgram_postgres.rows import columns, storable

SQL = queries("ingest")
SOON_S = 0.005  # a plan of a single event takes half of it


class Ingest(House):
    """A part of PostgresStore."""

    async def append(
        self, events: Sequence[NewEvent], expected: Mapping[str, Collection[str]] | None = None
    ) -> Stored:
        if not events:
            return Stored([])
        new = not_repeated(events)
        rows = [
            (
                part_of(event.enterprise),
                event.enterprise,
                event.kind.value,
                storable(event.unique_id),
                event.received_at,
                event.digest,
                event.repeat_s,
                event.body,
            )
            for event, is_new in zip(events, new, strict=True)
            if is_new
        ]
        keys = {number: {storable(key) for key in some} for number, some in (expected or {}).items()}
        wanted = [(part_of(number), number, key) for number, some in keys.items() for key in some]
        moments = [event.received_at for event in events]
        look = [*columns([(part_of(number), number) for number in keys], 2), *columns(wanted, 3), min(moments) - GRACE]
        found = await self._insert([*columns(rows, 8), *look], moments)
        id_at, place = {row["place"]: row["id"] for row in found}, count(1)
        ids = [id_at.get(next(place)) if is_new else None for is_new in new]
        return Stored([number is not None for number in ids], _ahead(events, ids, keys, found) if keys else None)

    async def settle(self, ahead: Ahead) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(SOON_S):
                await ahead.durable.wait()
                return
        await self.flush("ingest")
        ahead.durable.set()

    async def count_repeats(self, events: Sequence[NewEvent]) -> None:
        async with self._pools.take("ingest") as connection:
            with translated():
                for event in events:
                    place = (part_of(event.enterprise), event.enterprise, event.digest)
                    await connection.execute(SQL["count_repeat"], *place, event.received_at, event.repeat_s)

    async def _insert(self, given: list[Any], moments: list[datetime]) -> list[Any]:
        await self.make_days(moments)
        for last_try in (False, True):
            async with self._pools.take("ingest") as connection:
                with translated():
                    try:
                        rows: list[Any] = await connection.fetch(SQL["append"], *given)
                    except asyncpg.CheckViolationError:  # another process dropped the day's partition
                        if last_try:
                            raise
                    else:
                        return rows
            self.forget_days()
            await self.make_days(moments)
        raise AssertionError("unreachable")


def _ahead(
    events: Sequence[NewEvent], ids: Sequence[int | None], keys: Mapping[str, Collection[str]], rows: Sequence[Any]
) -> Ahead:
    return Ahead(
        at=max(event.received_at for event in events),
        events=numbered(events, ids),
        versions={row["enterprise"]: row["version"] for row in rows if row["version"] is not None},
        keys=keys,
        rows=[row for row in rows if row["key"] is not None],
    )


def not_repeated(events: Sequence[NewEvent]) -> list[bool]:
    """False for those that repeat an earlier one of the same batch, which the table cannot know yet."""
    first: dict[tuple[str, bytes], datetime] = {}
    answers = []
    for event in events:
        key = (event.enterprise, event.digest)
        earlier = first.get(key)
        repeated = earlier is not None and abs((event.received_at - earlier).total_seconds()) < event.repeat_s
        if not repeated:
            first[key] = event.received_at
        answers.append(not repeated)
    return answers
