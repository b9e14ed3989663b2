"""The planner's batch of the store in memory: reads while it is open, writes all at once in ``commit``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from callgram.calls.book import GRACE, is_weak
from callgram.calls.facts import Facts
from callgram.cards import Card, Shown
from callgram.errors import IngestError, OvertakenError, StoreError
from callgram.events import Event
from callgram.store import Ahead, CallRow, CardRow, Claim, Part, Planned
from callgram.testing.memory_data import Database, StoredCall, StoredCard


class MemoryBatch:
    """See callgram.store.Batch."""

    def __init__(
        self,
        db: Database,
        enterprises: Iterable[str],
        now: datetime,
        limit: int,
        clock: Callable[[], datetime],
        *,
        ahead: Ahead | None = None,
    ) -> None:
        self._db, self.now, self._ahead, self._over = db, now, ahead, False
        self._of: dict[str, _Share] = {}
        for enterprise in enterprises:
            only = [number for number, _ in ahead.events[enterprise]] if ahead else None
            self._of[enterprise] = share = _Share(db, enterprise, now, limit, clock, only=only)
            limit -= len(share.part.events)
        self.parts: Sequence[Part] = [share.part for share in self._of.values()]

    async def find(self, keys: Mapping[str, Iterable[str]]) -> dict[str, list[tuple[Facts, frozenset[str]]]]:
        return {enterprise: self._of[enterprise].find(wanted) for enterprise, wanted in keys.items()}

    async def cards(self, call_ids: Mapping[str, Iterable[int]]) -> dict[str, list[Card]]:
        return {enterprise: self._of[enterprise].cards(wanted) for enterprise, wanted in call_ids.items()}

    async def commit(self, planned: Mapping[str, Planned]) -> list[Claim]:
        if self._over:
            raise StoreError("the batch was committed before; take another")
        self._over = True
        versions = self._db.versions
        for number, version in (self._ahead.versions if self._ahead else {}).items():
            if number in self._db.planning or versions[number] != version:
                raise OvertakenError
        for number in planned:
            versions[number] = versions.get(number, 0) + 1
        return [claim for enterprise, one in planned.items() for claim in self._of[enterprise].write(one)]


class _Share:
    """One enterprise's part."""

    def __init__(
        self,
        db: Database,
        enterprise: str,
        now: datetime,
        limit: int,
        clock: Callable[[], datetime],
        *,
        only: Collection[int] | None,
    ) -> None:
        self.enterprise, self._db, self.now, self._clock = enterprise, db, now, clock
        self._unreadable: dict[int, str] = {}
        events: list[Event] = []
        waiting = db.pending.get(enterprise, {}).values() if only is None else [db.events[number] for number in only]
        for stored in list(waiting)[:limit]:
            try:
                events.append(stored.read())
            except IngestError as error:
                self._unreadable[stored.id] = str(error)
        timers = sorted((at, key) for key, at in db.timers.items() if key[0] == enterprise and at <= now and only is None)
        due: Sequence[Facts] = [db.calls[key].row.facts for _, key in timers[:limit]]
        self.part = Part(enterprise=enterprise, events=events, due=due)

    def find(self, keys: Iterable[str]) -> list[tuple[Facts, frozenset[str]]]:
        found: dict[int, set[str]] = {}
        for key in keys:
            for number in self._db.keys.get((self.enterprise, key), ()):
                ended_at = self._db.calls[self.enterprise, number].row.ended_at
                if not is_weak(key) or ended_at is None or ended_at >= self.now - GRACE:
                    found.setdefault(number, set()).add(key)
        return [
            (self._db.calls[self.enterprise, number].row.facts, frozenset(found_by))
            for number, found_by in sorted(found.items())
        ]

    def cards(self, call_ids: Iterable[int]) -> list[Card]:
        wanted = set(call_ids)
        return [
            msgspec.structs.replace(stored.card, shown=stored.card.shown + stored.gained)
            for (enterprise, number, _), stored in self._db.cards.items()
            if enterprise == self.enterprise and number in wanted
        ]

    def write(self, planned: Planned) -> list[Claim]:
        db = self._db
        for loser, winner in planned.absorbed.items():
            self._absorb_call(loser, winner)
        for row in planned.calls:
            self._put_call(row)
        for card in planned.cards:
            self._put_card(card)
        for loser, winner in planned.absorbed.items():
            self._absorb_cards(loser, winner)
        for skip in planned.skips:
            db.add(skip)
        for number, call_id in planned.done.items():
            self._mark(number, call_id, None)
        for number, error in (self._unreadable | planned.failed).items():
            self._mark(number, None, error)
        return [claim for card in planned.cards if (claim := self._claim(card))]

    def _claim(self, row: CardRow) -> Claim | None:
        db, now = self._db, self.now
        stored = db.cards.get((self.enterprise, row.call_id, row.chat_id))
        if row.fence is None or stored is None or stored.card.claimed_fence is not None or row.due_at > now:
            return None
        open_to_it = db.is_held(row.bot_id, row.fence, self._clock()) and not db.limited(row.bot_id, row.chat_id, now)
        return db.claim(stored, row.fence, now) if open_to_it else None

    def _mark(self, number: int, call_id: int | None, failed: str | None) -> None:
        stored = self._db.events[number]
        stored.done, stored.call_id, stored.failed = True, call_id, failed
        self._db.pending[self.enterprise].pop(number, None)

    def _put_call(self, row: CallRow) -> None:
        db, key = self._db, (self.enterprise, row.facts.id)
        known = db.calls.get(key)
        db.calls[key] = StoredCall(row, known.absorbed_into if known else None)
        db.timers.pop(key, None)
        if row.timer_at is not None:
            db.timers[key] = row.timer_at
        for name in row.keys:
            db.keys.setdefault((self.enterprise, name), set()).add(row.facts.id)

    def _put_card(self, row: CardRow) -> None:
        key = (self.enterprise, row.call_id, row.chat_id)
        stored = self._db.cards.get(key)
        known = stored.card.stage if stored else None
        wanted = msgspec.structs.asdict(row)
        del wanted["fence"]
        if stored is None or stored.card.bot_id != row.bot_id:  # message ids are each bot's own: it starts anew
            attempts, version = (stored.card.attempts, stored.card.version + 1) if stored else (0, 0)
            wanted["version"] = max(row.version, version)
            self._db.cards[key] = StoredCard(Card(enterprise=self.enterprise, attempts=attempts, **wanted))
        else:
            wanted["version"] = max(row.version, stored.card.version + 1)
            stored.change(**wanted)
        reason = self._db.suspended(row.bot_id, row.chat_id)
        if reason and known is not row.stage:
            self._db.block(self._db.cards[key].card, reason, self.now)

    def _absorb_call(self, loser: int, winner: int) -> None:
        db = self._db
        for (enterprise, number), call in db.calls.items():
            if enterprise == self.enterprise and loser in {number, call.absorbed_into}:
                call.absorbed_into = winner
                db.timers.pop((enterprise, number), None)
        for (enterprise, _), calls in db.keys.items():
            if enterprise == self.enterprise and loser in calls:
                calls.discard(loser)
                calls.add(winner)
        for stored in db.events.values():
            if stored.event.enterprise == self.enterprise and stored.call_id == loser:
                stored.call_id = winner

    def _absorb_cards(self, loser: int, winner: int) -> None:
        """A card in flight passes its claim on, so that its report, or its being ambiguous, finds the survivor; where that
        one is in flight too, or shows that stage already, what was sent is a message without an id."""
        db = self._db
        for enterprise, number, chat in [key for key in db.cards if key[:2] == (self.enterprise, loser)]:
            lost = db.cards.pop((enterprise, number, chat))
            gained = lost.card.shown + lost.gained
            kept = db.cards.get((enterprise, winner, chat))
            if kept is None:
                lost.gained = gained
                lost.change(call_id=winner, shown=(), version=lost.card.version + 1, due_at=self.now)
                db.cards[enterprise, winner, chat] = lost
            elif kept.card.bot_id == lost.card.bot_id and (gained or lost.card.claimed_fence is not None):
                stage, fence, at = lost.card.claimed_stage, lost.card.claimed_fence, lost.card.claimed_at
                known = {shown.stage for shown in kept.card.shown + kept.gained}
                known_of_it = {shown.stage for shown in gained}
                if stage and at and stage not in known_of_it and (kept.card.claimed_fence is not None or stage in known):
                    gained += (Shown(message_id=0, stage=stage, digest="", sent_at=at),)
                kept.gained += gained
                kept.change(version=kept.card.version + 1, due_at=min(kept.card.due_at or self.now, self.now))
                if kept.card.claimed_fence is None:
                    kept.ambiguous = lost.ambiguous
                    kept.change(claimed_stage=stage, claimed_fence=fence, claimed_at=at)
