"""Sinks beside every kind of writer, and what reading costs: only a real database can get these wrong."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from callgram.calls.facts import Facts
from callgram.calls.story import Result
from callgram.cards import Stage, Urgency
from callgram.errors import OvertakenError, StoreError
from callgram.events import Event, Kind
from callgram.reading import CallFilter
from callgram.shards import part_of
from callgram.sinks import Pace, SinkRunner
from callgram.store import CallRow, CardRow, NewEvent, Planned, Progress
from callgram.testing.alone import plan_one
from callgram.trace import Action, Op, Record
from callgram_postgres.house import AT_ONCE
from callgram_postgres.store import PostgresStore, connect

NOW = datetime.now(UTC).replace(microsecond=0)
ENTERPRISES = ("0367", "0368", "0369")
BOT = 7
Scenario = Callable[[PostgresStore, Any], Awaitable[None]]


def event(unique_id: str, enterprise: str = "0367", at: datetime = NOW) -> NewEvent:
    digest = blake2b(f"{enterprise} {unique_id}".encode(), digest_size=16).digest()
    body = f'{{"UniqueId": "{unique_id}"}}'.encode()
    return NewEvent(
        enterprise=enterprise,
        kind=Kind.START,
        unique_id=unique_id,
        received_at=at,
        digest=digest,
        repeat_s=5.0,
        body=body,
    )


def action(enterprise: str, call: int, op: Op, chat: int = 41) -> Action:
    return Action(
        at=datetime.now(UTC),
        enterprise=enterprise,
        call_id=call,
        unique_id=str(call),
        chat_id=chat,
        bot_id=BOT,
        stage=Stage.START,
        op=op,
        reason="held" if op is Op.SKIP else "",
    )


def call_row(enterprise: str, call: int) -> CallRow:
    facts = Facts(id=call, enterprise=enterprise, first_at=NOW, last_at=NOW)
    return CallRow(facts=facts, unique_id=str(call), started_at=NOW, ended_at=None, timer_at=None)


def card_row(call: int, fence: int | None) -> CardRow:
    return CardRow(
        call_id=call,
        chat_id=41,
        bot_id=BOT,
        stage=Stage.START,
        replaces=frozenset(),
        version=1,
        mode="replace",
        urgency=Urgency.LIVE,
        due_at=NOW,
        fence=fence,
    )


class Town:
    """Hosts, planners and a sender at work on one store until ``stop``; a long transaction now and then, too."""

    def __init__(self, store: PostgresStore, slow: Any) -> None:
        self._store, self._slow = store, slow
        self._running = True
        self._chance = random.Random(5)
        self.n_claimed_by_planners = 0

    async def work(self, for_s: float) -> None:
        async with asyncio.TaskGroup() as group:
            for host in range(3):
                group.create_task(self._post(host))
            for _ in range(3):
                group.create_task(self._plan())
            group.create_task(self._send())
            group.create_task(self._dawdle())
            await asyncio.sleep(for_s)
            self._running = False

    async def _post(self, host: int) -> None:
        number = 0
        while self._running:
            number += 1
            await self._store.append([event(f"{host}.{number}.{n}", ENTERPRISES[host]) for n in range(3)])

    async def _plan(self) -> None:
        while self._running:
            with suppress(OvertakenError):
                async with plan_one(self._store, now=NOW, limit=20) as batch:
                    if batch is None:
                        await asyncio.sleep(0.001)
                        continue
                    calls = {one.id: one.id for one in batch.events}
                    claims = await batch.commit(
                        Planned(
                            calls=[call_row(batch.enterprise, call) for call in calls],
                            cards=[card_row(call, self._chance.choice([None, 1])) for call in list(calls)[::3]],
                            skips=[action(batch.enterprise, call, Op.SKIP) for call in list(calls)[1::3]],
                            done=calls,
                        )
                    )
                    self.n_claimed_by_planners += len(claims)

    async def _send(self) -> None:
        told: list[Progress] = []
        while self._running or told:
            claims = await self._store.exchange(told, leases={BOT: 1}, busy=[], limit=10, now=NOW, per_chat=10)
            told = [
                Progress(
                    enterprise=claim.card.enterprise,
                    call_id=claim.card.call_id,
                    chat_id=41,
                    bot_id=BOT,
                    fence=1,
                    version=claim.card.version,
                    shown=(),
                    actions=(action(claim.card.enterprise, claim.card.call_id, Op.SEND),),
                )
                for claim in claims
                if self._running
            ]
            await asyncio.sleep(0.001)

    async def _dawdle(self) -> None:
        number = 0
        while self._running:
            number += 1
            async with self._slow.transaction():
                await self._slow.execute(INSERT, f"slow {number}".encode())
                await asyncio.sleep(0.1)
                await self._slow.execute(INSERT, f"slow {number} again".encode())


INSERT = """
    INSERT INTO call_events (part, enterprise, kind, unique_id, received_at, digest, body, done)
    VALUES (1, 'slow', 'start', $1::bytea::text, now(), $1::bytea, '{}', true)
"""
EVERYTHING = """
    SELECT id, xid::text::numeric AS xid FROM call_events
    UNION ALL SELECT id, xid::text::numeric FROM telegram_actions
    UNION ALL SELECT id, xid::text::numeric FROM decisions
    ORDER BY xid, id
"""


def test_a_sink_gets_all_that_hosts_planners_senders_and_long_transactions_commit(play: Any) -> None:
    async def scenario(store: PostgresStore, slow: Any) -> None:
        assert await store.hold_leases("a", [BOT], ttl_s=60) == {BOT: 1}
        got: dict[str, list[Record]] = {"quick": [], "fails": []}
        chance = random.Random(6)

        async def deliver(sink: str, record: Record) -> bool:
            if sink == "fails" and chance.random() < 0.02:
                return False
            got[sink].append(record)
            return True

        pace = Pace(poll_s=0.01, gather_s=0.0, batch=7, first_retry_s=0.001, last_retry_s=0.002)
        runner = SinkRunner(store, list(got), deliver, now=lambda: datetime.now(UTC), random=lambda: 0.5, pace=pace)
        running = asyncio.create_task(runner.run())
        town = Town(store, slow)
        await town.work(3.0)
        everything = [row["id"] for row in await slow.fetch(EVERYTHING)]
        async with asyncio.timeout(60):
            while any(len(records) < len(everything) for records in got.values()):
                await asyncio.sleep(0.05)
        await runner.stop()
        await running
        for records in got.values():
            assert [record.item.id for record in records] == everything
        kinds = {type(record.item) if isinstance(record.item, Event) else record.item.op for record in got["quick"]}
        assert kinds == {Event, Op.SEND, Op.SKIP}
        assert town.n_claimed_by_planners > 0

    play(scenario)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="callgram-pg-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_no_crash_takes_back_what_a_sink_was_given(data_dir: Path) -> None:
    """A planner commits without waiting for the disk. A sink that was ahead of the disk would skip what follows the crash."""
    from callgram_postgres.embedded import EmbeddedPostgres

    async def run() -> None:
        server = EmbeddedPostgres(data_dir)
        await server.start(as_guest_ok=False)
        store = await connect(server.dsn)
        given: list[Record] = []
        for number in range(20):
            await store.append([event(f"{number}")])
            async with plan_one(store, now=NOW, limit=10) as batch:
                assert batch is not None
                done = {one.id: one.id for one in batch.events}
                await batch.commit(Planned(skips=[action("0367", call, Op.SKIP) for call in done], done=done))
            given += await store.trace(given[-1].cursor if given else "", limit=100)
        assert server._process is not None
        os.kill(server._process.pid, signal.SIGKILL)
        with suppress(StoreError):
            await store.close()
        await server.stop()
        again = EmbeddedPostgres(data_dir)
        await again.start(as_guest_ok=False)
        store = await connect(again.dsn)
        assert [record.cursor for record in await store.trace("", limit=100)][:40] == [one.cursor for one in given]
        assert len(given) == 40
        await store.close()
        await again.stop()

    asyncio.run(run())


MANY = (
    """INSERT INTO calls (part, enterprise, id, facts, unique_id, started_at, ended_at, direction, result, client, extensions)
    SELECT $1, $2, i, convert_to('{"id":' || i || ',"enterprise":"' || $2 || '","first_at":"2026-01-01T00:00:00Z",'
        || '"last_at":"2026-01-01T00:00:00Z"}', 'UTF8'), i || '.1', now() - i * interval '1 s', now(), 'incoming', 'answered',
        CASE WHEN i % 10 = 0 THEN '375290000001' ELSE '37529' || (1000000 + i) END, ' 151 '
    FROM generate_series($3::bigint, $3 + 9999) AS i""",
    """INSERT INTO call_keys (part, enterprise, key, call_id, weak)
    SELECT $1, $2, 'channel:' || i || '.1', i, false FROM generate_series($3::bigint, $3 + 9999) AS i""",
    """INSERT INTO telegram_messages (part, enterprise, call_id, chat_id, bot_id, stage, replaces, version, mode, urgency,
        shown)
    SELECT $1, $2, i, 41, 7, 'hangup', '', 1, 'replace', 2,
        jsonb_build_array(jsonb_build_object('message_id', 1, 'stage', 'hangup', 'digest', '', 'sent_at', '2026-01-01T00:00:00Z'))
    FROM generate_series($3::bigint, $3 + 9999) AS i""",
    """INSERT INTO call_events (part, enterprise, kind, unique_id, received_at, digest, body, done, call_id)
    SELECT $1, $2, 'start', i || '.1', now(), i::text::bytea, '{}', true, i FROM generate_series($3::bigint, $3 + 9999) AS i""",
    """INSERT INTO telegram_actions (part, enterprise, at, call_id, unique_id, chat_id, bot_id, stage, op, message_id, text,
        outcome, reason, took_s)
    SELECT $1, $2, now(), i, i || '.1', 41, 7, 'hangup', 'send', 1, '', 'ok', '', 0
    FROM generate_series($3::bigint, $3 + 9999) AS i""",
)
QUESTIONS = {
    "a page": lambda store: store.list_calls(CallFilter()),
    "an enterprise": lambda store: store.list_calls(CallFilter(enterprises=("0367",))),
    "two enterprises": lambda store: store.list_calls(CallFilter(enterprises=("0367", "0368"))),
    "a number": lambda store: store.list_calls(CallFilter(number="375291000123")),
    "who calls all the time": lambda store: store.list_calls(CallFilter(number="375290000001")),
    "last digits": lambda store: store.list_calls(CallFilter(number="0123")),
    "a day": lambda store: store.list_calls(CallFilter(until=datetime.now(UTC) - timedelta(hours=1))),
    "what there is none of": lambda store: store.list_calls(CallFilter(result=Result.MISSED), limit=5),
    "nothing was sent": lambda store: store.list_calls(CallFilter(unsent=True), limit=5),
    "by any leg": lambda store: store.find_calls(ENTERPRISES, "105000.1"),
    "a call": lambda store: store.call_file("0367", 105000),
    "the trace of a call": lambda store: store.trace_of("0367", "105000.1"),
    "the history of a client": lambda store: store.history("0367", "375290000001", before=datetime.now(UTC)),
    "the trace": lambda store: store.trace("", limit=100),
    "what waits": lambda store: store.waiting_since(""),
    "live calls": lambda store: store.live_calls(None),
}


@pytest.mark.parametrize("analyzed", [False, True])
def test_no_question_reads_more_than_it_shows_whatever_postgresql_knows_of_the_tables(
    play: Any, analyzed: bool
) -> None:
    """30 000 calls. Without statistics every index looks alike to PostgreSQL, with them a walk over a table may."""

    async def scenario(store: PostgresStore, connection: Any) -> None:
        for table in ("calls", "call_keys", "telegram_messages"):
            await connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        for question in QUESTIONS.values():  # planned while the tables are empty
            for _ in range(3):
                await question(store)
        for place, enterprise in enumerate(ENTERPRISES):
            for statement in MANY:
                await connection.execute(statement, part_of(enterprise), enterprise, 100_000 * (place + 1))
        if analyzed:
            await connection.execute("ANALYZE")
        for name, question in QUESTIONS.items():
            before = await _rows_read(connection, store)
            await question(store)
            assert await _rows_read(connection, store) - before <= 1_500, name

    play(scenario)


async def _rows_read(connection: Any, store: PostgresStore) -> int:
    """Entries of indexes and rows of tables that were read so far. Each connection tells only when asked."""
    for job in ("read", "rest"):
        for _ in range(2):
            await store._pools.value(job, "SELECT pg_stat_force_next_flush()")
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    return int(await connection.fetchval(READ))


READ = """
    SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes) + (SELECT sum(seq_tup_read) FROM pg_stat_user_tables
        WHERE relname ~ '^(calls|call_|telegram_messages|telegram_actions|decisions)')
"""


def test_old_calls_are_forgotten_with_all_that_belongs_to_them_and_no_others(play: Any) -> None:
    async def scenario(store: PostgresStore, connection: Any) -> None:
        for place, enterprise in enumerate(ENTERPRISES[:2]):
            for statement in MANY[:3]:
                await connection.execute(statement, part_of(enterprise), enterprise, 100_000 * (place + 1))
        await connection.execute(
            "UPDATE calls SET started_at = $1, ended_at = $1 WHERE id % 40 = 0", NOW - timedelta(days=20)
        )
        await connection.execute("UPDATE call_keys SET weak = true WHERE call_id % 40 = 1")
        assert AT_ONCE < 500
        await store.keep_house(now=NOW + timedelta(hours=2), retention_days=14)
        for table, column in (("calls", "id"), ("call_keys", "call_id"), ("telegram_messages", "call_id")):
            left = await connection.fetch(f"SELECT {column} % 40 AS place, count(*) AS n FROM {table} GROUP BY 1")
            found = {row["place"]: row["n"] for row in left}
            gone = {0, 1} if table == "call_keys" else {0}
            assert found == {place: 500 for place in range(40) if place not in gone}, table

    play(scenario)
