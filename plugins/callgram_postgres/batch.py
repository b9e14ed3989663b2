"""A planner's batch: reads, and one statement an enterprise that writes what was decided.

Enterprises come in the order of their keys, and cards in the order of theirs, as everybody locks them: no deadlocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from callgram.calls.book import GRACE, is_weak
from callgram.calls.facts import Facts
from callgram.cards import Card
from callgram.errors import IngestError, OvertakenError, StoreError
from callgram.events import Kind, read_event
from callgram.shards import part_of
from callgram.store import Ahead, Claim, Part, Planned
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
    """An enterprise and, where it is ``locked``, what is to be planned of it; without a lock as of its ``version``."""

    place: tuple[int, str]
    locked: bool = False
    rows: Sequence[Any] = ()
    due: Sequence[Facts] = ()
    version: int | None = None


class PostgresBatch:
    """See callgram.store.Batch. With a ``transaction`` it holds the queue rows of its enterprises, without one it is of what was
    seen ``ahead``, while its events were stored, and holds nothing."""

    def __init__(
        self,
        house: House,
        connection: Any,
        picked: Sequence[Picked],
        now: datetime,
        *,
        transaction: Any | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        self._connection, self._house, self.now = connection, house, now
        self._transaction, self._ahead = transaction, ahead
        self._of = {one.place[1]: _Share(one, now) for one in picked}
        self.parts: Sequence[Part] = [share.part for share in self._of.values()]
        self._committed = False

    async def find(self, keys: Mapping[str, Iterable[str]]) -> dict[str, list[tuple[Facts, frozenset[str]]]]:
        wanted = {(number, storable(key)) for number, some in keys.items() for key in some}
        found: dict[tuple[str, int], tuple[bytes, set[str]]] = {}
        for row in await self._find(wanted):
            _, by = found.setdefault((row["enterprise"], row["id"]), (row["facts"], set()))
            by.add(row["key"])
        calls: dict[str, list[tuple[Facts, frozenset[str]]]] = {}
        for (number, _), (facts, by) in sorted(found.items()):
            calls.setdefault(number, []).append((read_facts(facts), frozenset(by)))
        return calls

    async def _find(self, wanted: set[tuple[str, str]]) -> list[Any]:
        """What was not seen ahead is looked up; the version tells at the end whether it belongs together."""
        rows: list[Any] = []
        if self._ahead is not None:
            rows = [row for row in self._ahead.rows if (row["enterprise"], row["key"]) in wanted]
            wanted = {(number, key) for number, key in wanted if key not in self._ahead.keys.get(number, ())}
        if wanted:
            places = ((part_of(number), number, key) for number, key in wanted)
            with translated():
                rows += await self._connection.fetch(SQL["find_calls"], *columns(places, 3), self.now - GRACE)
        return rows

    async def cards(self, call_ids: Mapping[str, Iterable[int]]) -> dict[str, list[Card]]:
        wanted = [(part_of(number), number, call) for number, some in call_ids.items() for call in some]
        cards: dict[str, list[Card]] = {}
        with translated():
            rows = await self._connection.fetch(SQL["cards_of"], *columns(wanted, 3)) if wanted else ()
        for row in rows:
            cards.setdefault(row["enterprise"], []).append(read_card(row["enterprise"], row))
        return cards

    async def commit(self, planned: Mapping[str, Planned]) -> list[Claim]:
        if self._committed:
            raise StoreError("the batch was committed before; take another")
        self._committed = True
        await self._house.make_days([self.now, *(skip.at for one in planned.values() for skip in one.skips)])
        with translated():
            claims = await self._commit(planned)
        if self._ahead is not None and planned:
            self._ahead.durable.set()
        return claims

    async def _commit(self, planned: Mapping[str, Planned]) -> list[Claim]:
        if self._transaction is None:
            if len(planned) == 1 and not any(one.absorbed or one.skips for one in planned.values()):
                return await self._write(planned)  # one statement, which is a transaction by itself
            self._transaction = self._connection.transaction()
            await self._transaction.start()
        claims = await self._write(planned)
        await self._transaction.commit()
        self._transaction = None
        return claims

    async def _write(self, planned: Mapping[str, Planned]) -> list[Claim]:
        claims: list[Claim] = []
        for number, share in self._of.items():
            if number in planned:
                claims += await share.write(self._connection, planned[number])
        return claims

    async def close(self) -> None:
        """Undo what is not committed. Without a connection any more there is nothing to undo."""
        if self._transaction is not None:
            with suppress(StoreError), translated():
                await self._transaction.rollback()


def ahead_picked(ahead: Ahead) -> list[Picked]:
    """The enterprises of what was seen ahead, in the order of their keys, with their events as they are read otherwise."""
    picked = []
    for place in sorted((part_of(number), number) for number in ahead.events):
        rows = [
            {"id": event_id, "kind": event.kind, "received_at": event.received_at, "body": event.body}
            for event_id, event in ahead.events[place[1]]
        ]
        picked.append(Picked(place, rows=rows, version=ahead.versions[place[1]]))
    return picked


class _Share:
    """One enterprise's part. An event whose body this release cannot read is not shown, and committed as failed."""

    def __init__(self, picked: Picked, now: datetime) -> None:
        self._place, self._version, self._now = picked.place, picked.version, now
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
        if planned.skips:
            told = columns((action_row(skip)[:SKIP_WIDTH] for skip in planned.skips), SKIP_WIDTH)
            await connection.execute(SQL["put_skips"], *told)
        facts = {row.facts.id: row.facts for row in planned.calls}
        cards = [read_card(self._place[1], row) for row in rows if row["call_id"] is not None]
        return [Claim(card=card, facts=facts[card.call_id]) for card in cards]

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
            self._version,
        ]  # fmt: skip
