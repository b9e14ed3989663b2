"""Ingest's half of the store: new events in, durable. Takes no lock that anybody waits for, and never NOTIFYs.

A repetition that another process stores in the same instant is not seen; folding it into a call changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import asyncpg

from callgram.shards import part_of
from callgram.store import NewEvent
from callgram_postgres.house import House
from callgram_postgres.pools import translated
from callgram_postgres.queries import queries
from callgram_postgres.rows import columns, storable

SQL = queries("ingest")


class Ingest(House):
    """A part of PostgresStore."""

    async def append(self, events: Sequence[NewEvent]) -> list[bool]:
        if not events:
            return []
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
        stored = iter(await self._insert(columns(rows, 8), [event.received_at for event in events]))
        return [is_new and next(stored) for is_new in new]

    async def count_repeats(self, events: Sequence[NewEvent]) -> None:
        async with self._pools.take("ingest") as connection:
            with translated():
                for event in events:
                    place = (part_of(event.enterprise), event.enterprise, event.digest)
                    await connection.execute(SQL["count_repeat"], *place, event.received_at, event.repeat_s)

    async def _insert(self, given: list[list[object]], moments: list[datetime]) -> list[bool]:
        await self.make_days(moments)
        for last_try in (False, True):
            async with self._pools.take("ingest") as connection:
                with translated():
                    try:
                        places = {row["place"] for row in await connection.fetch(SQL["append"], *given)}
                    except asyncpg.CheckViolationError:  # another process dropped the day's partition
                        if last_try:
                            raise
                    else:
                        return [place in places for place in range(1, len(given[0]) + 1)]
            self.forget_days()
            await self.make_days(moments)
        raise AssertionError("unreachable")


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
