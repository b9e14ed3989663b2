"""The reading half of the store in memory. The contract: callgram.reading."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from callgram.errors import IngestError
from callgram.events import Event
from callgram.reading import EPOCH, CallFile, CallFilter, CallPage, Listed, read_page_key, write_page_key
from callgram.testing.memory_data import Database, StoredCall, StoredEvent
from callgram.trace import Action, Record


class MemoryReading:
    """A part of MemoryStore."""

    _db: Database

    async def find_calls(self, enterprises: Sequence[str], channel: str) -> list[tuple[str, int]]:
        found = [
            (enterprise, call)
            for enterprise in enterprises
            for call in self._db.keys.get((enterprise, f"channel:{channel}"), ())
        ]
        return sorted(found, key=lambda one: one[1], reverse=True)

    async def call_file(self, enterprise: str, call_id: int, *, limit: int = 10_000) -> CallFile | None:
        db = self._db
        stored = db.calls.get((enterprise, call_id))
        if stored is not None and stored.absorbed_into is not None:
            call_id = stored.absorbed_into
            stored = db.calls.get((enterprise, call_id))
        if stored is None:
            return None
        absorbed = tuple(
            number for (of, number), call in db.calls.items() if of == enterprise and call.absorbed_into == call_id
        )
        names = sorted(name for (of, name), calls in db.keys.items() if of == enterprise and call_id in calls)
        channels = tuple(name.removeprefix("channel:") for name in names if name.startswith("channel:"))
        records, failed, repeats = self._records(enterprise, {call_id, *absorbed}, frozenset(channels))
        cards = (card for key, card in db.cards.items() if key[:2] == (enterprise, call_id))
        return CallFile(
            facts=stored.row.facts,
            records=tuple(records[:limit]),
            cards=tuple(msgspec.structs.replace(card.card, shown=card.card.shown + card.gained) for card in cards),
            channels=channels,
            failed=failed,
            repeats=repeats,
            absorbed=absorbed,
            cut=len(records) > limit,
        )

    def _records(
        self, enterprise: str, calls: set[int], channels: frozenset[str]
    ) -> tuple[list[Record], dict[int, str], dict[int, int]]:
        found: list[tuple[datetime, int, Record]] = []
        failed: dict[int, str] = {}
        repeats: dict[int, int] = {}
        for place, item in enumerate(self._db.trace, 1):
            if isinstance(item, Action):
                if item.enterprise == enterprise and item.call_id in calls:
                    found.append((item.at, item.id, read_stored(place, item)))
            elif item.event.enterprise == enterprise:
                stray = item.call_id is None and item.event.unique_id in channels
                if item.call_id in calls or stray:
                    found.append((item.event.received_at, item.id, read_stored(place, item)))
                    if item.failed:
                        failed[item.id] = item.failed
                    if item.repeats:
                        repeats[item.id] = item.repeats
        return [record for _, _, record in sorted(found, key=lambda one: one[:2])], failed, repeats

    async def list_calls(self, wanted: CallFilter, *, after: str = "", limit: int = 50) -> CallPage:
        before = read_page_key(after) if after else None
        listed: list[Listed] = []
        for key, stored in sorted(self._db.calls.items(), key=lambda item: _age(item[1]), reverse=True):
            if before is not None and _age(stored) >= before:
                continue
            one = self._listed(key, stored)
            if stored.absorbed_into is not None or not _fits(wanted, stored, one):
                continue
            if len(listed) == limit:
                last = listed[-1].facts
                row = self._db.calls[last.enterprise, last.id].row
                return CallPage(
                    calls=tuple(listed), next=write_page_key(row.started_at, last.id), searched_to=row.started_at
                )
            listed.append(one)
        return CallPage(calls=tuple(listed))

    async def live_calls(self, enterprises: tuple[str, ...] | None, *, limit: int = 50) -> list[Listed]:
        found = sorted(self._db.calls.items(), key=lambda item: _age(item[1]), reverse=True)
        return [
            self._listed(key, stored)
            for key, stored in found
            if stored.row.ended_at is None
            and stored.absorbed_into is None
            and stored.row.unique_id
            and (enterprises is None or key[0] in enterprises)
        ][:limit]

    def _listed(self, key: tuple[str, int], stored: StoredCall) -> Listed:
        cards = [card for place, card in self._db.cards.items() if place[:2] == key]
        shown = sum(bool(card.card.shown or card.gained) for card in cards)
        return Listed(facts=stored.row.facts, n_chats=len(cards), n_shown=shown)

    async def cursors(self) -> dict[str, str]:
        return dict(self._db.cursors)

    async def cursor_at(self, moment: datetime) -> str:
        for place, item in enumerate(self._db.trace):
            at = item.at if isinstance(item, Action) else item.event.received_at
            if at >= moment:
                return f"{place:020d}" if place else ""
        return f"{len(self._db.trace):020d}"

    async def kept(self, plugin: str) -> dict[str, bytes]:
        return {key: value for (of, key), value in self._db.kept.items() if of == plugin}

    async def keep(self, plugin: str, key: str, value: bytes | None) -> None:
        if value is None:
            self._db.kept.pop((plugin, key), None)
        else:
            self._db.kept[plugin, key] = value

    async def keep_first(self, plugin: str, key: str, value: bytes) -> bytes:
        return self._db.kept.setdefault((plugin, key), value)


def _age(stored: StoredCall) -> tuple[int, int]:
    return (stored.row.started_at - EPOCH) // timedelta(microseconds=1), stored.row.facts.id


def _fits(wanted: CallFilter, stored: StoredCall, one: Listed) -> bool:
    row = stored.row
    return (
        bool(row.unique_id)
        and (wanted.enterprises is None or row.facts.enterprise in wanted.enterprises)
        and (wanted.since is None or row.started_at >= wanted.since)
        and (wanted.until is None or row.started_at < wanted.until)
        and row.client.endswith(wanted.number)
        and (not wanted.extension or wanted.extension in row.extensions)
        and (wanted.direction is None or row.direction == wanted.direction)
        and (wanted.result is None or row.result == wanted.result)
        and (not wanted.unsent or one.n_shown == 0)
    )


def read_stored(place: int, item: StoredEvent | Action) -> Record:
    """The record at ``place`` of the trace; an event that cannot be read any more is told by its raw body."""
    cursor = f"{place:020d}"
    if isinstance(item, Action):
        return Record(cursor=cursor, item=item)
    given = item.event
    try:
        return Record(cursor=cursor, item=item.read())
    except IngestError:
        event = Event(
            id=item.id,
            enterprise=given.enterprise,
            kind=given.kind,
            received_at=given.received_at,
            unique_id=given.unique_id,
            raw=given.body,
        )
        return Record(cursor=cursor, item=event)
