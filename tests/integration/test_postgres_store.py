"""What only a real database can get wrong: interleaved transactions, lost connections, adopted tables, day partitions."""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from callgram.calls.facts import Facts
from callgram.cards import Shown, Stage, Urgency
from callgram.context import Chat, Enterprise, Secret
from callgram.errors import ConfigError, OvertakenError, StoreError
from callgram.events import Event, Kind
from callgram.shards import part_of
from callgram.store import CallRow, CardRow, NewEvent, Planned, Progress
from callgram.testing.alone import plan_one
from callgram.trace import Action, Op
from callgram_postgres import planning
from callgram_postgres import queries as queries_module
from callgram_postgres.pools import AwayError, translated
from callgram_postgres.queries import queries
from callgram_postgres.store import PostgresStore, connect

NOW = datetime.now(UTC).replace(microsecond=0)
INSERT = """
    INSERT INTO call_events (part, enterprise, kind, unique_id, received_at, digest, body)
    VALUES (1, '0367', 'start', $1, now(), $2, '{}')
"""


def event(unique_id: str, at: datetime = NOW, *, enterprise: str = "0367") -> NewEvent:
    return NewEvent(
        enterprise=enterprise,
        kind=Kind.START,
        unique_id=unique_id,
        received_at=at,
        digest=hashlib.blake2b(unique_id.encode(), digest_size=16).digest(),
        repeat_s=5.0,
        body=f'{{"UniqueId": "{unique_id}"}}'.encode(),
    )


def test_the_trace_waits_for_transactions_that_could_slip_in_front(play: Any, postgres_dsn: str) -> None:
    async def scenario(store: PostgresStore, slow: Any) -> None:
        seen: list[str] = []
        cursor = ""

        async def read() -> None:
            nonlocal cursor
            for record in await store.trace(cursor, limit=100):
                assert isinstance(record.item, Event)
                seen.append(str(record.item.id))
                cursor = record.cursor

        await store.append([event("1")])
        await read()
        slower = await asyncpg.connect(postgres_dsn)
        first, second = slow.transaction(), slower.transaction()
        await first.start()
        await second.start()
        await slow.execute(INSERT, "2", b"2")
        await slower.execute(INSERT, "3", b"3")
        await store.append([event("4")])
        await read()
        assert len(seen) == 1
        await second.commit()
        await store.append([event("5")])
        await read()
        assert len(seen) == 1
        await slow.execute(INSERT, "6", b"6")
        await first.commit()
        await read()
        await slower.close()
        everything = [str(row["id"]) for row in await slow.fetch("SELECT id FROM call_events ORDER BY xid, id")]
        assert seen == everything
        assert len(seen) == 6

    play(scenario)


def test_nothing_is_skipped_by_a_reader_beside_many_writers(play: Any) -> None:
    async def scenario(store: PostgresStore, connection: Any) -> None:
        seen: list[int] = []
        running = True

        async def read() -> None:
            cursor = ""
            while True:
                last_round = not running
                while records := await store.trace(cursor, limit=7):
                    seen.extend(record.item.id for record in records)
                    cursor = records[-1].cursor
                if last_round:
                    return

        async def write(writer: int) -> None:
            for number in range(40):
                await store.append([event(f"{writer}.{number}.{part}") for part in range(3)])

        reader = asyncio.create_task(read())
        await asyncio.gather(*(write(writer) for writer in range(4)))
        running = False
        await reader
        stored = [row["id"] for row in await connection.fetch("SELECT id FROM call_events ORDER BY id")]
        assert sorted(seen) == stored
        assert len(stored) == 480

    play(scenario)


async def _kill(connection: Any, *, planner_only: bool = False) -> None:
    busy = "AND state = 'idle in transaction'" if planner_only else ""
    await connection.execute(
        f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() {busy}"""
    )


def test_a_planner_that_dies_in_its_transaction_leaves_no_trace_and_no_lock(play: Any) -> None:
    async def scenario(store: PostgresStore, connection: Any) -> None:
        async def die() -> None:
            async with plan_one(store, now=NOW, limit=10) as batch:
                assert batch is not None
                await _kill(connection, planner_only=True)
                await batch.commit(Planned(done={batch.events[0].id: 1}))

        await store.append([event("1")])
        with pytest.raises(StoreError):
            await die()
        async with plan_one(store, now=NOW, limit=10) as batch:
            assert batch is not None
            assert [one.unique_id for one in batch.events] == ["1"]

    play(scenario)


@pytest.mark.parametrize("taken", [True, False])
def test_a_batch_is_written_for_every_enterprise_or_none(play: Any, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "AHEAD_S", 60.0)
    numbers = ("0367", "0400")

    async def scenario(store: PostgresStore, connection: Any) -> None:
        await store.append([event(of, enterprise=of) for of in numbers])
        async with store.plan(now=NOW, limit=10, width=2) as batch:
            assert batch is not None
            await batch.commit({part.enterprise: Planned(done={part.events[0].id: 1}) for part in batch.parts})
        events = [event(f"{of}.2", enterprise=of) for of in numbers]
        ahead = (await store.append(events, {of: [] for of in numbers})).ahead
        for wrong in numbers:
            async with store.plan(now=NOW, limit=10, width=2, ahead=None if taken else ahead) as batch:
                assert batch is not None
                assert len(batch.parts) == 2
                await connection.execute("UPDATE call_events SET done = true WHERE enterprise = $1", wrong)
                with pytest.raises(OvertakenError):
                    await batch.commit({part.enterprise: Planned(done={part.events[0].id: 1}) for part in batch.parts})
            await connection.execute("UPDATE call_events SET done = false WHERE unique_id LIKE '%.2'")
        async with store.plan(now=NOW, limit=10, width=2) as batch:
            assert batch is not None
            assert [one.unique_id for part in batch.parts for one in part.events] == [f"{of}.2" for of in numbers]

    play(scenario)


def test_a_planner_that_freezes_is_cut_off(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from callgram_postgres import pools

    monkeypatch.setitem(pools.SETTINGS["plan"], "idle_in_transaction_session_timeout", "50ms")

    in_transaction = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"

    async def scenario(store: PostgresStore, connection: Any) -> None:
        async def freeze() -> None:
            async with plan_one(store, now=NOW, limit=10) as batch, asyncio.timeout(5):
                assert batch is not None
                while await connection.fetchval(in_transaction):
                    continue
                await batch.commit(Planned())

        await store.append([event("1")])
        with pytest.raises(StoreError):
            await freeze()
        async with plan_one(store, now=NOW, limit=10) as batch:
            assert batch is not None

    play(scenario)


def test_lost_connections_are_store_errors_and_then_replaced(play: Any) -> None:
    async def scenario(store: PostgresStore, connection: Any) -> None:
        async def plan() -> None:
            async with plan_one(store, now=NOW, limit=10):
                pass

        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: store.append([event("1")]),
            plan,
            lambda: store.exchange([], leases={1: 1}, busy=[], limit=1, now=NOW),
            store.ping,
            store.directory,
            lambda: store.trace("", limit=1),
        ]
        for call in calls:
            await call()
            await _kill(connection)
            async with asyncio.timeout(5):
                while True:
                    try:
                        await call()
                    except StoreError:
                        continue
                    break

    play(scenario)


def test_who_listens_notices_that_the_connection_is_lost(play: Any) -> None:
    async def scenario(store: PostgresStore, connection: Any) -> None:
        listening = asyncio.create_task(store.listen(lambda: None))
        listens = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND state = 'idle'"
        async with asyncio.timeout(10):
            while not await connection.fetchval(listens):
                assert not listening.done()
            await _kill(connection)
            with pytest.raises(StoreError, match="listens was lost"):
                await listening

    play(scenario)


def test_no_secret_of_the_dsn_is_in_an_error() -> None:
    for dsn in (
        "postgresql://user:s3cret@127.0.0.1:1/database",
        "host=127.0.0.1 password=s3cret",
        "postgresql://user:s3cret@127.0.0.1:port/database",
        "postgresql:///database?host=/nowhere&user=s3cret",
    ):
        with pytest.raises((ConfigError, StoreError)) as refused:
            asyncio.run(connect(dsn))
        assert "s3cret" not in str(refused.value)
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__


@pytest.mark.parametrize(
    ("error", "away"),
    [
        pytest.param(asyncpg.CannotConnectNowError("starting up"), True, id="starting up"),
        pytest.param(asyncpg.TooManyConnectionsError("too many clients"), True, id="full"),
        pytest.param(asyncpg.ConnectionDoesNotExistError("closed in the middle"), True, id="cut"),
        pytest.param(ConnectionRefusedError(111, "Connection refused"), True, id="nobody listens"),
        pytest.param(FileNotFoundError(2, "No such file"), True, id="no socket yet"),
        pytest.param(socket.gaierror(-2, "Name or service not known"), True, id="no name yet"),
        pytest.param(TimeoutError(), True, id="no answer"),
        pytest.param(asyncpg.InvalidPasswordError("authentication failed"), False, id="wrong password"),
        pytest.param(asyncpg.InvalidCatalogNameError("no database"), False, id="unknown database"),
        pytest.param(PermissionError(13, "Permission denied"), False, id="somebody else's socket"),
        pytest.param(ssl.SSLError(1, "certificate verify failed"), False, id="not to be trusted"),
    ],
)
def test_a_server_that_is_away_is_told_from_one_that_refuses(error: Exception, away: bool) -> None:
    with pytest.raises(StoreError) as told, translated():
        raise error
    assert isinstance(told.value, AwayError) is away


def test_processes_that_start_together_migrate_once(postgres_dsn: str) -> None:
    async def scenario() -> None:
        stores = await asyncio.gather(*(connect(postgres_dsn) for _ in range(3)))
        assert (await stores[0].append([event("1")])).new == [True]
        for store in stores:
            await store.close()

    asyncio.run(scenario())


def test_an_older_database_is_adopted(postgres_dsn: str) -> None:
    async def scenario() -> None:
        old = await asyncpg.connect(postgres_dsn)
        await old.execute(
            """
            CREATE TABLE enterprises (number varchar(10) PRIMARY KEY, name text, name2 varchar, bot_token varchar,
                active boolean NOT NULL DEFAULT true);
            CREATE TABLE telegram_users (id serial PRIMARY KEY, tg_id bigint, bot_token text, verified boolean);
            CREATE TABLE call_events (id serial PRIMARY KEY, event_type text, raw json);
            INSERT INTO enterprises (number, name, name2, bot_token) VALUES ('0367', 'Acme', '375290000000', '7:x'),
                ('0368', NULL, NULL, NULL);
            INSERT INTO telegram_users (tg_id, bot_token) VALUES (41, '7:x'), (42, NULL);
            INSERT INTO call_events (event_type) VALUES ('start');
            """
        )
        store = await connect(postgres_dsn)
        directory = await store.directory()
        assert directory.enterprises["0367"].token == Secret("375290000000")
        assert directory.chats_of("0367") == (Chat(id=41),)
        assert directory.chats_of("0368") == ()
        assert (await store.append([event("1")])).new == [True]
        assert await store.add_subscriber("0367", Chat(id=43, name="Bo"))
        assert not await store.add_subscriber("0367", Chat(id=41, name="Anna"))
        await store.put_enterprise(Enterprise(number="0400", token=Secret("t"), bot_token=Secret("7:x")))
        assert len((await store.directory()).chats_of("0400")) == 2
        assert await old.fetchval("SELECT count(*) FROM call_events_before_callgram") == 1
        await old.execute("ALTER TABLE enterprises ADD COLUMN inn text NOT NULL DEFAULT ''")
        await old.execute("ALTER TABLE enterprises ALTER COLUMN inn DROP DEFAULT")
        with pytest.raises(ConfigError, match="inn"):
            await store.put_enterprise(Enterprise(number="0500", token=Secret("u"), bot_token=Secret("7:x")))
        await store.close()
        await old.close()

    asyncio.run(scenario())


def test_a_database_that_was_restored_on_another_server_goes_on(play: Any, postgres_dsn: str) -> None:
    async def scenario(store: PostgresStore, connection: Any) -> None:
        await store.append([event("1"), event("2"), event("3")])
        first, second, third = await store.trace("", limit=9)
        await connection.execute("UPDATE call_events SET xid = '77777777777777'")
        await store.save_cursor("tracer", f"00000077777777777777{second.cursor[20:]}")
        await store.save_cursor("new", first.cursor)
        assert await store.trace("", limit=9) == []
        other = await connect(postgres_dsn)
        await other.append([event("4")])
        behind = await other.trace(await other.cursor("tracer"), limit=9)
        assert [record.item.id for record in behind[:-1]] == [third.item.id]
        assert len(await other.trace("", limit=9)) == 4
        assert await other.cursor("new") == first.cursor
        await other.close()

    play(scenario)


def test_changes_by_hand_change_the_mark(play: Any) -> None:
    async def scenario(store: PostgresStore, connection: Any) -> None:
        marks = {(await store.directory()).mark}
        for sql in (
            "INSERT INTO enterprises (number, name2, bot_token) VALUES ('0367', 't', '7:x'), ('0400', 'u', '7:x')",
            "UPDATE enterprises SET bot_token = '8:x' WHERE number = '0400'",
            "UPDATE enterprises SET allowed_addresses = '{10.0.0.0/8}' WHERE number = '0400'",
            "UPDATE enterprises SET webhook_secrets = '{whsec_AAAA}' WHERE number = '0400'",
            "UPDATE enterprises SET require_signature = true WHERE number = '0400'",
            "INSERT INTO telegram_users (tg_id, bot_token) VALUES (41, '7:x')",
            "UPDATE telegram_users SET tg_id = 42",
            "DELETE FROM telegram_users",
            "UPDATE enterprises SET name2 = number || name2",
        ):
            await connection.execute(sql)
            mark = (await store.directory()).mark
            assert mark not in marks or sql.startswith("DELETE")
            marks.add(mark)
        assert await store.directory() is await store.directory()

    play(scenario)


def test_an_enterprise_that_was_never_put_is_planned_all_the_same(play: Any) -> None:
    async def scenario(store: PostgresStore, connection: Any) -> None:
        await store.append([event("1")])
        assert await connection.fetchval("SELECT count(*) FROM enterprise_queue") == 0
        async with plan_one(store, now=NOW, limit=10) as batch:
            assert batch is not None
            assert batch.enterprise == "0367"

    play(scenario)


def test_a_day_without_a_partition_loses_nothing(play: Any) -> None:
    async def scenario(store: PostgresStore, connection: Any) -> None:
        old, older = NOW - timedelta(days=30), NOW - timedelta(days=40)
        assert (await store.append([event("1", old), event("2", older)])).new == [True, True]
        await store.keep_house(now=NOW, retention_days=35)
        kept = await connection.fetch("SELECT unique_id FROM call_events")
        assert [row["unique_id"] for row in kept] == ["1"]
        other = f"call_events_{old:%Y%m%d}"
        await connection.execute(f"ALTER TABLE call_events DETACH PARTITION {other}; DROP TABLE {other}")
        assert (await store.append([event("3", old)])).new == [True]  # this process believes that it is there

    play(scenario)


def test_a_drop_that_was_cut_short_is_finished(play: Any) -> None:
    """A day goes index by index: a process that ends between leaves a table that lost some."""

    async def scenario(store: PostgresStore, connection: Any) -> None:
        old, other = NOW - timedelta(days=30), NOW - timedelta(days=31)
        await store.append([event("1", old), event("2", other)])
        lost = f"call_events_{old:%Y%m%d}"
        await connection.execute(f"ALTER TABLE call_events DETACH PARTITION {lost}")
        found = await connection.fetch(queries("house")["lost_partitions"], ["call_events"])
        statements = [row["drop_statement"] for row in found]
        assert statements[-1] == f"DROP TABLE IF EXISTS {lost}"
        assert len(statements) > 4
        for statement in statements[:3]:
            await connection.execute(statement)
        await store.keep_house(now=NOW, retention_days=14)
        gone = [f"{table}_{day:%Y%m%d}" for table in ("call_events", "telegram_actions", "decisions") for day in (old, other)]
        assert await connection.fetchval("SELECT count(*) FROM pg_class WHERE relname = ANY($1::text[])", gone) == 0

    play(scenario)


def test_old_days_are_dropped_while_others_work(play: Any) -> None:
    async def scenario(store: PostgresStore, connection: Any) -> None:
        days = [NOW - timedelta(days=days) for days in range(20)]
        await store.append([event(str(number), day) for number, day in enumerate(days)])
        working = True

        async def work() -> int:
            number = 0
            while working:
                number += 1
                assert (await store.append([event(f"new.{number}", datetime.now(UTC))])).new == [True]
                async with plan_one(store, now=NOW, limit=50) as batch:
                    if batch is not None:
                        with suppress(OvertakenError):  # by the house: it dropped the day of one of them
                            await batch.commit(Planned(done={one.id: one.id for one in batch.events}))
            return number

        worker = asyncio.create_task(work())
        await asyncio.gather(*(store.keep_house(now=NOW, retention_days=14) for _ in range(2)))
        working = False
        assert await worker > 0
        oldest = await connection.fetchval("SELECT min(received_at) FROM call_events")
        assert oldest >= NOW - timedelta(days=14)
        tables = await connection.fetch("SELECT relname FROM pg_class WHERE relname ~ '_[0-9]{8}$' AND relkind = 'r'")
        limit = f"{NOW - timedelta(days=14):%Y%m%d}"
        assert all(row["relname"][-8:] >= limit for row in tables)
        await store.keep_house(now=NOW, retention_days=14)

    play(scenario)


def test_a_claim_is_not_older_than_what_the_planner_committed_beside_it(play: Any) -> None:
    """The facts that come with a claim are at least as new as the version that it claims, or a card ends outdated."""

    async def scenario(store: PostgresStore, _connection: Any) -> None:
        assert await store.hold_leases("a", [7], ttl_s=60) == {7: 1}
        planning = True

        async def plan() -> None:
            nonlocal planning
            for version in range(1, 150):
                await store.append([event(f"v{version}")])
                async with plan_one(store, now=NOW, limit=10) as batch:
                    assert batch is not None
                    facts = Facts(id=1, enterprise="0367", version=version, first_at=NOW, last_at=NOW)
                    card = CardRow(
                        call_id=1,
                        chat_id=41,
                        bot_id=7,
                        stage=Stage.START,
                        replaces=frozenset(),
                        version=version,
                        mode="replace",
                        urgency=Urgency.LIVE,
                        due_at=NOW,
                    )
                    row = CallRow(facts=facts, unique_id="1", started_at=NOW, ended_at=None, timer_at=None)
                    done = {one.id: 1 for one in batch.events}
                    await batch.commit(Planned(calls=[row], cards=[card], done=done))
            planning = False

        async def claim() -> int:
            n_claims = 0
            while planning:
                for one in await store.exchange([], leases={7: 1}, busy=[], limit=1, now=NOW):
                    assert one.facts.version >= one.card.version
                    n_claims += 1
            return n_claims

        _, n_claims = await asyncio.gather(plan(), claim())
        assert n_claims > 0

    play(scenario)


def test_a_report_finds_the_survivor_of_a_survivor_that_is_absorbed_that_moment(play: Any) -> None:
    async def scenario(store: PostgresStore, connection: Any) -> None:
        planning, place = queries("planning"), (part_of("0367"), "0367")
        await store.hold_leases("a", [7], ttl_s=60)
        await plan_calls(store, 1, 2, 3, chat=41)
        [claim] = await store.exchange([], leases={7: 1}, busy=[], limit=1, now=NOW)
        first, second = claim.card.call_id, claim.card.call_id % 3 + 1
        third = second % 3 + 1
        async with connection.transaction():
            await connection.execute(planning["absorb_calls"], *place, [first], [second])
            await connection.execute(planning["absorb_cards"], *place, first, second, NOW)
        moment = connection.transaction()
        await moment.start()
        await connection.execute(planning["absorb_calls"], *place, [second], [third])
        await connection.execute(planning["absorb_cards"], *place, second, third, NOW)
        report = Progress(
            enterprise="0367",
            call_id=first,
            chat_id=41,
            bot_id=7,
            fence=1,
            version=claim.card.version,
            shown=(Shown(message_id=5, stage=Stage.START, digest="d", sent_at=NOW),),
        )
        reporting = asyncio.create_task(store.exchange([report], leases={}, busy=[], limit=0, now=NOW))
        async with asyncio.timeout(5):
            while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                assert not reporting.done()
        await moment.commit()
        await reporting
        [survivor] = await store.exchange([], leases={7: 1}, busy=[], limit=1, now=NOW)
        assert (survivor.card.call_id, survivor.card.shown) == (third, report.shown)

    play(scenario)


def test_what_an_event_costs_does_not_grow_with_the_calls_of_its_enterprise(play: Any) -> None:
    """The statements are planned while the tables are empty: PostgreSQL then thinks that any way to a row is as short."""

    async def scenario(store: PostgresStore, connection: Any) -> None:
        await store.hold_leases("a", [7], ttl_s=60)

        async def rows_read(*calls: int) -> int:
            before = await _rows_read(store)
            for call in calls:
                await store.append([event(str(call))])
                async with plan_one(store, now=NOW, limit=10) as batch:
                    assert batch is not None
                    assert await batch.find([f"channel:{call}", "talk:151"]) == []
                    await batch.commit(planned(call, chat=41, events=batch.events))
                [claim] = await store.exchange([], leases={7: 1}, busy=[], limit=1, now=NOW)
                done = Progress(
                    enterprise="0367",
                    call_id=call,
                    chat_id=41,
                    bot_id=7,
                    fence=1,
                    version=claim.card.version,
                    shown=(),
                )
                await store.exchange([done], leases={7: 1}, busy=[], limit=1, now=NOW)
            return await _rows_read(store) - before

        few = await rows_read(*range(1, 6))
        for statement in MANY_CALLS:
            await connection.execute(statement, part_of("0367"))
        assert await rows_read(*range(6, 11)) <= 2 * few

    play(scenario)


def test_a_batch_reads_what_it_takes_however_much_waits(play: Any) -> None:
    async def scenario(store: PostgresStore, _connection: Any) -> None:
        for number in range(16):
            await store.append([event(f"{number}.{place}", enterprise=f"{number:04d}") for place in range(50)])
            async with plan_one(store, now=NOW, limit=1):
                pass  # makes the row by which it is locked
        before = await _rows_read(store)
        async with store.plan(now=NOW, limit=5, width=16) as batch:
            assert batch is not None
            assert sum(len(part.events) for part in batch.parts) == 5
        assert await _rows_read(store) - before <= 12

    play(scenario)


SKIP = Action(
    at=NOW,
    enterprise="0367",
    call_id=2,
    unique_id="1",
    chat_id=41,
    bot_id=7,
    stage=Stage.START,
    op=Op.SKIP,
    outcome="skipped",
    reason="superseded",
)


def test_an_event_that_was_seen_ahead_is_planned_by_one_statement(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each more is two hand-overs between processes: what a host's event waits for before it is a message."""
    monkeypatch.setattr(planning, "AHEAD_S", 60.0)

    async def scenario(store: PostgresStore, connection: Any) -> None:
        await store.append([event("1.1")])
        async with plan_one(store, now=NOW, limit=10) as batch:
            assert batch is not None
            decided = planned(1, chat=41, events=batch.events)
            decided.calls = [msgspec.structs.replace(row, keys=frozenset({"channel:1"})) for row in decided.calls]
            await batch.commit(decided)
        ahead = (await store.append([event("1.2")], {"0367": ["channel:1"]})).ahead
        said: list[str] = []
        async with store._pools.take("plan") as used:
            used.add_query_logger(lambda query: said.append(query.query))
        for more, statements in (({}, ["WITH fence"]), ({"skips": [SKIP]}, ["BEGIN;", "WITH fence", "INSERT", "COMMIT;"])):
            said.clear()
            async with plan_one(store, now=NOW, limit=10, ahead=ahead) as batch:
                assert batch is not None
                assert [call.id for call, _ in await batch.find(["channel:1"])] == [1]
                await batch.commit(msgspec.structs.replace(planned(2, chat=41, events=batch.events), **more))
            ours = [query for query in said if "typeinfo" not in query and "current_setting" not in query]  # asyncpg asks once
            assert len(ours) == len(statements)
            assert all(query.startswith(start) for query, start in zip(ours, statements, strict=True))
            ahead = (await store.append([event("1.3")], {"0367": ["channel:1"]})).ahead

    play(scenario)


@pytest.mark.parametrize("by", ["its plan", "a plan of several statements", "nobody"])
def test_events_that_were_seen_ahead_are_durable_behind_their_plan_or_by_themselves(
    play: Any, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(planning, "AHEAD_S", 60.0)
    skips = [SKIP] if by == "a plan of several statements" else []

    async def scenario(store: PostgresStore, connection: Any) -> None:
        async def flushed_to(place: str) -> bool:
            return bool(await connection.fetchval("SELECT pg_current_wal_flush_lsn() >= $1::text::pg_lsn", place))

        async def written() -> str:
            return str(await connection.fetchval("SELECT pg_current_wal_insert_lsn()::text"))

        await store.append([event("1.1")])
        async with plan_one(store, now=NOW, limit=10) as batch:
            assert batch is not None
            await batch.commit(Planned(done={batch.events[0].id: 1}))
        for number in range(5):
            ahead = (await store.append([event(f"2.{number}")], {"0367": []})).ahead
            assert ahead is not None
            place = await written()
            assert not ahead.durable.is_set()
            if by != "nobody":
                async with plan_one(store, now=NOW, limit=10, ahead=ahead) as batch:
                    assert batch is not None
                    await batch.commit(Planned(done={batch.events[0].id: 1}, skips=skips))
                assert ahead.durable.is_set()
                assert await flushed_to(place)
            await store.settle(ahead)
            assert await flushed_to(place)
            async with plan_one(store, now=NOW, limit=10) as batch:  # has looked at everything
                if batch is not None:
                    await batch.commit(Planned(done={batch.events[0].id: 1}))

    play(scenario)


@pytest.mark.parametrize("late", ["what was seen is old", "nobody looked for others"])
def test_what_was_seen_ahead_does_not_count_for_long(
    play: Any, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    monkeypatch.setattr(planning, "AHEAD_S", 60.0)

    async def scenario(store: PostgresStore, _connection: Any) -> None:
        await store.append([event("1.1")])
        async with plan_one(store, now=NOW, limit=10) as batch:
            assert batch is not None
            await batch.commit(Planned(done={batch.events[0].id: 1}))
        ahead = (await store.append([event("1.2")], {"0367": []})).ahead
        other = await connect(postgres_dsn)
        now = NOW + timedelta(seconds=61 if late.startswith("what") else 0)
        if late.startswith("nobody"):
            monkeypatch.setattr(planning, "AHEAD_S", 0.0)
        async with plan_one(store, now=now, limit=10, ahead=ahead) as batch, plan_one(other, now=NOW, limit=10) as nothing:
            assert batch is not None
            assert nothing is None  # it is locked
        await other.close()

    play(scenario)


def test_the_keys_of_a_number_that_calls_all_day_cost_no_more(play: Any) -> None:
    """Only the oldest are looked at for what is spent."""

    async def scenario(store: PostgresStore, connection: Any) -> None:
        async def rows_read(call: int) -> int:
            await store.append([event(str(call))])
            async with plan_one(store, now=NOW, limit=10) as batch:
                assert batch is not None
                before = await _rows_read(store)
                plan = planned(call, chat=41, events=batch.events)
                plan.calls = [msgspec.structs.replace(row, keys=frozenset({"talk:101"})) for row in plan.calls]
                await batch.commit(plan)
            return await _rows_read(store) - before

        few = await rows_read(1)
        await connection.execute(MANY_CALLS[0], part_of("0367"))
        await connection.execute(MANY_CALLS[1].replace("'channel:' || i, i, false", "'talk:101', i, true"), part_of("0367"))
        assert await rows_read(2) <= few + 3 * 16
        await connection.execute("UPDATE calls SET ended_at = $1 WHERE id < 1000010", NOW - timedelta(hours=2))
        await rows_read(3)
        left = await connection.fetchval("SELECT min(call_id) FROM call_keys WHERE call_id > 3")
        assert left == 1_000_010

    play(scenario)


MANY_CALLS = (
    """INSERT INTO calls (part, enterprise, id, facts, unique_id, started_at, ended_at)
    SELECT $1, '0367', i, '{}', i::text, now(), now() FROM generate_series(1000000, 1002000) AS i""",
    """INSERT INTO call_keys (part, enterprise, key, call_id, weak)
    SELECT $1, '0367', 'channel:' || i, i, false FROM generate_series(1000000, 1002000) AS i""",
    """INSERT INTO telegram_messages (part, enterprise, call_id, chat_id, bot_id, stage, replaces, version, mode, urgency)
    SELECT $1, '0367', i, 41, 7, 'hangup', '', 1, 'replace', 2 FROM generate_series(1000000, 1002000) AS i""",
    """INSERT INTO call_events (part, enterprise, kind, unique_id, received_at, digest, body, done, call_id)
    SELECT $1, '0367', 'start', i::text, now(), i::text::bytea, '{}', true, i FROM generate_series(1000000, 1002000) AS i""",
)


async def _rows_read(store: PostgresStore) -> int:
    """Entries of indexes that were read so far. Each connection tells only when asked."""
    for job in ("ingest", "plan", "send"):
        await store._pools.value(job, "SELECT pg_stat_force_next_flush()")
    rows: int = await store._pools.value("rest", "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes")
    return rows


def planned(*calls: int, chat: int, events: Sequence[Event]) -> Planned:
    """Each call new, with a card for ``chat``; ``events`` are done."""
    rows = [
        CallRow(
            facts=Facts(id=call, enterprise="0367", first_at=NOW, last_at=NOW),
            unique_id="1",
            started_at=NOW,
            ended_at=None,
            timer_at=None,
        )
        for call in calls
    ]
    cards = [
        CardRow(
            call_id=call,
            chat_id=chat,
            bot_id=7,
            stage=Stage.START,
            replaces=frozenset(),
            version=1,
            mode="replace",
            urgency=Urgency.LIVE,
            due_at=NOW,
        )
        for call in calls
    ]
    return Planned(calls=rows, cards=cards, done={one.id: 1 for one in events})


async def plan_calls(store: PostgresStore, *calls: int, chat: int) -> None:
    await store.append([event("1")])
    async with plan_one(store, now=NOW, limit=10) as batch:
        assert batch is not None
        await batch.commit(planned(*calls, chat=chat, events=batch.events))


def test_every_query_says_what_it_does() -> None:
    folder = Path(queries_module.__file__).with_name("sql")
    for file in folder.glob("*.sql"):
        text = file.read_text(encoding="utf-8")
        assert queries(file.stem)
        assert len(re.findall(r"^-- name: \w+\n-- \w", text, re.MULTILINE)) == len(queries(file.stem)), file.name
