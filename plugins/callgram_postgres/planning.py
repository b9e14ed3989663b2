"""The planner's half of the store: one enterprise's batch, in one transaction that holds the enterprise's queue row.

That row's lock is the fence: it goes with the connection of a planner that dies, and one that freezes is cut off by
``idle_in_transaction_session_timeout``. Commits without waiting for the disk: what a crash takes is planned again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any

import msgspec

from callgram.calls.book import GRACE, is_weak
from callgram.calls.facts import Facts
from callgram.cards import Card
from callgram.errors import IngestError, OvertakenError, StoreError
from callgram.events import Event, Kind, read_event
from callgram.store import Batch, Claim, Planned
from callgram_postgres.house import WEAK_KEYS_KEPT, House
from callgram_postgres.pools import Pools, translated
from callgram_postgres.queries import queries
from callgram_postgres.rows import (
    SKIP_WIDTH,
    action_row,
    columns,
    found_by,
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

    @asynccontextmanager
    async def plan(
        self, *, now: datetime, limit: int, ready: Callable[[], Awaitable[datetime]] | None = None
    ) -> AsyncIterator[Batch | None]:
        async with self._pools.take("plan") as connection:
            batch = await self._take(connection, now, limit, ready)
            try:
                yield batch
            finally:
                if batch is not None and not batch.over:
                    await batch.undo()

    async def _take(
        self, connection: Any, now: datetime, limit: int, ready: Callable[[], Awaitable[datetime]] | None
    ) -> PostgresBatch | None:
        for _ in range(TRIES):
            with translated():
                transaction = connection.transaction()
                await transaction.start()
                batch = None
                try:
                    if ready is not None:
                        now = await ready()
                    picked = await self._pick(connection, now, limit)
                    if picked.locked and (picked.rows or picked.due):
                        batch = PostgresBatch(self, connection, transaction, picked, now)
                finally:
                    if batch is None:
                        await transaction.rollback()
                self._last = picked.place  # where nothing waits, the next to come is found in one look
                if batch is not None or picked.place == START:
                    return batch
                if not picked.locked:
                    await connection.execute(SQL["add_queue"], *picked.place)
        return None

    async def _pick(self, connection: Any, now: datetime, limit: int) -> _Picked:
        """Events come first, but for a moment now and then, so that neither starves."""
        looked_at = time.monotonic()
        due_first = looked_at - self._due_looked_at >= DUE_EVERY_S
        if due_first:
            self._due_looked_at = looked_at
        picks = (self._pick_due, self._pick_pending) if due_first else (self._pick_pending, self._pick_due)
        for pick in picks:
            picked = await pick(connection, now, limit)
            if picked is not None:
                return picked
        return _Picked(START)

    async def _pick_due(self, connection: Any, now: datetime, limit: int) -> _Picked | None:
        row = await connection.fetchrow(SQL["pick_due"], now)
        if row is None:
            return None
        place = (row["part"], row["enterprise"])
        if not row["locked"]:
            return _Picked(place)
        events = await connection.fetch(SQL["pending_events"], *place, limit)
        due = await connection.fetch(SQL["due_calls"], *place, now, limit)
        return _Picked(place, locked=True, rows=events, due=[read_facts(one["facts"]) for one in due])

    async def _pick_pending(self, connection: Any, _now: datetime, limit: int) -> _Picked | None:
        rows = await connection.fetch(SQL["take_pending"], *self._last, limit)
        if not rows and self._last != START:
            rows = await connection.fetch(SQL["take_pending"], *START, limit)
        if not rows:
            return None
        events = [] if rows[0]["id"] is None else rows
        return _Picked((rows[0]["part"], rows[0]["enterprise"]), locked=rows[0]["locked"], rows=events)


class _Picked(msgspec.Struct, frozen=True):
    """An enterprise and, where it is ``locked``, what is to be planned of it. ``START``: there is none."""

    place: tuple[int, str]
    locked: bool = False
    rows: Sequence[Any] = ()
    due: Sequence[Facts] = ()


class PostgresBatch:
    """See callgram.store.Batch. An event whose body this release cannot read is not shown, and committed as failed."""

    def __init__(
        self,
        house: House,
        connection: Any,
        transaction: Any,
        picked: _Picked,
        now: datetime,
    ) -> None:
        self._part, self.enterprise = picked.place
        self.due, self.over = picked.due, False
        self._connection, self._transaction, self._house, self.now = connection, transaction, house, now
        self._received: dict[int, datetime] = {}
        self._unreadable: dict[int, str] = {}
        events: list[Event] = []
        for row in picked.rows:
            self._received[row["id"]] = row["received_at"]
            try:
                kind = Kind(row["kind"])
                event = read_event(
                    kind, row["body"], enterprise=self.enterprise, received_at=row["received_at"], event_id=row["id"]
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
        rows = await self._fetch("find_calls", wanted, self.now - GRACE)
        found: dict[int, bytes] = {row["id"]: row["facts"] for row in rows}
        return [
            (read_facts(facts), frozenset(row["key"] for row in rows if row["id"] == call))
            for call, facts in sorted(found.items())
        ]

    async def cards(self, call_ids: Iterable[int]) -> list[Card]:
        wanted = list(call_ids)
        rows = await self._fetch("cards_of", wanted) if wanted else []
        return [read_card(self.enterprise, row) for row in rows]

    async def commit(self, planned: Planned) -> list[Claim]:
        if self.over:
            raise StoreError("the batch was committed before; take another")
        await self._house.make_days(skip.at for skip in planned.skips)
        with translated():
            if planned.absorbed:
                await self._absorb_calls(planned)
            rows = await self._connection.fetch(SQL["write_plan"], *self._values(planned))
            if rows[0]["n_marked"] < len(planned.done) + len(self._unreadable | planned.failed):
                raise OvertakenError
            for loser, winner in planned.absorbed.items():
                await self._write("absorb_cards", loser, winner, self.now)
            await self._transaction.commit()
        self.over = True
        facts = {row.facts.id: row.facts for row in planned.calls}
        cards = [read_card(self.enterprise, row) for row in rows if row["call_id"] is not None]
        return [Claim(card=card, facts=facts[card.call_id]) for card in cards]

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
        marks = [(event, *mark) for event, mark in done.items()]
        moments = [self._received[event] for event in done] or [self.now]
        skips = columns((action_row(skip)[:SKIP_WIDTH] for skip in planned.skips), SKIP_WIDTH)
        ids, *became = columns(marks, 3)
        marked = [ids, [min(moments), max(moments)], *became]
        spent = self.now - WEAK_KEYS_KEPT
        return [
            self._part, self.enterprise, *calls, *columns(filed, 3), weak, spent, *cards,
            *marked, *skips, *columns(map(found_by, planned.calls), 4), self.now, [card.fence for card in planned.cards],
        ]  # fmt: skip

    async def _fetch(self, name: str, *args: Any) -> list[Any]:
        with translated():
            rows: list[Any] = await self._connection.fetch(SQL[name], self._part, self.enterprise, *args)
            return rows

    async def _write(self, name: str, *args: Any) -> None:
        await self._connection.execute(SQL[name], self._part, self.enterprise, *args)
