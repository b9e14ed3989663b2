"""The planner's half of the store: one enterprise's batch, in one transaction that holds the enterprise's queue row.

That row's lock is the fence: it goes with the connection of a planner that dies, and one that freezes is cut off by
``idle_in_transaction_session_timeout``. Commits without waiting for the disk: what a crash takes is planned again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any

from callgram.calls.book import GRACE, is_weak
from callgram.calls.facts import Facts
from callgram.cards import Card
from callgram.errors import IngestError, StoreError
from callgram.events import Event, Kind, read_event
from callgram.store import Batch, Planned
from callgram_postgres.house import WEAK_KEYS_KEPT, House
from callgram_postgres.pools import Pools, translated
from callgram_postgres.queries import queries
from callgram_postgres.rows import (
    ACTION_WIDTH,
    action_row,
    columns,
    found_by,
    part_of,
    read_card,
    read_facts,
    replaces_text,
    storable,
    write_json,
)

SQL = queries("planning")
START = (-1, "")  # before every (part, enterprise)
DUE_EVERY_S = 0.25  # timers are minutes: looked for so often, and else only when no event waits
TRIES = 5  # somebody else may have planned, between our look and our lock, what we came for


class Planning(House):
    """A part of PostgresStore. Goes round the enterprises, so that a flood of one does not starve another."""

    def __init__(self, pools: Pools) -> None:
        super().__init__(pools)
        self._last = START
        self._due_looked_at = -DUE_EVERY_S
        self._due_first = False

    @asynccontextmanager
    async def plan(self, *, now: datetime, limit: int) -> AsyncIterator[Batch | None]:
        async with self._pools.take("plan") as connection:
            batch = await self._take(connection, now, limit)
            try:
                yield batch
            finally:
                if batch is not None and not batch.over:
                    await batch.undo()

    async def _take(self, connection: Any, now: datetime, limit: int) -> PostgresBatch | None:
        for _ in range(TRIES):
            with translated():
                transaction = connection.transaction()
                await transaction.start()
                batch = picked = None
                try:
                    picked = await self._pick(connection, now)
                    if picked is not None and picked["locked"]:
                        batch = await self._read(connection, transaction, picked, now, limit)
                finally:
                    if batch is None:
                        await transaction.rollback()
                if picked is None:
                    self._last = START  # nothing waits: the next to come is found in one look
                if batch is not None or picked is None:
                    return batch
                if not picked["locked"]:
                    await connection.execute(SQL["add_queue"], picked["part"], picked["enterprise"])
        return None

    async def _read(
        self, connection: Any, transaction: Any, picked: Any, now: datetime, limit: int
    ) -> PostgresBatch | None:
        part, enterprise = self._last = (picked["part"], picked["enterprise"])
        rows = await connection.fetch(SQL["pending_events"], part, enterprise, limit)
        due = (
            await connection.fetch(SQL["due_calls"], part, enterprise, now, limit)
            if self._due_first or not rows
            else []
        )
        if not rows and not due:
            return None
        facts = [read_facts(row["facts"]) for row in due]
        return PostgresBatch(self, connection, transaction, enterprise=enterprise, rows=rows, due=facts, now=now)

    async def _pick(self, connection: Any, now: datetime) -> Any:
        """Events come first, but for a moment now and then, so that neither starves."""
        looked_at = time.monotonic()
        self._due_first = looked_at - self._due_looked_at >= DUE_EVERY_S
        if self._due_first:
            self._due_looked_at = looked_at
        picks = (self._pick_due, self._pick_pending) if self._due_first else (self._pick_pending, self._pick_due)
        for pick in picks:
            row = await pick(connection, now)
            if row is not None:
                return row
        return None

    async def _pick_due(self, connection: Any, now: datetime) -> Any:
        return await connection.fetchrow(SQL["pick_due"], now)

    async def _pick_pending(self, connection: Any, _now: datetime) -> Any:
        row = await connection.fetchrow(SQL["pick_pending"], *self._last)
        if row is None and self._last != START:
            self._last = START
            row = await connection.fetchrow(SQL["pick_pending"], *START)
        return row


class PostgresBatch:
    """See callgram.store.Batch. An event whose body this release cannot read is not shown, and committed as failed."""

    def __init__(
        self,
        house: House,
        connection: Any,
        transaction: Any,
        *,
        enterprise: str,
        rows: Iterable[Any],
        due: Sequence[Facts],
        now: datetime,
    ) -> None:
        self.enterprise, self.due, self.over = enterprise, due, False
        self._connection, self._transaction, self._house = connection, transaction, house
        self._part, self._now = part_of(enterprise), now
        self._received: dict[int, datetime] = {}
        self._unreadable: dict[int, str] = {}
        events: list[Event] = []
        for row in rows:
            self._received[row["id"]] = row["received_at"]
            try:
                kind = Kind(row["kind"])
                event = read_event(
                    kind, row["body"], enterprise=enterprise, received_at=row["received_at"], event_id=row["id"]
                )
            except (IngestError, ValueError) as error:
                self._unreadable[row["id"]] = str(error)
            else:
                events.append(event)
        self.events: Sequence[Event] = events

    async def find(self, keys: Iterable[str]) -> list[tuple[Facts, frozenset[str]]]:
        wanted = [storable(key) for key in keys]
        if not wanted:
            return []
        rows = await self._fetch("find_calls", wanted, self._now - GRACE)
        found: dict[int, bytes] = {row["id"]: row["facts"] for row in rows}
        return [
            (read_facts(facts), frozenset(row["key"] for row in rows if row["id"] == call))
            for call, facts in sorted(found.items())
        ]

    async def cards(self, call_ids: Iterable[int]) -> list[Card]:
        wanted = list(call_ids)
        rows = await self._fetch("cards_of", wanted) if wanted else []
        return [read_card(self.enterprise, row) for row in rows]

    async def commit(self, planned: Planned) -> None:
        if self.over:
            raise StoreError("the batch was committed before; take another")
        await self._house.make_days(skip.at for skip in planned.skips)
        with translated():
            if planned.absorbed:
                await self._absorb_calls(planned)
            await self._connection.execute(SQL["write_plan"], *self._values(planned))
            for loser, winner in planned.absorbed.items():
                await self._write("absorb_cards", loser, winner, self._now)
            await self._transaction.commit()
        self.over = True

    async def undo(self) -> None:
        """Without a connection any more there is nothing to undo."""
        self.over = True
        with suppress(StoreError), translated():
            await self._transaction.rollback()

    async def _absorb_calls(self, planned: Planned) -> None:
        """Locks all cards that this commit can touch first, in the senders' order: no deadlock with them."""
        touched = {*planned.absorbed, *planned.absorbed.values(), *(card.call_id for card in planned.cards)}
        await self._write("lock_cards", sorted(touched))
        for name in ("absorb_calls", "absorb_keys", "absorb_events"):
            await self._write(name, list(planned.absorbed), list(planned.absorbed.values()))

    def _values(self, planned: Planned) -> list[Any]:
        """The arguments of ``write_plan``, in its order."""
        calls = columns(
            (
                (row.facts.id, write_json(row.facts), row.unique_id, row.started_at, row.ended_at, row.timer_at)
                for row in planned.calls
            ),
            6,
        )
        filed = [(row.facts.id, storable(key), is_weak(key)) for row in planned.calls for key in sorted(row.keys)]
        weak = [key for _, key, is_weak_key in filed if is_weak_key]
        cards = columns(
            (
                (
                    card.call_id,
                    card.chat_id,
                    card.bot_id,
                    card.stage.value,
                    replaces_text(card.replaces),
                    card.version,
                    card.mode,
                    int(card.urgency),
                    card.due_at,
                )
                for card in planned.cards
            ),
            9,
        )
        failed = self._unreadable | planned.failed
        done: dict[int, tuple[int | None, str | None]] = {event: (call, None) for event, call in planned.done.items()}
        done |= {event: (None, storable(error)) for event, error in failed.items()}
        marks = [(event, self._received[event], *mark) for event, mark in done.items()]
        skips = columns(map(action_row, planned.skips), ACTION_WIDTH)
        spent = self._now - WEAK_KEYS_KEPT
        return [
            self._part, self.enterprise, *calls, *columns(filed, 3), weak, spent, *cards, *columns(marks, 4), *skips,
            *columns(map(found_by, planned.calls), 4),
        ]  # fmt: skip

    async def _fetch(self, name: str, *args: Any) -> list[Any]:
        with translated():
            rows: list[Any] = await self._connection.fetch(SQL[name], self._part, self.enterprise, *args)
            return rows

    async def _write(self, name: str, *args: Any) -> None:
        await self._connection.execute(SQL[name], self._part, self.enterprise, *args)
