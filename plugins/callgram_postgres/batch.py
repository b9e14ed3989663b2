"""A planner's batch: reads, and one statement an enterprise that writes what was decided.

Enterprises come in the order of their keys, and cards in the order of theirs, as everybody locks them: no deadlocks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from callgram.calls.book import GRACE, is_weak
from callgram.calls.facts import Facts
from callgram.cards import Card, Stage
from callgram.errors import IngestError, OvertakenError, StoreError
from callgram.events import Kind, read_event
from callgram.shards import part_of
from callgram.store import Claim, Part, Planned
from callgram.trace import Action, Op
from callgram_postgres.house import WEAK_KEYS_KEPT, House
from callgram_postgres.pools import translated
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


class Picked(msgspec.Struct, frozen=True):
    """An enterprise and, where it is ``locked``, what is to be planned of it."""

    place: tuple[int, str]
    locked: bool = False
    rows: Sequence[Any] = ()
    due: Sequence[Facts] = ()


class Ahead(msgspec.Struct, frozen=True):
    """The ``rows`` that were found by ``keys`` (of enterprises that are locked) before the events came."""

    keys: Collection[tuple[str, str]] = ()
    rows: Sequence[Any] = ()


async def find_calls(connection: Any, keys: Iterable[tuple[str, str]], now: datetime) -> list[Any]:
    wanted = ((part_of(number), number, key) for number, key in keys)
    rows: list[Any] = await connection.fetch(SQL["find_calls"], *columns(wanted, 3), now - GRACE)
    return rows


class PostgresBatch:
    """See callgram.store.Batch."""

    def __init__(
        self, house: House, connection: Any, transaction: Any, picked: Sequence[Picked], now: datetime, *, ahead: Ahead
    ) -> None:
        self._connection, self._transaction, self._house, self.now = connection, transaction, house, now
        self._ahead = ahead
        self._of = {one.place[1]: _Share(one, now) for one in picked}
        self.parts: Sequence[Part] = [share.part for share in self._of.values()]
        self.over = self._written = False

    async def find(self, keys: Mapping[str, Iterable[str]]) -> dict[str, list[tuple[Facts, frozenset[str]]]]:
        wanted = {(number, storable(key)) for number, some in keys.items() for key in some}
        known, since = self._ahead.rows, self.now - GRACE
        rows = [row for row in known if (row["enterprise"], row["key"]) in wanted and (row["spent_at"] or since) >= since]
        wanted.difference_update(self._ahead.keys)
        if wanted:
            with translated():
                rows += await find_calls(self._connection, wanted, self.now)
        found: dict[tuple[str, int], tuple[bytes, set[str]]] = {}
        for row in rows:
            _, by = found.setdefault((row["enterprise"], row["id"]), (row["facts"], set()))
            by.add(row["key"])
        calls: dict[str, list[tuple[Facts, frozenset[str]]]] = {}
        for (number, _), (facts, by) in sorted(found.items()):
            calls.setdefault(number, []).append((read_facts(facts), frozenset(by)))
        return calls

    async def cards(self, call_ids: Mapping[str, Iterable[int]]) -> dict[str, list[Card]]:
        wanted = [(part_of(number), number, call) for number, some in call_ids.items() for call in some]
        cards: dict[str, list[Card]] = {}
        with translated():
            rows = await self._connection.fetch(SQL["cards_of"], *columns(wanted, 3)) if wanted else ()
        for row in rows:
            cards.setdefault(row["enterprise"], []).append(read_card(row["enterprise"], row))
        return cards

    async def write(self, planned: Mapping[str, Planned]) -> list[Claim]:
        if self._written:
            raise StoreError("the batch was written before; take another")
        self._written = True
        await self._house.make_days([self.now, *(skip.at for one in planned.values() for skip in one.skips)])
        claims: list[Claim] = []
        with translated():
            for number, share in self._of.items():
                if number in planned:
                    claims += await share.write(self._connection, planned[number])
        return claims

    async def commit(self) -> None:
        with translated():
            await self._transaction.commit()
        self.over = True

    async def undo(self) -> None:
        """Without a connection any more there is nothing to undo."""
        self.over = True
        with suppress(StoreError), translated():
            await self._transaction.rollback()


class _Share:
    """One enterprise's part. An event whose body this release cannot read is not shown, and committed as failed."""

    def __init__(self, picked: Picked, now: datetime) -> None:
        self._place, self._now = picked.place, now
        self._received: dict[int, datetime] = {}
        self._unreadable: dict[int, str] = {}
        number, events = picked.place[1], []
        for row in picked.rows:
            self._received[row["id"]] = row["received_at"]
            try:
                kind = Kind(row["kind"])
                event = read_event(kind, row["body"], enterprise=number, received_at=row["received_at"], event_id=row["id"])
            except (IngestError, ValueError) as error:
                self._unreadable[row["id"]] = str(error)
            else:
                events.append(event)
        self.part = Part(enterprise=number, events=events, due=picked.due)

    async def write(self, connection: Any, planned: Planned) -> list[Claim]:
        if planned.absorbed:
            await self._absorb_calls(connection, planned)
        rows = await connection.fetch(SQL["write_plan"], *self._values(planned))
        if rows[0]["n_marked"] < len(planned.done) + len(self._unreadable | planned.failed):
            raise OvertakenError
        for loser, winner in planned.absorbed.items():
            await connection.execute(SQL["absorb_cards"], *self._place, loser, winner, self._now)
        calls = {row.facts.id: row for row in planned.calls}
        put = [row for row in rows if row["call_id"] is not None]
        skips = [*planned.skips, *(self._blocked(row, calls[row["call_id"]].unique_id) for row in put if row["blocked"])]
        if skips:
            told = columns((action_row(skip)[:SKIP_WIDTH] for skip in skips), SKIP_WIDTH)
            await connection.execute(SQL["put_skips"], *told)
        cards = [read_card(self._place[1], row) for row in put if not row["blocked"]]
        return [Claim(card=card, facts=calls[card.call_id].facts) for card in cards]

    def _blocked(self, row: Any, unique_id: str) -> Action:
        return Action(
            at=self._now,
            enterprise=self._place[1],
            call_id=row["call_id"],
            unique_id=unique_id,
            chat_id=row["chat_id"],
            bot_id=row["bot_id"],
            stage=Stage(row["stage"]),
            op=Op.SKIP,
            outcome="skipped",
            reason=f"blocked: {row['blocked']}",
        )

    async def _absorb_calls(self, connection: Any, planned: Planned) -> None:
        """Locks all cards that this commit can touch first, in the senders' order: no deadlock with them."""
        touched = {*planned.absorbed, *planned.absorbed.values(), *(card.call_id for card in planned.cards)}
        await connection.execute(SQL["lock_cards"], *self._place, sorted(touched))
        for name in ("absorb_calls", "absorb_keys", "absorb_events"):
            await connection.execute(
                SQL[name], *self._place, list(planned.absorbed), list(planned.absorbed.values())
            )

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
        weak = sorted({key for _, key, is_weak_key in filed if is_weak_key})
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
        moments = [self._received[event] for event in done] or [self._now]
        ids, *became = columns(marks, 3)
        marked = [ids, [min(moments), max(moments)], *became]
        spent = self._now - WEAK_KEYS_KEPT
        return [
            *self._place, *calls, *columns(filed, 3), weak, spent, *cards,
            *marked, *columns(map(found_by, planned.calls), 4), self._now, [card.fence for card in planned.cards],
        ]  # fmt: skip
