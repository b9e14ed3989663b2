"""The store in memory: the twin of ``callgram_postgres`` for tests. Nothing outlives the process.

Everything but the planner's batch happens without awaiting, and so at once. A batch works on what it read and writes in
``commit``, as the database's transaction does. The contract: callgram.store; one conformance suite holds both to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import msgspec

from callgram.cards import Card
from callgram.context import Chat, Directory, Enterprise, Secret
from callgram.errors import ConfigError
from callgram.shards import WHOLE, Shard
from callgram.store import Ahead, Batch, ChatLimit, Claim, NewEvent, Progress, Stored, ids_told, numbered, unknown_sends
from callgram.testing.memory_batch import MemoryBatch
from callgram.testing.memory_data import Database, Lease, StoredCard, StoredEvent
from callgram.testing.memory_naming import MemoryNaming
from callgram.testing.memory_reading import MemoryReading, read_stored
from callgram.trace import Action, Op, Record

SUPERGROUPS = -1_000_000_000_000  # ids of supergroups and channels are below (Bot API, dialog ids)


class MemoryStore(MemoryReading, MemoryNaming):
    """See the module. ``clock`` stands for the database's clock; ``another_process`` shares the data."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._db = Database()
        self._clock = clock
        self._fences: dict[tuple[str, int], int] = {}
        self._turn = 0

    def another_process(self) -> MemoryStore:
        """A store on the same data that knows nothing of this one's leases, as after a restart or on another node."""
        other = MemoryStore(self._clock)
        other._db = self._db
        return other

    async def close(self) -> None:
        pass

    async def ping(self) -> None:
        pass

    async def ring(self) -> None:
        for store, rung in self._db.listeners:
            if store is not self:
                rung()

    async def listen(self, rung: Callable[[], None]) -> None:
        self._db.listeners.append((self, rung))
        try:
            await asyncio.Event().wait()
        finally:
            self._db.listeners.remove((self, rung))

    # administration

    async def directory(self) -> Directory:
        db = self._db
        chats = {
            number: tuple(
                chat
                for (bot, _), chat in sorted(db.chats.items(), key=lambda item: item[0])
                if bot == enterprise.bot_token.reveal()
            )
            for number, enterprise in db.enterprises.items()
        }
        return Directory(mark=str(db.changes), enterprises=dict(db.enterprises), chats=chats)

    async def put_enterprise(self, enterprise: Enterprise) -> None:
        number = enterprise.number
        for other in self._db.enterprises.values():
            if other.number != number and other.token == enterprise.token:
                raise ConfigError(
                    f"enterprise {number}: enterprise {other.number} has that token; give each a token of its own"
                )
        old = self._db.enterprises.get(number)
        if old is not None and old.bot_token != enterprise.bot_token and old.bot_id == enterprise.bot_id != 0:
            self._renew_bot_token(old.bot_token, enterprise.bot_token)
        if old != enterprise:
            self._db.enterprises[number] = enterprise
            self._db.changes += 1

    def _renew_bot_token(self, old: Secret, new: Secret) -> None:
        for number, one in self._db.enterprises.items():
            if one.bot_token == old:
                self._db.enterprises[number] = msgspec.structs.replace(one, bot_token=new)
        for bot, chat in [key for key in self._db.chats if key[0] == old.reveal()]:
            self._db.chats.setdefault((new.reveal(), chat), self._db.chats.pop((bot, chat)))

    async def change_enterprise(self, number: str, change: Callable[[Enterprise | None], Enterprise]) -> None:
        await self.put_enterprise(change(self._db.enterprises.get(number)))

    async def add_subscriber(self, number: str, chat: Chat) -> bool:
        if number not in self._db.enterprises:
            raise ConfigError(f"there is no enterprise {number}; add it first")
        key = (self._db.enterprises[number].bot_token.reveal(), chat.id)
        old = self._db.chats.get(key)
        new = chat if old is None or chat.name else old
        if new != old:
            self._db.chats[key] = new
            self._db.changes += 1
        return old is None

    async def remove_subscriber(self, number: str, chat_id: int) -> bool:
        enterprise = self._db.enterprises.get(number)
        gone = enterprise and self._db.chats.pop((enterprise.bot_token.reveal(), chat_id), None)
        self._db.changes += bool(gone)
        return bool(gone)

    async def mute(self, number: str, chat_id: int, until: datetime | None) -> bool:
        enterprise = self._db.enterprises.get(number)
        key = (enterprise.bot_token.reveal() if enterprise else "", chat_id)
        if key not in self._db.chats:
            return False
        self._db.chats[key] = msgspec.structs.replace(self._db.chats[key], muted_until=until)
        self._db.changes += 1
        return True

    # ingest

    async def append(
        self, events: Sequence[NewEvent], expected: Mapping[str, Collection[str]] | None = None
    ) -> Stored:
        db = self._db
        known = db.versions.keys() & (expected or {}).keys()
        versions = {number: db.versions[number] for number in known if not db.pending.get(number)}
        ids = [self._append(event) for event in events]
        new = [number is not None for number in ids]
        if not expected or not events:
            return Stored(new)
        at = max(event.received_at for event in events)
        return Stored(new, Ahead(at=at, events=numbered(events, ids), versions=versions, keys=expected))

    async def settle(self, ahead: Ahead) -> None:
        ahead.durable.set()

    def _append(self, event: NewEvent) -> int | None:
        db = self._db
        seen = db.digests.setdefault((event.enterprise, event.digest), [])
        if any(abs((event.received_at - moment).total_seconds()) < event.repeat_s for moment in seen):
            return None
        seen.append(event.received_at)
        stored = StoredEvent(event, db.next_id())
        db.events[stored.id] = stored
        db.pending.setdefault(event.enterprise, {})[stored.id] = stored
        db.trace.append(stored)
        return stored.id

    async def count_repeats(self, events: Sequence[NewEvent]) -> None:
        for event in events:
            for stored in reversed(self._db.events.values()):
                known = stored.event
                apart_s = abs((event.received_at - known.received_at).total_seconds())
                if (known.enterprise, known.digest) == (event.enterprise, event.digest) and apart_s < event.repeat_s:
                    stored.repeats += 1
                    break

    # planner

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
        db = self._db
        if ahead is not None and ahead.is_enough:
            yield MemoryBatch(db, ahead.events, now, limit, self._clock, ahead=ahead)
            return
        waiting = {enterprise for enterprise, pending in db.pending.items() if pending}
        waiting |= {enterprise for (enterprise, _), timer_at in db.timers.items() if timer_at <= now}
        free = sorted(filter(shard.holds, waiting - db.planning))
        self._turn += bool(free)
        first = self._turn % len(free) if free else 0
        taken = (free[first:] + free[:first])[:width]
        db.planning.update(taken)
        try:
            yield MemoryBatch(db, taken, now, limit, self._clock) if taken else None
        finally:
            db.planning.difference_update(taken)

    # sender

    async def hold_leases(self, node: str, bots: Iterable[int], *, ttl_s: float) -> Mapping[int, int]:
        now, fences = self._clock(), {}
        for bot in bots:
            lease = self._db.leases.get(bot)
            if lease is not None and lease.owner != node and lease.until >= now:
                continue
            fence = lease.fence if lease else 0
            if lease is None or lease.owner != node or self._fences.get((node, bot)) != fence:
                fence += 1
            self._db.leases[bot] = Lease(node, fence, now + timedelta(seconds=ttl_s))
            fences[bot] = fence
        self._drop_fences(node)
        self._fences |= {(node, bot): fence for bot, fence in fences.items()}
        return fences

    async def leased(self, bots: Iterable[int]) -> frozenset[int]:
        leases, now = self._db.leases, self._clock()
        return frozenset(bot for bot in bots if bot in leases and leases[bot].until > now)

    def _drop_fences(self, node: str) -> None:
        self._fences = {key: fence for key, fence in self._fences.items() if key[0] != node}

    async def release_leases(self, node: str) -> None:
        self._drop_fences(node)
        for lease in self._db.leases.values():
            if lease.owner == node:
                lease.until = datetime.min.replace(tzinfo=UTC)

    async def exchange(
        self,
        progress: Sequence[Progress],
        *,
        leases: Mapping[int, int],
        busy: Sequence[tuple[int, int]],
        limit: int,
        now: datetime,
        per_chat: int = 1,
        at_most: Mapping[int, int] | None = None,
    ) -> list[Claim]:
        for report in progress:
            self._report(report, now)
        db, clock = self._db, self._clock()
        held = {bot: fence for bot, fence in leases.items() if db.is_held(bot, fence, clock)}
        best: dict[tuple[int, int], list[StoredCard]] = {}
        for stored in db.cards.values():
            card = stored.card
            place = (card.bot_id, card.chat_id)
            if card.bot_id not in held or card.due_at is None or card.due_at > now or place in busy:
                continue
            if db.limited(card.bot_id, card.chat_id, now):
                continue
            waiting = best.setdefault(place, [])
            waiting.append(stored)
            waiting.sort(key=lambda stored: _haste(stored.card))
            del waiting[per_chat:]
        chosen = (stored for waiting in best.values() for stored in waiting)
        left = dict(at_most or {})
        first: list[StoredCard] = []
        for stored in sorted(chosen, key=lambda stored: _haste(stored.card)):
            bot = stored.card.bot_id
            left[bot] = left.get(bot, limit) - 1
            if left[bot] >= 0 and len(first) < limit:
                first.append(stored)
        return [db.claim(stored, held[stored.card.bot_id], clock) for stored in first]

    def _report(self, report: Progress, now: datetime) -> None:
        db = self._db
        for action in report.actions:
            db.add(action)
        stored = db.cards.get((report.enterprise, report.call_id, report.chat_id))
        if stored is None:
            self._report_to_survivor(report, now)
            return
        if stored.card.claimed_fence != report.fence:
            self._gain(stored, report, now)
            return
        told = ids_told(report) if stored.card.version != report.version else None
        more = () if told is None else tuple(old for old in stored.card.shown if old.message_id not in told)
        stored.change(shown=more + report.shown, attempts=report.attempts)
        if report.released:
            due_at = report.retry_at if stored.card.version == report.version else stored.card.due_at
            stored.change(claimed_stage=None, claimed_fence=None, due_at=due_at)
            stored.ambiguous = False

    def _report_to_survivor(self, report: Progress, now: datetime) -> None:
        call = self._db.calls.get((report.enterprise, report.call_id))
        if call is None or call.absorbed_into is None:
            return
        stored = self._db.cards.get((report.enterprise, call.absorbed_into, report.chat_id))
        if stored is None or stored.card.bot_id != report.bot_id:
            return
        if (stored.card.claimed_fence or 0) > report.fence:
            self._gain(stored, report, now)
            return
        deleted = {action.message_id for action in report.actions if action.op is Op.DELETE and action.executed}
        visible = (*stored.card.shown, *stored.gained, *report.shown)
        known = [shown for shown in visible if shown.message_id not in deleted]
        newest = {shown.message_id or (shown.stage, shown.sent_at): shown for shown in known}
        stored.gained = ()
        due_at = min(stored.card.due_at or now, now)
        ours = stored.card.claimed_fence == report.fence
        stored.change(shown=tuple(newest.values()), version=stored.card.version + 1, due_at=due_at)
        if ours and report.released:
            stored.change(claimed_stage=None, claimed_fence=None)
            stored.ambiguous = False

    def _gain(self, stored: StoredCard, report: Progress, now: datetime) -> None:
        late = unknown_sends(report, stored.card.shown + stored.gained)
        if late and stored.card.bot_id == report.bot_id:
            stored.gained += late
            stored.change(version=stored.card.version + 1, due_at=min(stored.card.due_at or now, now))

    async def next_due(self, bots: Iterable[int]) -> datetime | None:
        now, wanted = self._clock(), set(bots)
        moments = [stored.card.due_at for stored in self._db.cards.values() if stored.card.bot_id in wanted]
        moments += [limit.until for limit in self._db.limits.values() if limit.bot_id in wanted]
        return min((moment for moment in moments if moment is not None and moment > now), default=None)

    async def sent_ids(self, bot_id: int, chat_id: int, around: datetime) -> list[tuple[int, datetime]]:
        supergroup, hour = chat_id <= SUPERGROUPS, timedelta(hours=1)
        return sorted(
            (action.message_id, action.at)
            for action in self._db.actions
            if action.bot_id == bot_id and action.op is Op.SEND and action.executed and action.message_id
            if action.chat_id == chat_id or (not supergroup and action.chat_id > SUPERGROUPS)
            if abs(action.at - around) <= hour
        )

    async def move_chat(self, bot_id: int, old: int, new: int) -> None:
        db = self._db
        for bot, chat in [key for key in db.chats if key[1] == old and key[0].partition(":")[0] == str(bot_id)]:
            moved = msgspec.structs.replace(db.chats.pop((bot, chat)), id=new)
            db.chats.setdefault((bot, new), moved)
            db.changes += 1
        for enterprise, call, chat in [key for key in db.cards if key[2] == old]:
            card = db.cards[enterprise, call, chat].card
            if card.bot_id == bot_id:
                del db.cards[enterprise, call, chat]
                changes = {"chat_id": new, "shown": (), "claimed_stage": None, "claimed_fence": None, "attempts": 0}
                moved_card = msgspec.structs.replace(card, version=card.version + 1, **changes)
                db.cards.setdefault((enterprise, call, new), StoredCard(moved_card))

    async def limit_chat(self, limit: ChatLimit) -> bool:
        known = self._db.limits.get((limit.bot_id, limit.chat_id))
        if known is not None and known.until is None:
            return False
        self._db.limits[limit.bot_id, limit.chat_id] = limit
        for stored in list(self._db.cards.values()) if limit.until is None else ():
            card = stored.card
            here = card.bot_id == limit.bot_id and limit.chat_id in {0, card.chat_id}
            if here and card.due_at is not None and card.claimed_fence is None:
                self._db.block(card, limit.reason, self._clock())
        return True

    async def lift_limit(self, bot_id: int, chat_id: int) -> bool:
        limit = self._db.limits.pop((bot_id, chat_id), None)
        return limit is not None and (limit.until is None or limit.until > self._clock())

    async def limits(self) -> list[ChatLimit]:
        now = self._clock()
        known = (limit for _, limit in sorted(self._db.limits.items(), key=lambda item: item[0]))
        return [limit for limit in known if limit.until is None or limit.until > now]

    # sinks

    async def cursor(self, sink: str) -> str:
        return self._db.cursors.get(sink, "")

    async def save_cursor(self, sink: str, cursor: str, *, held: str | None = None) -> bool:
        if held is not None and held != self._db.cursors.get(sink, ""):
            return False
        self._db.cursors[sink] = cursor
        return True

    async def trace(self, after: str, *, limit: int) -> list[Record]:
        start = int(after or 0)
        return [read_stored(place, item) for place, item in enumerate(self._db.trace[start : start + limit], start + 1)]

    async def waiting_since(self, after: str) -> datetime | None:
        waiting = await self.trace(after, limit=1)
        item = waiting[0].item if waiting else None
        return item.at if isinstance(item, Action) else item.received_at if item is not None else None

    async def trace_of(self, enterprise: str, unique_id: str) -> list[Record]:
        db = self._db
        calls = set(db.keys.get((enterprise, f"channel:{unique_id}"), ()))
        calls |= {number for (of, number), call in db.calls.items() if of == enterprise and call.absorbed_into in calls}
        found = []
        for place, item in enumerate(db.trace, 1):
            if isinstance(item, Action):
                if item.enterprise == enterprise and item.call_id in calls:
                    found.append((item.at, item.id, place))
            elif item.event.enterprise == enterprise and (
                item.call_id in calls or (item.call_id is None and item.event.unique_id == unique_id)
            ):
                found.append((item.event.received_at, item.id, place))
        return [read_stored(place, db.trace[place - 1]) for _, _, place in sorted(found)]

    # upkeep

    async def keep_house(self, *, now: datetime, retention_days: int) -> None:
        """Forgets calls with their cards and keys. The trace stays: a cursor of ours is a place in it."""
        db, oldest = self._db, now - timedelta(days=retention_days)
        for (enterprise, number), call in list(db.calls.items()):
            if call.row.started_at < oldest and (call.row.ended_at is None or call.row.ended_at < oldest):
                del db.calls[enterprise, number]
                db.timers.pop((enterprise, number), None)
                for key in [key for key in db.cards if key[:2] == (enterprise, number)]:
                    del db.cards[key]
                for (of, _), calls in db.keys.items():
                    if of == enterprise:
                        calls.discard(number)


def _haste(card: Card) -> tuple[int, datetime]:
    """What is sent first, least first."""
    return card.urgency, card.due_at or datetime.max.replace(tzinfo=UTC)
