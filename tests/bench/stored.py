"""A large store: seeded calls of every recorded shape, loaded by COPY, and the tracer's files of the same calls.

Each call is a recorded one with ids, times, client and enterprise of its own. Enterprises differ in size as towns do; of ten
calls one is of a client who calls often. Indexes are taken away for the load and built anew, as one would by hand.
``CALLGRAM_BENCH_EVENTS`` is how many events, and about as many actions (1 000 000 when unset; the numbers of
docs/performance.md are of 10 000 000). ``CALLGRAM_BENCH_DIRECTORY`` keeps what was loaded, until its days are dropped.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from callgram.calls.book import Book
from callgram.calls.story import tell
from callgram.context import Enterprise, Locale, Secret
from callgram.testing import lab

N_EVENTS = int(os.environ.get("CALLGRAM_BENCH_EVENTS", "1000000"))
SCENARIOS = sorted((Path(__file__).parents[1] / "data" / "scenarios").glob("*.json"))
ENTERPRISES = tuple(f"{2000 + n}" for n in range(80))
REGULARS = tuple(f"3752900000{n:02}" for n in range(40))
CLIENT = "375296254070"  # of every recording
DAYS = 10  # that the calls are spread over, so that a day of ten million is a million; a store keeps 14
IDS = 128  # of one call
BATCH = 2_000  # calls

_ID = re.compile(rb"\b17\d{8}(?=\.\d)")
_TIME = re.compile(rb"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
COLUMNS = {
    table: text.split()
    for table, text in {
        "calls": "part enterprise id facts unique_id started_at ended_at direction result client extensions",
        "call_keys": "part enterprise key call_id weak",
        "call_events": "part enterprise id kind unique_id received_at digest body done call_id",
        "telegram_messages": "part enterprise call_id chat_id bot_id stage replaces version mode urgency shown",
        "telegram_actions": "part enterprise id at call_id unique_id chat_id bot_id stage op message_id text outcome reason "
        "took_s",
    }.items()
}


class Town(msgspec.Struct, frozen=True, kw_only=True):
    """What was loaded. ``directory`` has the cluster, and the files below ``trace``."""

    store: Any
    directory: Path
    n_calls: int
    newest: datetime
    dsn: str

    def unique_id(self, number: int) -> str:
        """The head of call ``number``."""
        return f"{_epoch(number)}.{Shapes.one().of(number).suffix}"


@asynccontextmanager
async def town() -> AsyncIterator[Town]:
    from callgram_postgres.embedded import EmbeddedPostgres
    from callgram_postgres.store import connect

    kept = os.environ.get("CALLGRAM_BENCH_DIRECTORY")
    directory = _made(kept or tempfile.mkdtemp(prefix="callgram-bench-"))
    server = EmbeddedPostgres(directory / "data", database="bench")
    await server.start(as_guest_ok=False)
    try:
        store = await connect(server.dsn)
        try:
            mark = directory / "loaded"
            if not mark.exists():
                newest = datetime.now(UTC) - timedelta(minutes=10)
                await _load(store, server.dsn, directory / "trace", newest)
                mark.write_text(f"{N_EVENTS} {newest.isoformat()}")
            n_events, _, newest_text = mark.read_text().partition(" ")
            if int(n_events) != N_EVENTS:
                raise RuntimeError(f"{directory} has {n_events} events, not {N_EVENTS}; remove it")
            newest = datetime.fromisoformat(newest_text)
            yield Town(store=store, directory=directory, n_calls=Shapes.one().n_calls(), newest=newest, dsn=server.dsn)
        finally:
            await store.close()
    finally:
        await server.stop()
        if not kept:
            shutil.rmtree(directory, ignore_errors=True)


def _made(path: str) -> Path:
    """A directory that the account of the server can pass through, with one for the files."""
    directory = Path(path)
    (directory / "trace").mkdir(parents=True, exist_ok=True)
    directory.chmod(0o711)
    return directory


# The generator


def _epoch(number: int) -> int:
    return 1_600_000_000 + number


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded call as COPY's text of each table, with places for what differs. ``offsets`` are the times in it."""

    rows: dict[str, bytes]
    unsent: bytes
    lines: bytes
    offsets: list[timedelta]
    n_events: int
    suffix: str


class Shapes:
    """Every recorded shape of a call, in turn."""

    _one: Shapes | None = None

    def __init__(self) -> None:
        self._shapes = [_shape(path) for path in SCENARIOS]

    @classmethod
    def one(cls) -> Shapes:
        cls._one = cls._one or cls()
        return cls._one

    def of(self, number: int) -> Shape:
        return self._shapes[number % len(self._shapes)]

    def n_calls(self) -> int:
        return N_EVENTS * len(self._shapes) // sum(shape.n_events for shape in self._shapes)


class _Draft:
    """Turns a text of a recording into a template; remembers the times that it came across."""

    def __init__(self, began: datetime) -> None:
        self._began = began
        self.offsets: list[timedelta] = []

    def time(self, at: datetime) -> bytes:
        offset = at - self._began
        if offset not in self.offsets:
            self.offsets.append(offset)
        return b"%%(t%d)s" % self.offsets.index(offset)

    def text(self, text: bytes) -> bytes:
        """Ids and the client stand for themselves, in every field and body."""
        text = _ID.sub(b"%(epoch)s", text.replace(b"%", b"%%"))
        return _TIME.sub(self._moved, text.replace(CLIENT.encode(), b"%(client)s"))

    def _moved(self, found: re.Match[bytes]) -> bytes:
        return self.time(datetime.fromisoformat(found.group().decode()))

    def field(self, value: Any) -> bytes:
        r"""A field of COPY: ``\`` doubled, once more in a bytea, whose text form is its bytes."""
        match value:
            case None:
                return b"\\N"
            case bytes():
                return _escaped(self.text(value.replace(b"\\", b"\\\\")))
            case datetime():
                return self.time(value)
            case _Made():
                return value.text
            case _:
                return _escaped(self.text(str(value).encode()))


class _Made(msgspec.Struct, frozen=True):
    """What is a template already."""

    text: bytes


def _escaped(text: bytes) -> bytes:
    return text.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\t", b"\\t").replace(b"\r", b"\\r")


def _shape(path: Path) -> Shape:
    from callgram_details import Details

    events, plan = lab(Details).events(path), Locale().plan
    book = Book(plan)
    for event in events:
        book.apply(event)
    (facts,) = book.calls.values()
    call = tell(facts, plan)
    draft = _Draft(events[0].received_at)
    part, owner, call_id = _Made(b"%(part)d"), _Made(b"%(owner)s"), _Made(b"%(i0)d")
    people = " ".join(dict.fromkeys(number for number in (call.caller, *call.rung, *call.talkers) if number))
    own = msgspec.structs.replace(facts, id=1_234_567_890_123, enterprise="THE-OWNER")
    told = (
        draft.field(msgspec.json.encode(own)).replace(b"1234567890123", b"%(i0)d").replace(b"THE-OWNER", b"%(owner)s")
    )
    channels = sorted({uid for event in events for uid in (event.unique_id, event.linked_id) if uid})
    cards = [(part, owner, call_id, chat, 700, "hangup", "", 1, "replace", 2) for chat in (41, 42)]
    shown = _Made(b'[{"message_id":%(i1)d,"stage":"hangup","digest":"d","sent_at":"%(t0)s"}]')
    key, found_by = (
        (part, owner, call_id),
        (call.unique_id, call.started_at, call.ended_at, call.direction, call.result),
    )
    rows: dict[str, list[tuple[Any, ...]]] = {
        "calls": [(*key, _Made(told), *found_by, call.client, f" {people} " if people else "")],
        "call_keys": [(part, owner, f"channel:{uid}", call_id, "f") for uid in channels],
        "telegram_messages": [(*card, shown) for card in cards],
        "call_events": [],
        "telegram_actions": [],
    }
    lines = []
    for place, event in enumerate(events, 1):
        number, digest = _Made(b"%%(i%d)d" % place), _Made(b"%%(epoch)s-%d" % place)
        at, uid = event.received_at, event.unique_id
        rows["call_events"].append((part, owner, number, event.kind, uid, at, digest, event.raw, "t", call_id))
        told_line = (draft.time(at), str(event.kind).encode(), draft.text(uid.encode()), draft.text(event.raw))
        lines.append(b"%s|AST|%s|%s|%s\n" % told_line)
        later, number, op = (
            at + timedelta(milliseconds=9),
            _Made(b"%%(i%d)d" % (place + 40)),
            "send" if place % 3 else "delete",
        )
        text = f"✅Успешный входящий звонок\n💰+{CLIENT}\n☎️151\n⌛Разговор 0:31" if op == "send" else ""
        said = (41 + place % 2, 700, "hangup", op, place, text, "ok", "", 0.05)
        rows["telegram_actions"].append((part, owner, number, later, call_id, call.unique_id, *said))
        head, cut = draft.text(call.unique_id.encode()), _escaped(draft.text(text.encode()))
        lines.append(b"%s|TG|%s|41|hangup|%d|%s|%s\n" % (draft.time(later), op.encode(), place, head, cut))
    copied = {table: b"".join(b"\t".join(map(draft.field, row)) + b"\n" for row in rows[table]) for table in COLUMNS}
    unsent = b"".join(b"\t".join(map(draft.field, (*card, "[]"))) + b"\n" for card in cards)
    suffix = call.unique_id.partition(".")[2]
    return Shape(
        rows=copied, unsent=unsent, lines=b"".join(lines), offsets=draft.offsets, n_events=len(events), suffix=suffix
    )


def _calls(first: int, behind: int, n_calls: int, newest: datetime) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The text of each table for these calls, and of each enterprise's file."""
    from callgram.shards import part_of

    chance, shapes = random.Random(first), Shapes.one()
    step = timedelta(days=DAYS) / n_calls
    tables: dict[str, list[bytes]] = {table: [] for table in COLUMNS}
    files: dict[str, list[bytes]] = {number: [] for number in ENTERPRISES}
    parts = {number: part_of(number) for number in ENTERPRISES}
    for number in range(first, behind):
        shape, began = shapes.of(number), newest - step * (n_calls - number)
        owner = ENTERPRISES[int(len(ENTERPRISES) * chance.random() ** 2)]
        often = chance.random() < 0.1
        client = REGULARS[int(len(REGULARS) * chance.random() ** 3)] if often else f"37529{chance.randrange(10**7):07}"
        values: dict[bytes, Any] = {b"i%d" % place: number * IDS + place for place in range(2 * 40)}
        values |= {b"t%d" % place: (began + offset).isoformat().encode() for place, offset in enumerate(shape.offsets)}
        values |= {
            b"part": parts[owner],
            b"owner": owner.encode(),
            b"epoch": b"%d" % _epoch(number),
            b"client": client.encode(),
        }
        silent = chance.random() < 0.001
        for table, template in shape.rows.items():
            tables[table].append((shape.unsent if silent and table == "telegram_messages" else template) % values)
        files[owner].append(shape.lines % values)
    return {name: b"".join(rows) for name, rows in tables.items()}, {
        name: b"".join(rows) for name, rows in files.items()
    }


# The load


async def _load(store: Any, dsn: str, trace: Path, newest: datetime) -> None:
    for number in ENTERPRISES:
        token = Secret(f"token-of-{number}")
        await store.put_enterprise(Enterprise(number=number, token=token, bot_token=Secret(f"{number}:bench-token")))
    await store.make_days(newest - timedelta(days=day) for day in range(DAYS + 1))
    n_calls = Shapes.one().n_calls()
    connections = {table: await asyncpg.connect(dsn) for table in COLUMNS}
    one = connections["calls"]
    built = await _without_indexes(one)
    firsts = range(0, n_calls, BATCH)
    made = _making(0, n_calls, newest)
    for first in firsts:
        tables, files = await made
        made = _making(first + BATCH, n_calls, newest)
        async with asyncio.TaskGroup() as group:
            for table, text in tables.items():
                group.create_task(_copy(connections[table], table, text))
            group.create_task(asyncio.to_thread(_append, trace, files))
    await made
    await one.execute("SET maintenance_work_mem = '1GB'")
    for statement in built:
        await one.execute(statement, timeout=3600)
    await one.execute("SELECT setval('callgram_id', $1)", (n_calls + 1) * IDS)
    for table in COLUMNS:
        await one.execute(f"VACUUM {table}", timeout=3600)  # no ANALYZE: plans must be good without, too
    for connection in connections.values():
        await connection.close()


def _making(first: int, n_calls: int, newest: datetime) -> asyncio.Task[tuple[dict[str, bytes], dict[str, bytes]]]:
    """The next batch, made while the one before is copied."""
    return asyncio.create_task(asyncio.to_thread(_calls, first, min(first + BATCH, n_calls), n_calls, newest))


async def _copy(connection: Any, table: str, text: bytes) -> None:
    async def source() -> AsyncIterator[bytes]:
        for place in range(0, len(text), 1 << 19):
            yield text[place : place + (1 << 19)]

    await connection.copy_to_table(table, source=source(), columns=COLUMNS[table], format="text", timeout=600)


def _append(trace: Path, files: dict[str, bytes]) -> None:
    for number, text in files.items():
        with (trace / f"{number}.log").open("ab") as file:
            file.write(text)


async def _without_indexes(connection: Any) -> list[str]:
    """Drop the keys and indexes of the loaded tables; answers the statements that make them again."""
    keys = await connection.fetch(KEYS, list(COLUMNS))
    again = [f"ALTER TABLE {row['name']} ADD CONSTRAINT {row['key']} {row['definition']}" for row in keys]
    for row in keys:
        await connection.execute(f"ALTER TABLE {row['name']} DROP CONSTRAINT {row['key']}")
    indexes = await connection.fetch(INDEXES, list(COLUMNS))
    for row in indexes:
        await connection.execute(f"DROP INDEX {row['name']}")
    return [row["definition"].replace(" ON ONLY ", " ON ") for row in indexes] + again


KEYS = """
SELECT c.conrelid::regclass::text AS name, c.conname AS key, pg_get_constraintdef(c.oid) AS definition
FROM pg_constraint AS c JOIN pg_class AS t ON t.oid = c.conrelid
WHERE c.contype = 'p' AND t.relname = ANY($1::text[]) AND t.relnamespace = current_schema::regnamespace
"""
INDEXES = """
SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS definition
FROM pg_index AS i JOIN pg_class AS t ON t.oid = i.indrelid
WHERE t.relname = ANY($1::text[]) AND t.relnamespace = current_schema::regnamespace
"""
